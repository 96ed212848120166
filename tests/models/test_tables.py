from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch import Tensor

from recdistill.errors import UserError
from recdistill.models import tables
from recdistill.models.tables import Tables, ours_is_faster

ROWS = {"user": 700, "weekday": 3, "item": 900}
FEATURES = ["user", "friend", "weekday", "item"]
TABLE = [0, 0, 1, 2]
"""The table of each feature: two share the first."""


def fbgemm() -> SplitTableBatchedEmbeddingBagsCodegen:
    """A group of tables as TorchRec makes one, always with the same numbers."""
    tables = SplitTableBatchedEmbeddingBagsCodegen(
        [(rows, 8, EmbeddingLocation.HOST, ComputeDevice.CPU) for rows in ROWS.values()],
        feature_table_map=TABLE,
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        pooling_mode=PoolingMode.SUM,
        learning_rate=0.1,
        eps=1e-8,
    )
    numbers = torch.rand(sum(ROWS.values()) * 8, generator=torch.Generator().manual_seed(0))
    tables.weights_host.data.copy_(numbers)
    return tables


def ours() -> Tables:
    return Tables(fbgemm(), FEATURES, ours=True)


def bags(batch: int, shortest: int, longest: int, seed: int) -> tuple[Tensor, Tensor]:
    """Ids and offsets of bags of random lengths, with repetitions within bags, among bags and among features."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(shortest, longest + 1, (len(TABLE) * batch,), generator=generator)
    rows = torch.repeat_interleave(torch.tensor([list(ROWS.values())[table] for table in TABLE]), batch)
    ids = (torch.rand(int(lengths.sum()), generator=generator) * torch.repeat_interleave(rows, lengths)).long()
    return ids, torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])


def learn(look_up: object, tables: SplitTableBatchedEmbeddingBagsCodegen, *lengths: int) -> list[Tensor]:
    """The sums of three batches, each learned from, then the tables and their sums of squares."""
    out = []
    for step in range(3):
        sums = look_up(*bags(*lengths, step))
        out.append(sums.detach())
        (sums * torch.linspace(-1, 1, sums.numel()).view_as(sums)).sum().backward()
    return [*out, tables.weights_host.detach(), tables.momentum1_host.detach()]


@pytest.mark.parametrize("lengths", [(1, 1, 1), (33, 1, 1), (50, 0, 1), (64, 0, 5), (7, 2, 3), (5, 0, 0)])
def test_what_is_learned_is_what_fbgemm_learns(lengths: tuple[int, int, int]) -> None:
    theirs, here, again = fbgemm(), ours(), ours()
    expected, found = learn(theirs, theirs, *lengths), learn(here, here.fbgemm, *lengths)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
    assert lengths[-1] == 0 or not torch.equal(found[-2], fbgemm().weights_host.detach())
    assert all(torch.equal(one, other) for one, other in zip(found, learn(again, again.fbgemm, *lengths), strict=True))


def test_where_fbgemm_is_faster_it_learns(lengths: tuple[int, int, int] = (50, 0, 3)) -> None:
    theirs, here = fbgemm(), Tables(fbgemm(), FEATURES, ours=False)
    for one, other in zip(learn(theirs, theirs, *lengths), learn(here, here.fbgemm, *lengths), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("processor", "faster"),
    [("vendor_id\t: GenuineIntel\n", True), ("vendor_id\t: AuthenticAMD\n", False), (None, False)],
)
def test_who_made_the_processor_decides_who_learns(
    processor: str | None, faster: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is measured: a busy moment would choose the digits of a run."""
    monkeypatch.setattr(tables, "PROCESSOR", tmp_path / "cpuinfo")
    if processor is not None:
        (tmp_path / "cpuinfo").write_text(processor)
    ours_is_faster.cache_clear()
    assert ours_is_faster() is faster
    ours_is_faster.cache_clear()


@pytest.mark.parametrize("here", [True, False])
@pytest.mark.parametrize("feature", range(4))
@pytest.mark.parametrize("beyond", [-1, None, 2**40])
def test_an_id_that_its_table_does_not_have_is_an_error(feature: int, beyond: int | None, here: bool) -> None:
    ids, offsets = bags(9, 1, 2, 0)
    rows = list(ROWS.values())[TABLE[feature]]
    ids[offsets[9 * feature + 4]] = rows if beyond is None else beyond
    with pytest.raises(
        UserError, match=rf"feature '{FEATURES[feature]}': id {beyond or rows} is not one of the {rows} "
    ):
        Tables(fbgemm(), FEATURES, here)(ids, offsets)
