"""What every fuzz test of this folder shares: how many examples there are, and what may come of one.

In CI few examples are tried, the same ones every time. `RECDISTILL_FUZZ=20` tries twenty times as many, new ones:

    RECDISTILL_FUZZ=20 python -m pytest tests/fuzz -q -x
"""

from __future__ import annotations

import copy
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from recdistill.errors import UserError

TIMES = float(os.environ.get("RECDISTILL_FUZZ", "1"))
SECONDS, CPU_SECONDS = 120, 10
"""What takes longer than this hangs, on the busiest machine; and what works longer, on the slowest."""
LONGEST, LINES = 2100, 21
"""Characters of a line, and lines, of a refusal: what was wrong is told, and not echoed whole."""
LEAKS = re.compile(r"Traceback|<recdistill|object at 0x|\bFile \"")
"""Nothing that a person would not write."""

Result = TypeVar("Result")


def fuzz(examples: int) -> Callable[[Any], Any]:
    """The settings of a property test that tries so many examples in CI."""
    return settings(
        max_examples=max(1, int(examples * TIMES)),
        derandomize=TIMES == 1,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


def attempt(call: Callable[..., Result], *arguments: Any) -> Result | None:
    """What the call returned, or None where it refused with one sentence. Anything else that it raises is a fault."""
    try:
        with in_time():
            return call(*arguments)
    except UserError as error:
        check_sentence(str(error))
    return None


def refused(call: Callable[..., Any], *arguments: Any) -> str:
    """The sentence that the call refuses with; it must."""
    try:
        with in_time():
            call(*arguments)
    except UserError as error:
        return check_sentence(str(error))
    raise AssertionError("was not refused")


def check_sentence(said: str) -> str:
    """Refuses what is no sentence for people. Only the mistakes of a job file have a line each."""
    assert said.strip(), "nothing was said"
    assert all(len(line) <= LONGEST for line in said.split("\n")), f"{len(said)} characters: {said[:200]}"
    assert not LEAKS.search(said), said
    head, *rest = said.split("\n")
    assert not rest or (re.search(r": \d+ mistakes", head) and len(rest) < LINES), said
    return said


@contextmanager
def in_time() -> Iterator[None]:
    """Breaks off what hangs, by the clock and by the processor's time."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"hangs: not done after {SECONDS} s, or {CPU_SECONDS} s of work")

    timers = [
        (signal.SIGALRM, signal.ITIMER_REAL, SECONDS),
        (signal.SIGPROF, signal.ITIMER_PROF, CPU_SECONDS),
    ]
    before = [signal.signal(number, ring) for number, _, _ in timers]
    for _, timer, seconds in timers:
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for (number, timer, _), handler in zip(timers, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


def spoil(content: bytes, edits: list[tuple[str, float, bytes]]) -> bytes:
    """Bytes after some edits, each a place in [0, 1) and bytes that are put over, put between or stand for a cut."""
    for how, where, piece in edits:
        at = int(where * (len(content) + 1))
        if how == "cut":
            content = content[:at]
        elif how == "insert":
            content = content[:at] + piece + content[at:]
        elif how == "remove":
            content = content[:at] + content[at + len(piece) :]
        else:
            content = (content[:at] + piece + content[at + len(piece) :])[: max(len(content), at)]
    return content


def spoil_file(path: Path, edits: list[tuple[str, float, bytes]]) -> None:
    """The same in a file."""
    path.write_bytes(spoil(path.read_bytes(), edits))


PLACES = st.floats(0, 1, exclude_max=True)
MARKS = st.sampled_from([b'"', b"\n", b"\r", b",", b"\x00", b"\xff\xfe", b"\x1f\x8b", b"9" * 20])
EDITS = st.lists(
    st.tuples(st.sampled_from(["cut", "insert", "remove", "over"]), PLACES, st.binary(min_size=1, max_size=8) | MARKS),
    min_size=1,
    max_size=4,
) | st.lists(st.tuples(st.just("over"), PLACES, st.binary(min_size=1, max_size=1)), min_size=1, max_size=2)
"""What `spoil` does: a few changes of any kind, or a byte or two."""


KEYS = st.sampled_from(["kind", "C1", "features", "../x", "", "a.b", "__class__", "C1..C9", "\x00", "rows", "seed"])
NUMBERS = st.integers() | st.floats() | st.sampled_from([0, -1, 2**31, 2**63, 10**30, 1e308, 1e-320])
NAMES = st.sampled_from(["../x", "/etc/passwd", "a\nb", "C1", "C1..C99", "x" * 5000, "\x1b[31m", "[/b]", "{{7*7}}"])
SCALARS = st.none() | st.booleans() | NUMBERS | NAMES | st.text(max_size=5)
JUNK = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3))


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in JSON or YAML: the path of every value but the whole."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, child in inner for place in [(*path, key), *places(child, (*path, key))]]


@st.composite
def spoilt(draw: st.DrawFn, whole: dict[str, Any]) -> Any:
    """A mapping with one to three of the values, keys or entries inside it replaced, removed or added."""
    changed = copy.deepcopy(whole)
    for _ in range(draw(st.integers(1, 3))):
        section = draw(st.sampled_from(sorted(whole)))
        *way, last = draw(st.sampled_from([(section,), *places(whole[section], (section,))]))
        target = changed
        try:
            for step in way:
                target = target[step]
            change = draw(st.sampled_from(["value", "like", "key", "remove", "add", "twice"]))
            if change == "remove":
                del target[last]
            elif change == "key" and isinstance(target, dict):
                target[draw(KEYS)] = target.pop(last)
            elif change == "add" and isinstance(target, dict):
                target[draw(KEYS)] = draw(JUNK)
            elif change == "twice" and isinstance(target, list):
                target.append(copy.deepcopy(target[last]))
            elif change == "like" and isinstance(target[last], int | float) and not isinstance(target[last], bool):
                target[last] = draw(st.sampled_from([0, 1, -1, target[last] + 1, target[last] * 2, 10**9]))
            else:
                target[last] = draw(JUNK)
        except (KeyError, IndexError, TypeError):
            continue
    return changed
