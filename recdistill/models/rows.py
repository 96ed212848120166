"""From a dataset's ids to the rows of a model's tables that they look up.

Two things make these differ. A table may have fewer rows than there are ids (see `models.sharing`). And a vector may
have fewer numbers than the four that fbgemm's kernels take at least: then several ids lie side by side in one row of
four. A feature of one id looks up the row and keeps the place in it; one of several has a bag for each place (see
`Shape.keys`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchrec import KeyedJaggedTensor, KeyedTensor

from recdistill.models.shape import Shape
from recdistill.models.sharing import Sharing

_BLOCK = 1 << 40
"""More rows than any table has: a row that its table does not have must not become one of another place."""


class RowMap(nn.Module):
    """What `shape`'s tables look up for a dataset's bags."""

    def __init__(self, shape: Shape, device: torch.device | None = None) -> None:
        super().__init__()
        self.dim, self.fold = shape.dim, shape.fold
        bags = shape.bags if shape.fold > 1 else []
        self.features = [*(name for name in shape.sparse if name not in bags), *bags]
        """The order of what is looked up: those of one key first."""
        self.singles = len(self.features) - len(bags)
        self.keys = [key for name in self.features for key in shape.keys(name)]
        self.order = torch.tensor([self.features.index(name) for name in shape.sparse])
        """Where each of the shape's features is among them."""
        self.sharing = Sharing(shape.tables, device)
        table_of = {feature: at for at, table in enumerate(shape.tables) for feature in table.features}
        self.table_of = [table_of[name] for name in self.features]

    def forward(self, sparse: KeyedJaggedTensor) -> tuple[KeyedJaggedTensor, Tensor | None]:
        """Bags of `features` as bags of rows, whose keys are those of the tables.

        And where several vectors lie in a row: the place of each single one, int64 [B, singles].
        """
        rows = sparse.values()
        if cut := any(self.sharing.cut):
            rows = self.sharing(rows, self.table_of, sparse.lengths().view(len(self.features), -1).sum(1))
        if self.fold > 1:
            return self._folded(sparse, rows)
        return KeyedJaggedTensor(keys=self.keys, values=rows, lengths=sparse.lengths()) if cut else sparse, None

    def _folded(self, sparse: KeyedJaggedTensor, rows: Tensor) -> tuple[KeyedJaggedTensor, Tensor]:
        """Row r of the shape lies in r // fold, at r % fold: rows of like frequency share row-wise Adagrad's sum."""
        lengths, singles = sparse.lengths().view(len(self.features), -1), self.singles
        bits = self.fold.bit_length() - 1  # a fold is a power of two
        places, rows = rows & self.fold - 1, rows >> bits
        count = sparse.offset_per_key()[singles]
        # An empty bag takes any place: its sum is zeros.
        first = sparse.offsets()[: lengths[:singles].numel()].clamp_max(max(count - 1, 0))
        place_of = places[:count].index_select(0, first) if count else torch.zeros_like(first, dtype=places.dtype)
        parts = [rows[:count]], [lengths[:singles].flatten()]
        if singles < len(self.features):
            for part, more in zip(parts, self._bags(places[count:], rows[count:], lengths[singles:]), strict=True):
                part.append(more)
        looked_up = KeyedJaggedTensor(keys=self.keys, values=torch.cat(parts[0]), lengths=torch.cat(parts[1]))
        return looked_up, place_of.view(singles, lengths.shape[1]).T

    def _bags(self, places: Tensor, rows: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and lengths of a bag for each place of each feature, feature by feature."""
        features = len(lengths)
        blocks = torch.full((features,), _BLOCK, dtype=rows.dtype, device=rows.device)
        lengths, rows, *_ = torch.ops.fbgemm.block_bucketize_sparse_features(
            lengths.flatten(), places * _BLOCK + rows, False, False, blocks, self.fold, None
        )
        keys = self.fold * features
        by_feature = torch.arange(keys, dtype=torch.int32, device=rows.device).view(self.fold, -1).T.flatten()
        lengths, rows, _ = torch.ops.fbgemm.permute_2D_sparse_data(by_feature, lengths.view(keys, -1), rows, None)
        return rows, lengths.flatten()

    def lengths(self, rows: KeyedJaggedTensor) -> Tensor:
        """How many ids each bag holds, int [features, B], in the shape's order."""
        lengths = rows.lengths().view(len(self.keys), -1)
        if self.singles == len(self.features):
            return lengths
        bags = lengths[self.singles :].view(-1, self.fold, lengths.shape[1]).sum(1)
        return torch.cat([lengths[: self.singles], bags]).index_select(0, self.order.to(lengths.device))

    def vectors(self, sums: KeyedTensor, places: Tensor | None) -> Tensor:
        """Each feature's sum, float32 [B, features, dim], in the shape's order, of what the tables return for their
        keys.
        """
        if sums.keys() == self.keys:
            rows = sums.values()
        else:  # a sharded collection may return its columns in another order
            columns = sums.to_dict()
            rows = torch.cat([columns[key] for key in self.keys], dim=1)
        if places is None:
            return rows.view(-1, len(self.features), self.dim)
        rows = rows.view(len(rows), len(self.keys), self.fold, self.dim)
        at = places[:, :, None, None].expand(-1, -1, 1, self.dim)
        vectors = rows[:, : self.singles].gather(2, at).squeeze(2)
        if self.singles == len(self.features):
            return vectors
        bags = rows[:, self.singles :].unflatten(1, (-1, self.fold))
        own_place = bags.diagonal(dim1=2, dim2=3).sum(-1)
        return torch.cat([vectors, own_place], dim=1).index_select(1, self.order.to(rows.device))
