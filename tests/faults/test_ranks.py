"""One of two ranks is killed: the other ends with one sentence, and both go on from what is there."""

from __future__ import annotations

import socket
from contextlib import closing
from functools import partial
from pathlib import Path

from tests.faults.conftest import Straight
from tests.faults.hurts import die_at_path, tell_at_once
from tests.faults.jobs import differences, results
from tests.faults.victims import End, Hurt, Server


def both(server: Server, *command: object, hurts: tuple[list[Hurt], ...] = ([], [])) -> list[End]:
    """How two ranks end, without a launcher that would end one with the other."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    place |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    ranks = [
        server.start(*command, hurts=hurts[rank], env={**place, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]
    return [rank.wait() for rank in ranks]


def test_a_dead_rank_ends_the_other_and_both_go_on(server: Server, straight: Straight, tmp_path: Path) -> None:
    """First the follower dies while it writes a checkpoint, then the leader."""
    whole, out = (straight.copy(tmp_path / name, without="teach") for name in ("whole", "run"))
    command = ["teach", straight.job, "--quiet", "--out"]
    assert [end.code for end in both(server, *command, whole)] == [0, 0]
    for dead in (1, 0):
        hurt = partial(die_at_path, rf"check-{1 - dead}/__{dead}_0\.distcp$")
        hurts: tuple[list[Hurt], list[Hurt]] = ([tell_at_once], [tell_at_once])
        hurts[dead].append(hurt)
        ends = both(server, *command, out, hurts=hurts)
        assert ends[dead].code == -9
        left = ends[1 - dead]
        assert (left.code, left.out, left.err.count("\n")) == (2, "", 1), left
        assert "another rank of this job has ended; run the same command again: what is finished is kept" in left.err
    assert [end.code for end in both(server, *command, out)] == [0, 0]
    one, other = ({n: v for n, v in results(path).items() if "/teach/" in n} for path in (whole, out))
    assert one and differences(one, other) == []
