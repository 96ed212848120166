from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from recdistill import cli, doctor
from recdistill.config import Job
from recdistill.errors import UserError
from recdistill.files import write_json
from recdistill.progress import Progress
from recdistill.runs import Run

STAGES = ["ingest", "teach", "cache", "distill", "evaluate", "export"]
STAT = {"mean": 0.5, "low": 0.4, "high": 0.6}
REPORT = {
    "params": {"foundation": 380, "student": 10, "compression": 38.0},
    "models": {"alone": {"auc": STAT, "ne": STAT}},
    "gap_recovered": {"diverse": {"auc": STAT, "ne": None}},
    "gap": {"auc": STAT, "ne": STAT},
    "warnings": ["NE: no gap to recover"],
}


@dataclass
class Outcome:
    code: int
    out: str
    err: str


Call = Callable[..., Outcome]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs `recdistill ARGUMENTS` in this process."""

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["recdistill", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = capsys.readouterr()
        return Outcome(int(left.value.code or 0), out, err)

    return run


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Job, str]]:
    """Stands in for the stages: notes what was asked, writes a report, or raises what `asked` was told to."""
    found: list[Any] = []

    def run_job(job: Job, run: Run, upto: str, progress: Progress) -> Path:
        found.append((job, upto))
        progress.update("work", 1, 1)
        write_json(run.folder / "report.json", REPORT)
        return run.stage(upto, {}, lambda work: None)

    monkeypatch.setitem(sys.modules, "recdistill.stages", SimpleNamespace(run_job=run_job))
    return found


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def run_job(*args: object) -> Path:
        raise error

    monkeypatch.setitem(sys.modules, "recdistill.stages", SimpleNamespace(run_job=run_job))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_command_runs_the_job_up_to_it(
    call: Call, asked: list[tuple[Job, str]], job_file: Path, tmp_path: Path, stage: str
) -> None:
    done = call(stage, job_file, "--out", tmp_path / "run", "--set", "distill.tune.trials=3", "--quiet")
    assert (done.code, done.err) == (0, "")
    [(job, upto)] = asked
    assert (job.distill.tune.trials, upto) == (3, stage)
    assert (tmp_path / "run" / "stages" / stage / "_SUCCESS").exists()
    if stage != "evaluate":
        assert done.out == f"{tmp_path / 'run' / 'stages' / stage}\n"


def test_json_of_a_stage_tells_its_folder_and_times(call: Call, asked: object, job_file: Path, tmp_path: Path) -> None:
    done = call("teach", job_file, "--out", tmp_path / "run", "--json")
    found = json.loads(done.out)
    assert (found["stage"], found["folder"]) == ("teach", str(tmp_path / "run" / "stages" / "teach"))
    assert found["timings"]["teach"] >= 0


def test_run_does_every_stage_and_prints_the_gap_and_where_the_report_is(
    call: Call, asked: list[tuple[Job, str]], job_file: Path, tmp_path: Path
) -> None:
    done = call("run", job_file, "--out", tmp_path / "run")
    assert done.code == 0
    assert asked[0][1] == "export"
    assert "AUC gap recovered" in done.out and "NE: no gap to recover" in done.out
    assert done.out.endswith(f"report: {tmp_path / 'run' / 'report.html'}\n")
    assert "work: done in" in done.err


@pytest.mark.parametrize("command", ["run", "evaluate"])
def test_json_of_a_run_is_the_report_alone(
    call: Call, asked: object, job_file: Path, tmp_path: Path, command: str
) -> None:
    assert json.loads(call(command, job_file, "--out", tmp_path / "run", "--json").out) == REPORT


def test_a_user_error_is_one_sentence_and_goes_into_the_log(
    call: Call, monkeypatch: pytest.MonkeyPatch, job_file: Path, tmp_path: Path
) -> None:
    fail_with(monkeypatch, UserError("log.csv:3: the label is 7; expected 0 or 1"))
    done = call("run", job_file, "--out", tmp_path / "run")
    assert (done.code, done.out, done.err) == (2, "", "recdistill: log.csv:3: the label is 7; expected 0 or 1\n")
    assert "the label is 7" in (tmp_path / "run" / "log.txt").read_text()


def test_a_mistake_in_the_job_is_told_without_a_traceback(call: Call, job_file: Path, tmp_path: Path) -> None:
    job_file.write_text(job_file.read_text().replace("min_count", "min_cuont"))
    done = call("run", job_file, "--out", tmp_path / "run")
    assert done.code == 2
    assert done.err.startswith(f"recdistill: {job_file}:6: dataset.features.user.min_cuont:")
    assert not (tmp_path / "run").exists()


def test_a_fault_of_ours_puts_its_traceback_into_the_runs_log(
    call: Call, monkeypatch: pytest.MonkeyPatch, job_file: Path, tmp_path: Path
) -> None:
    fail_with(monkeypatch, KeyError("lost"))
    done = call("run", job_file, "--out", tmp_path / "run")
    log = tmp_path / "run" / "log.txt"
    assert (done.code, done.out) == (1, "")
    assert done.err == f"recdistill: a fault in recdistill (KeyError: 'lost'); the traceback is in {log}\n"
    assert "Traceback" in log.read_text() and "in run_job" in log.read_text()


def test_a_fault_outside_a_run_gets_a_log_of_its_own(
    call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def breaks(*args: object) -> None:
        raise KeyError("lost")

    monkeypatch.setattr(doctor, "examine", breaks)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    done = call("doctor")
    [log] = tmp_path.glob("recdistill-*.log")
    assert done.code == 1 and str(log) in done.err
    assert "in breaks" in log.read_text()


def test_a_full_disk_is_said_plainly(
    call: Call, monkeypatch: pytest.MonkeyPatch, job_file: Path, tmp_path: Path
) -> None:
    fail_with(monkeypatch, OSError(errno.ENOSPC, "No space left on device", "cache/part"))
    done = call("run", job_file, "--out", tmp_path / "run")
    assert done.code == 2 and done.err.startswith("recdistill: the disk is full at cache/part; free some space")


def test_an_interrupted_run_exits_with_130_and_says_how_to_go_on(
    call: Call, monkeypatch: pytest.MonkeyPatch, job_file: Path, tmp_path: Path
) -> None:
    fail_with(monkeypatch, KeyboardInterrupt())
    done = call("run", job_file, "--out", tmp_path / "run")
    assert done.code == 130 and "run the same command again" in done.err


def test_score_passes_on_what_it_is_given(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found: list[object] = []

    def score(*given: object) -> dict[str, float]:
        found.extend(given)
        return {"user": 0.2, "item": 0.98}

    fake = SimpleNamespace(score=score)
    monkeypatch.setitem(sys.modules, "recdistill.export", fake)
    done = call("score", "student", "a.csv", "b.csv", "--out", "scores.parquet")
    assert (done.code, done.out) == (0, "scores.parquet\n")
    assert done.err.startswith("item (98% of the rows): mostly values that training never saw")
    assert found[:3] == [Path("student"), ["a.csv", "b.csv"], Path("scores.parquet")]
    assert isinstance(found[3], Progress)


def test_simulate_alone_writes_a_raw_log(call: Call, tmp_path: Path) -> None:
    done = call("simulate", "--rows", 300, "--days", 3, "--out", tmp_path / "log", "--quiet", "--json")
    assert done.code == 0, done.err
    assert len(list((tmp_path / "log").glob("day=*.parquet"))) == 3
    assert json.loads(done.out)["paths"]


def test_simulate_with_a_job_is_its_first_stage(
    call: Call, asked: list[tuple[Job, str]], job_file: Path, tmp_path: Path
) -> None:
    assert call("simulate", job_file, "--out", tmp_path / "run").code == 0
    assert asked[0][1] == "simulate"
    assert call("simulate", job_file, "--rows", 300, "--out", tmp_path / "run").code == 2


def test_doctor_exits_with_1_on_a_fault_alone(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = [doctor.Check("torch", "ok", "2.13.0"), doctor.Check("data", "warning", "none", "put some there")]
    monkeypatch.setattr(doctor, "examine", lambda data, out: checks)
    assert call("doctor").code == 0
    checks.append(doctor.Check("disk", "fault", "full", "free some"))
    done = call("doctor", "--json")
    assert done.code == 1
    assert json.loads(done.out)[2] == {"name": "disk", "status": "fault", "found": "full", "advice": "free some"}


def test_the_version_is_told(call: Call) -> None:
    assert call("--version").out == "recdistill 0.1.0\n"


@pytest.mark.parametrize("command", [[], *([name] for name in ["doctor", "simulate", *STAGES, "score", "run"])])
def test_help_has_an_example(call: Call, command: list[str]) -> None:
    done = call(*command, "--help")
    assert done.code == 0
    assert "Example" in done.out and f"recdistill {' '.join(command)}".strip() in done.out


@pytest.mark.parametrize(
    "arguments", [["run"], ["run", "job.yaml"], ["rum"], ["simulate", "--rows", "3", "--out", "x"]]
)
def test_a_wrong_command_line_exits_with_2(call: Call, arguments: list[str]) -> None:
    done = call(*arguments)
    assert (done.code, done.out) == (2, "") and "Error" in done.err


def test_the_command_as_a_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "recdistill", "run", "absent.yaml", "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "recdistill: absent.yaml: there is no such job file; `recdistill init LOG --out absent.yaml` drafts one\n"
    )


def test_openmp_is_told_to_wait_passively(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    call("--version")
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.delenv("OMP_WAIT_POLICY")


@pytest.fixture(autouse=True)
def no_handlers_left() -> object:
    before = list(logging.getLogger().handlers)
    yield
    assert logging.getLogger().handlers == before
