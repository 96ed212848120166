"""A run folder: `config.yaml`, `log.txt`, `lock`, `timings.json` and `stages/<stage>/`, each stage whole or absent."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from recdistill import __version__
from recdistill.config import Job
from recdistill.config.load import dump_job
from recdistill.config.yaml12 import parse
from recdistill.errors import UserError
from recdistill.files import done, fingerprint, once, read_json, sweep, write_json, write_text
from recdistill.parallel import launched, map_units
from recdistill.progress import Progress, installed, silent
from recdistill.store import Store, published

FORMAT = 1
"""Raised when a stage's code writes something else from the same inputs, so that old results are not taken for new."""
HEARTBEAT_SECONDS = 5.0
"""How often the time spent in a stage is put down, so that a killed run loses little of it."""
INPUTS = "inputs.json"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unit:
    """A piece of a stage that is done by itself: its inputs decide whether it must be, as in `Run.stage`."""

    name: str
    inputs: dict[str, Any]
    args: tuple[Any, ...]
    also: tuple[str, ...] = ()
    """Other folders of the stage that it makes on the way, each finished like its own."""


class Run:
    """One run folder, held by one process at a time; used as a context manager.

    Raises:
        UserError: on entry, when another process holds the folder, or it holds something else than a run.
    """

    def __init__(self, folder: Path, job: Job, progress: Progress = silent) -> None:
        self.folder = Path(folder)
        self.job = job
        self.progress = progress
        self._store = Store(job.store, self.folder / "stages") if job.store else None
        self._stack = ExitStack()

    def __enter__(self) -> Run:
        with ExitStack() as stack:
            _claim(self.folder)
            stack.enter_context(_locked(self.folder / "lock"))
            _same_job(self.folder, self.job.name)
            stack.enter_context(_logged(self.log_file))
            stack.enter_context(installed(self.progress))
            sweep(self.folder / "stages")
            write_text(self.folder / "config.yaml", dump_job(self.job))
            log.info("recdistill %s, job %s, process %d", __version__, self.job.name, os.getpid())
            if self._store:
                self._store.open()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    @property
    def log_file(self) -> Path:
        """Where everything that happens in this run is written down."""
        return self.folder / "log.txt"

    def stage_folder(self, name: str) -> Path:
        """Where a stage's results are, or will be."""
        return self.folder / "stages" / name

    def stage(self, name: str, inputs: dict[str, Any], make: Callable[[Path], None]) -> Path:
        """Has `make(work)` write a stage's results, unless it did so before from the same inputs.

        Args:
            name: the stage's name, and its folder's.
            inputs: everything that the results depend on, as plain values: settings, fingerprints of what is read.
            make: writes into the folder that it is given; called again after a kill, it finds its own files there.

        Returns:
            The folder with the results.
        """
        folder = self.stage_folder(name)
        mark = fingerprint({"format": FORMAT, "stage": name, "inputs": inputs})

        def timed(work: Path) -> None:
            write_json(work / INPUTS, inputs)
            with self._timing(name, mark):
                make(work)

        if done(folder, mark):
            self._say(f"{name}: up to date")
        elif self._store and self._store.fetch(folder, mark):
            self._say(f"{name}: from {self._store.url}")
        else:
            self._say(f"{name}{_why(folder, inputs)}")
            once(folder, mark, timed)
            log.info("%s: done after %.1f s of work", name, self.timings()[name])
        if self._store:
            self._store.publish(folder, mark)
        return folder

    def units(self, name: str, function: Callable[..., None], units: list[Unit]) -> Path:
        """Has `function(folder, mark, *args)` write each unit's results, side by side, unless it did so before.

        Under torchrun one is done after the other, each by all ranks together (see `recdistill.ranks`).

        A unit is finished when `files.done(folder, mark)` holds; a function does that with `files.once`. Only
        units whose own inputs changed are done again.

        Args:
            name: the stage's name; a unit's folder is `<stage>/<unit>`.
            function: importable by name; it runs in a worker process.
            units: what there is to do.

        Returns:
            The stage's folder.
        """
        folder = self.stage_folder(name)
        marks = {
            u.name: fingerprint({"format": FORMAT, "stage": name, "unit": u.name, "inputs": u.inputs}) for u in units
        }
        missing = [
            unit for unit in units if not all(done(folder / name, marks[unit.name]) for name in (*unit.also, unit.name))
        ]
        if self._store:
            missing = self._not_shared(self._store, name, units, missing, marks)
        if not missing:
            self._say(f"{name}: up to date")
            return folder
        self._say(name if len(missing) == len(units) else f"{name}: {len(missing)} of {len(units)}")
        calls = [(unit.name, (folder / unit.name, marks[unit.name], *unit.args)) for unit in missing]
        workers = self.job.workers
        if launched():
            from recdistill.ranks import together

            function, workers = partial(together, function), 1
        if self._store:
            function = partial(published, self._store, function)
        with self._timing(name, fingerprint(marks)):
            map_units(function, calls, workers, self.progress, name)
        log.info("%s: done after %.1f s of work", name, self.timings()[name])
        return folder

    def _not_shared(
        self, store: Store, name: str, units: list[Unit], missing: list[Unit], marks: dict[str, str]
    ) -> list[Unit]:
        """Publishes the units that are done and fetches those that others did; gives those that nobody did."""
        folder = self.stage_folder(name)
        for unit in units:
            if unit not in missing:
                store.publish(folder / unit.name, marks[unit.name])
        left = [unit for unit in missing if not store.fetch(folder / unit.name, marks[unit.name])]
        if len(left) < len(missing):
            self._say(f"{name}: {len(missing) - len(left)} of {len(units)} from {store.url}")
        return left

    def timings(self) -> dict[str, float]:
        """Seconds of work behind each stage's present results, interrupted attempts included."""
        return {name: entry["seconds"] for name, entry in self._clock().items()}

    def _clock(self) -> dict[str, Any]:
        path = self.folder / "timings.json"
        found = read_json(path) if path.exists() else {}
        try:
            return {name: {"inputs": at["inputs"], "seconds": float(at["seconds"])} for name, at in found.items()}
        except (AttributeError, KeyError, TypeError, ValueError):
            raise UserError(f"{path}: damaged; remove it, then times begin anew") from None

    @contextmanager
    def _timing(self, name: str, mark: str) -> Iterator[None]:
        entry = self._clock().get(name, {})
        before = entry["seconds"] if entry.get("inputs") == mark else 0.0
        begun = time.monotonic()
        ended = threading.Event()

        def put_down() -> None:
            spent = round(before + time.monotonic() - begun, 3)
            write_json(self.folder / "timings.json", {**self._clock(), name: {"inputs": mark, "seconds": spent}})

        def beat() -> None:
            while not ended.wait(HEARTBEAT_SECONDS):
                with suppress(OSError):  # a full disk is the stage's to report
                    put_down()

        def end() -> None:
            ended.set()
            thread.join()
            put_down()

        thread = threading.Thread(target=beat, name="timings", daemon=True)
        thread.start()
        try:
            yield
        except BaseException:
            with suppress(OSError):  # what ended the stage is told, and not that its time cannot be put down
                end()
            raise
        end()

    def _say(self, text: str) -> None:
        log.info(text)
        self.progress.stage(text)


