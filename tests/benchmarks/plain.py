"""The same DLRM in plain PyTorch: a sparse `nn.EmbeddingBag` for each table, sparse Adagrad, Adam for the rest."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recdistill.clicklog.batches import Batch
from recdistill.config.models import Train
from recdistill.models.shape import Shape


class PlainDLRM(nn.Module):
    """Mean pooling, dot products of all pairs beside the vectors themselves, an MLP on top."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        assert shape.interaction == "dot"
        self.shape = shape
        self.table_of = {feature: table.name for table in shape.tables for feature in table.features}
        self.tables = nn.ModuleDict(
            {table.name: nn.EmbeddingBag(table.rows, shape.dim, mode="mean", sparse=True) for table in shape.tables}
        )
        self.bottom = _mlp([len(shape.dense), *shape.bottom, shape.dim])
        self.top = _mlp([shape.interacted, *shape.top])
        self.head = nn.Linear(shape.top[-1], 1)
        first, second = torch.triu_indices(shape.fields, shape.fields, offset=1)
        self.register_buffer("pairs", first * shape.fields + second)

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B]."""
        ids = batch.sparse.values().split(batch.sparse.length_per_key())
        lengths = batch.sparse.lengths().long().view(len(ids), -1)
        vectors = []
        for name, values, length in zip(batch.sparse.keys(), ids, lengths, strict=True):
            table = self.tables[self.table_of[name]]
            if len(values) == len(length) and bool((length == 1).all()):
                vectors.append(table(values[:, None]))
            else:
                vectors.append(table(values, length.cumsum(0) - length))
        x = torch.stack([*vectors, self.bottom(batch.dense)], dim=1)
        dots = torch.bmm(x, x.transpose(1, 2)).flatten(1).index_select(1, self.pairs)
        return self.head(self.top(torch.cat([x.flatten(1), dots], dim=1))).squeeze(1)


def train_plain(model: PlainDLRM, stream: Iterable[Batch], settings: Train) -> int:
    """One epoch; returns its rows."""
    tables = list(model.tables.parameters())
    dense = [value for part in (model.bottom, model.top, model.head) for value in part.parameters()]
    optimizers = [
        torch.optim.Adagrad(tables, lr=settings.embedding_rate),
        torch.optim.Adam(dense, lr=settings.dense_rate),
    ]
    rows, total = 0, 0.0
    for batch in stream:
        loss = F.binary_cross_entropy_with_logits(model(batch), batch.label)
        total += loss.item()
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        rows += len(batch)
    return rows


def _mlp(widths: list[int]) -> nn.Sequential:
    layers = [nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in itertools.pairwise(widths)]
    return nn.Sequential(*layers)
