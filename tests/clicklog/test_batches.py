from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recdistill.clicklog import batches as module
from recdistill.clicklog.batches import Batch, Rows, batches, folds_of, read_blocks
from recdistill.clicklog.schema import (
    Dataset,
    DenseColumn,
    Manifest,
    Part,
    PartRecord,
    Schema,
    Sparse,
    Table,
    part_key,
    write_dataset,
)
from recdistill.clicklog.vectors import placed_vectors
from recdistill.errors import UserError

SPARSE = {"user": "single", "tags": "bag", "item": "single"}
TYPES = {
    "example_id": pa.int64(),
    "label": pa.float32(),
    "weight": pa.float32(),
    "price": pa.float32(),
    "age": pa.float32(),
    "user": pa.int64(),
    "item": pa.int64(),
    "tags": pa.list_(pa.int64()),
}
Row = dict[str, Any]


def write(root: Path, parts: list[tuple[str, str, list[Row]]]) -> Dataset:
    """A dataset of these (day, split, rows), written as they are."""
    records = []
    for index, (day, split, rows) in enumerate(parts):
        path = root / (part_key(day, split, index) + ".parquet")
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(TYPES.items())), path, row_group_size=3)
        records.append(PartRecord(day=day, split=split, index=index, rows=len(rows), positives=0, sha256=str(index)))
    schema = Schema(
        sparse=[Sparse(name=name, kind=kind, table=name, source={}) for name, kind in SPARSE.items()],
        dense=[DenseColumn(name=name, mean=0.0, std=1.0, source={}) for name in ("price", "age")],
        tables=[Table(name=name, rows=100, encoding="hash") for name in SPARSE],
        has_weight=True,
    )
    write_dataset(root, schema, Manifest(parts=records))
    return Dataset(root)


def decoded(batch: Batch) -> list[Row]:
    """A batch's rows, read back one by one."""
    dense = dict(zip(("price", "age"), batch.dense.T.tolist(), strict=True))
    bags = {name: [bag.tolist() for bag in batch.sparse[name].to_dense()] for name in SPARSE}
    columns = {"example_id": batch.example_id.tolist(), "label": batch.label.tolist(), "weight": batch.weight.tolist()}
    columns |= dense | bags
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def plain(row: Row) -> Row:
    """A row of the Parquet file as a batch shows it: a missing single feature is an empty bag."""
    return {k: ([] if v is None else [v]) if SPARSE.get(k) == "single" else v for k, v in row.items()}


def in_any_order(rows: Iterable[Row]) -> list[str]:
    return sorted(str(sorted(row.items())) for row in rows)


def ids(stream: Iterator[Batch]) -> list[int]:
    return [number for batch in stream for number in batch.example_id.tolist()]


def some_rows(count: int, start: int = 0) -> list[Row]:
    return [
        {
            "example_id": start + number,
            "label": float(number % 2),
            "weight": 1.0 + number % 3,
            "price": 0.5 * number,
            "age": -1.0,
            "user": None if number % 7 == 0 else number % 5,
            "item": number % 4,
            "tags": list(range(number % 4)),
        }
        for number in range(count)
    ]


@pytest.fixture
def five_days(tmp_path: Path) -> Dataset:
    """Three days of 20 training rows (40 on the second, in two parts), one of validation, one of test rows."""
    days = [(1, "train"), (2, "train"), (2, "train"), (3, "train"), (4, "validation"), (5, "test")]
    return write(tmp_path, [(f"2026-01-0{day}", split, some_rows(20, 100 * n)) for n, (day, split) in enumerate(days)])


numbers = st.floats(-1e6, 1e6, width=32)
row = st.fixed_dictionaries(
    {
        "example_id": st.integers(-(2**63), 2**63 - 1),
        "label": st.sampled_from([0.0, 1.0]),
        "weight": st.floats(0, 100, width=32),
        "price": numbers,
        "age": numbers,
        "user": st.none() | st.integers(0, 2**40),
        "item": st.none() | st.integers(0, 99),
        "tags": st.lists(st.integers(0, 99), max_size=5),
    }
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(
    parts=st.lists(st.lists(row, max_size=6), min_size=1, max_size=3), size=st.integers(1, 9), seed=st.integers(0, 9)
)
def test_batches_hold_what_the_files_say(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[Row]], size: int, seed: int
) -> None:
    dataset = write(tmp_path_factory.mktemp("rows"), [("2026-01-01", "train", rows) for rows in parts])
    expected = [plain(row) for rows in parts for row in rows]
    found = list(batches(dataset, Rows("train"), size))
    assert [row for batch in found for row in decoded(batch)] == expected
    assert all(len(batch) <= size for batch in found)
    shuffled = batches(dataset, Rows("train"), size, shuffle=np.random.default_rng(seed))
    assert in_any_order(row for batch in shuffled for row in decoded(batch)) == in_any_order(expected)


