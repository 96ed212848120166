"""Two jobs on one run folder: the second one is told whose it is, and a death makes it free."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from tests.faults.conftest import Straight
from tests.faults.hurts import hang_at
from tests.faults.kills import wait_for
from tests.faults.victims import Server


def test_the_second_job_is_refused_until_the_first_is_dead(server: Server, straight: Straight, tmp_path: Path) -> None:
    out = straight.copy(tmp_path / "run", without="ingest")
    first = server.start("ingest", straight.job, "--out", out, hurts=[partial(hang_at, "ingest")])
    wait_for(first, "ingest")
    second = server.run("ingest", straight.job, "--out", out, "--quiet")
    assert (second.code, second.out, second.err.count("\n")) == (2, "", 1), second
    assert f"recdistill: {out}: in use by process {first.pid} on " in second.err and "name another --out" in second.err
    first.kill()
    assert first.wait().code == -9
    assert server.run("ingest", straight.job, "--out", out, "--quiet").code == 0
    assert straight.differs(out, "ingest") == []
