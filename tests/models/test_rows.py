from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchrec import KeyedJaggedTensor, KeyedTensor

from recdistill.models.rows import RowMap
from recdistill.models.shape import Shape, TableShape
from recdistill.models.size import NOTHING, _cut


def bags(sizes: list[int], ids: list[list[int]]) -> KeyedJaggedTensor:
    flat = torch.tensor([number for bag in ids for number in bag], dtype=torch.int64)
    return KeyedJaggedTensor(
        keys=[f"f{number}" for number in range(len(sizes))],
        values=flat,
        lengths=torch.tensor([len(bag) for bag in ids], dtype=torch.int32),
    )


def cut_shape(
    sizes: list[int], height: int, dim: int = 4, bags: list[str] | None = None, known: Mapping[str, int] = NOTHING
) -> Shape:
    tables = [
        TableShape(name=f"f{n}", features=[f"f{n}"], rows=size, source_rows=size, own=size)
        for n, size in enumerate(sizes)
    ]
    names = [table.name for table in tables]
    layers: dict[str, Any] = {"bottom": [], "interaction": "none", "cross_layers": 1, "top": [4], "dropout": 0}
    whole = Shape(dim=dim, tables=tables, sparse=names, bags=names if bags is None else bags, dense=[], **layers)
    return _cut(whole, height, known)


@settings(max_examples=50)
@given(st.lists(st.integers(2, 2**40), min_size=1, max_size=4), st.integers(2, 10_000), st.data())
def test_a_row_map_keeps_frequent_ids_and_shares_the_rest(sizes: list[int], height: int, data: st.DataObject) -> None:
    known = {f"f{number}": size for number, size in enumerate(sizes)}
    shape = cut_shape(sizes, height, known={name: size for name, size in known.items() if data.draw(st.booleans())})
    ids = [data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=20)) for size in sizes]
    mapped, _ = RowMap(shape)(bags(sizes, ids))
    again, _ = RowMap(shape)(bags(sizes, ids))
    assert torch.equal(mapped.values(), again.values())
    for table, before in zip(shape.tables, ids, strict=True):
        after = mapped[table.name].values().tolist()
        assert len(after) == len(before)
        for source, row in zip(before, after, strict=True):
            assert 0 <= row < table.rows
            assert row == source if source < table.own else row >= table.own


def test_shared_rows_are_used_evenly() -> None:
    shape = cut_shape([100_000], 40)
    rows = RowMap(shape)(bags([100_000], [list(range(30, 100_000))]))[0].values()
    assert torch.bincount(rows - 30, minlength=10).min() > 6_000


def test_a_shape_with_a_row_for_every_id_maps_nothing() -> None:
    sparse = bags([5, 9], [[1, 2], [8]])
    assert RowMap(cut_shape([5, 9], 9))(sparse) == (sparse, None)


@pytest.mark.parametrize("beyond", [-1, 12, 2**33])
@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("several", [[], ["f0"], ["f0", "f1"]])
def test_an_id_that_its_table_does_not_have_stays_one(several: list[str], dim: int, beyond: int) -> None:
    shape = cut_shape([9, 8], 9, dim, several)
    row_map = RowMap(shape)
    ids = {"f0": [beyond], "f1": [3]}
    sparse = bags([9, 8], [ids[name] for name in row_map.features])
    mapped, _ = row_map(KeyedJaggedTensor(keys=row_map.features, values=sparse.values(), lengths=sparse.lengths()))
    (row,) = torch.cat([mapped[key].values() for key in shape.keys("f0")]).tolist()
    assert row not in range(shape.height(shape.tables[0]))


@settings(max_examples=50)
@given(st.sampled_from([1, 2]), st.lists(st.integers(2, 50), min_size=1, max_size=4), st.integers(2, 60), st.data())
def test_narrow_vectors_lie_side_by_side(dim: int, sizes: list[int], height: int, data: st.DataObject) -> None:
    """Looked up by hand in rows of four, the sums are those of the rows of the shape."""
    names = [f"f{number}" for number in range(len(sizes))]
    several = [name for name in names if data.draw(st.booleans())]
    shape, rows = cut_shape(sizes, height, dim, several), 3
    one_bag = lambda name, size: st.lists(st.integers(0, size - 1), max_size=5 if name in several else 1)  # noqa: E731
    ids = {name: [data.draw(one_bag(name, size)) for _ in range(rows)] for name, size in zip(names, sizes, strict=True)}
    row_map = RowMap(shape)
    flat = [bag for name in row_map.features for bag in ids[name]]
    sparse = KeyedJaggedTensor(
        keys=row_map.features,
        values=torch.tensor([number for bag in flat for number in bag], dtype=torch.int64),
        lengths=torch.tensor([len(bag) for bag in flat], dtype=torch.int32),
    )
    tables = {table.name: torch.randn(shape.height(table), 4) for table in shape.tables}
    mapped, places = row_map(sparse)
    keys = mapped.keys()
    assert len(keys) == len(names) + len(several) * (shape.fold - 1)
    sums = [torch.stack([tables[key.split("@")[0]][bag].sum(0) for bag in mapped[key].to_dense()]) for key in keys]
    found = row_map.vectors(KeyedTensor(keys, [4] * len(sums), torch.cat(sums, 1)), places)
    turned = KeyedTensor(keys[::-1], [4] * len(sums), torch.cat(sums[::-1], 1))
    assert torch.equal(row_map.vectors(turned, places), found)
    assert row_map.lengths(mapped).tolist() == [[len(bag) for bag in ids[name]] for name in names]
    wide, _ = RowMap(cut_shape(sizes, height))(sparse.permute([row_map.features.index(name) for name in names]))
    for at, table in enumerate(shape.tables):
        vectors = tables[table.name].view(-1, dim)
        assert table.rows <= len(vectors) < table.rows + shape.fold
        expected = torch.stack([vectors[bag].sum(0) for bag in wide[table.name].to_dense()])
        torch.testing.assert_close(found[:, at], expected)
