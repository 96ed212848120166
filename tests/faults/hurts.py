"""What can be done to a process from inside, before it begins: see `victims.Server.start`."""

from __future__ import annotations

import ctypes
import os
import re
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from recdistill import launch
from recdistill.runs import Run
from tests.faults.jobs import beginning, from_on

_CHANGES = {"os.rename": 1, "os.remove": 0, "os.rmdir": 0, "os.mkdir": 0, "os.link": 1, "os.symlink": 1}
"""Audit events of Python that change the file system, and which argument is the path that is no longer as it was."""
_CAPABILITIES_V3 = 0x20080522


def die_at_change(stage: str, number: int) -> None:
    """SIGKILL just before the `number`-th change to the file system after `stage`, or one behind it, has begun."""
    _when(stage, lambda: die_at_path(".", number))


def die_at_path(pattern: str, number: int = 1) -> None:
    """SIGKILL just before a path is changed in which `pattern` is found, for the `number`-th time."""
    left = number

    def watch(event: str, args: tuple) -> None:
        nonlocal left
        if event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            path = args[0]
        elif event in _CHANGES:
            path = args[_CHANGES[event]]
        else:
            return
        left -= bool(re.search(pattern, str(path)))
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def damage_at(stage: str, path: Path, how: str) -> None:
    """Damages a file when `stage` begins, as `damage` does."""
    _when(stage, lambda: damage(path, how))


def damage(path: Path, how: str, at: float = 0.5) -> None:
    """Flips a bit of a file, `cut`s it short or lets it be `gone`; `at` is where, as a part of its length."""
    data = bytearray(path.read_bytes())
    where = int(at * len(data))
    path.unlink()  # other names for the same bytes keep them
    if how == "flip":
        data[where] ^= 1 << where % 8
    if how == "cut":
        del data[where:]
    if how != "gone":
        path.write_bytes(data)


def tell_at_once() -> None:
    """A follower does not let the leader speak first."""
    launch.GRACE_SECONDS = 0.0


def hang_at(stage: str) -> None:
    """Does nothing any more when `stage` begins."""
    _when(stage, signal.pause)


def obey_permissions() -> None:
    """Takes root's privileges away: what nobody may read, root may not either, though it is the owner."""
    header, none = (ctypes.c_uint32 * 2)(_CAPABILITIES_V3, 0), (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None).capset(header, none) == 0


def write_little(size: int) -> None:
    """No file may be larger than `size` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def tell_time(seconds: float) -> None:
    """Python's clock says `seconds` since 1970, and stands still."""
    time.time = lambda: seconds
    time.time_ns = lambda: int(seconds * 1e9)


def forget(out: Path, stage: str) -> None:
    """Removes a stage's results and those of the stages behind it."""
    for name in from_on(stage):
        shutil.rmtree(out / "stages" / name, ignore_errors=True)
    for name in ("report.json", "report.html", "student"):
        (out / name).unlink(missing_ok=True)


def _when(stage: str, do: Callable[[], object]) -> None:
    """Calls `do` when `stage`, or else one behind it, begins."""
    say, waiting = Run._say, [do]

    def watch(run: Run, text: str) -> None:
        say(run, text)
        if waiting and beginning(text) in from_on(stage):
            waiting.pop()()

    Run._say = watch  # type: ignore[method-assign]
