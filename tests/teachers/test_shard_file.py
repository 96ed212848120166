from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from recdistill.errors import UserError
from recdistill.teachers import shard_file
from recdistill.teachers.codes import EXTRA
from recdistill.teachers.shard_file import ShardFile, write_shard

ROWS, GROUP, DIM = 100, 16, 4


@pytest.fixture
def codes() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (ROWS, DIM + EXTRA), np.uint8)


@pytest.fixture
def path(tmp_path: Path, codes: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shard of seven row groups, the last one short."""
    monkeypatch.setattr(shard_file, "GROUP_ROWS", GROUP)
    ids = np.arange(ROWS, dtype=np.int64) * 3
    write_shard(tmp_path / "shard.parquet", ids, ids.astype(np.float32) / 7, codes)
    assert pq.ParquetFile(tmp_path / "shard.parquet").num_row_groups == 7
    return tmp_path / "shard.parquet"


@pytest.mark.parametrize(
    ("rows", "groups"),
    [
        (list(range(ROWS)), 7),
        ([99, 0, 50, 50, 51], 3),
        ([96], 1),
        (list(range(17, 20)), 1),
        ([], 0),
    ],
)
def test_embeddings_of_some_rows_come_from_their_row_groups(
    path: Path, codes: np.ndarray, rows: list[int], groups: int
) -> None:
    found, at = ShardFile(path, ROWS, DIM).codes(np.array(rows, np.int64))
    np.testing.assert_array_equal(found[at], codes[rows])
    assert len(found) in (groups * GROUP, (groups - 1) * GROUP + ROWS % GROUP)


def test_row_groups_that_nobody_asked_about_are_not_read(path: Path, codes: np.ndarray) -> None:
    where = pq.ParquetFile(path).metadata.row_group(3).column(2)
    damaged = bytearray(path.read_bytes())
    damaged[where.data_page_offset + where.total_compressed_size - 5] ^= 1
    path.write_bytes(damaged)
    file = ShardFile(path, ROWS, DIM)
    assert len(file.answers()[0]) == ROWS
    rows = np.arange(2 * GROUP)
    np.testing.assert_array_equal(file.codes(rows)[0], codes[rows])
    with pytest.raises(UserError, match=r"shard\.parquet: this shard of the cache is damaged .*; cache again"):
        file.codes(np.array([3 * GROUP]))


@pytest.mark.parametrize(("rows", "dim"), [(ROWS - 1, DIM), (ROWS, DIM + 1)])
def test_another_file_than_the_manifest_says_is_refused(path: Path, rows: int, dim: int) -> None:
    with pytest.raises(UserError, match="not what the manifest says of this shard"):
        ShardFile(path, rows, dim).codes(np.arange(ROWS))


def test_a_shard_of_no_rows_says_nothing(tmp_path: Path) -> None:
    nothing = np.zeros(0, np.int64)
    write_shard(tmp_path / "none", nothing, nothing.astype(np.float32), np.zeros((0, DIM + EXTRA), np.uint8))
    file = ShardFile(tmp_path / "none", 0, DIM)
    assert [len(part) for part in (*file.answers(), *file.codes(nothing))] == [0, 0, 0, 0]
