"""A disk that is full, or that lets nobody write."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from recdistill.evaluate.predictions import scratch_array
from recdistill.files import atomic, verify
from tests.faults.conftest import Straight
from tests.faults.hurts import obey_permissions, write_little
from tests.faults.victims import Server

DISK_KIB = 8192


@pytest.mark.parametrize(("stage", "left_kib"), [("ingest", 32), ("teach", 64), ("cache", 16)])
def test_a_full_disk_is_told_and_the_run_goes_on_when_there_is_room(
    server: Server, straight: Straight, small_disk: Callable[[int], Path], stage: str, left_kib: int
) -> None:
    """In teach, it is the first checkpoint that does not fit."""
    disk = small_disk(DISK_KIB)
    out = straight.copy(disk / "run", without=stage)
    ballast = disk / "ballast"
    fill(ballast, left_kib)
    command = [stage, straight.job, "--out", out, "--quiet"]
    end = server.run(*command)
    assert (end.code, end.out, end.err.count("\n")) == (2, "", 1), end
    assert "the disk is full" in end.err and "free some space, then run the same command again" in end.err
    assert not (out / "stages" / stage / "_SUCCESS").exists()
    for marker in out.glob("stages/*/_SUCCESS"):
        verify(marker.parent)
    ballast.unlink()
    end = server.run(*command)
    assert end.code == 0, end
    assert straight.differs(out, stage) == []


def fill(ballast: Path, left_kib: int) -> None:
    """Leaves that much room on the disk."""
    room = os.statvfs(ballast.parent)
    ballast.write_bytes(bytes(room.f_bavail * room.f_frsize - left_kib * 1024))


def test_a_file_that_may_not_grow_is_told(server: Server, straight: Straight, tmp_path: Path) -> None:
    out = straight.copy(tmp_path / "run", without="teach")
    command = ["teach", straight.job, "--out", out, "--quiet"]
    end = server.run(*command, hurts=[partial(write_little, 50_000)])
    assert (end.code, end.out, end.err.count("\n")) == (2, "", 1), end
    assert "recdistill: foundation/until-2026-01-02: a file would be larger than the system allows" in end.err
    assert server.run(*command).code == 0
    assert straight.differs(out, "teach") == []


def test_a_log_that_cannot_be_written_is_no_reason_to_stop(server: Server, straight: Straight, tmp_path: Path) -> None:
    out = straight.copy(tmp_path / "run", without="export")
    (out / "log.txt").unlink()
    (out / "log.txt").symlink_to("/dev/full")
    end = server.run("export", straight.job, "--out", out, "--quiet")
    assert (end.code, end.err) == (0, "")
    assert straight.differs(out, "export") == []


def test_a_full_disk_is_understood_in_whatever_words(small_disk: Callable[[int], Path]) -> None:
    disk = small_disk(64)
    with pytest.raises(OSError, match=r"No space left on device: '.*weights'"), atomic(disk / "weights") as partial:
        save_file({"weight": np.zeros(100_000)}, partial)
    assert list(disk.iterdir()) == []


def test_a_full_disk_is_met_before_a_file_is_mapped_into_memory(small_disk: Callable[[int], Path]) -> None:
    """Later it would be a crash."""
    disk = small_disk(1024)
    with pytest.raises(OSError, match=r"No space left on device: '.*logits\.npy'"):
        scratch_array(disk, "logits", np.float32, (10, 100_000))


@pytest.mark.parametrize(
    ("stage", "place"),
    [("ingest", "log.txt"), ("cache", "stages"), ("cache", "stages/ingest/day=2026-01-02/part-train-00000.parquet")],
)
def test_a_permission_that_lacks_is_told(
    server: Server, straight: Straight, tmp_path: Path, stage: str, place: str
) -> None:
    out = straight.copy(tmp_path / "run", without=stage)
    path = out / place
    before = path.stat().st_mode
    path.chmod(0o500 if path.is_dir() else 0)
    command = [stage, straight.job, "--out", out, "--quiet"]
    try:
        end = server.run(*command, hurts=[obey_permissions])
    finally:
        path.chmod(before)
    assert (end.code, end.out, end.err.count("\n")) == (2, "", 1), end
    assert f"permission denied at {path}" in end.err and "let this user read and write there" in end.err
    end = server.run(*command)
    assert end.code == 0, end
    assert straight.differs(out, stage) == []


def test_scores_that_may_not_be_written_are_told(server: Server, straight: Straight, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    log = straight.out / "stages" / "simulate" / "day=2026-01-05.parquet"
    scores = tmp_path / "closed" / "scores.parquet"
    end = server.run("score", straight.out / "student", log, "--out", scores, "--quiet", hurts=[obey_permissions])
    assert end.code == 2 and end.err.startswith(f"recdistill: permission denied at {scores}; let this user")
