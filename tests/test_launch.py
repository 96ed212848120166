"""A whole job under several ranks, by torchrun and by the job's own `launch` section; one of them is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from recdistill import launch
from recdistill.config import Job
from recdistill.config.load import load_job
from recdistill.errors import UserError
from recdistill.files import read_json
from tests.cpus import NO_GPU
from tests.jobs import over_simulated

JOB = (
    over_simulated("small", "rows: 6000, days: 5, users: 60, items: 40, domains: 2")
    + """\
teachers:
  regime: prequential
  members:
    foundation: {kind: dlrm, dim: 8, bottom: [8], top: [16, 8], train: {epochs: 2, batch_size: 255}}
    trees: {kind: sklearn, params: {max_iter: 5}}
student: {top: [8], compression: 4, dims: [4]}
distill:
  methods: [alone, diverse]
  seeds: [0]
  train: {epochs: 2, batch_size: 255}
  diverse: {question_width: 8}
evaluate: {resamples: 100}
launch: {row_wise: [item]}
workers: 1
"""
)
DIE = """
import os, signal, sys
def watch(event, args):
    if event == "open" and os.environ.get("RANK") == "1" and str(args[0]).endswith(os.environ["DIE_AT"]):
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
"""
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "recdistill"]


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, **NO_GPU, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )


def results(out: Path) -> dict[str, Any]:
    report = read_json(out / "report.json")
    del report["timings"]
    return report


@pytest.fixture(scope="module")
def job_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("job") / "job.yaml"
    path.write_text(JOB)
    return path


@pytest.fixture(scope="module")
def two(job_file: Path) -> Path:
    """The job's run folder under two ranks of torchrun. Read only."""
    out = job_file.parent / "two"
    done = run(*TORCHRUN, "run", job_file, "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == read_json(out / "report.json")
    for stage in ("teach", "cache", "distill", "evaluate"):
        assert done.stderr.count(f"\n{stage}\n") == 1
    return out


def test_two_ranks_make_the_same_report_as_one(job_file: Path, two: Path, run_text: Callable[..., Any]) -> None:
    run_text(JOB, job_file.parent / "one")
    one, other = results(job_file.parent / "one"), results(two)
    assert one["models"].keys() == other["models"].keys() and one["account"] == other["account"]
    for name, model in one["models"].items():
        for metric in ("auc", "ne"):
            assert other["models"][name][metric]["mean"] == pytest.approx(model[metric]["mean"], abs=1e-3)
    units = [sorted(str(p.relative_to(out)) for p in out.rglob("*")) for out in (job_file.parent / "one", two)]
    shards = [[name for name in unit if not name.endswith(".distcp")] for unit in units]
    assert shards[0] == shards[1]


def test_a_killed_rank_ends_the_job_and_the_job_goes_on(job_file: Path, two: Path, tmp_path: Path) -> None:
    """It dies while it writes a checkpoint; these ranks are started by the job itself."""
    (tmp_path / "sitecustomize.py").write_text(DIE)
    command = ["-m", "recdistill", "run", job_file, "--out", tmp_path / "run", "--set", "launch.ranks=2", "--json"]
    killed = run(*command, PYTHONPATH=str(tmp_path), DIE_AT="check-1/__1_0.distcp")
    assert (killed.returncode, killed.stdout) == (2, "")
    assert "recdistill: rank 1 was ended by SIGKILL" in killed.stderr and "Traceback" not in killed.stderr
    assert not (tmp_path / "run" / "report.json").exists()
    done = run(*command)
    assert done.returncode == 0, done.stderr
    assert results(tmp_path / "run") == results(two)
    assert not [path for path in (tmp_path / "run").rglob("*") if ".work-" in path.name or ".partial" in path.name]


def test_a_mistake_is_told_once(job_file: Path, two: Path) -> None:
    done = run("-m", "recdistill", "run", job_file, "--out", job_file.parent, "--set", "launch.ranks=2")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"recdistill: {job_file.parent}: holds 'job.yaml', so it is no run folder")
    assert done.stderr.count("\n") == 1


@pytest.fixture
def job(job_file: Path) -> Job:
    return load_job(job_file, ["launch.ranks=3"])


def test_a_job_starts_its_ranks_once(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    assert launch.must_start(job)
    assert not launch.must_start(job.model_copy(update={"launch": job.launch.model_copy(update={"ranks": 1})}))
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not launch.must_start(job)


def test_more_ranks_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch, "cuda", SimpleNamespace(is_available=lambda: True, device_count=lambda: 2))
    with pytest.raises(UserError, match="launch.ranks: 3, and this machine has 2 GPUs"):
        launch.start(3)


def test_a_follower_lets_the_leader_speak_first(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(launch.time, "sleep", slept.append)
    launch.first_to_tell()
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        launch.first_to_tell()
    assert slept == [launch.GRACE_SECONDS]


def test_ctrl_c_ends_every_rank(job_file: Path, two: Path, tmp_path: Path) -> None:
    command = ["-m", "recdistill", "run", str(job_file), "--out", str(tmp_path / "run"), "--set", "launch.ranks=2"]
    process = subprocess.Popen(
        [sys.executable, *command],
        env={**os.environ, **NO_GPU},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    try:
        heard = ""
        while "teach\n" not in heard:
            line = process.stderr.readline()
            assert line, heard
            heard += line
        os.killpg(process.pid, signal.SIGINT)
        heard += process.stderr.read()
        assert process.wait(60) == 130
    finally:
        process.kill()
        process.wait()
    assert heard.count("recdistill: interrupted; run the same command again to go on\n") == 1
    assert "Traceback" not in heard
