"""Runs independent units of work side by side, in processes of one thread each.

Processes are started by running a fresh interpreter, never by fork (torch's threads do not survive it) and never by
importing the caller's main module again (which would run a notebook's script twice).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any, TypeVar, cast

from threadpoolctl import threadpool_limits

from recdistill.errors import GO_ON, UserError, sentence_of
from recdistill.progress import Progress, Relay, installed, silent

Result = TypeVar("Result")
Unit = tuple[str, tuple[Any, ...]]

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "MALLOC_ARENA_MAX": "1",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}
"""A worker's environment: two processes with spinning OpenMP threads are five times slower than two with one, and what
each thread that comes and goes keeps for itself of glibc's memory adds up. Arrow's own allocator keeps more than
glibc's, and the more the longer a log is (tests/benchmarks/results/growth.md), and is not faster here."""
_PR_SET_PDEATHSIG = 1


class UnitError(RuntimeError):
    """A unit failed for a reason that is no `UserError`; the message holds its traceback."""


def launched() -> bool:
    """Whether torchrun started this process as one of several ranks."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_units(
    function: Callable[..., Result],
    units: Sequence[Unit],
    workers: int = 0,
    progress: Progress = silent,
    label: str = "",
) -> list[Result]:
    """Calls `function(*args)` for each `(name, args)` of `units`; results come in the order of `units`.

    Each call has one torch thread wherever it runs, so that a result does not depend on `workers`. Inside, `current()`
    of `recdistill.progress` reports to `progress`.

    Args:
        function: importable by name (top level of a module), with arguments and result that can be pickled.
        units: what to call it with; a name says in errors which one failed.
        workers: processes; 0 is one a core, 1 is this process.
        progress: where units, and `label` as a whole, report.
        label: what the whole is called; no report of the whole when empty.

    Raises:
        UserError: a unit raised one, or its process died; the unit is named.
        UnitError: a unit raised something else; the message holds the unit's name and its traceback.
    """
    workers = workers or cores()
    results: dict[int, Result] = {}
    if label and units:
        progress.update(label, 0, len(units))  # from here its time is taken
    run = _here(function, units, progress) if workers == 1 else _spread(function, units, workers, progress)
    with contextlib.closing(run) as finished:
        for index, result in finished:
            results[index] = result
            if label:
                progress.update(label, len(results), len(units))
    return [results[index] for index in range(len(units))]


def _here(function: Callable[..., Result], units: Sequence[Unit], progress: Progress) -> Generator[tuple[int, Result]]:
    for index, (name, args) in enumerate(units):
        with installed(progress), one_thread():
            try:
                result = function(*args)
            except Exception as error:
                if said := _told(error):
                    raise UserError(f"{name}: {said}") from error
                raise UnitError(f"{name} failed: {type(error).__name__}: {error}") from error
        yield index, result


def _told(error: Exception) -> str | None:
    """The sentence for people, where the error is not a fault of recdistill's."""
    if isinstance(error, OSError):
        return sentence_of(error)
    return str(error) if isinstance(error, UserError) else None


def memory() -> int:
    """Bytes of this machine's memory, or of the container's limit, whichever is less."""
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(installed, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):
        return installed


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch, whether it is imported already or will be inside, and for numpy's matrices.

    A product of matrices differs in its last digits by how many threads share it.
    """
    kept = {name: os.environ.get(name) for name in ONE_THREAD}
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else 0
    os.environ.update(ONE_THREAD)
    if torch:
        torch.set_num_threads(1)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        if torch:
            torch.set_num_threads(threads)
        for name, value in kept.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class _Worker:
    """A process, the pipe to it, and the unit that it has in hand."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.index = -1
        self.pipe, theirs = Pipe()
        with theirs:
            setup = {"path": sys.path, "pipe": theirs.fileno(), "parent": os.getpid()}
            self.process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, json.dumps(setup)],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, **ONE_THREAD},
            )
        self._send(function)

    def give(self, index: int, args: tuple[Any, ...]) -> None:
        self.index = index
        self._send(args)

    def stop(self) -> None:
        self.pipe.close()
        self.process.kill()
        self.process.wait()

    def _send(self, value: Any) -> None:
        data = pickle.dumps(value)
        with contextlib.suppress(BrokenPipeError):  # a dead worker is noticed where its answer is awaited
            self.pipe.send_bytes(data)


