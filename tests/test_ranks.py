from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from recdistill import ranks
from recdistill.files import done
from tests import in_ranks


def together(folder: Path) -> dict[str, Any]:
    """What each of three ranks finds when all do the same."""
    me = ranks.rank()
    found: dict[str, Any] = {"count": ranks.count(), "leads": ranks.leads(), "threads": torch.get_num_threads()}
    found["shared"] = ranks.share({"from": me})
    found["gathered"] = ranks.gather(me * 10)
    mean = ranks.mean(torch.tensor(float(me), requires_grad=True))
    found["mean"] = mean.item(), mean.requires_grad
    found["total"] = ranks.total([float(me), 0.1])
    found["dealt"] = ranks.deal(range(7), lambda mine: [(item, me) for item in mine])
    works = []

    def make(work: Path) -> None:
        works.append(work)
        (work / f"rank-{me}").touch()

    for mark in ("a", "a", "b"):
        ranks.once(folder / "unit", mark, make)
        found[f"after {mark}"] = done(folder / "unit", mark)
    found["works"] = len(works)
    if ranks.leads():
        found["called"] = [ranks.together(doubled, number) for number in (1, 2)]
        ranks.dismiss()
    else:
        ranks.follow()
    found["heard"] = HEARD
    return found


HEARD: list[int] = []


def doubled(number: int) -> int:
    HEARD.append(number)
    return number * 2 + ranks.rank()


def test_what_ranks_do_together(tmp_path: Path) -> None:
    found = in_ranks.call(3, together, tmp_path)
    assert [(one["count"], one["leads"], one["threads"]) for one in found] == [(3, rank == 0, 1) for rank in range(3)]
    for one in found:
        assert one["shared"] == {"from": 0} and one["gathered"] == [0, 10, 20]
        assert one["mean"] == (1.0, False)
        assert one["total"] == pytest.approx([3.0, 0.3]) and one["total"] == found[0]["total"]
        assert one["dealt"] == [(item, item % 3) for item in range(7)]
        # Made once for each mark, by every rank, and finished for all of them when the call returns.
        assert one["works"] == 2 and one["after a"] and one["after b"]
        assert one["heard"] == [1, 2]
    assert found[0]["called"] == [2, 4]
    assert sorted(path.name for path in (tmp_path / "unit").iterdir()) == ["_SUCCESS", "rank-0", "rank-1", "rank-2"]
    assert [path.name for path in tmp_path.iterdir()] == ["unit"]


def test_a_process_alone_needs_no_group(tmp_path: Path) -> None:
    made: list[Path] = []
    assert (ranks.count(), ranks.rank(), ranks.leads()) == (1, 0, True)
    assert ranks.share(3) == 3 and ranks.gather(3) == [3] and ranks.total([1.5]) == [1.5]
    assert ranks.mean(torch.ones(2)).tolist() == [1, 1]
    assert ranks.deal("abc", lambda mine: map(str.upper, mine)) == ["A", "B", "C"]
    for _ in range(2):
        ranks.once(tmp_path / "unit", "mark", made.append)
    assert len(made) == 1 and done(tmp_path / "unit", "mark")
