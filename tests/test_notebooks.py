"""Every notebook, as `make notebooks` runs them: scripts, each in a fresh interpreter, on runs of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest

from recdistill.files import read_json

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.py"))
MAX_LINES = 80


def run(name: str, runs: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {"RECDISTILL_RUNS": str(runs), "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        [sys.executable, FOLDER / f"{name}.py"],
        env={**os.environ, **settings},
        cwd=FOLDER,  # where Jupyter starts it
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each notebook printed; the comparison is run with one run, and again with all."""
    runs, out = tmp_path_factory.mktemp("runs"), {}
    for name in ["01_quick_start", "02_inspect_a_run", "03_compare_runs", *(path.stem for path in NOTEBOOKS[3:])]:
        done = run(name, runs)
        assert done.returncode == 0, f"{name}: {done.stderr[-3000:]}"
        out[name] = done.stdout
    out["all"] = run("03_compare_runs", runs).stdout
    out["folder"] = str(runs)
    return out


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_a_short_jupytext_file(path: Path) -> None:
    assert len(path.read_text().splitlines()) < MAX_LINES
    notebook = jupytext.read(path)
    nbformat.validate(notebook)
    assert notebook.metadata["jupytext"]["text_representation"]["format_name"] == "percent"
    kinds = [cell.cell_type for cell in notebook.cells]
    assert kinds[0] == "markdown" and kinds.count("code") >= 4


def test_the_quick_start_makes_a_student_that_scores(said: dict[str, str]) -> None:
    quick = Path(said["folder"]) / "quick-start"
    assert read_json(quick / "report.json")["name"] == "sample"
    assert (Path(said["folder"]) / "quick-start-scores.parquet").exists()


def test_inspecting_shows_every_model(said: dict[str, str]) -> None:
    report = read_json(Path(said["folder"]) / "quick-start" / "report.json")
    for name in report["models"]:
        assert name in said["02_inspect_a_run"]


def test_a_single_run_is_told_what_to_do(said: dict[str, str]) -> None:
    assert "quick-start is the only run" in said["03_compare_runs"]
    assert "recdistill run " in said["03_compare_runs"]


def test_several_runs_are_compared(said: dict[str, str]) -> None:
    assert "is the only run" not in said["all"]
    assert "On the same rows, diverse against that of quick-start, in NE: of 2 runs" in said["all"]
    assert "own-log and quick-start: they were judged on other rows" in said["all"]
    assert (Path(said["folder"]) / "comparison.html").exists()


def test_an_own_teacher_answers_every_row_and_is_listened_to(said: dict[str, str]) -> None:
    report = read_json(Path(said["folder"]) / "own-teacher" / "report.json")
    assert report["models"]["crosses"]["coverage"] == 1.0
    assert set(report["importance"]["overall"]) == {"foundation", "content", "crosses"}
    assert report["models"]["crosses"]["auc"]["mean"] > 0.7


def test_an_own_log_goes_from_init_to_a_report_without_its_leak(said: dict[str, str]) -> None:
    assert "seconds_read: left out, for alone it tells the label" in said["05_bring_your_own_log"]
    own = Path(said["folder"]) / "own-log"
    assert "seconds_read" not in (own / "config.yaml").read_text()
    assert read_json(own / "report.json")["dataset"]["rows"]["train"] > 1000


def test_what_bounds_the_student_sets_a_run_beside_one_without_rows_that_nobody_was_shown(said: dict[str, str]) -> None:
    first, second = said["06_what_bounds_the_student"].splitlines()[:2]
    assert first.startswith("recombined: ") and second.startswith("quick-start: ")
    reports = [read_json(Path(said["folder"]) / name / "report.json") for name in ("quick-start", "recombined")]
    without, run = (report["teacher_forwards"]["computed"] for report in reports)
    assert run > without


def test_without_a_run_a_notebook_says_where_to_begin(tmp_path: Path) -> None:
    for name in ("02_inspect_a_run", "03_compare_runs"):
        done = run(name, tmp_path)
        assert done.returncode == 1 and "01_quick_start first" in done.stderr


def test_a_run_may_be_named(said: dict[str, str], tmp_path: Path) -> None:
    done = run("02_inspect_a_run", tmp_path, RECDISTILL_RUN=str(Path(said["folder"]) / "own-log"))
    assert done.returncode == 0 and done.stdout.startswith("own-log: ")
