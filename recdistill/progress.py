"""Progress: a bar on a terminal, a line now and then in a log, or nothing.

Every stage takes a `Progress` and calls `update`. Code that `parallel.map_units` runs asks `current()` for it, which is
the same object in this process and a relay to it in a worker process.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

LINE_SECONDS = 10.0
"""A log gets a line for a task at most this often ..."""
LINE_SECONDS_BY_TENTH = 2.0
"""... or this often, when a tenth more of it is done."""
RELAY_SECONDS = 0.2
"""A worker reports a task at most this often."""
TELLING_SECONDS = 20.0
"""What a task has left is told once it has taken so long."""


class Progress:
    """Takes reports and shows nothing."""

    def stage(self, name: str) -> None:
        """A new stage begins, or something worth a line has happened."""

    def update(self, task: str, done: float, total: float, note: str = "") -> None:
        """`done` of `total` units of `task` are done; `done >= total` ends it. `note`: how it goes (a loss, a rate)."""


silent = Progress()
_current: Progress = silent


def current() -> Progress:
    """The `Progress` that this process reports to."""
    return _current


@contextmanager
def installed(progress: Progress) -> Iterator[None]:
    """Makes `progress` what `current()` gives, until the block ends."""
    global _current
    before, _current = _current, progress
    try:
        yield
    finally:
        _current = before


@contextmanager
def on_stderr(quiet: bool = False) -> Iterator[Progress]:
    """A bar where standard error is a terminal, plain lines elsewhere, nothing when `quiet`."""
    if quiet:
        yield silent
    elif sys.stderr.isatty():
        with Bars() as bars:
            yield bars
    else:
        yield Lines(sys.stderr)


class Bars(Progress):
    """A live bar for each task under way. A task that ends leaves one line behind."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._rich = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", style="dim"),
            console=self._console,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Bars:
        self._rich.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._rich.stop()

    def stage(self, name: str) -> None:
        self._console.print(f"[bold]{escape(name)}[/bold]", highlight=False)

    def update(self, task: str, done: float, total: float, note: str = "") -> None:
        with self._lock:
            if task not in self._tasks:
                self._tasks[task] = self._rich.add_task(escape(task), total=total, note="")
            bar = self._tasks[task]
            seconds = self._rich.tasks[self._rich.task_ids.index(bar)].elapsed or 0.0
            self._rich.update(bar, completed=done, total=total, note=escape(_told(note, seconds, done, total)))
            if done >= total:
                self._rich.remove_task(self._tasks.pop(task))
                self._console.print(_ended(task, seconds, note), markup=False, highlight=False)


class Lines(Progress):
    """Plain lines for a log file or a pipe."""

    def __init__(self, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._clock = clock
        self._begun: dict[str, float] = {}
        self._said: dict[str, tuple[float, int]] = {}
        self._lock = threading.Lock()

    def stage(self, name: str) -> None:
        self._print(name)

    def update(self, task: str, done: float, total: float, note: str = "") -> None:
        now = self._clock()
        with self._lock:
            begun = self._begun.setdefault(task, now)
            if done >= total:
                self._print(_ended(task, now - begun, note))
                self._begun.pop(task)
                self._said.pop(task, None)
                return
            tenth = int(10 * done / total)
            last, last_tenth = self._said.setdefault(task, (begun, 0))
            if now - last >= (LINE_SECONDS_BY_TENTH if tenth > last_tenth else LINE_SECONDS):
                self._print(f"  {task}: {100 * done / total:.0f}%{_tail(_told(note, now - begun, done, total))}")
                self._said[task] = (now, tenth)

    def _print(self, text: str) -> None:
        print(text, file=self._out, flush=True)


class Relay(Progress):
    """What a worker process reports through: passes calls on by `send`, not more often than is of use."""

    def __init__(self, send: Callable[[str, tuple[object, ...]], None]) -> None:
        self._send = send
        self._sent: dict[str, float] = {}

    def stage(self, name: str) -> None:
        self._send("stage", (name,))

    def update(self, task: str, done: float, total: float, note: str = "") -> None:
        now = time.monotonic()
        if done >= total:
            self._sent.pop(task, None)
        elif now - self._sent.get(task, -RELAY_SECONDS) < RELAY_SECONDS:
            return
        else:
            self._sent[task] = now
        self._send("update", (task, float(done), float(total), note))


def _ended(task: str, seconds: float, note: str) -> str:
    return f"  {task}: done in {seconds:.1f} s{_tail(note)}"


def _tail(note: str) -> str:
    return f" ({note})" if note else ""


def _told(note: str, seconds: float, done: float, total: float) -> str:
    """The note, and how long the rest will take if it goes on as it went; training may end before its last epoch."""
    if seconds < TELLING_SECONDS or not 0 < done < total:
        return note
    left = seconds * (total - done) / done
    amount = f"{left:.0f} s" if left < 90 else f"{left / 60:.0f} min" if left < 5400 else f"{left / 3600:.1f} h"
    return f"{note}, about {amount} left".removeprefix(", ")
