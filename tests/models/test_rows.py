from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchrec import KeyedJaggedTensor, KeyedTensor

from recdistill.models.rows import RowMap
from recdistill.models.shape import Shape, TableShape
from recdistill.models.size import _cut


def bags(sizes: list[int], ids: list[list[int]]) -> KeyedJaggedTensor:
    flat = torch.tensor([number for bag in ids for number in bag], dtype=torch.int64)
    return KeyedJaggedTensor(
        keys=[f"f{number}" for number in range(len(sizes))],
        values=flat,
        lengths=torch.tensor([len(bag) for bag in ids], dtype=torch.int32),
    )


def cut_shape(sizes: list[int], height: int, dim: int = 4) -> Shape:
    tables = [
        TableShape(name=f"f{n}", features=[f"f{n}"], rows=size, source_rows=size, own=size)
        for n, size in enumerate(sizes)
    ]
    names = [table.name for table in tables]
    layers: dict[str, Any] = {"bottom": [], "interaction": "none", "cross_layers": 1, "top": [4], "dropout": 0}
    whole = Shape(dim=dim, tables=tables, sparse=names, dense=[], **layers)
    return _cut(whole, height)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(2, 2**40), min_size=1, max_size=4), st.integers(2, 10_000), st.data())
def test_a_row_map_keeps_frequent_ids_and_shares_the_rest(sizes: list[int], height: int, data: st.DataObject) -> None:
    shape = cut_shape(sizes, height)
    ids = [data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=20)) for size in sizes]
    mapped = RowMap(shape)(bags(sizes, ids))
    again = RowMap(shape)(bags(sizes, ids))
    assert torch.equal(mapped.values(), again.values())
    for table, before in zip(shape.tables, ids, strict=True):
        after = mapped[table.name].values().tolist()
        assert len(after) == len(before)
        for source, row in zip(before, after, strict=True):
            assert 0 <= row < table.rows
            assert row == source if source < table.own else row >= table.own


def test_shared_rows_are_used_evenly() -> None:
    shape = cut_shape([100_000], 40)
    rows = RowMap(shape)(bags([100_000], [list(range(30, 100_000))])).values()
    assert torch.bincount(rows - 30, minlength=10).min() > 6_000


def test_a_shape_with_a_row_for_every_id_maps_nothing() -> None:
    sparse = bags([5, 9], [[1, 2], [8]])
    assert RowMap(cut_shape([5, 9], 9))(sparse) is sparse


@pytest.mark.parametrize("beyond", [-1, 12, 2**33])
@pytest.mark.parametrize("dim", [1, 2])
def test_an_id_that_its_table_does_not_have_stays_one(dim: int, beyond: int) -> None:
    shape = cut_shape([9, 8], 9, dim)
    mapped = RowMap(shape)(bags([9, 8], [[beyond], [3]]))
    (row,) = torch.cat([mapped[key].values() for key in shape.keys("f0")]).tolist()
    assert row not in range(shape.height(shape.tables[0]))


@settings(deadline=None, max_examples=50)
@given(st.sampled_from([1, 2]), st.lists(st.integers(2, 50), min_size=1, max_size=4), st.integers(2, 60), st.data())
def test_narrow_vectors_lie_side_by_side(dim: int, sizes: list[int], height: int, data: st.DataObject) -> None:
    """Looked up by hand in rows of four, the sums are those of the rows of the shape."""
    shape, rows = cut_shape(sizes, height, dim), 3
    one_bag = lambda size: st.lists(st.integers(0, size - 1), max_size=5)  # noqa: E731
    ids = [[data.draw(one_bag(size)) for _ in range(rows)] for size in sizes]
    flat = [bag for of_feature in ids for bag in of_feature]
    sparse = KeyedJaggedTensor(
        keys=shape.sparse,
        values=torch.tensor([number for bag in flat for number in bag], dtype=torch.int64),
        lengths=torch.tensor([len(bag) for bag in flat], dtype=torch.int32),
    )
    tables = {table.name: torch.randn(shape.height(table), 4) for table in shape.tables}
    mapped = RowMap(shape)(sparse)
    keys = mapped.keys()
    sums = [torch.stack([tables[key.split("@")[0]][bag].sum(0) for bag in mapped[key].to_dense()]) for key in keys]
    found = RowMap(shape).vectors(KeyedTensor(keys, [4] * len(sums), torch.cat(sums, 1)))
    turned = KeyedTensor(keys[::-1], [4] * len(sums), torch.cat(sums[::-1], 1))
    assert torch.equal(RowMap(shape).vectors(turned), found)
    assert RowMap(shape).lengths(mapped).tolist() == [[len(bag) for bag in of_feature] for of_feature in ids]
    wide = RowMap(cut_shape(sizes, height))(sparse)
    for at, table in enumerate(shape.tables):
        vectors = tables[table.name].view(-1, dim)
        assert table.rows <= len(vectors) < table.rows + shape.fold
        expected = torch.stack([vectors[bag].sum(0) for bag in wide[table.name].to_dense()])
        torch.testing.assert_close(found[:, at], expected)
