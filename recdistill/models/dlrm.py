"""The DLRM on TorchRec modules: the foundation, the experts and the student are all this class."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor, PoolingType

from recdistill.clicklog.batches import Batch
from recdistill.models.lookup import Lookup
from recdistill.models.rows import RowMap
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
    pair_of: Tensor

    def __init__(self, shape: Shape, device: torch.device | None = None) -> None:
        super().__init__()
        self.shape = shape
        self.row_map = RowMap(shape, device)
        self.lookup: Lookup | None = None
        self.embeddings = EmbeddingBagCollection(
            tables=[
                EmbeddingBagConfig(
                    name=table.module,
                    embedding_dim=shape.width,
                    num_embeddings=shape.height(table),
                    feature_names=[key for name in table.features for key in shape.keys(name)],
                    # Means of bags are made of sums: on CPUs, fbgemm's own mean takes ten times as long as its sum.
                    pooling=PoolingType.SUM,
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
        first, second = torch.triu_indices(shape.fields, shape.fields, offset=1)
        self.register_buffer("pairs", first * shape.fields + second, persistent=False)
        # Where each product's gradient is among those of the pairs; a vector's with itself is none of them.
        pair_of = torch.full((shape.fields, shape.fields), len(first))
        pair_of[first, second] = pair_of[second, first] = torch.arange(len(first))
        self.register_buffer("pair_of", pair_of.view(-1), persistent=False)

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

    def at_once(self) -> DLRM:
        """This model, to serve and neither to learn nor to be saved: see `Lookup`."""
        self.lookup = Lookup(self.shape, self.embeddings, self.row_map.sharing)
        del self.embeddings
        return self

    def located(self, batch: Batch) -> Batch:
        """The batch with `rows`, on whatever device it is; a model in training draws here which ids are unknown."""
        rows, places = self._rows(batch.sparse)
        return replace(batch, rows=rows, places=places)

    def _rows(self, sparse: KeyedJaggedTensor) -> tuple[KeyedJaggedTensor, Tensor | None]:
        sparse = _in_order(sparse, self.row_map.features)
        if self.training and self.shape.unknown:
            sparse = _partly_unknown(sparse, self.shape.unknown)
        return self.row_map(sparse)

    def vectors(self, batch: Batch) -> Tensor:
        """The vectors that interact, float32 [B, fields, dim]."""
        if self.lookup is not None:
            vectors, lengths = self.lookup(_in_order(batch.sparse, self.shape.sparse))
        else:
            rows, places = self._rows(batch.sparse) if batch.rows is None else (batch.rows, batch.places)
            vectors, lengths = self.row_map.vectors(self.embeddings(rows), places), self.row_map.lengths(rows)
        if bool((lengths > 1).any()):
            vectors = vectors / lengths.clamp_min(1).T[:, :, None]
        if self.bottom is not None:
            vectors = torch.cat([vectors, self.bottom(batch.dense)[:, None]], dim=1)
        return vectors

    def interact(self, vectors: Tensor) -> Tensor:
        """What enters the top MLP, float32 [B, interacted]."""
        flat = vectors.flatten(1)
        if self.cross is not None:
            return self.cross(flat)
        if self.shape.interaction == "none":
            return flat
        return _WithDots.apply(vectors, self.pairs, self.pair_of)


class _WithDots(torch.autograd.Function):
    """Vectors, flat, and the dot product of each pair, with one matrix product in backward in place of two."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, pairs: Tensor, pair_of: Tensor) -> Tensor:
        """[B, F, dim] to [B, F * dim + F * (F - 1) / 2]."""
        ctx.save_for_backward(vectors, pair_of)
        dots = torch.bmm(vectors, vectors.transpose(1, 2)).flatten(1)
        return torch.cat([vectors.flatten(1), dots.index_select(1, pairs)], dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """The dot product of vectors i and j moves each by the other."""
        vectors, pair_of = ctx.saved_tensors
        own, dots = gradient.tensor_split([vectors[0].numel()], dim=1)
        none = gradient.new_zeros(len(gradient), 1)
        weights = torch.cat([dots, none], dim=1).index_select(1, pair_of).view(len(vectors), vectors.shape[1], -1)
        return torch.bmm(weights, vectors).add_(own.reshape(vectors.shape)), None, None


def _in_order(sparse: KeyedJaggedTensor, features: list[str]) -> KeyedJaggedTensor:
    """The bags of these features, in this order."""
    keys = sparse.keys()
    return sparse if keys == features else sparse.permute([keys.index(name) for name in features])


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


def mlp(widths: list[int], dropout: float, device: torch.device | None) -> nn.Sequential:
    """One entry a layer (linear, ReLU, dropout), so that the stack can be cut between layers."""
    layers = []
    for a, b in itertools.pairwise(widths):
        parts: list[nn.Module] = [nn.Linear(a, b, device=device), nn.ReLU()]
        if dropout:
            parts.append(nn.Dropout(dropout))
        layers.append(nn.Sequential(*parts))
    return nn.Sequential(*layers)
