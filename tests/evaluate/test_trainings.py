"""Runs of one job whose teachers were trained anew, put together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from recdistill.evaluate.compare import compare
from recdistill.evaluate.compare_page import headline, render_comparison
from recdistill.evaluate.finished import FinishedRun
from recdistill.evaluate.trainings import trainings
from recdistill.screen import comparison_tables
from tests.evaluate.test_compare import write_run

MEMBERS = {"foundation": {"kind": "dlrm", "seed": 0}, "expert": {"kind": "sklearn", "seed": 0}}
JOB = {
    "dataset": {"split": {"by": "order", "seed": 0}},
    "teachers": {"regime": "out_of_fold", "seed": 0, "route": {"keep": 0.5, "curve": []}, "members": MEMBERS},
    "student": {"compression": 38.0},
    "distill": {"seeds": [0, 1, 2], "methods": ["alone", "single", "diverse"]},
    "evaluate": {"seed": 0},
}


def say(run: Path, seed: int, **changes: Any) -> Path:
    """The settings of a run, whose teachers have this seed."""
    members = {name: {**member, "seed": seed} for name, member in MEMBERS.items()}
    job = {**JOB, "name": run.name, "teachers": {**JOB["teachers"], "seed": seed, "members": members}, **changes}
    (run / "config.yaml").write_text(yaml.safe_dump(job))
    return run


@pytest.fixture(scope="session")
def runs(tmp_path_factory, world_at) -> list[Path]:
    """Three trainings, of which the last makes poor students of `diverse`. Read only."""
    root = tmp_path_factory.mktemp("trainings")
    folders = []
    for seed, noise in enumerate([0.5, 0.6, 1.1]):
        world = world_at(root / f"world-{seed}", {"alone": 2.5, "single": 0.9, "diverse": noise})
        folders.append(say(write_run(world, root / f"run-{seed}"), seed))
    return folders


@pytest.fixture(scope="session")
def found(runs) -> dict[str, Any]:
    return compare(runs)


def test_means_are_those_of_the_runs_and_intervals_hold_what_trainings_do(found, runs) -> None:
    together, reports = found["trainings"], [json.loads((run / "report.json").read_text()) for run in runs]
    assert (together["label"], together["runs"]) == ("3 trainings", ["run-0", "run-1", "run-2"])
    assert list(together["models"]) == ["foundation", "alone", "single", "diverse"]
    for name, model in together["models"].items():
        for metric in ("auc", "ne"):
            each = [report["models"][name][metric]["mean"] for report in reports]
            assert model[metric]["mean"] == pytest.approx(np.mean(each), abs=1e-7)
            assert model[metric]["low"] < model[metric]["mean"] < model[metric]["high"]

    def width(stat: dict[str, Any]) -> float:
        return stat["high"] - stat["low"]

    wider = {
        name: width(together["models"][name]["ne"]) / width(reports[0]["models"][name]["ne"])
        for name in ("alone", "diverse")
    }
    assert 0.7 < wider["alone"] < 1.4  # it is the same in each, and its own seeds are drawn
    assert wider["diverse"] > 2
    pairs = {(pair["method"], pair["against"]): pair for pair in together["pairs"]}
    students = [("single", "alone"), ("diverse", "alone"), ("diverse", "single")]
    assert list(pairs) == [*((name, "foundation") for name in ("alone", "single", "diverse")), *students]
    clear, doubt = pairs["single", "alone"]["ne"], pairs["diverse", "single"]["ne"]
    assert clear["low"] > 0 and doubt["low"] < 0 < doubt["high"]
    assert reports[0]["comparisons"][-1]["ne"]["low"] > 0  # one training alone is sure of it


def test_the_gap_is_that_of_all_trainings(found) -> None:
    together = found["trainings"]
    ne = {name: model["ne"]["mean"] for name, model in together["models"].items()}
    assert together["gap"]["ne"]["mean"] == pytest.approx(ne["alone"] - ne["foundation"], abs=1e-7)
    share = together["models"]["diverse"]["gap_recovered"]["ne"]
    assert share["mean"] == pytest.approx((ne["alone"] - ne["diverse"]) / (ne["alone"] - ne["foundation"]), abs=1e-5)
    assert together["models"]["foundation"]["gap_recovered"] is together["models"]["alone"]["gap_recovered"] is None


@pytest.mark.parametrize("noise", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)])
def test_intervals_hold_the_truth_whatever_differs(noise: tuple[float, float, float]) -> None:
    """The truth is a difference of 0: trainings, seeds and both at once move a method by as much as `noise` says."""
    settings, held, times = {"resamples": 400, "confidence": 0.95, "seed": 0}, 0, 400
    rng = np.random.default_rng(3)
    for _ in range(times):
        of_training, of_seed, of_both = (
            rng.normal(size=size) * by for size, by in zip([(4, 1), (5,), (4, 5)], noise, strict=True)
        )
        values = {"alone": np.zeros((4, 5)), "diverse": of_training + of_seed + of_both}
        runs = [FinishedRun(f"run-{at}", Path(), {"seeds": list(range(5)), "foundation": "none"}) for at in range(4)]
        for at, run in enumerate(runs):
            for name, value in values.items():
                run.by_seed[name] = dict.fromkeys(("auc", "ne"), (value[at], np.tile(value[at], (400, 1))))
        found = trainings(runs, settings)
        held += found["pairs"][0]["auc"]["low"] <= 0 <= found["pairs"][0]["auc"]["high"]
    assert held / times > 0.92


def test_page_and_screen_tell_it(found) -> None:
    share = found["trainings"]["models"]["diverse"]["gap_recovered"]
    said = f"{share['auc']['mean']:.0%} of the AUC gap and {share['ne']['mean']:.0%} of the NE gap"
    assert headline(found) == f"Over 3 trainings of the teachers: diverse recovers {said}."
    page = render_comparison(found)
    assert "run-0, run-1, run-2 are one job" in page and page.count("3 trainings, ") == 2
    titles = [table.title for table in comparison_tables(found)]
    assert "Over trainings of the teachers" in titles and any("Models over trainings" in title for title in titles)


def without(run: Path, folder: Path, method: str) -> Path:
    """The same run without a method, and with a curve."""
    shutil.copytree(run, folder)
    job, report = yaml.safe_load((folder / "config.yaml").read_text()), json.loads((folder / "report.json").read_text())
    job["teachers"]["route"]["curve"] = [0.3]
    job["distill"]["methods"].remove(method)
    (folder / "config.yaml").write_text(yaml.safe_dump(job))
    del report["models"][method], report["gap_recovered"][method]
    (folder / "report.json").write_text(json.dumps(report))
    return folder


def test_methods_and_shares_of_answers_may_differ(runs, found, tmp_path) -> None:
    together = compare([*runs[:2], without(runs[2], tmp_path / "last", "diverse")])["trainings"]
    assert together["models"] == {name: one for name, one in found["trainings"]["models"].items() if name != "diverse"}


def test_the_method_that_decides_sizes_may_not(runs, tmp_path) -> None:
    assert compare([*runs[:2], without(runs[2], tmp_path / "last", "single")])["trainings"] is None


@pytest.mark.parametrize("change", ["job", "teachers", "copy", "no settings", "damaged", "two"])
def test_what_is_no_other_training_is_not_put_together(runs, tmp_path, change) -> None:
    last = tmp_path / "last"
    shutil.copytree(runs[2], last)
    if change == "job":
        say(last, 2, student={"compression": 20.0})
    elif change == "teachers":
        say(last, 2, teachers={**JOB["teachers"], "regime": "in_sample"})
    elif change == "copy":
        say(last, 1)
    elif change == "no settings":
        (last / "config.yaml").unlink()
    elif change == "damaged":
        (last / "config.yaml").write_text("teachers: [")
    found = compare([*runs[:2], *([] if change == "two" else [last])])
    assert found["trainings"] is None and "trainings" not in headline(found)
    assert "Over trainings" not in render_comparison(found)


def test_a_foundation_whose_answers_are_gone_has_no_gap(runs, tmp_path) -> None:
    last = tmp_path / "last"
    shutil.copytree(runs[2], last)
    (last / "stages" / "evaluate" / "teachers" / "foundation.parquet").unlink()
    together = compare([*runs[:2], last])["trainings"]
    assert "foundation" not in together["models"] and together["gap"]["ne"]["mean"] is None
    assert "not kept" in together["gap"]["ne"]["reason"]
    assert together["models"]["diverse"]["gap_recovered"] == {"auc": None, "ne": None}
    assert len(together["pairs"]) == 3
