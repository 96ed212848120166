"""Arrow columns as tensors, without a copy where there are no gaps; nothing may be written into them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
import torchrec  # noqa: F401 (registers fbgemm's operators)
from torch import Tensor

from recdistill.clicklog.vectors import vectors_and_places

MISSING = -(2**63)
"""Where a single feature has no id."""


class Single:
    """A feature's ids, int64 [rows], `MISSING` where a row has none."""

    def __init__(self, ids: Tensor, gaps: bool) -> None:
        self.ids, self.gaps = ids, gaps
        self._ids = ids.numpy()  # whose slices, one a feature and batch, cost a fraction of torch's
        self._lengths = np.broadcast_to(np.int32(1), len(self._ids))

    def take(self, index: Tensor) -> Single:
        """Those of rows `index` (int64)."""
        return Single(self.ids.index_select(0, index), self.gaps)

    def cut(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """The ids of the rows from `start` to before `stop` end to end, and how many each row has, int32."""
        ids = self._ids[start:stop]
        if not self.gaps:
            return ids, self._lengths[start:stop]
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


class Vectors:
    """Vectors of rows, [rows, d]: rows `index` (int32) of `source`, put together only where somebody looks at them.

    Where the index is negative there is none. What a teacher cached is wide, and a method that asks about a few rows of
    a batch need not move the others.
    """

    def __init__(self, source: Tensor, index: Tensor) -> None:
        self.source, self.index = source, index

    def take(self, index: Tensor) -> Vectors:
        """Those of rows `index` (int64)."""
        return Vectors(self.source, self.index.index_select(0, index))

    def cut(self, start: int, stop: int) -> Vectors:
        """Those of the rows from `start` to before `stop`."""
        return Vectors(self.source, self.index[start:stop])

    def of(self, rows: Tensor) -> Tensor:
        """The vectors of some rows (int64 [K]), [K, d]; zeros where there is none."""
        at = self.index.index_select(0, rows)
        if not len(self.source):
            return self.source.new_zeros(len(at), self.source.shape[1])
        return self.source.index_select(0, at.clamp_min(0)) * (at >= 0)[:, None]

    def to(self, device: torch.device, non_blocking: bool = False) -> Vectors:
        """The same on another device, where nothing but these rows goes."""
        return self if device == self.source.device else self._own(lambda v: v.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Vectors:
        """The same in page-locked memory."""
        return self._own(lambda value: value.pin_memory())

    def record_stream(self, stream: torch.Stream) -> None:
        """Tells the allocator that `stream` uses these."""
        self.source.record_stream(stream)
        self.index.record_stream(stream)

    def _own(self, function: Callable[[Tensor], Tensor]) -> Vectors:
        """A source of these rows' vectors and no others; both parts are sent through the function."""
        there = self.index >= 0
        index = torch.where(there, there.cumsum(0, dtype=torch.int32) - 1, -1)
        return Vectors(function(self.source.index_select(0, self.index[there])), function(index))


def whole(source: Tensor) -> Vectors:
    """Vectors [rows, d] that lie in the order of their rows."""
    return Vectors(source, torch.arange(len(source), dtype=torch.int32, device=source.device))


def vectors(column: pa.ChunkedArray, field: pa.Field) -> Vectors:
    """A column of vectors, as `placed_vectors` makes it."""
    values, place = vectors_and_places(column, field)
    return Vectors(tensor(pa.array(values.reshape(-1))).view(values.shape), tensor(pa.array(place)))


def sparse(chunked: pa.ChunkedArray) -> Single | Bags:
    """A column of ids or of lists of ids, int64."""
    column = _one(chunked)
    if pa.types.is_integer(column.type):
        gaps = column.null_count > 0
        return Single(tensor(pc.fill_null(column, MISSING) if gaps else column), gaps)
    lengths = pc.fill_null(pc.list_value_length(column), 0)
    return Bags(tensor(pc.list_flatten(column)), tensor(lengths.cast(pa.int32())))


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def tensor(column: pa.Array | pa.ChunkedArray) -> Tensor:
    """Numbers without gaps, where they lie."""
    return torch.from_dlpack(_one(column) if isinstance(column, pa.ChunkedArray) else column)


def joined(chunked: pa.ChunkedArray) -> tuple[Tensor, Tensor]:
    """Numbers that were joined to the rows, float32 [rows], and which rows have one, bool [rows]."""
    column = _one(chunked)
    present = torch.from_numpy(np.asarray(column.is_valid()))
    return tensor(pc.fill_null(column.cast(pa.float32()), 0)), present
