"""One file of a teacher's cache: what one version said about rows of one part.

`example_id` int64, `logit` float32 as the teacher said it, and `embedding` as fixed-size binary of one byte a number
(see `codes`; absent where the teacher has none), in the space of the teacher's final version. Its row groups are small:
a method that looks at the embeddings of a few rows reads few of them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recdistill.clicklog.vectors import binary_field, binary_to_vectors, vectors_to_binary
from recdistill.errors import UserError
from recdistill.files import atomic
from recdistill.teachers.codes import EXTRA

GROUP_ROWS = 1 << 12
"""Rows of a row group: what is read of embeddings at once."""
NIGHT, ELIGIBLE = b"night", b"eligible"
"""The keys under which a file says when it was computed, and for how many rows."""


def write_shard(
    path: Path,
    example_id: np.ndarray,
    logit: np.ndarray,
    codes: np.ndarray | None,
    night: str = "",
    eligible: int | None = None,
) -> None:
    """Writes a shard whole or not at all, with a checksum on every page.

    `codes` are coded embeddings; `eligible` is all of its rows when None.
    """
    fields = [pa.field("example_id", pa.int64()), pa.field("logit", pa.float32())]
    arrays = [pa.array(example_id, pa.int64()), pa.array(logit, pa.float32())]
    if codes is not None:
        fields.append(binary_field("embedding", "uint8", codes.shape[1]))
        arrays.append(vectors_to_binary(codes))
    eligible = len(example_id) if eligible is None else eligible
    with atomic(path) as partial:
        pq.write_table(
            pa.Table.from_arrays(arrays, schema=pa.schema(fields, {NIGHT: night, ELIGIBLE: str(eligible)})),
            partial,
            row_group_size=GROUP_ROWS,
            compression="none",
            use_dictionary=False,
            write_statistics=False,
            write_page_checksum=True,
        )


class ShardFile:
    """A shard of so many `rows`, whose embeddings are `dim` wide (0: none).

    Raises `UserError` where its file is missing, damaged, or not what it should be.
    """

    def __init__(self, path: Path, rows: int, dim: int) -> None:
        self._path, self.rows = path, rows
        self._types = {"example_id": pa.int64(), "logit": pa.float32(), "embedding": pa.binary(dim + EXTRA)}
        try:
            self._file = pq.ParquetFile(path, pre_buffer=False, page_checksum_verification=True)
        except (OSError, pa.ArrowException) as error:
            raise self._damaged(error) from None
        about = self._file.metadata
        self._ends = np.cumsum([about.row_group(at).num_rows for at in range(about.num_row_groups)], dtype=np.int64)
        if about.num_rows != rows:
            raise self._other()

    def answers(self) -> tuple[np.ndarray, np.ndarray]:
        """All rows: `example_id` int64 [rows] and the logit as it was said, float32 [rows]."""
        table = self._read(["example_id", "logit"], list(range(len(self._ends))))
        return table["example_id"].to_numpy(), table["logit"].to_numpy()

    def codes(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coded embeddings uint8 [K, dim + EXTRA], K of them, and which one is that of each of `rows` (int64 [n])."""
        group = np.searchsorted(self._ends, rows, side="right")
        chosen = np.unique(group)
        table = self._read(["embedding"], chosen.tolist())
        begins, sizes = np.concatenate([[0], self._ends])[:-1], np.diff(self._ends, prepend=0)
        moved = np.zeros(len(sizes), np.int64)
        moved[chosen] = begins[chosen] - np.concatenate([[0], np.cumsum(sizes[chosen])])[:-1]
        codes = binary_to_vectors(table["embedding"].combine_chunks(), table.schema.field("embedding"))
        return codes, rows - moved[group]

    def _read(self, columns: list[str], groups: list[int]) -> pa.Table:
        try:
            table = self._file.read_row_groups(groups, columns=columns, use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise self._damaged(error) from None
        gaps = any(column.null_count for column in table.columns)
        if gaps or table.schema.types != [self._types[name] for name in columns]:
            raise self._other()
        return table

    def _damaged(self, error: Exception) -> UserError:
        return UserError(f"{self._path}: this shard of the cache is damaged ({error}); cache again")

    def _other(self) -> UserError:
        return UserError(f"{self._path}: not what the manifest says of this shard of the cache; cache again")
