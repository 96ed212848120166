from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from recdistill.clicklog.schema import Dataset
from recdistill.config.load import load_job
from recdistill.errors import UserError
from recdistill.spread import Work, engine, in_processes, in_turn, machines, on_ray


class Squares:
    """Writes a shard's square to a file of its name; counts how often it arrived somewhere."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / f"opened-{os.getpid()}").touch()

    def __reduce__(self) -> Any:
        return Squares, (self.folder,)

    def __call__(self, shard: int) -> int:
        if shard == 99:
            raise UserError("shard 99: nobody wants it")
        partial = self.folder / f".{shard}.partial"
        partial.write_text(str(shard**2))
        partial.replace(self.folder / str(shard))
        return shard**2


class Killed:
    """The same work, whose process is killed in the middle: once, or whenever it is at the shard `always`."""

    def __init__(self, work: Work, flag: Path, always: int | None = None) -> None:
        self.work, self.flag, self.always = work, flag, always

    def __call__(self, shard: Any) -> Any:
        if shard == self.always or not self.flag.exists():
            self.flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.work(shard)


def killed_on_ray(shards: Sequence[Any], work: Work, flag: Path) -> list[Any]:
    return on_ray(shards, Killed(work, flag))


def test_processes_open_the_work_once_and_keep_the_order(tmp_path: Path) -> None:
    shards = range(7)
    assert in_processes(shards, Squares(tmp_path), workers=3) == in_turn(shards, Squares(tmp_path))
    assert len(list(tmp_path.glob("opened-*"))) == 4  # three and this one
    assert in_processes([], Squares(tmp_path)) == [] and in_processes([2], Squares(tmp_path)) == [4]
    with pytest.raises(UserError, match="shard 99: nobody wants it"):
        in_processes([1, 99], Squares(tmp_path), workers=2)


def test_the_job_chooses(job_file: Path) -> None:
    jobs = {name: load_job(job_file, [f"launch.engine={name}", "workers=3"]) for name in ("here", "processes", "ray")}
    assert engine(load_job(job_file)) is engine(jobs["here"]) is in_turn and engine(jobs["ray"]) is on_ray
    chosen = engine(jobs["processes"])
    assert isinstance(chosen, partial) and chosen.func is in_processes and chosen.keywords == {"workers": 3}
    # Within a unit of work, which has a process already, it is not more processes that are wanted.
    assert [machines(job) for job in jobs.values()] == [in_turn, in_turn, on_ray]


def test_ray_is_imported_for_who_asks_for_it_alone() -> None:
    code = (
        "import sys, recdistill.clicklog.ingest, recdistill.spread; print('ray' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_who_asks_for_ray_without_having_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"^launch.engine: ray is not installed; pip install 'recdistill\[ray\]'"):
        on_ray([1], abs)


# With real Ray, for whoever asks: pytest -m ray tests/test_spread.py


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A cluster of this machine that nobody else can reach; its address."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed; pip install 'recdistill[ray]'")
    ports = []
    for _ in range(2):
        with socket.create_server(("127.0.0.1", 0)) as free:
            ports.append(free.getsockname()[1])
    command = [
        *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=2"),
        *("--node-ip-address=127.0.0.1", f"--port={ports[0]}", f"--ray-client-server-port={ports[1]}"),
        *("--include-dashboard=false", "--disable-usage-stats", "--object-store-memory=80000000"),
        f"--temp-dir={(folder := tempfile.mkdtemp(prefix='ray-'))}",  # a short name: sockets lie below it
    ]
    # Otherwise Ray takes 127.0.0.1 for the machine's own address, and listens to the world.
    # Read when Ray is imported, which therefore comes later.
    env = {**os.environ, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_raylet_start_wait_time_s": "300"}
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        said = ""
        while "Ray runtime started" not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        assert listens_to(process.pid) == {"127.0.0.1"}
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAY_ADDRESS", f"127.0.0.1:{ports[0]}")
            patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
            yield f"127.0.0.1:{ports[0]}"
    finally:
        if "ray" in sys.modules:
            sys.modules["ray"].shutdown()
        process.terminate()
        process.communicate(timeout=60)
        shutil.rmtree(folder)


def listens_to(pid: int) -> set[str]:
    """Addresses at which a process and those that it started listen."""
    parents = {int(path.parent.name): int(path.read_text().rpartition(")")[2].split()[1]) for path in stats()}
    ours = {pid}
    while more := {child for child, parent in parents.items() if parent in ours} - ours:
        ours |= more
    lines = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout.splitlines()
    mine = [line for line in lines if {int(found) for found in re.findall(r"pid=(\d+)", line)} & ours]
    return {line.split()[3].rpartition(":")[0].strip("[]").removeprefix("::ffff:") for line in mine}


def stats() -> list[Path]:
    return [path for path in Path("/proc").glob("[0-9]*/stat") if path.exists()]


@pytest.mark.ray
def test_a_killed_worker_does_not_matter(cluster: str, tmp_path: Path) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    shards = list(range(16))
    expected = in_turn(shards, Squares(tmp_path / "here"))
    assert on_ray(shards, Killed(Squares(tmp_path / "there"), tmp_path / "killed")) == expected
    assert (tmp_path / "killed").exists()

    def files(name: str) -> dict[str, str]:
        return {path.name: path.read_text() for path in (tmp_path / name).glob("[!o]*")}

    assert files("there") == files("here") and len(files("here")) == 16
    with pytest.raises(UserError, match=r"^shard 99: nobody wants it$"):
        on_ray([1, 99, 2], Squares(tmp_path / "there"))
    begun = time.monotonic()
    with pytest.raises(UserError, match=r"^a worker died 4 times over the same work"):
        on_ray([1, 5, 2], Killed(Squares(tmp_path / "there"), tmp_path / "killed", always=5))
    assert time.monotonic() - begun < 120


@pytest.mark.ray
def test_ingest_and_cache_are_the_same_to_the_byte(
    cluster: str, tmp_path: Path, run_text: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the job, and with a worker killed in each map."""
    from recdistill import stages
    from recdistill.clicklog.simulate import simulate
    from recdistill.config.dataset import Simulation

    simulate(Simulation(rows=2000, days=4, users=20, items=10, domains=2), tmp_path / "log")
    for name in ("here", "ray"):
        (tmp_path / name).mkdir()
        if name == "ray":
            monkeypatch.setattr(stages, "engine", lambda _: partial(killed_on_ray, flag=tmp_path / "killed-in-ingest"))
            monkeypatch.setattr(stages, "machines", lambda _: partial(killed_on_ray, flag=tmp_path / "killed-in-cache"))
        run_text(JOB.format(log=tmp_path / "log", engine=name), tmp_path / name / "run", upto="cache")
    assert (tmp_path / "killed-in-ingest").exists() and (tmp_path / "killed-in-cache").exists()
    here, there = (tmp_path / name / "run" / "stages" for name in ("here", "ray"))
    assert Dataset(here / "ingest").fingerprint == Dataset(there / "ingest").fingerprint
    for stage in ("ingest", "cache"):
        names = [str(path.relative_to(here)) for path in (here / stage).rglob("*") if path.is_file()]
        assert names and sorted(names) == sorted(
            str(path.relative_to(there)) for path in (there / stage).rglob("*") if path.is_file()
        )
        assert all((here / name).read_bytes() == (there / name).read_bytes() for name in names)


JOB = """\
name: spread
dataset:
  log: {{paths: "{log}/day=*.parquet"}}
  example_id: example_id
  time: {{column: time, unit: ms}}
  split: {{by: days, validation: 1, test: 1}}
  features:
    domain, user, item: {{kind: single}}
    price: {{kind: dense}}
teachers:
  regime: out_of_fold
  folds: 2
  members:
    foundation: {{kind: dlrm, dim: 8, top: [8], train: {{epochs: 1, batch_size: 256}}}}
student: {{top: [4], compression: 2, dims: [4]}}
workers: 1
launch: {{engine: {engine}}}
"""