def test_rows_of_a_split_and_of_days(five_days: Dataset) -> None:
    def found(*args: Any) -> set[int]:
        return {number // 100 for number in ids(batches(five_days, Rows(*args), 7))}

    assert found("train") == {0, 1, 2, 3}
    assert found("validation") == {4}
    assert found("test") == {5}
    assert found("train", ("2026-01-02",)) == {1, 2}
    assert found("train", ("2026-01-01", "2026-01-03")) == {0, 3}
    assert found("test", ("2026-01-01",)) == set()


@pytest.mark.parametrize("folds", [2, 5])
def test_folds_partition_the_rows(five_days: Dataset, folds: int) -> None:
    everyone = ids(batches(five_days, Rows("train"), 7))
    inside = [ids(batches(five_days, Rows("train", folds=folds, inside=fold), 7)) for fold in range(folds)]
    assert sorted(number for members in inside for number in members) == sorted(everyone)
    for fold, members in enumerate(inside):
        others = ids(batches(five_days, Rows("train", folds=folds, outside=fold), 7))
        assert members and sorted(members + others) == sorted(everyone)


def test_the_fold_of_an_id_is_its_splitmix64() -> None:
    def splitmix(number: int) -> int:
        mask = 2**64 - 1
        z = (number + 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    numbers = np.array([0, 1, -1, 2**63 - 1, -(2**63), 12345])
    assert folds_of(numbers, 7).tolist() == [splitmix(int(number)) % 7 for number in numbers]
    assert np.bincount(folds_of(np.arange(10_000), 5).astype(int)).min() > 1800


def test_rows_of_a_domain_even_by_a_feature_that_is_not_read(five_days: Dataset) -> None:
    rows = Rows("train", domain=(("user", (1, 3)), ("item", (0, 1))))
    expected = [r["example_id"] for n in range(4) for r in some_rows(20, 100 * n) if r["user"] in (1, 3)]
    expected = [number for number in expected if number % 100 % 4 in (0, 1)]
    assert expected and ids(batches(five_days, rows, 7)) == expected
    assert ids(batches(five_days, rows, 7, features=["tags"])) == expected


def test_shuffle_follows_the_seed_alone(five_days: Dataset) -> None:
    def order(*seed: int) -> list[int]:
        return ids(batches(five_days, Rows("train"), 7, shuffle=np.random.default_rng(seed)))

    in_order = ids(batches(five_days, Rows("train"), 7))
    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)} | {tuple(in_order)}) == 5
    assert sorted(order(0, 0)) == sorted(in_order)


