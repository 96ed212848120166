"""The tables of a model that serves, end to end, so that all features are looked up at once.

TorchRec's collection asks one table after the other, and that is most of what a small model takes to answer a few rows:
a student that looks up at once takes less than half as long (tests/benchmarks/results/serving.md), for the same answer.
Tables are copied, so it is not for those of large teachers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchrec import EmbeddingBagCollection, KeyedJaggedTensor

from recdistill.errors import UserError
from recdistill.models.shape import Shape
from recdistill.models.sharing import Sharing


class Lookup(nn.Module):
    """What answers in place of `collection`, the tables of a model of `shape`.

    `forward(sparse)`, whose keys are `shape.sparse`, returns the sum of each bag, float32 [B, features, dim], and how
    many ids it holds, int32 [features, B].
    """

    tables: Tensor
    begin: Tensor
    rows: Tensor

    def __init__(self, shape: Shape, collection: EmbeddingBagCollection, sharing: Sharing) -> None:
        super().__init__()
        self.sharing = sharing
        self.features, self.dim = shape.sparse, shape.dim
        weights = [
            collection.embedding_bags[table.module].weight.detach().view(-1, shape.dim) for table in shape.tables
        ]
        ends = torch.tensor([len(weight) for weight in weights]).cumsum(0).tolist()
        begin = [end - len(weight) for weight, end in zip(weights, ends, strict=True)]
        table_of = {feature: at for at, table in enumerate(shape.tables) for feature in table.features}
        self.table_of = [table_of[name] for name in shape.sparse]
        self.register_buffer("tables", torch.cat(weights))
        self.register_buffer("begin", torch.tensor(begin)[self.table_of])
        self.register_buffer("rows", torch.tensor([table.rows for table in shape.tables])[self.table_of])

    def forward(self, sparse: KeyedJaggedTensor) -> tuple[Tensor, Tensor]:
        """Raises `UserError` for an id that its table does not have."""
        ids, lengths = sparse.values(), sparse.lengths()
        by_feature = lengths.view(len(self.features), -1)
        counts = by_feature.sum(1)
        begin, end = (of.repeat_interleave(counts) for of in (self.begin, self.rows))
        rows = self.sharing(ids, self.table_of, counts)
        beyond = (rows < 0) | (rows >= end)
        if beyond.any():
            at = int(beyond.int().argmax())
            feature = int((counts.cumsum(0) <= at).sum())
            raise UserError(
                f"feature {self.features[feature]!r}: id {int(ids[at])} is not one of the {int(end[at]):,} rows of its "
                "table; these rows were not encoded by the model's dataset: encode them with its schema"
            )
        sums = F.embedding_bag(rows + begin, self.tables, lengths.cumsum(0) - lengths, mode="sum")
        return sums.view(len(self.features), -1, self.dim).transpose(0, 1), by_feature
