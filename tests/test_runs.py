from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recdistill import runs
from recdistill.config import Job
from recdistill.config.load import load_job
from recdistill.errors import UserError
from recdistill.progress import Progress, current
from recdistill.runs import Run


class Said(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def stage(self, name: str) -> None:
        self.lines.append(name)


@pytest.fixture
def job(job_file: Path) -> Job:
    return load_job(job_file)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def writes(text: str) -> Callable[[Path], None]:
    def make(work: Path) -> None:
        (work / "result").write_text(text)

    return make


def never(work: Path) -> None:
    raise AssertionError("must not run")


def test_a_run_folder_holds_the_resolved_job_and_a_log(folder: Path, job: Job) -> None:
    with Run(folder, job):
        logging.getLogger("recdistill.test").info("something happened")
        warnings.warn("a library is worried", stacklevel=1)
    assert load_job(folder / "config.yaml") == job
    text = (folder / "log.txt").read_text()
    assert "INFO recdistill.test: something happened" in text
    assert "a library is worried" in text
    logging.getLogger("recdistill.test").warning("after the run")
    assert "after the run" not in (folder / "log.txt").read_text()


def test_the_runs_progress_is_current_inside(folder: Path, job: Job) -> None:
    said = Said()
    with Run(folder, job, said):
        assert current() is said
    assert current() is not said


def test_a_stage_is_done_once(folder: Path, job: Job) -> None:
    said = Said()
    for make in (writes("first"), never):
        with Run(folder, job, said) as run:
            found = run.stage("ingest", {"rows": 3}, make)
    assert found == folder / "stages" / "ingest"
    assert (found / "result").read_text() == "first"
    assert said.lines == ["ingest", "ingest: up to date"]


def test_changed_inputs_redo_that_stage_alone_and_say_what_changed(folder: Path, job: Job) -> None:
    said = Said()
    with Run(folder, job) as run:
        run.stage("ingest", {"rows": 3, "shape": (1, 2)}, writes("a"))
        run.stage("teach", {"train": {"epochs": 3, "rate": 0.1}}, writes("b"))
    with Run(folder, job, said) as run:
        run.stage("ingest", {"rows": 3, "shape": (1, 2)}, never)
        run.stage("teach", {"train": {"epochs": 4, "rate": 0.1}}, writes("c"))
    assert said.lines == ["ingest: up to date", "teach: again, since train.epochs changed"]
    assert (folder / "stages" / "teach" / "result").read_text() == "c"


def test_a_new_format_redoes_every_stage(folder: Path, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    said = Said()
    with Run(folder, job, said) as run:
        run.stage("ingest", {"rows": 3}, writes("a"))
        monkeypatch.setattr(runs, "FORMAT", runs.FORMAT + 1)
        run.stage("ingest", {"rows": 3}, writes("b"))
    assert said.lines[-1] == "ingest: again, since recdistill itself has changed"


def test_a_failed_stage_leaves_the_old_result_and_goes_on_from_its_own_files(folder: Path, job: Job) -> None:
    def fails(work: Path) -> None:
        (work / "half").write_text("half")
        raise UserError("no")

    def goes_on(work: Path) -> None:
        assert (work / "half").read_text() == "half"
        writes("whole")(work)

    with Run(folder, job) as run:
        run.stage("teach", {"epochs": 1}, writes("old"))
        with pytest.raises(UserError):
            run.stage("teach", {"epochs": 2}, fails)
        assert (run.stage_folder("teach") / "result").read_text() == "old"
        run.stage("teach", {"epochs": 2}, goes_on)
        assert (run.stage_folder("teach") / "result").read_text() == "whole"


def test_time_adds_up_over_attempts_and_starts_again_for_other_inputs(folder: Path, job: Job) -> None:
    def sleeps(work: Path) -> None:
        time.sleep(0.5)

    def sleeps_and_fails(work: Path) -> None:
        time.sleep(0.5)
        raise UserError("no")

    with Run(folder, job) as run, pytest.raises(UserError):
        run.stage("teach", {"epochs": 1}, sleeps_and_fails)
    with Run(folder, job) as run:
        run.stage("teach", {"epochs": 1}, sleeps)
        both = run.timings()["teach"]
        assert both >= 1
        run.stage("teach", {"epochs": 1}, never)
        run.stage("teach", {"epochs": 2}, writes("x"))
        assert run.timings()["teach"] < both


def test_time_is_put_down_while_a_stage_works(folder: Path, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "HEARTBEAT_SECONDS", 0.02)

    def make(work: Path) -> None:
        deadline = time.monotonic() + 5
        while not (folder / "timings.json").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert json.loads((folder / "timings.json").read_text())["teach"]["seconds"] > 0

    with Run(folder, job) as run:
        run.stage("teach", {}, make)


def test_a_run_in_use_is_refused_and_its_owner_named(folder: Path, job: Job) -> None:
    owner = rf"in use by process {os.getpid()} on .*, since 20"
    with Run(folder, job), pytest.raises(UserError, match=owner), Run(folder, job):
        pass
    with Run(folder, job):
        pass


HOLD = """
import sys, time
from pathlib import Path
from recdistill.config.load import load_job
from recdistill.runs import Run

def half(work):
    (work / "half").touch()
    print("held", flush=True)
    time.sleep(60)

with Run(Path(sys.argv[1]), load_job(Path(sys.argv[2]))) as run:
    run.stage("teach", {"epochs": 1}, half)
"""


def test_a_dead_process_holds_nothing_and_its_work_is_found(folder: Path, job: Job, job_file: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), str(job_file)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert owner.stdout is not None and owner.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"in use by process {owner.pid} "), Run(folder, job):
            pass
    finally:
        owner.kill()
        owner.communicate()
    found: list[bool] = []
    with Run(folder, job) as run:
        assert not run.stage_folder("teach").exists()
        run.stage("teach", {"epochs": 1}, lambda work: found.append((work / "half").exists()))
    assert found == [True]


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path, job: Job) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match="holds .*, so it is no run folder"), Run(tmp_path, job):
        pass
    with pytest.raises(UserError, match="cannot be a run folder"), Run(tmp_path / "thesis.tex" / "run", job):
        pass


def test_inputs_must_be_plain_values(folder: Path, job: Job) -> None:
    inputs: dict[str, Any] = {"path": Path("x")}
    with Run(folder, job) as run, pytest.raises(TypeError):
        run.stage("ingest", inputs, never)
