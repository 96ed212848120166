"""Reports and the nightly registry with something else in them: told like any other, or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recdistill import analysis
from recdistill.evaluate.compare import compare
from recdistill.evaluate.compare_page import headline, render_comparison
from recdistill.evaluate.reports import read_report
from recdistill.nightly.plan import night_folder, records
from recdistill.nightly.registry import POINTER, registry, rollback
from recdistill.screen import comparison_tables, gap_table, print_table
from tests.fuzz.conftest import Exported
from tests.fuzz.harness import EDITS, attempt, fuzz, refused, spoil, spoilt

STAT = {"mean": 0.7, "low": 0.6, "high": 0.8}
METRICS = {"auc": STAT, "ne": STAT, "log_loss": STAT, "calibration": STAT}
SEEDS = {"0": {"auc": 0.7, "ne": 0.9}, "1": {"auc": 0.71, "ne": None}}
STUDENT = {"role": "student", "parameters": 10, "coverage": 1.0, **METRICS, "per_seed": SEEDS}
CURVE = {"share": [0.5, 0.5], "prediction": [0.1, 0.9], "rate": [0.2, 0.8]}
REPORT: dict[str, Any] = {
    "version": 1,
    "name": "tiny",
    "regime": "out_of_fold",
    "dataset": {"fingerprint": "0123456789abcdef", "rows": {"train": 8, "validation": 1, "test": 1}, "base_rate": 0.2},
    "params": {"foundation": 380, "student": 10, "compression": 38.0},
    "foundation": "foundation",
    "seeds": [0, 1],
    "bootstrap": {"resamples": 1000, "confidence": 0.95, "seed": 0},
    "models": {
        "foundation": {"role": "teacher", "parameters": 380, "coverage": 1.0, **METRICS},
        "alone": STUDENT,
        "single": STUDENT,
        "diverse": STUDENT,
    },
    "gap": {"auc": STAT, "ne": {"mean": None, "low": None, "high": None, "reason": "none"}},
    "gap_recovered": {"single": {"auc": STAT, "ne": None}, "diverse": {"auc": STAT, "ne": None}},
    "comparisons": [{"method": "diverse", "against": "single", "auc": STAT, "ne": STAT}],
    "reliability": {"foundation": CURVE, "diverse": CURVE},
    "slices": [],
    "importance": None,
    "curve": [],
    "teacher_forwards": {"full": 20, "computed": 15, "reused": 0, "saved": 5},
    "timings": {"ingest": 1.5},
    "warnings": ["a small gap"],
}


def told(folder: Path) -> str:
    """All that is said about a run beside one that is well."""
    well = folder.parent / "well"
    well.mkdir(exist_ok=True)
    (well / "report.json").write_text(json.dumps(REPORT))
    found = compare([well, folder, well.parent / "well" / ".." / folder.name])
    run = analysis.open_run(folder)
    assert len(analysis.side_by_side([run])) == len(run.report["models"])
    frames = [run.models(), run.gap(), run.recovered(), run.comparisons(), run.seeds(), run.calibration(), run.passes()]
    assert run.headline and frames and len(analysis.readable(run.recovered())) == len(run.report["gap_recovered"])
    for table in (*comparison_tables(found), gap_table(run.report)):
        print_table(table)
    return headline(found) + render_comparison(found)


@fuzz(40)
@given(
    report=spoilt(REPORT), name=st.sampled_from(["run", "[red]", "a$x^$b", "<script>", "{{7*7}}", "a\nb", "\x1b[1m"])
)
def test_a_report_with_something_else_in_it(report: dict[str, Any], name: str) -> None:
    with TemporaryDirectory() as place:
        folder = Path(place) / name
        folder.mkdir()
        (folder / "report.json").write_text(json.dumps(report))
        page = attempt(told, folder)
        assert page is None or ("<script>" not in page and (name != "{{7*7}}" or name in page))


@fuzz(40)
@given(edits=EDITS)
def test_a_report_with_changed_bytes(tmp_path: Path, edits: list[tuple[str, float, bytes]]) -> None:
    (tmp_path / "report.json").write_bytes(spoil(json.dumps(REPORT).encode(), edits))
    attempt(read_report, tmp_path / "report.json")


def event(what: str, day: str, **more: Any) -> dict[str, Any]:
    return {"event": what, "day": day, "model": f"models/{day}-0123456789ab", "at": "2026-01-08T00:00:00", **more}


SERVING = {"ne": 0.9, "auc": 0.7, "lineage": {"days": {}}}
KNOWN: dict[str, Any] = {
    "version": 1,
    "champion": {key: value for key, value in event("", "2026-01-06", **SERVING).items() if key != "event"},
    "history": [
        event("promoted", "2026-01-04", forced=False, **SERVING),
        event("blocked", "2026-01-05", why="NE"),
        event("promoted", "2026-01-06", forced=False, **SERVING),
    ],
}


@pytest.fixture(scope="module")
def service(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service's folder with two promoted students; its registry is written anew for every example."""
    service = tmp_path_factory.mktemp("service")
    for entry in KNOWN["history"]:
        if entry["event"] == "promoted":
            shutil.copytree(exported.student, service / entry["model"])
    return service


def test_the_registry_that_is_spoilt_below_is_one(service: Path) -> None:
    (service / POINTER).write_text(json.dumps(KNOWN))
    assert rollback(service, "why")["day"] == "2026-01-04"
    assert registry(service)["champion"]["day"] == "2026-01-04"
    assert "the first; there is none before it" in refused(rollback, service)


@fuzz(60)
@given(known=spoilt(KNOWN))
def test_a_registry_with_something_else_in_it(service: Path, known: dict[str, Any]) -> None:
    (service / POINTER).write_text(json.dumps(known))
    served = attempt(rollback, service)
    assert served is None or served["model"] in {entry["model"] for entry in KNOWN["history"]}


@pytest.mark.parametrize("model", ["../x", "/etc", "models/../../x", "models/2026-01-04-0123456789ab/../x"])
def test_a_model_outside_of_the_service(service: Path, model: str) -> None:
    for place in (0, 2):
        known = json.loads(json.dumps(KNOWN))
        known["history"][place]["model"] = model
        known["champion"]["model"] = known["history"][2]["model"]
        (service / POINTER).write_text(json.dumps(known))
        assert "pattern" in refused(rollback, service)


@pytest.mark.parametrize("day", ["../x", "/etc", "2026-13-01", "20260101", "", "2026-01-01/..", "\x00", "2026-1-1"])
def test_a_night_outside_of_the_service(tmp_path: Path, day: str) -> None:
    assert "is no day" in refused(night_folder, tmp_path, day)


NIGHT = {
    "version": 1,
    "day": "2026-01-04",
    "blocked": None,
    "bad_day": False,
    "lineage": {"teachers": {"night": "2026-01-04", "job": "0123456789abcdef"}, "files": "0123456789abcdef"},
}


@fuzz(40)
@given(night=spoilt(NIGHT))
def test_a_night_with_something_else_in_it(tmp_path: Path, night: dict[str, Any]) -> None:
    folder = tmp_path / "nights" / "2026-01-04"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "night.json").write_text(json.dumps(night))
    attempt(records, tmp_path)
