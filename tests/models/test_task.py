from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recdistill import ranks
from recdistill.clicklog.batches import Batch, Rows, batches
from recdistill.clicklog.schema import Dataset
from recdistill.models.task import own_rows


def slices(batch: Batch, count: int) -> list[Batch]:
    """What each of `count` ranks takes of a batch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "count", lambda: count)
        found = []
        for rank in range(count):
            patch.setattr(ranks, "rank", lambda rank=rank: rank)
            found.append(own_rows(batch))
    return found


@settings(max_examples=30)
@given(rows=st.integers(1, 40), count=st.integers(1, 7))
def test_every_row_is_some_ranks_own_once(tiny_dataset: Dataset, rows: int, count: int) -> None:
    batch = next(batches(tiny_dataset, Rows("train"), rows))
    batch.extra = {"logit.a": torch.arange(float(rows))}
    found = slices(batch, count)
    assert {len(own) for own in found} == {-(-rows // count)}
    counted = [(own, at) for own in found for at in range(len(own)) if own.weight[at] > 0]
    where = {int(number): at for at, number in enumerate(batch.example_id)}
    assert sorted(int(own.example_id[at]) for own, at in counted) == sorted(where)
    bags = {key: batch.sparse[key].to_dense() for key in ("user", "item", "tags")}
    for own, at in counted:
        row = where[int(own.example_id[at])]
        assert torch.equal(own.dense[at], batch.dense[row]) and own.label[at] == batch.label[row]
        assert own.extra["logit.a"][at] == row
        for key, bag in bags.items():
            assert torch.equal(own.sparse[key].to_dense()[at], bag[row])
    assert sum(float(own.weight.sum()) for own in found) == rows


def test_the_first_rows_of_every_rank_are_of_the_first_rows(tiny_dataset: Dataset) -> None:
    """Methods look closer at the first rows of a batch: so they do at the same rows under any number of ranks."""
    batch = next(batches(tiny_dataset, Rows("train"), 60))
    for count in (2, 3, 5):
        first = [number for own in slices(batch, count) for number in own.example_id[: 15 // count].tolist()]
        assert set(first) == set(batch.example_id[: 15 // count * count].tolist())


def test_a_process_alone_has_the_batch_itself(tiny_dataset: Dataset) -> None:
    batch = next(batches(tiny_dataset, Rows("train"), 5))
    assert own_rows(batch) is batch
