from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from recdistill.progress import Bars, Lines, Progress, Relay, current, installed, on_stderr, silent


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lines(clock: Clock) -> Lines:
    return Lines(io.StringIO(), clock)


def said(lines: Lines) -> list[str]:
    return [line.strip() for line in lines._out.getvalue().splitlines()]  # type: ignore[attr-defined]


def test_a_log_gets_few_lines(lines: Lines, clock: Clock) -> None:
    for second in range(100):
        clock.now = second
        lines.update("ingest", second, 10_000)
    assert len(said(lines)) == 9


def test_a_tenth_more_is_worth_a_line_sooner(lines: Lines, clock: Clock) -> None:
    lines.update("ingest", 0, 100)
    clock.now = 3
    lines.update("ingest", 25, 100, "loss 0.5")
    lines.update("ingest", 55, 100)
    assert said(lines) == ["ingest: 25% (loss 0.5)"]


@pytest.mark.parametrize(
    ("minutes", "done", "told"),
    [
        (0.3, 10, "(loss 0.5)"),
        (1, 0, "(loss 0.5)"),
        (1, 50, "(loss 0.5, about 60 s left)"),
        (5, 20, "(loss 0.5, about 20 min left)"),
        (90, 25, "(loss 0.5, about 4.5 h left)"),
    ],
)
def test_what_is_left_is_told_when_it_can_be_guessed(
    lines: Lines, clock: Clock, minutes: float, done: int, told: str
) -> None:
    lines.update("teach", 0, 100)
    clock.now = 60 * minutes
    lines.update("teach", done, 100, "loss 0.5")
    assert said(lines) == [f"teach: {done}% {told}"]


def test_the_end_is_always_said_with_its_time(lines: Lines, clock: Clock) -> None:
    lines.update("ingest", 1, 2)
    clock.now = 1.5
    lines.update("ingest", 2, 2)
    lines.update("empty", 0, 0)
    assert said(lines) == ["ingest: done in 1.5 s", "empty: done in 0.0 s"]


def test_a_task_that_ended_may_begin_again(lines: Lines, clock: Clock) -> None:
    lines.update("pass", 1, 1)
    clock.now = 10
    lines.update("pass", 0, 1)
    clock.now = 12
    lines.update("pass", 1, 1)
    assert said(lines)[-1] == "pass: done in 2.0 s"


def test_bars_leave_a_line_for_what_ended_and_take_names_as_they_are() -> None:
    out = io.StringIO()
    with Bars(Console(file=out, force_terminal=True, width=100)) as bars:
        bars.stage("teach [bold]")
        bars.update("seed [0]", 1, 2, "ne [x]")
        bars.update("seed [0]", 2, 2, "ne [x]")
    assert "teach [bold]" in out.getvalue()
    assert "seed [0]: done in" in out.getvalue()


def test_a_bar_tells_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recdistill.progress.TELLING_SECONDS", 0.0)
    out = io.StringIO()
    with Bars(Console(file=out, force_terminal=True, width=100)) as bars:
        bars.update("teach", 0, 4)
        bars.update("teach", 1, 4, "loss 0.5")
        bars._rich.refresh()
    assert "loss 0.5, about 0 s left" in out.getvalue()


def test_standard_error_gets_lines_where_it_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with on_stderr() as progress:
        progress.stage("ingest")
    assert capsys.readouterr() == ("", "ingest\n")


def test_standard_error_gets_bars_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with on_stderr() as progress:
        assert isinstance(progress, Bars)


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with on_stderr(quiet=True) as progress:
        progress.stage("ingest")
        progress.update("ingest", 1, 1)
    assert capsys.readouterr() == ("", "")


def test_the_installed_progress_is_current_until_its_block_ends() -> None:
    mine = Progress()
    with pytest.raises(ZeroDivisionError), installed(mine):
        assert current() is mine
        raise ZeroDivisionError
    assert current() is silent


def test_a_relay_thins_out_updates_but_never_the_last() -> None:
    sent: list[tuple[str, tuple[object, ...]]] = []
    relay = Relay(lambda kind, args: sent.append((kind, args)))
    relay.stage("teach")
    for step in range(1000):
        relay.update("a", step, 1000)
    relay.update("a", 1000, 1000, "good")
    assert sent[0] == ("stage", ("teach",))
    assert sent[-1] == ("update", ("a", 1000.0, 1000.0, "good"))
    assert len(sent) < 100
