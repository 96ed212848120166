from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from recdistill import analysis
from recdistill.errors import UserError
from recdistill.files import write_json

HALF = {"mean": 0.5, "low": 0.4, "high": None}
NONE = {"mean": None, "low": None, "high": None, "reason": "no gap to recover: because"}


def model(role: str, parameters: int, **more: object) -> dict[str, object]:
    return {"role": role, "parameters": parameters, "coverage": 1.0} | dict.fromkeys(
        ("auc", "ne", "log_loss", "calibration"), HALF
    ) | more  # fmt: skip


def write_run(folder: Path, importance: bool = True, saved: int = 40) -> Path:
    """A run folder as a small job leaves it."""
    seeds = {"per_seed": {"0": {"auc": 0.7, "ne": 0.8}, "1": {"auc": 0.72, "ne": 0.79}}}
    weights = {"big": 0.75, "small": 0.25}
    curve = {"share": [0.5, 0.5], "prediction": [0.1, 0.3], "rate": [0.0, 0.4]}
    slices = [{"value": "de", "rows": 9, "positives": 3, "reason": None, "models": {"big": {"auc": 0.7, "ne": None}}}]
    report = {
        "version": 1,
        "name": "small",
        "dataset": {"fingerprint": "f", "rows": {"test": 9}},
        "seeds": [0, 1],
        "bootstrap": {"resamples": 1000, "confidence": 0.95, "seed": 0},
        "foundation": "big",
        "params": {"foundation": 380, "student": 10, "compression": 38.0},
        "gap": {"auc": HALF, "ne": NONE},
        "gap_recovered": {"mean": {"auc": HALF, "ne": None}, "diverse": {"auc": {**HALF, "mean": 0.9}, "ne": None}},
        "models": {
            "big": model("teacher", 380),
            "alone": model("student", 10, **seeds),
            "mean": model("student", 10, **seeds),
            "diverse": model("student", 10, **seeds),
        },
        "comparisons": [{"method": "diverse", "against": "mean", "auc": HALF, "ne": HALF}],
        "reliability": dict.fromkeys(("big", "alone", "mean", "diverse"), curve),
        "slices": [{"feature": "country", "values": slices}],
        "days": [{**slices[0], "value": day} for day in ("2026-01-02", "2026-01-03")],
        "importance": {
            "overall": weights,
            "slices": [{"feature": "country", "values": [{"value": "de", "rows": 9, "importance": weights}]}],
        }
        if importance
        else None,
        "teacher_forwards": {"full": 100, "computed": 100 - saved, "reused": 0, "saved": saved},
        "curve": [
            {
                "aimed": at,
                "saved": at,
                "recovered": {"auc": HALF, "ne": None},
                "against_full": {"auc": HALF, "ne": HALF},
            }
            for at in (0.0, 0.3)
        ],
        "timings": {"teach": 1.0},
        "warnings": [],
    }
    write_json(folder / "report.json", report)
    for method in ("alone", "diverse"):
        for seed in (0, 1):
            log = {"checks": [0.9, 0.8 + seed / 100], "losses": [0.5, 0.4]}
            write_json(folder / "stages" / "distill" / method / f"seed-{seed}" / "training.json", log)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> analysis.RunView:
    return analysis.open_run(write_run(tmp_path / "night"))


def test_every_frame_says_what_the_report_says(run: analysis.RunView) -> None:
    assert (run.label, run.hero) == ("night", "diverse")
    assert run.headline == "Diverse recovers 90% of the AUC gap (within its noise); in NE there is none to recover."
    models = run.models()
    assert list(models.index) == ["big", "alone", "mean", "diverse"]
    assert models.loc["big", ("", "parameters")] == 380 and models.loc["mean", ("auc", "low")] == 0.4
    assert np.isnan(models.loc["mean", ("auc", "high")])
    assert run.gap().loc["ne", "reason"] == NONE["reason"]
    assert run.recovered().loc["diverse", ("auc", "mean")] == 0.9
    assert np.isnan(run.recovered().loc["diverse", ("ne", "mean")])
    assert run.comparisons().loc["mean", ("ne", "mean")] == 0.5
    assert run.seeds().loc[("mean", 1), "auc"] == 0.72
    assert run.calibration().loc[("big", 1), "rate"] == 0.4
    assert run.passes()["saved"] == 40
    assert run.curve().loc[0.3, ("auc gap recovered", "low")] == 0.4 and len(run.curve()) == 2


def test_importance_and_metrics_by_slice(run: analysis.RunView) -> None:
    assert run.importance().loc["all rows", "big"] == 0.75
    assert run.importance("country").loc["de", "small"] == 0.25
    assert run.slices("country").loc["de", ("big", "auc")] == 0.7
    assert run.slices("country").loc["de", ("", "rows")] == 9
    assert run.days()[("big", "auc")].to_dict() == {"2026-01-02": 0.7, "2026-01-03": 0.7}
    with pytest.raises(KeyError, match="evaluate.slices, which are: country"):
        run.slices("city")
    del run.report["days"]  # as reports of before have it
    assert run.days().empty


