"""From a dataset's ids to the rows of a model's tables that they look up.

Two things make these differ. A table may have fewer rows than there are ids: frequent ids keep a row each, all others
share rows by hash. And a vector may have fewer numbers than the four that fbgemm's kernels take at least: then several
ids lie side by side in one row of four, and each feature has a bag for each place in it (see `Shape.fold`).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torchrec import KeyedJaggedTensor, KeyedTensor

from recdistill.models.shape import Shape, TableShape

_BLOCK = 1 << 40
"""More rows than any table has: a row that its table does not have must not become one of another place."""


class RowMap:
    """What `shape`'s tables look up for a dataset's bags."""

    def __init__(self, shape: Shape) -> None:
        table_of = {feature: table for table in shape.tables for feature in table.features}
        tables = [table_of[name] for name in shape.sparse]
        self.shares = any(table.rows < table.source_rows for table in tables)
        self.own = torch.tensor([table.own for table in tables])
        self.shared = torch.tensor([_shared(table) for table in tables])
        self.features, self.dim, self.fold = shape.sparse, shape.dim, shape.fold
        self.keys = [key for name in shape.sparse for key in shape.keys(name)]

    def __call__(self, sparse: KeyedJaggedTensor) -> KeyedJaggedTensor:
        """The same bags, of rows: keys are those of the tables."""
        rows = sparse.values()
        if self.shares:
            per_key = sparse.lengths().view(len(self.features), -1).sum(1)
            own, shared = (each.to(per_key.device).repeat_interleave(per_key) for each in (self.own, self.shared))
            rows = place(rows, own, shared)
        if self.fold > 1:
            return self._folded(rows, sparse.lengths())
        return KeyedJaggedTensor(keys=self.keys, values=rows, lengths=sparse.lengths()) if self.shares else sparse

    def _folded(self, rows: Tensor, lengths: Tensor) -> KeyedJaggedTensor:
        """A bag for each place in a row of four, feature by feature; row r of the shape lies in r // fold, at r % fold.

        Rows of like frequency share a row, as they share row-wise Adagrad's sum of squares.
        """
        features, fold = len(self.features), self.fold
        numbered = (rows & fold - 1) * _BLOCK + (rows >> fold.bit_length() - 1)  # a fold is a power of two
        blocks = torch.full((features,), _BLOCK, dtype=rows.dtype, device=rows.device)
        lengths, rows, *_ = torch.ops.fbgemm.block_bucketize_sparse_features(
            lengths, numbered, False, False, blocks, fold, None
        )
        by_feature = torch.arange(fold * features, dtype=torch.int32, device=rows.device).view(fold, -1).T.flatten()
        lengths, rows, _ = torch.ops.fbgemm.permute_2D_sparse_data(
            by_feature, lengths.view(fold * features, -1), rows, None
        )
        return KeyedJaggedTensor(keys=self.keys, values=rows, lengths=lengths.flatten())

    def lengths(self, rows: KeyedJaggedTensor) -> Tensor:
        """How many ids each bag holds, int [features, B]."""
        lengths = rows.lengths().view(len(self.features), self.fold, -1)
        return lengths[:, 0] if self.fold == 1 else lengths.sum(1)

    def vectors(self, sums: KeyedTensor) -> Tensor:
        """Each feature's sum, float32 [B, features, dim], of what the tables return for their keys."""
        if sums.keys() == self.keys:
            rows = sums.values()
        else:  # a sharded collection may return its columns in another order
            columns = sums.to_dict()
            rows = torch.cat([columns[key] for key in self.keys], dim=1)
        if self.fold == 1:
            return rows.view(-1, len(self.features), self.dim)
        rows = rows.view(-1, len(self.features), self.fold, self.fold, self.dim)
        return rows.diagonal(dim1=2, dim2=3).sum(-1)


def place(ids: Tensor, own: Tensor, shared: Tensor) -> Tensor:
    """The row of each id, int64 [N]: itself below `own`, else one of the `shared` rows after them, by hash."""
    # Knuth's multiplicative hash; the product of two positive int32-sized numbers fits int64.
    tail = own + ((ids % 2147483647) * 2654435761 >> 16) % shared
    return torch.where(ids < own, ids, tail)


def rows_of(table: TableShape, ids: np.ndarray) -> np.ndarray:
    """The row of a table's shape that each id, int64 [N], looks up."""
    return place(torch.from_numpy(ids.copy()), torch.tensor(table.own), torch.tensor(_shared(table))).numpy()


def _shared(table: TableShape) -> int:
    return max(1, table.rows - table.own)
