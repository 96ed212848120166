"""Rows of a day are dealt out among its parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recdistill.clicklog import parts
from recdistill.clicklog.schema import part_key

ROWS = 1045


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_ROWS", 100)
    monkeypatch.setattr(parts, "MIXED", 4)


def written(folder: Path, chunk: int, day: int = 3) -> dict[int, np.ndarray]:
    """The training rows' numbers in each part; every tenth row validates."""
    (scratch := folder / "scratch").mkdir(parents=True)
    number = np.arange(ROWS)
    split = (number % 10 == 9).astype(int)
    writer = parts.PartWriter(folder, scratch, {(day, at): int((split == at).sum()) for at in (0, 1)})
    for start in range(0, ROWS, chunk):
        some = number[start : start + chunk]
        writer.add(pa.table({"row": some, "label": some % 2}), np.full(len(some), day), split[start : start + chunk])
    writer.close()
    assert not list(scratch.iterdir())
    found = {}
    for record in writer.records:
        rows = pq.read_table(folder / f"{part_key(record.day, record.split, record.index)}.parquet", partitioning=None)
        assert record.rows == rows.num_rows <= parts.PART_ROWS
        assert record.positives == sum(rows["label"].to_pylist())
        if record.split == "train":
            found[record.index] = rows["row"].to_numpy()
    return found


def test_a_part_holds_rows_of_many_places_in_the_log(tmp_path: Path) -> None:
    found = written(tmp_path, 64)
    every = [row for row in range(ROWS) if row % 10 != 9]
    assert sorted(np.concatenate([*found.values()])) == every
    assert list(found) == [*range(10)]  # dealt out among four, three and three
    for some in ([0, 1, 2, 3], [4, 5, 6], [7, 8, 9]):
        blocks = [every[100 * at : 100 * (at + 1)] for at in some]
        for part in some:
            shares = [np.isin(found[part], block).sum() for block in blocks]
            assert sum(shares) == len(found[part])
            assert all(abs(share - len(block) / len(some)) < 1 for share, block in zip(shares, blocks, strict=True))
    first = np.isin(every[:100], found[0])
    assert not (first[:25].all() or first[::4].all())  # at random, and neither in a row nor each fourth one


def test_how_rows_come_in_does_not_decide_where_they_go(tmp_path: Path) -> None:
    once, other = written(tmp_path / "once", ROWS, day=-9), written(tmp_path / "other", 17, day=-9)
    assert once.keys() == other.keys()
    assert all(np.array_equal(once[index], other[index]) for index in once)


def test_what_fits_into_one_part_stays_in_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_ROWS", ROWS)
    (only,) = written(tmp_path, 64).values()
    assert np.array_equal(only, [row for row in range(ROWS) if row % 10 != 9])
