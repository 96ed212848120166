"""SIGKILL at random moments of a run: `tests/benchmarks/kills.py` does it at length."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

from recdistill.files import read_json
from tests.faults.conftest import Straight
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
    kills = list(kill_often(server, ["run", straight.job, "--out", out], seconds, random, 1, stages))
    print(kills)
    assert len(kills) >= KILLS - 1
    assert straight.differs(out) == []
    assert leftovers(out) == []