def test_training_curves_come_from_the_students(run: analysis.RunView) -> None:
    log = run.training()
    assert set(log.index.get_level_values("method")) == {"alone", "diverse"}  # `mean` left no log
    assert log.loc[("diverse", 1, 2), "ne"] == pytest.approx(0.81) and log.loc[("alone", 0, 1), "loss"] == 0.5


def test_readable_puts_an_interval_into_a_cell(run: analysis.RunView) -> None:
    assert analysis.readable(run.models()).loc["big", "auc"] == "0.5000 [0.4000, ?]"
    assert analysis.readable(run.recovered(), ".0%").loc["mean"].tolist() == ["50% [40%, ?]", ""]


def test_runs_stand_side_by_side_by_model(tmp_path: Path, run: analysis.RunView) -> None:
    other = analysis.open_run(write_run(tmp_path / "later"))
    frame = analysis.side_by_side([run, other])
    assert list(frame.index[:3]) == [("big", "night"), ("big", "later"), ("alone", "night")]
    assert frame.loc[("diverse", "later"), ("auc gap recovered", "mean")] == 0.9
    assert analysis.readable(frame).loc[("diverse", "later"), "auc gap recovered"] == "90% [40%, ?]"


def test_runs_are_found_in_the_order_in_which_they_ended(tmp_path: Path) -> None:
    for at, name in enumerate(["b", "c", "a"]):
        os.utime(write_run(tmp_path / name) / "report.json", (at, at))
    (tmp_path / "unfinished").mkdir()
    assert [run.label for run in analysis.find_runs(tmp_path)] == ["b", "c", "a"]
    assert analysis.find_runs(tmp_path / "absent") == []


def test_a_folder_without_a_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no report.json"):
        analysis.open_run(tmp_path)


def texts(figure: analysis.Picture) -> set[str]:
    from matplotlib.text import Text

    figure.draw_without_rendering()
    return {text.get_text() for text in figure.findobj(Text)}


def test_figures_show_the_numbers(run: analysis.RunView, tmp_path: Path) -> None:
    assert {"mean", "diverse", "big", NONE["reason"]} <= texts(analysis.gap_bars(run))
    assert {"big", "alone", "diverse", "mean prediction"} <= texts(analysis.calibration_curves(run))
    assert {"mean"} <= texts(analysis.calibration_curves(run, ["mean"]))
    assert {"AUC", "teacher passes saved", "there is no gap in NE to recover"} <= texts(analysis.trade_off(run))
    assert {"75%", "25%", "big", "de"} <= texts(analysis.importance_map(run, "country"))
    assert {"alone", "diverse"} <= texts(analysis.training_curves(run))
    assert {*run.report["models"], "NE (lower is better)"} <= texts(analysis.ladder(run))
    other = analysis.open_run(write_run(tmp_path / "later", saved=70))
    for figure in (analysis.recovered_by_run, analysis.nights):
        shown = texts(figure([run, other]))
        assert {"night", "later"} <= shown, figure
    assert {"foundation", "alone", "diverse"} <= texts(analysis.nights([run, other]))


def test_figures_say_what_is_not_there(tmp_path: Path) -> None:
    run = analysis.open_run(write_run(tmp_path / "run", importance=False))
    for path in (tmp_path / "run" / "stages").rglob("training.json"):
        path.unlink()
    assert "no method of this run weighs its teachers" in texts(analysis.importance_map(run))
    assert run.importance().empty and run.training().empty
    run.report["curve"] = []
    assert "the job asks for no curve (teachers.route.curve)" in texts(analysis.trade_off(run)) and run.curve().empty
    assert "this run folder keeps no training.json" in texts(analysis.training_curves(run))


def test_a_line_breaks_off_where_a_run_has_no_such_model_and_intervals_stand_side_by_side(
    run: analysis.RunView, tmp_path: Path
) -> None:
    others = [analysis.open_run(write_run(tmp_path / name)) for name in ("without", "last")]
    del others[0].report["models"]["diverse"], others[0].report["gap_recovered"]["diverse"]
    lines = {line.get_label(): line for line in analysis.nights([run, *others]).axes[0].lines}
    assert np.isnan(lines["diverse"].get_ydata()).tolist() == [False, True, False]
    assert len({line.get_xdata()[0] for line in lines.values()}) == 3


def test_sentences_take_no_more_room_than_they_need(run: analysis.RunView) -> None:
    high = analysis.trade_off(run).get_figheight()
    run.report["curve"] = []
    assert analysis.trade_off(run).get_figheight() < high / 3


def test_runs_without_a_gap_take_no_room_beside_those_with_one(run: analysis.RunView, tmp_path: Path) -> None:
    other = analysis.open_run(write_run(tmp_path / "no-gap"))
    for found in other.report["gap_recovered"].values():
        found["auc"] = None
    (points,) = [line for line in analysis.recovered_by_run([other, run]).axes[0].lines if line.get_label() == "night"]
    assert points.get_ydata().tolist() == [0.0, 1.0]


def test_a_figure_shows_itself_in_a_notebook(run: analysis.RunView) -> None:
    assert analysis.gap_bars(run)._repr_png_().startswith(b"\x89PNG")
