"""Arrow columns as tensors, without a copy where there are no gaps; nothing may be written into them."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
import torchrec  # noqa: F401 (registers fbgemm's operators)
from torch import Tensor

from recdistill.clicklog.vectors import binary_to_vectors

MISSING = -(2**63)
"""Where a single feature has no id."""


class Single:
    """A feature's ids, int64 [rows], `MISSING` where a row has none."""

    def __init__(self, ids: Tensor, gaps: bool) -> None:
        self.ids, self.gaps = ids, gaps
        self._ids = ids.numpy()  # whose slices, one a feature and batch, cost a fraction of torch's

    def take(self, index: Tensor) -> Single:
        """Those of rows `index` (int64)."""
        return Single(self.ids.index_select(0, index), self.gaps)

    def cut(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """The ids of the rows from `start` to before `stop` end to end, and how many each row has, int32."""
        ids = self._ids[start:stop]
        if not self.gaps:
            return ids, np.ones(stop - start, np.int32)
        there = ids != MISSING
        return ids[there], there.astype(np.int32)


class Bags:
    """A feature's ids, rows end to end (int64), and how many each row has (int32 [rows])."""

    def __init__(self, ids: Tensor, lengths: Tensor) -> None:
        self.ids, self.lengths = ids, lengths
        self._ids, self._lengths = ids.numpy(), lengths.numpy()

    def take(self, index: Tensor) -> Bags:
        """Those of rows `index` (int64)."""
        lengths, ids, _ = torch.ops.fbgemm.permute_1D_sparse_data(index.int(), self.lengths, self.ids, None)
        return Bags(ids, lengths)

    def cut(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """As of `Single`."""
        return self._ids[self._starts[start] : self._starts[stop]], self._lengths[start:stop]

    @cached_property
    def _starts(self) -> np.ndarray:
        """Where each row's ids begin, and where the last one's end."""
        return np.concatenate([[0], np.cumsum(self._lengths, dtype=np.int64)])


def sparse(chunked: pa.ChunkedArray) -> Single | Bags:
    """A column of ids or of lists of ids, int64."""
    column = _one(chunked)
    if pa.types.is_integer(column.type):
        return Single(tensor(pc.fill_null(column, MISSING)), column.null_count > 0)
    lengths = pc.fill_null(pc.list_value_length(column), 0)
    return Bags(tensor(pc.list_flatten(column)), tensor(lengths.cast(pa.int32())))


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def tensor(column: pa.Array | pa.ChunkedArray) -> Tensor:
    """Numbers without gaps, where they lie."""
    return torch.from_dlpack(_one(column) if isinstance(column, pa.ChunkedArray) else column)


def joined(chunked: pa.ChunkedArray, field: pa.Field) -> tuple[Tensor, Tensor]:
    """What was joined to the rows, float32 [rows] or vectors [rows, d], and which rows have one, bool [rows]."""
    column = _one(chunked)
    present = torch.from_numpy(np.asarray(column.is_valid()))
    if pa.types.is_fixed_size_binary(column.type):
        vectors = binary_to_vectors(column, field)
        return tensor(pa.array(vectors.reshape(-1))).view(vectors.shape), present
    return tensor(pc.fill_null(column, 0).cast(pa.float32())), present
