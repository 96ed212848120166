from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.hurts import forget
from tests.faults.jobs import JOB, differences, results
from tests.faults.victims import Server


@dataclass(frozen=True)
class Straight:
    """A run that nothing happened to: its folder (read only), its job's file and its results."""

    out: Path
    job: Path
    results: dict[str, object]

    def copy(self, out: Path, without: str | None = None) -> Path:
        """The same run at `out`, to be hurt; without the results of a stage and those behind it, if it says so."""
        shutil.copytree(self.out, out, symlinks=True)
        if without is not None:
            forget(out, without)
        return out

    def differs(self, out: Path, upto: str = "") -> list[str]:
        """Which results of another run of the job are others; `upto` looks at that stage alone."""
        one, other = self.results, results(out)
        if upto:
            one, other = ({n: v for n, v in found.items() if f"/{upto}/" in n} for found in (one, other))
            assert one
        return differences(one, other)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("said"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def straight(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Straight:
    folder = tmp_path_factory.mktemp("straight")
    (folder / "job.yaml").write_text(JOB)
    end = server.run("run", folder / "job.yaml", "--out", folder / "run", "--quiet")
    assert end.code == 0, end
    return Straight(folder / "run", folder / "job.yaml", results(folder / "run"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Makes a disk of so many KiB: `small_disk(size)`."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def make(size: int) -> Path:
        if os.geteuid() != 0:
            pytest.skip("only root can mount a small disk")
        options = ["-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(disk)]
        done = subprocess.run(["mount", *options], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
        return disk

    yield make
    if disk.is_mount():
        subprocess.run(["umount", "--lazy", disk], check=True)
