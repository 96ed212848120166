"""A clock that jumps: nothing but the log may notice."""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path

from tests.faults.conftest import Straight
from tests.faults.hurts import tell_time
from tests.faults.victims import Server

LONG_AGO, FAR_AWAY = 3.2e8, 4.0e9
"""The years 1980, before which no zip archive can be dated, and 2096."""


def test_a_clock_that_jumps_between_stages_changes_nothing(server: Server, straight: Straight, tmp_path: Path) -> None:
    out = straight.copy(tmp_path / "run")
    for stages, upto, now in ((("teach", "cache"), "cache", FAR_AWAY), (("evaluate", "export"), "export", LONG_AGO)):
        for stage in stages:
            shutil.rmtree(out / "stages" / stage)
        for path in out.rglob("*"):
            os.utime(path, (now, now), follow_symlinks=False)
        end = server.run(upto, straight.job, "--out", out, "--quiet", hurts=[partial(tell_time, now)])
        assert end.code == 0, end
    assert straight.differs(out) == []
