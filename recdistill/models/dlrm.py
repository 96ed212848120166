"""The DLRM on TorchRec modules: the foundation, the experts and the student are all this class."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor, PoolingType

from recdistill.clicklog.batches import Batch
from recdistill.models.shape import Shape


class DLRM(nn.Module):
    """Embedding bags (mean pooling), an MLP for dense features, an interaction, an MLP on top, one logit.

    After Naumov et al. 2019, except that the vectors themselves enter the top MLP beside their dot products:
    a student of one or two dimensions would lose most of what it knows without them.

    `forward(batch)` returns the logit [B] and the last hidden activation [B, top[-1]]. `lower` and `upper` are the
    two halves of the top MLP: `upper(lower(batch))` is `forward(batch)`. What `lower` returns is a teacher's embedding,
    [B, shape.embedding_dim]; `upper` is the part of a teacher that answers questions.
    """

    pairs: Tensor

    def __init__(self, shape: Shape, device: torch.device | None = None) -> None:
        super().__init__()
        self.shape = shape
        self.rows = RowMap(shape, device) if any(t.rows < t.source_rows for t in shape.tables) else None
        self.embeddings = EmbeddingBagCollection(
            tables=[
                EmbeddingBagConfig(
                    name=table.name,
                    embedding_dim=shape.dim,
                    num_embeddings=table.rows,
                    feature_names=table.features,
                    pooling=PoolingType.MEAN,
                )
                for table in shape.tables
            ],
            device=device,
        )
        self.bottom = mlp([len(shape.dense), *shape.bottom, shape.dim], 0.0, device) if shape.dense else None
        self.cross = CrossNet(shape.flat, shape.cross_layers, device) if shape.interaction == "cross" else None
        self.cut = shape.cut
        self.top = mlp([shape.interacted, *shape.top], shape.dropout, device)
        self.head = nn.Linear(shape.top[-1], 1, device=device)
        pairs = torch.triu_indices(shape.fields, shape.fields, offset=1)
        self.register_buffer("pairs", pairs[0] * shape.fields + pairs[1], persistent=False)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logit float32 [B] and last hidden activation float32 [B, top[-1]]."""
        return self.upper(self.lower(batch))

    def lower(self, batch: Batch) -> Tensor:
        """Activation in the middle of the top MLP, float32 [B, shape.embedding_dim], never negative."""
        x = self.interact(self.vectors(batch))
        return self.top[: self.cut](x)

    def upper(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Logit [B] and last hidden activation [B, top[-1]] from the middle activation [B, shape.embedding_dim]."""
        z = self.top[self.cut :](z)
        return self.head(z).squeeze(1), z

    def vectors(self, batch: Batch) -> Tensor:
        """The vectors that interact, float32 [B, fields, dim]."""
        sparse = batch.sparse
        if self.training and self.shape.unknown:
            sparse = _partly_unknown(sparse, self.shape.unknown)
        if self.rows is not None:
            sparse = self.rows(sparse)
        pooled = self.embeddings(sparse)
        # By key, never `values()`: a sharded collection returns its columns in another order.
        vectors = [pooled[name] for name in self.shape.sparse]
        if self.bottom is not None:
            vectors.append(self.bottom(batch.dense))
        return torch.stack(vectors, dim=1)

    def interact(self, vectors: Tensor) -> Tensor:
        """What enters the top MLP, float32 [B, interacted]."""
        flat = vectors.flatten(1)
        if self.cross is not None:
            return self.cross(flat)
        if self.shape.interaction == "none":
            return flat
        dots = torch.bmm(vectors, vectors.transpose(1, 2)).flatten(1)
        return torch.cat([flat, dots.index_select(1, self.pairs)], dim=1)


def _partly_unknown(sparse: KeyedJaggedTensor, share: float) -> KeyedJaggedTensor:
    """The same bags, a random share of their ids replaced by 0."""
    ids = sparse.values()
    known = torch.rand(ids.shape, device=ids.device) >= share
    return KeyedJaggedTensor(keys=sparse.keys(), values=ids * known, lengths=sparse.lengths())


class CrossNet(nn.Module):
    """DCN-v2's cross layers: x <- x0 * (W x + b) + x (Wang et al. 2021)."""

    def __init__(self, width: int, layers: int, device: torch.device | None = None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width, device=device) for _ in range(layers))

    def forward(self, x0: Tensor) -> Tensor:
        """[B, width] to [B, width]."""
        x = x0
        for layer in self.layers:
            x = x0 * layer(x) + x
        return x


class RowMap(nn.Module):
    """Maps a dataset's ids onto a smaller table: frequent ids keep their own row, the tail shares rows by hash."""

    own: Tensor
    shared: Tensor

    def __init__(self, shape: Shape, device: torch.device | None = None) -> None:
        super().__init__()
        table_of = {feature: table for table in shape.tables for feature in table.features}
        own = [table_of[name].own for name in shape.sparse]
        shared = [max(1, table_of[name].rows - table_of[name].own) for name in shape.sparse]
        self.keys = shape.sparse
        self.register_buffer("own", torch.tensor(own, device=device), persistent=False)
        self.register_buffer("shared", torch.tensor(shared, device=device), persistent=False)

    def forward(self, sparse: KeyedJaggedTensor) -> KeyedJaggedTensor:
        """The same bags with ids below each table's `rows`."""
        if sparse.keys() != self.keys:
            sparse = sparse.permute([sparse.keys().index(name) for name in self.keys])
        per_key = sparse.lengths().view(len(self.keys), -1).sum(1)
        own = torch.repeat_interleave(self.own, per_key)
        shared = torch.repeat_interleave(self.shared, per_key)
        rows = place(sparse.values(), own, shared)
        return KeyedJaggedTensor(keys=self.keys, values=rows, lengths=sparse.lengths())


def place(ids: Tensor, own: Tensor, shared: Tensor) -> Tensor:
    """The row of each id, int64 [N]: itself below `own`, else one of the `shared` rows after them, by hash."""
    # Knuth's multiplicative hash; the product of two positive int32-sized numbers fits int64.
    tail = own + ((ids % 2147483647) * 2654435761 >> 16) % shared
    return torch.where(ids < own, ids, tail)


def mlp(widths: list[int], dropout: float, device: torch.device | None) -> nn.Sequential:
    """One entry a layer (linear, ReLU, dropout), so that the stack can be cut between layers."""
    layers = []
    for a, b in itertools.pairwise(widths):
        parts: list[nn.Module] = [nn.Linear(a, b, device=device), nn.ReLU()]
        if dropout:
            parts.append(nn.Dropout(dropout))
        layers.append(nn.Sequential(*parts))
    return nn.Sequential(*layers)
