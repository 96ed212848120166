from __future__ import annotations

import copy
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recdistill.config.job import Evaluate
from recdistill.errors import UserError
from recdistill.evaluate.compare import compare, read_runs
from recdistill.evaluate.compare_page import headline, render_comparison
from recdistill.evaluate.report import evaluate
from recdistill.files import write_json

SETTINGS = Evaluate(resamples=400)
CONTEXT = {"name": "by_hand", "timings": {"teach": 5.0, "distill": 7.0}}


def write_run(world, folder: Path, **context: Any) -> Path:
    """Lays a world out as a run does."""
    report = evaluate(world.dataset, world.models, SETTINGS, {**CONTEXT, **context})
    write_json(folder / "report.json", report)
    shutil.copytree(world.dataset.root, folder / "stages" / "ingest")
    for model in world.models:
        if model.role == "student":
            path = folder / "stages" / "distill" / model.method / f"seed-{model.seed}" / "test.parquet"
        else:
            path = folder / "stages" / "evaluate" / "teachers" / f"{model.name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(model.path, path)
    return folder


@pytest.fixture(scope="session")
def runs(tmp_path_factory, world, world_at) -> dict[str, Path]:
    """`monday` and `tuesday` share their rows, `other` does not; tuesday's `single` is better. Read only."""
    root = tmp_path_factory.mktemp("runs")
    tuesday = world_at(root / "tuesday-world", {"alone": 2.5, "single": 0.4, "diverse": 0.5})
    other = world_at(root / "other-world", {"alone": 2.5, "diverse": 0.5}, rows=1500, seed=5)
    passes = {"full": 100, "computed": 60, "reused": 0, "saved": 40}
    return {
        "monday": write_run(world, root / "monday"),
        "tuesday": write_run(tuesday, root / "tuesday", teacher_forwards=passes),
        "other": write_run(other, root / "other"),
    }


@pytest.fixture(scope="session")
def found(runs) -> dict[str, Any]:
    return compare([runs["monday"], runs["tuesday"], runs["other"]])


def pairs(found: dict[str, Any], kind: str, **wanted: str) -> list[dict[str, Any]]:
    return [pair for pair in found[kind] if all(pair[key] == value for key, value in wanted.items())]


def test_runs_stand_side_by_side_as_their_reports_say(found, runs) -> None:
    report = json.loads((runs["tuesday"] / "report.json").read_text())
    record = found["runs"][1]
    assert [run["label"] for run in found["runs"]] == ["monday", "tuesday", "other"]
    assert record["models"]["single"]["auc"] == report["models"]["single"]["auc"]
    assert record["models"]["single"]["gap_recovered"] == report["gap_recovered"]["single"]
    assert record["models"]["foundation"]["gap_recovered"] is None
    assert (record["passes_saved"], record["seconds"], record["test_rows"]) == (0.4, 12.0, 3000)
    assert found["runs"][0]["passes_saved"] is None


def test_methods_of_a_run_are_tested_as_its_report_tests_them(found, runs) -> None:
    report = json.loads((runs["monday"] / "report.json").read_text())
    inside = pairs(found, "inside", run="monday")
    assert {(pair["method"], pair["against"]) for pair in inside} == {
        ("alone", "foundation"),
        ("single", "foundation"),
        ("diverse", "foundation"),
        ("single", "alone"),
        ("diverse", "alone"),
        ("diverse", "single"),
    }
    for comparison in report["comparisons"]:
        [pair] = pairs(found, "inside", run="monday", method="diverse", against=comparison["against"])
        for metric in ("auc", "ne"):
            assert pair[metric] == pytest.approx(comparison[metric])


def test_runs_on_the_same_rows_are_tested_method_by_method(found) -> None:
    between = pairs(found, "between", run="tuesday", against="monday")
    assert [pair["method"] for pair in between] == ["alone", "single", "diverse"]
    better = between[1]
    assert better["ne"]["low"] > 0 and better["auc"]["low"] > 0  # plus is better in both
    values = [run["models"]["single"]["ne"]["mean"] for run in found["runs"][:2]]
    assert better["ne"]["mean"] == pytest.approx(values[0] - values[1], abs=1e-7)
    assert between[2]["ne"]["low"] <= 0 <= between[2]["ne"]["high"]


def test_the_test_is_paired_over_rows_and_seeds(world, world_at, tmp_path) -> None:
    """A run against a copy of itself: no difference, and no doubt about it."""
    one, two = write_run(world, tmp_path / "one"), write_run(world, tmp_path / "two")
    for pair in compare([one, two])["between"]:
        assert pair["ne"] == {"mean": 0.0, "low": 0.0, "high": 0.0}