def _spread(
    function: Callable[..., Result], units: Sequence[Unit], workers: int, progress: Progress
) -> Generator[tuple[int, Result]]:
    waiting = list(enumerate(units))[::-1]
    crew: list[_Worker] = []
    try:
        while waiting and len(crew) < workers:
            crew.append(_Worker(function))
            index, (_, args) = waiting.pop()
            crew[-1].give(index, args)
        busy = {worker.pipe: worker for worker in crew}
        while busy:
            for pipe in cast(list[Connection], wait(list(busy))):
                worker = busy[pipe]
                done, value = _hear(worker, units[worker.index][0], progress)
                if not done:
                    continue
                yield worker.index, cast(Result, value)
                if waiting:
                    index, (_, args) = waiting.pop()
                    worker.give(index, args)
                else:
                    del busy[pipe]
    finally:
        for worker in crew:
            worker.stop()


def _hear(worker: _Worker, name: str, progress: Progress) -> tuple[bool, Any]:
    """Takes one message from a worker; gives whether its unit is done, and the unit's result."""
    try:
        kind, value = worker.pipe.recv()
    except (EOFError, OSError):
        raise UserError(f"{name}: {_died(worker.process.wait())}") from None
    if kind == "stage":
        progress.stage(*value)
    elif kind == "update":
        progress.update(*value)
    elif kind == "log":
        logger, level, text = value
        logging.getLogger(logger).log(level, "%s: %s", name, text)
    elif kind == "user error":
        raise UserError(f"{name}: {value}")
    elif kind == "error":
        raise UnitError(f"{name} failed: {value}")
    elif kind == "result":
        return True, pickle.loads(value)
    return False, None


def _died(code: int) -> str:
    if code == -signal.SIGKILL:
        why = "was killed, most likely because memory ran out; set a lower `workers` or batch size in the job"
    elif code < 0:
        why = f"crashed ({signal.Signals(-code).name}); run `recdistill doctor` to check the installation"
    else:
        why = f"ended early with exit code {code}; run `recdistill doctor` to check the installation"
    return f"its worker process {why}, {GO_ON}"


_BOOT = """
import json, sys
setup = json.loads(sys.argv[1])
sys.path[:] = setup["path"]
from recdistill.parallel import serve
serve(setup["pipe"], setup["parent"])
"""


def serve(descriptor: int, parent: int) -> None:
    """What a worker process does: takes units from the pipe until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears ctrl-C as well, and ends its workers
    die_with(parent)
    pipe, lock = Connection(descriptor), threading.Lock()

    def send(kind: str, value: Any) -> None:
        with lock:
            pipe.send((kind, value))

    logging.getLogger().addHandler(_ToParent(send))
    logging.getLogger("recdistill").setLevel(logging.INFO)
    logging.captureWarnings(True)
    with installed(Relay(send)), contextlib.suppress(EOFError, BrokenPipeError):
        function = pipe.recv_bytes()
        while True:
            send(*_answer(function, pipe.recv_bytes()))


def _answer(function: bytes, args: bytes) -> tuple[str, Any]:
    """The result is pickled here, where one that cannot be is an error of the unit's."""
    try:
        return "result", pickle.dumps(pickle.loads(function)(*pickle.loads(args)))
    except Exception as error:
        if said := _told(error):
            return "user error", said
        return "error", f"{type(error).__name__}: {error}\n{traceback.format_exc()}"


class _ToParent(logging.Handler):
    def __init__(self, send: Callable[[str, Any], None]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        self._send("log", (record.name, record.levelno, record.getMessage()))


def die_with(parent: int) -> None:
    """Asks Linux to kill this process when its parent ends, however that ends; elsewhere the closed pipe ends it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
