from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from recdistill.errors import UserError
from recdistill.parallel import UnitError, map_units
from recdistill.progress import Progress, current

BOTH = pytest.mark.parametrize("workers", [1, 2])


class Recorder(Progress):
    def __init__(self) -> None:
        self.stages: list[str] = []
        self.updates: list[tuple[str, float, float, str]] = []

    def stage(self, name: str) -> None:
        self.stages.append(name)

    def update(self, task: str, done: float, total: float, note: str = "") -> None:
        self.updates.append((task, done, total, note))


def square(x: int) -> int:
    time.sleep(0.05 * (x == 0))
    return x * x


def whereabouts() -> tuple[int, set[int], str]:
    """The process, how many threads torch and numpy's matrices have there, and how they wait."""
    import numpy  # noqa: F401
    import torch

    blas = {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}
    return os.getpid(), {torch.get_num_threads(), *blas}, os.environ.get("OMP_WAIT_POLICY", "")


def report(name: str) -> None:
    current().stage(f"{name} begins")
    current().update(name, 1, 2)
    current().update(name, 2, 2, "well")
    logging.getLogger("recdistill.test").info("said by %s", name)


def fail(how: str) -> None:
    if how == "user":
        raise UserError("the file is bad")
    if how == "bug":
        raise KeyError("missing")
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "exit":
        os._exit(7)


def unpicklable() -> Callable[[], None]:
    return lambda: None


def sleep_and_tell(folder: str, name: str) -> None:
    (Path(folder) / f"{name}-{os.getpid()}").touch()
    time.sleep(60)


@BOTH
def test_results_come_in_order_however_long_each_takes(workers: int) -> None:
    assert map_units(square, [(str(x), (x,)) for x in range(5)], workers) == [0, 1, 4, 9, 16]


@BOTH
def test_no_units_no_results(workers: int) -> None:
    assert map_units(square, [], workers) == []


@BOTH
def test_every_unit_has_one_thread(workers: int) -> None:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with threadpool_limits(2, user_api="blas"):
            before = whereabouts()
            found = map_units(whereabouts, [("a", ()), ("b", ())], workers)
            assert whereabouts() == before and before[1] == {2}
    finally:
        torch.set_num_threads(threads)
    assert all(threads == {1} and policy == "PASSIVE" for _, threads, policy in found)
    assert ({os.getpid()} == {process for process, _, _ in found}) == (workers == 1)


@BOTH
def test_units_report_to_the_callers_progress(workers: int) -> None:
    recorder = Recorder()
    map_units(report, [("a", ("a",)), ("b", ("b",))], workers, recorder, "both")
    assert sorted(recorder.stages) == ["a begins", "b begins"]
    for name in "ab":
        assert (name, 2, 2, "well") in recorder.updates
    assert [update for update in recorder.updates if update[0] == "both"] == [
        ("both", done, 2, "") for done in range(3)
    ]


def test_what_a_worker_logs_is_logged_here(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "recdistill"):
        map_units(report, [("a", ("x",)), ("b", ("y",))], 2)
    assert sorted(caplog.messages) == ["a: said by x", "b: said by y"]


@BOTH
def test_a_user_error_stays_one_and_names_the_unit(workers: int) -> None:
    with pytest.raises(UserError, match=r"^bad: the file is bad$"):
        map_units(fail, [("good", ("",)), ("bad", ("user",))], workers)


@BOTH
def test_any_other_error_names_the_unit_and_keeps_its_cause(workers: int) -> None:
    with pytest.raises(UnitError, match="^bad failed: KeyError: 'missing'") as caught:
        map_units(fail, [("good", ("",)), ("bad", ("bug",))], workers)
    if workers > 1:
        assert 'raise KeyError("missing")' in str(caught.value)


@pytest.mark.parametrize(("how", "what"), [("kill", "memory ran out"), ("crash", "SIGSEGV"), ("exit", "exit code 7")])
def test_a_worker_that_dies_is_a_user_error_that_names_the_unit(how: str, what: str) -> None:
    with pytest.raises(UserError, match=rf"^bad: its worker process .*{what}.*run the same command again"):
        map_units(fail, [("good", ("",)), ("bad", (how,))], 2)


def test_a_result_that_cannot_be_sent_is_the_units_error() -> None:
    with pytest.raises(UnitError, match="failed: .*pickle"):
        map_units(unpicklable, [("a", ()), ("b", ())], 2)


def test_the_first_failure_ends_the_others(tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(UserError):
        map_units(sleep_or_fail, [("sleeps", (str(tmp_path), "")), ("bad", (str(tmp_path), "user"))], 2)
    assert time.monotonic() - begun < 20
    wait_until_gone([int(path.name.split("-")[1]) for path in tmp_path.iterdir()])


def sleep_or_fail(folder: str, how: str) -> None:
    if how:
        while not list(Path(folder).iterdir()):
            time.sleep(0.01)
        fail(how)
    sleep_and_tell(folder, "sleeper")


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, -15), (signal.SIGINT, 130)])
def test_workers_end_with_their_parent(tmp_path: Path, sent: signal.Signals, code: int) -> None:
    script = (
        "import signal, sys; from recdistill.parallel import map_units\n"
        "from tests.test_parallel import sleep_and_tell\n"
        # A shell starts what runs in its background with interrupts ignored, and children inherit that.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "try: map_units(sleep_and_tell, [(n, (sys.argv[1], n)) for n in 'ab'], 2)\n"
        "except KeyboardInterrupt: sys.exit(130)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)])
    try:
        deadline = time.monotonic() + 30
        while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        workers = [int(path.name.split("-")[1]) for path in tmp_path.iterdir()]
        assert len(workers) == 2
        parent.send_signal(sent)
        assert parent.wait(10) == code
        wait_until_gone(workers)
    finally:
        parent.kill()
        parent.wait()


def wait_until_gone(processes: list[int]) -> None:
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{process}").exists() for process in processes) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{process}").exists() for process in processes)


def test_a_callers_main_script_is_not_run_again(tmp_path: Path) -> None:
    script = tmp_path / "notebook.py"
    script.write_text(
        "print('once', flush=True)\n"
        "from math import sqrt\n"
        "from recdistill.parallel import map_units\n"
        "print(map_units(sqrt, [('a', (4.0,)), ('b', (9.0,))], 2))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment)
    assert (done.stdout, done.stderr) == ("once\n[2.0, 3.0]\n", "")
