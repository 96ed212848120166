"""SIGKILL at random moments of a run: `tests/benchmarks/kills.py` does it at length."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from random import Random

import pytest

from recdistill.files import read_json
from tests.faults.conftest import Straight
from tests.faults.hurts import die_at_path
from tests.faults.jobs import STAGES, leftovers
from tests.faults.kills import kill_often
from tests.faults.victims import Server

KILLS = 5


def test_a_run_that_is_killed_again_and_again_comes_to_the_same_end(
    server: Server, straight: Straight, tmp_path: Path
) -> None:
    """`RECDISTILL_SEED` repeats the moments of another time."""
    seed = int(os.environ.get("RECDISTILL_SEED") or Random().randrange(10**6))
    print(f"RECDISTILL_SEED={seed}")
    random = Random(seed)
    stages = sorted(random.sample(STAGES, KILLS), key=STAGES.index)
    seconds = {name: entry["seconds"] for name, entry in read_json(straight.out / "timings.json").items()}
    out = tmp_path / "run"
    kills = list(kill_often(server, ["run", straight.job, "--out", out], out, seconds, random, 1, stages))
    print(kills)
    assert len(kills) == KILLS
    assert straight.differs(out) == []
    assert leftovers(out) == []


@pytest.mark.parametrize("path", [r"/stages/evaluate$", r"^report\.json$"])
def test_a_kill_while_a_result_is_replaced_loses_neither_it_nor_room(
    server: Server, straight: Straight, tmp_path: Path, path: str
) -> None:
    """Just before the new result takes the place of the old one, and while the old one is removed."""
    out = straight.copy(tmp_path / "run")
    command = ["run", straight.job, "--out", out, "--json"]
    changed = [*command, "--set", "evaluate.resamples=101"]
    assert server.run(*changed, hurts=[partial(die_at_path, path)]).code == -9
    assert server.run(*changed).code == 0
    assert leftovers(out) == [] and read_json(out / "report.json")["bootstrap"]["resamples"] == 101
    assert server.run(*command).code == 0
    assert straight.differs(out) == []


def test_a_kill_leaves_no_checkpoints_of_a_finished_teacher(server: Server, straight: Straight, tmp_path: Path) -> None:
    out = straight.copy(tmp_path / "run", without="teach")
    command = ["teach", straight.job, "--out", out, "--quiet"]
    assert server.run(*command, hurts=[partial(die_at_path, r"^position\.json$", 2)]).code == -9
    assert len(leftovers(out)) == 1
    assert server.run(*command).code == 0
    assert leftovers(out) == [] == straight.differs(out, "teach")
