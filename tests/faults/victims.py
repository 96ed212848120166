"""Processes that can be hurt: the command line, forked from a server that has imported everything and run nothing.

A process of its own takes seconds to import torch; one of these begins at once, so that a minute holds many deaths.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from recdistill.parallel import ONE_THREAD, die_with
from tests.cpus import NO_GPU

Hurt = Callable[[], None]
PATIENCE_SECONDS = 600.0
QUIET = {"OMP_WAIT_POLICY": "PASSIVE", "TORCH_CPP_LOG_LEVEL": "ERROR"}


@dataclass(frozen=True)
class End:
    """How a process ended: `code` is negative for a signal, as in `subprocess`."""

    code: int
    out: str
    err: str


class Victim:
    """A running command line."""

    def __init__(self, server: Server, pid: int, said: Path) -> None:
        self.pid, self._server, self._said = pid, server, said

    def heard(self) -> str:
        """Standard error so far."""
        return (self._said / "err").read_text()

    def wait(self) -> End:
        """Waits for its end."""
        code = self._server.ask("wait", self.pid)
        return End(code, (self._said / "out").read_text(), self.heard())

    def lives(self) -> bool:
        """Whether it has not ended."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"

    def kill(self) -> None:
        """Kills it, if it is still there: until it is waited for, the number is its own."""
        os.kill(self.pid, signal.SIGKILL)


class Server:
    """Forks processes that run the command line; `folder` takes what they print."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0
        self._pipe, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, json.dumps([sys.path, theirs.fileno(), os.getpid()])],
                pass_fds=[theirs.fileno()],
                env={**os.environ, **NO_GPU, **ONE_THREAD, **QUIET},
            )

    def start(self, *command: object, hurts: Sequence[Hurt] = (), env: dict[str, str] | None = None) -> Victim:
        """Starts `recdistill <command>` after `hurts` (importable, without arguments or partial) were called in it."""
        self._count += 1
        said = self._folder / str(self._count)
        said.mkdir(parents=True)
        for name in ("out", "err"):
            (said / name).touch()
        pid = self.ask("start", ["recdistill", *map(str, command)], said, list(hurts), env or {})
        return Victim(self, pid, said)

    def run(self, *command: object, hurts: Sequence[Hurt] = (), env: dict[str, str] | None = None) -> End:
        """Runs it to its end."""
        return self.start(*command, hurts=hurts, env=env).wait()

    def ask(self, *request: Any) -> Any:
        self._pipe.send(request)
        assert self._pipe.poll(PATIENCE_SECONDS), f"no answer to {request}"
        return self._pipe.recv()

    def close(self) -> None:
        """Ends the server and all that it started."""
        self._process.kill()
        self._process.wait()
        self._pipe.close()


_BOOT = """
import json, sys
path, pipe, parent = json.loads(sys.argv[1])
sys.path[:] = path
from tests.faults.victims import serve
serve(pipe, parent)
"""


def serve(descriptor: int, parent: int) -> None:
    """What the server does."""
    die_with(parent)
    import recdistill

    for module in pkgutil.walk_packages(recdistill.__path__, "recdistill."):
        if module.name != "recdistill.__main__":
            importlib.import_module(module.name)
    importlib.import_module("duckdb")
    pipe = Connection(descriptor)
    while True:
        try:
            what, *arguments = pipe.recv()
        except EOFError:
            return
        if what == "wait":
            pipe.send(os.waitstatus_to_exitcode(os.waitpid(arguments[0], 0)[1]))
        elif pid := os.fork():
            pipe.send(pid)
        else:
            os.close(descriptor)
            _be(*arguments)


def _be(argv: list[str], said: Path, hurts: list[Hurt], env: dict[str, str]) -> None:
    """Never returns."""
    die_with(os.getppid())
    os.environ.update(env)
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(said / name, os.O_WRONLY), descriptor)
    sys.argv = argv
    code: Any = 1
    try:
        import torch

        from recdistill import cli

        torch.set_num_threads(1)
        for hurt in hurts:
            hurt()
        cli.main()
        code = 0
    except SystemExit as error:
        code = error.code
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)