def test_other_seeds_are_drawn_apart(world, tmp_path) -> None:
    one, two = write_run(world, tmp_path / "one"), write_run(world, tmp_path / "two")
    report = json.loads((two / "report.json").read_text())
    report["seeds"] = [7, 8, 9]
    write_json(two / "report.json", report)
    for folder in (two / "stages" / "distill").iterdir():
        for seed in range(3):
            (folder / f"seed-{seed}").rename(folder / f"seed-{seed + 7}")
    pair = pairs(compare([one, two]), "between", method="alone")[0]
    assert pair["ne"]["mean"] == 0 and pair["ne"]["low"] < 0 < pair["ne"]["high"]


def test_other_rows_are_refused_in_a_sentence(found) -> None:
    [refused] = found["refused"]
    assert (refused["run"], refused["against"]) == ("other", "monday")
    assert "other rows (1,500 rows against 3,000)" in refused["reason"]
    assert not pairs(found, "between", run="other")


def test_as_many_rows_are_not_enough(world, world_at, runs, tmp_path) -> None:
    other = world_at(tmp_path / "world", {"alone": 2.5, "diverse": 0.5}, seed=9)
    found = compare([runs["monday"], write_run(other, tmp_path / "run")])
    assert "judged on other rows," in found["refused"][0]["reason"]


def test_the_same_rows_with_other_labels_are_not_the_same(world, runs, tmp_path) -> None:
    two = write_run(world, tmp_path / "two")
    path = two / "stages" / "ingest" / world.dataset.parts("test")[0].path.relative_to(world.dataset.root)
    table = pq.read_table(path, partitioning=None)
    flipped = pa.array(1 - table["label"].to_numpy())
    pq.write_table(table.set_column(table.column_names.index("label"), "label", flipped), path)
    assert "other labels" in compare([runs["monday"], two])["refused"][0]["reason"]


def test_a_run_without_predictions_is_shown_but_not_tested(runs, tmp_path) -> None:
    (tmp_path / "bare").mkdir()
    shutil.copyfile(runs["tuesday"] / "report.json", tmp_path / "bare" / "report.json")
    found = compare([runs["monday"], tmp_path / "bare"])
    assert "bare keeps no test rows" in found["refused"][0]["reason"]
    inside = pairs(found, "inside", run="bare")
    assert {pair["against"] for pair in inside} == {"foundation", "alone", "single"} and all(
        "ne" in pair for pair in inside
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "has no report.json"),
        ("{}", "not a report of version 1"),
        ('{"version": 2}', "not a report of version 1"),
    ],
)
def test_a_run_without_a_report_is_refused(tmp_path, content, said) -> None:
    (tmp_path / "run").mkdir()
    if content is not None:
        (tmp_path / "run" / "report.json").write_text(content)
    with pytest.raises(UserError, match=said):
        compare([tmp_path / "run"])
    with pytest.raises(UserError, match="there is no such folder"):
        compare([tmp_path / "absent"])


def test_runs_of_one_name_are_told_apart_by_their_paths(runs, tmp_path) -> None:
    shutil.copytree(runs["monday"], tmp_path / "monday")
    labels = [run.label for run in read_runs([runs["monday"], tmp_path / "monday"])]
    assert labels == [str(runs["monday"]), str(tmp_path / "monday")]


def test_the_page_holds_it_all_and_fetches_nothing(found) -> None:
    page = render_comparison(found)
    for text in ("monday", "tuesday", "40% of 100", "single", "other rows (1,500 rows against 3,000)"):
        assert text in page
    for pair in found["between"]:
        assert f"{abs(pair['ne']['mean']):.4f}" in page
    assert page.count("<svg") == 2 + 2  # gaps by run, and three runs of one job in their order
    assert not re.search(r"https?:|//[a-z]|<script|<link|<img|@import|url\((?!#)", page)
    assert render_comparison(copy.deepcopy(found)) == page


def test_the_page_shows_each_pair_of_methods_both_ways_round(found) -> None:
    page = render_comparison(found)
    [pair] = pairs(found, "inside", run="monday", method="diverse", against="alone")
    low, high = pair["ne"]["low"], pair["ne"]["high"]
    assert f"{low:+.4f} to {high:+.4f}".replace("-", "\u2212") in page
    assert f"{-high:+.4f} to {-low:+.4f}".replace("-", "\u2212") in page


def test_the_page_of_one_run(runs) -> None:
    page = render_comparison(compare([runs["monday"]]))
    assert "One run, monday" in page and "Run against run" not in page


def test_the_headline(found, runs) -> None:
    assert headline(found) == (
        "On the same rows, diverse of tuesday against that of monday: no clear difference in AUC and no clear "
        "difference in NE."
    )
    apart = compare([runs["monday"], runs["other"]])
    assert headline(apart) == "2 runs, judged on different rows: side by side, with no paired test."
    three = copy.deepcopy(found)
    three["between"] += [
        {**pair, "run": "wednesday", "ne": {"mean": -1, "low": -2, "high": -0.5}} for pair in found["between"]
    ]
    assert (
        headline(three)
        == "On the same rows, diverse against that of monday, in NE: of 2 runs better in 0 and worse in 1."
    )