def test_small_parts_are_mixed(five_days: Dataset) -> None:
    first = next(batches(five_days, Rows("train"), 16, shuffle=np.random.default_rng(0)))
    assert {number // 100 for number in first.example_id.tolist()} == {0, 1, 2, 3}


def test_days_come_in_order_and_the_parts_of_one_in_any(five_days: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART_ROWS", 1)

    def order(seed: int) -> tuple[int, ...]:
        read = batches(five_days, Rows("train"), 20, shuffle=np.random.default_rng(seed))
        return tuple(int(batch.example_id[0]) // 100 for batch in read)

    assert {order(seed) for seed in range(20)} == {(0, 1, 2, 3), (0, 2, 1, 3)}  # the second day has two


@pytest.mark.parametrize("part_rows", [1, 20, 30, 1000])
def test_block_size_decides_what_is_in_memory_and_not_which_rows_come(
    five_days: Dataset, monkeypatch: pytest.MonkeyPatch, part_rows: int
) -> None:
    everyone = Counter(ids(batches(five_days, Rows("train"), 7)))
    monkeypatch.setattr(module, "PART_ROWS", part_rows)
    blocks = [block.rows for block in read_blocks(five_days, Rows("train"))]
    assert max(blocks) < part_rows + 20 and len(blocks) == {1: 4, 20: 4, 30: 2, 1000: 1}[part_rows]
    assert Counter(ids(batches(five_days, Rows("train"), 7, shuffle=np.random.default_rng(1)))) == everyone


def test_only_the_columns_asked_for_are_read(five_days: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[set[str]] = []
    read = pq.read_table

    def spy(path: Path, columns: list[str], **options: Any) -> pa.Table:
        asked.append(set(columns))
        return read(path, columns=columns, **options)

    monkeypatch.setattr(pq, "read_table", spy)
    rows = Rows("validation", domain=(("item", (2,)),))
    batch = next(batches(five_days, rows, 50, features=["tags", "age"]))
    assert asked == [{"example_id", "label", "weight", "tags", "age", "item"}]
    assert (batch.sparse.keys(), batch.dense.shape) == (["tags"], (5, 1))


@pytest.mark.parametrize("rows", [Rows("train"), Rows("train", folds=3, outside=1)])
def test_joined_columns_line_up(five_days: Dataset, rows: Rows) -> None:
    def join(part: Part, table: pa.Table) -> pa.Table:
        numbers = table["example_id"].to_numpy()
        vectors = np.stack([numbers, numbers % 10], axis=1).astype(np.float16)
        place = np.where(numbers % 5 == 0, -1, np.arange(len(numbers))).astype(np.int32)
        table = table.append_column("logit.t", pa.array(numbers / 8, pa.float32(), mask=numbers % 3 == 0))
        return table.append_column(*placed_vectors("embedding.t", vectors, place))

    seen = 0
    for batch in batches(five_days, rows, 7, shuffle=np.random.default_rng(3), join=join):
        numbers = batch.example_id
        present = numbers % 3 != 0
        assert torch.equal(batch.extra["logit.t?"], present)
        assert torch.equal(batch.extra["logit.t"], torch.where(present, numbers / 8, 0.0))
        expected = torch.stack([numbers, numbers % 10], dim=1).half() * (numbers % 5 != 0)[:, None]
        assert torch.equal(batch.vectors["embedding.t"].of(torch.arange(len(batch))), expected)
        seen += len(batch)
    assert seen == len(ids(batches(five_days, rows, 7)))


def test_vectors_stay_where_they_are_until_somebody_looks(five_days: Dataset) -> None:
    def join(part: Part, table: pa.Table) -> pa.Table:
        numbers = table["example_id"].to_numpy()
        even = numbers % 2 == 0
        place = np.where(even, even.cumsum() - 1, -1).astype(np.int32)
        return table.append_column(*placed_vectors("v", numbers[even, None], place))

    places, every = set(), torch.arange(7)
    for batch in batches(five_days, Rows("train"), 7, shuffle=np.random.default_rng(3), join=join):
        places.add(batch.vectors["v"].source.data_ptr())
        some = torch.tensor([4, 0]) if len(batch) > 4 else torch.tensor([0])
        expected = torch.where(batch.example_id % 2 == 0, batch.example_id, 0)
        assert torch.equal(batch.vectors["v"].of(some)[:, 0], expected[some])
        assert torch.equal(batch.take(some).vectors["v"].of(every[: len(some)])[:, 0], expected[some])
    assert len(places) == 1
    moved = batch.to(torch.device("meta")).vectors["v"]
    even = int((batch.example_id % 2 == 0).sum())
    assert (moved.source.device.type, len(moved.source), len(moved.index)) == ("meta", even, len(batch))


def test_a_batch_moves_with_everything_in_it(five_days: Dataset) -> None:
    def join(part: Part, table: pa.Table) -> pa.Table:
        return table.append_column("x", pa.array(range(len(table)), pa.float32()))

    batch = next(batches(five_days, Rows("test"), 20, join=join))
    moved = batch.to(torch.device("meta"))
    assert {moved.dense.device.type, moved.label.device.type, moved.extra["x?"].device.type} == {"meta"}
    assert (len(moved), moved.sparse.keys(), moved.extra.keys()) == (20, batch.sparse.keys(), batch.extra.keys())


def test_a_missing_part_is_an_error_of_the_consumers(five_days: Dataset) -> None:
    five_days.parts("train")[2].path.unlink()
    with pytest.raises(UserError, match=r"part-train-00002\.parquet: this part of the dataset is missing"):
        list(batches(five_days, Rows("train"), 7))
