"""Killing a run over and over until nothing is left to do: `tests/benchmarks/kills.py` at length, pytest in short."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from random import Random
from typing import Literal

from tests.faults.hurts import die_at_change, forget
from tests.faults.jobs import STAGES, beginning, from_on
from tests.faults.victims import Server, Victim

How = Literal["clock", "change"]
MOST_CHANGES = 25
POLL_SECONDS = 0.002


@dataclass(frozen=True)
class Kill:
    """A process that was killed: in which stage, and whether the clock or a change to a file said when."""

    stage: str
    how: How


def kill_often(
    server: Server,
    command: Sequence[object],
    out: Path,
    seconds: Mapping[str, float],
    random: Random,
    times: int,
    stages: Sequence[str] = STAGES,
) -> Iterator[Kill]:
    """Runs a command that writes `out`, kills it `times` times in each of `stages`, and lets it come to its end.

    Half of the kills come from outside at a random moment, which `seconds` of each stage bound; the others just before
    a random change to the file system, since what lies between two renames is too short to be met by chance.
    """
    for stage in stages:
        for _ in range(times):
            yield _kill(server, command, out, stage, seconds[stage], random)
    end = server.run(*command)
    assert end.code == 0, end


def _kill(server: Server, command: Sequence[object], out: Path, stage: str, seconds: float, random: Random) -> Kill:
    """Kills a command in a stage, or one behind it; one that ends before does them again and is killed earlier."""
    for share in (0.5**tries for tries in count()):
        how: How = random.choice(("clock", "change"))
        if how == "clock":
            victim = server.start(*command)
            _kill_in(victim, stage, random.uniform(0, share * seconds))
        else:
            number = random.randint(1, max(1, int(share * MOST_CHANGES)))
            victim = server.start(*command, hurts=[partial(die_at_change, stage, number)])
        end = victim.wait()
        if end.code != 0:
            break
        forget(out, stage)
    assert end.code == -9, end
    return Kill([name for line in end.err.splitlines() if (name := beginning(line))][-1], how)


def _kill_in(victim: Victim, stage: str, delay: float) -> None:
    """Kills a process some seconds after a stage, or one behind it, has begun, if it is still there."""
    wait_for(victim, stage)
    time.sleep(delay)
    victim.kill()


def wait_for(victim: Victim, stage: str) -> None:
    """Returns when a stage, or one behind it, has begun, or the process has ended."""
    later = from_on(stage)
    while not any(beginning(line) in later for line in victim.heard().splitlines()) and victim.lives():
        time.sleep(POLL_SECONDS)
