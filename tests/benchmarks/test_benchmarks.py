"""Every benchmark runs at a size too small to tell anything, and writes its page."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from recdistill.config.load import load_job

HERE = Path(__file__).parent
SMALL = {
    "auc": ["--rows", "2000"],
    "cache": ["--rows", "2000"],
    "distilling": ["--rows", "2000"],
    "feeding": ["--rows", "2000"],
    "growth": ["--rows", "3000", "--times", "1"],
    "scoring": ["--rows", "2000"],
    "serving": ["--rows", "2000", "--calls", "2"],
    "student_training": ["--rows", "2000", "--peers", ""],
    "tables": ["--rows", "50", "--steps", "1"],
}


@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_runs_and_writes_its_page(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *SMALL[name], "--repeats", "1", "--out", str(tmp_path)])
    runpy.run_path(str(HERE / f"{name}.py"), run_name="__main__")
    page = (tmp_path / f"{name}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {name.replace('_', ' ')}\n") and "| " in page
    assert str(tmp_path) not in page


@pytest.mark.parametrize("name, overrides", [("nightly", "SIMULATOR"), ("globo", "GLOBO")])
def test_two_weeks_of_nights_fit_the_ready_jobs(name: str, overrides: str) -> None:
    nights = runpy.run_path(str(HERE / "two_weeks.py"))
    job = load_job(nights["JOBS"] / f"{name}.yaml", nights[overrides])
    assert job.service is not None and job.service.train_days < 5