def _why(folder: Path, inputs: dict[str, Any]) -> str:
    """Why a stage that was finished is done again."""
    if not (folder / INPUTS).exists():
        return ""
    before = _flat(read_json(folder / INPUTS))
    now = _flat(json.loads(json.dumps(inputs)))
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if not changed:
        return ": again, since recdistill itself has changed"
    more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
    return f": again, since {', '.join(changed[:5])}{more} changed"


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    out: dict[str, Any] = {}
    for key, inner in value.items():
        out.update(_flat(inner, f"{prefix}.{key}" if prefix else str(key)))
    return out


def _claim(folder: Path) -> None:
    """Makes the folder; refuses one that holds anything but a run."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        strangers = [] if (folder / "lock").exists() else sorted(path.name for path in folder.iterdir())
        if not strangers:
            (folder / "lock").touch()
    except OSError as error:
        raise UserError(f"{folder}: cannot be a run folder ({error.strerror}); name another with --out") from None
    if strangers:
        raise UserError(
            f"{folder}: holds {strangers[0]!r}, so it is no run folder; name an empty or new one with --out"
        )


def _same_job(folder: Path, name: str) -> None:
    """Refuses the folder of a job with another name, whose results would be replaced."""
    path = folder / "config.yaml"
    try:
        before = parse(path.read_text(encoding="utf-8"), str(path)).content["name"]
    except (OSError, UnicodeDecodeError, UserError, TypeError, KeyError):
        return  # none yet, or nothing that a run could have been made from
    if before != name:
        raise UserError(
            f"{folder}: holds a run of the job {before!r}, and this one is {name!r}; name another with --out"
        )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds the lock; the system releases it when this process ends, however it ends."""
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "another process"
            raise UserError(f"{path.parent}: in use by {owner}; wait until it ends, or name another --out") from None
        now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}, since {now}\n")
        file.flush()
        yield
        file.truncate(0)


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Sends what Python's logging and warnings say to a file, ours from INFO, everybody's from WARNING."""
    handler = _LogFile(path, encoding="utf-8", delay=False)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root, ours = logging.getLogger(), logging.getLogger("recdistill")
    level, propagated = ours.level, ours.propagate
    root.addHandler(handler)
    ours.addHandler(handler)
    # Ours goes to the file alone: libraries put handlers on the root that print.
    ours.propagate = False
    ours.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        ours.setLevel(level)
        ours.propagate = propagated
        ours.removeHandler(handler)
        root.removeHandler(handler)
        with suppress(OSError):
            handler.close()


class _LogFile(logging.FileHandler):
    """A full disk is told by what cannot go on without it, and not by the log."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass
