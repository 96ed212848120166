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
from recdistill.errors import UserError
from recdistill.files import done, fingerprint, once, read_json, write_json, write_text
from recdistill.parallel import launched, map_units
from recdistill.progress import Progress, installed, silent

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


class Run:
    """One run folder, held by one process at a time; used as a context manager.

    Raises:
        UserError: on entry, when another process holds the folder, or it holds something else than a run.
    """

    def __init__(self, folder: Path, job: Job, progress: Progress = silent) -> None:
        self.folder = Path(folder)
        self.job = job
        self.progress = progress
        self._stack = ExitStack()

    def __enter__(self) -> Run:
        with ExitStack() as stack:
            _claim(self.folder)
            stack.enter_context(_locked(self.folder / "lock"))
            stack.enter_context(_logged(self.log_file))
            stack.enter_context(installed(self.progress))
            write_text(self.folder / "config.yaml", dump_job(self.job))
            log.info("recdistill %s, job %s, process %d", __version__, self.job.name, os.getpid())
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
        if done(folder, mark):
            self._say(f"{name}: up to date")
            return folder
        self._say(f"{name}{_why(folder, inputs)}")

        def timed(work: Path) -> None:
            write_json(work / INPUTS, inputs)
            with self._timing(name, mark):
                make(work)

        once(folder, mark, timed)
        log.info("%s: done after %.1f s of work", name, self.timings()[name])
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
        missing = [unit for unit in units if not done(folder / unit.name, marks[unit.name])]
        if not missing:
            self._say(f"{name}: up to date")
            return folder
        self._say(name if len(missing) == len(units) else f"{name}: {len(missing)} of {len(units)}")
        calls = [(unit.name, (folder / unit.name, marks[unit.name], *unit.args)) for unit in missing]
        workers = self.job.workers
        if launched():
            from recdistill.ranks import together

            function, workers = partial(together, function), 1
        with self._timing(name, fingerprint(marks)):
            map_units(function, calls, workers, self.progress, name)
        log.info("%s: done after %.1f s of work", name, self.timings()[name])
        return folder

    def timings(self) -> dict[str, float]:
        """Seconds of work behind each stage's present results, interrupted attempts included."""
        return {name: entry["seconds"] for name, entry in self._clock().items()}

    def _clock(self) -> dict[str, Any]:
        path = self.folder / "timings.json"
        return dict(read_json(path)) if path.exists() else {}

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

        thread = threading.Thread(target=beat, name="timings", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            put_down()

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
    handler = logging.FileHandler(path, encoding="utf-8", delay=False)
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
        handler.close()
