"""Tables in a processor's own memory: ids are looked at before they are learned, and the faster row-wise Adagrad.

fbgemm's kernel for CPUs takes some 60 ns for a row that a batch touches on AMD's processors, and seven times that on
Intel's, which wait at each change between two vector units. To sort, sum and update with numpy and torch takes 120 ns
on both (tests/benchmarks/results/tables.md). So who made the processor decides; to measure it in each process would let
a busy moment choose, and the last digits of a run would be others in the next one. Nothing else changes: tables and
sums of squares are fbgemm's own, where TorchRec shards, saves and loads them, and the numbers are the same but for
rounding.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch import Tensor, nn
from torchrec import KeyedJaggedTensor, KeyedTensor
from torchrec.distributed.batched_embedding_kernel import BatchedFusedEmbeddingBag
from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection

from recdistill.errors import UserError

PROCESSOR = Path("/proc/cpuinfo")


def learn_here(sharded: nn.Module, alone: bool) -> None:
    """Has the tables in `sharded` that lie in a processor's memory look at ids, and learn by what is faster.

    Their optimizer must be row-wise Adagrad without weight decay, and each group of one width. `alone` says that this
    is the only rank: collections then ask their tables without TorchRec's exchange between ranks, which takes longer
    than the lookup itself.
    """
    for collection in sharded.modules():
        if not isinstance(collection, ShardedEmbeddingBagCollection):
            continue
        kernels = groups(collection)
        for kernel in kernels:
            if kernel.emb_module.use_cpu:
                kernel.emb_module.forward = Tables(kernel.emb_module, features_of(kernel), ours_is_faster())
        if alone and len(kernels) == 1:
            collection.forward = Alone(kernels[0])


def groups(collection: ShardedEmbeddingBagCollection) -> list[BatchedFusedEmbeddingBag]:
    """The groups of tables of a collection; TorchRec keeps them where `modules()` does not look."""
    parts = [part for lookup in collection._lookups for part in lookup.modules()]
    return [part for part in parts if isinstance(part, BatchedFusedEmbeddingBag)]


def features_of(kernel: BatchedFusedEmbeddingBag) -> list[str]:
    """The features of a group of tables, in its order."""
    return [name for table in kernel._config.embedding_tables for name in table.feature_names]


class Alone:
    """A collection with one group of tables, all of them here."""

    def __init__(self, kernel: BatchedFusedEmbeddingBag) -> None:
        self.tables = kernel.emb_module
        self.features = features_of(kernel)
        self.widths = self.tables.feature_dims.tolist()

    def __call__(self, sparse: KeyedJaggedTensor) -> KeyedTensor:
        """The sum of each bag, keyed by feature."""
        if sparse.keys() != self.features:
            sparse = sparse.permute([sparse.keys().index(name) for name in self.features])
        sums = self.tables(sparse.values(), sparse.offsets().long())
        return KeyedTensor(self.features, self.widths, sums)


class Tables:
    """A group of tables, end to end; a batch has B bags of ids for each of T features, feature by feature.

    `ours` says that they learn by this module and not by fbgemm's kernel.
    """

    def __init__(self, fbgemm: SplitTableBatchedEmbeddingBagsCodegen, features: list[str], ours: bool) -> None:
        self.fbgemm, self.features, self.ours, self._theirs = fbgemm, features, ours, fbgemm.forward
        (self.dim,) = set(self.fbgemm.dims)
        table, rows = self.fbgemm.feature_table_map, np.array([size[0] for size in self.fbgemm.embedding_specs])
        self.rows, self.begins = rows[table], (rows.cumsum() - rows)[table]
        """Of each feature's table: how many rows it has, and where they begin."""

    def __call__(self, indices: Tensor, offsets: Tensor, per_sample_weights: Tensor | None = None) -> Tensor:
        """Sums over bags, float32 [B, T * dim], of ids [N] whose bags begin and end at `offsets` [T * B + 1]."""
        ids, ends = indices.numpy(), offsets.numpy()
        counts = self._counts(ids, ends)
        if not self.ours:
            return self._theirs(indices, offsets)
        return _Sums.apply(self.fbgemm.placeholder_autograd_tensor, self, *self._place(ids, ends, counts))

    def _counts(self, ids: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """How many ids each feature has, int64 [T].

        Raises `UserError` for an id that its table does not have: fbgemm would take row 0 for it.
        """
        batch = (len(offsets) - 1) // len(self.features)
        counts = np.diff(offsets[::batch])
        beyond = ids.view(np.uint64) >= np.repeat(self.rows, counts).view(np.uint64)  # a negative one is very large
        if beyond.any():
            at = int(beyond.argmax())
            feature = int(np.searchsorted(offsets[::batch], at, side="right")) - 1
            name = self.features[feature].partition("@")[0]
            raise UserError(
                f"feature {name!r}: id {ids[at]} is not one of the {self.rows[feature]:,} rows of its table; these "
                "rows were not encoded by the model's dataset: ingest again"
            )
        return counts

    def _place(self, ids: np.ndarray, offsets: np.ndarray, counts: np.ndarray) -> tuple[Tensor, Tensor]:
        """Which rows the bags hold, and how many each, int32 [B * T]: now impression by impression."""
        features, batch = len(self.features), (len(offsets) - 1) // len(self.features)
        rows, lengths = np.repeat(self.begins, counts) + ids, np.diff(offsets).astype(np.int32)
        if (lengths == 1).all():
            return torch.from_numpy(rows.reshape(features, batch).T.ravel()), torch.from_numpy(lengths)
        order = np.arange(len(lengths), dtype=np.int32).reshape(features, batch).T.ravel()
        lengths, rows, _ = torch.ops.fbgemm.permute_1D_sparse_data(
            torch.from_numpy(order), torch.from_numpy(lengths), torch.from_numpy(rows), None
        )
        return rows, lengths

    def look_up(self, rows: Tensor, lengths: Tensor) -> Tensor:
        """The sum of each bag, [B, T * dim]."""
        weights = self.fbgemm.weights_host.view(-1, self.dim)
        if len(rows) == len(lengths) and int(lengths.max()) == 1:
            sums = weights.index_select(0, rows)
        else:
            sums = F.embedding_bag(rows, weights, lengths.cumsum(0) - lengths, mode="sum")
        return sums.view(-1, len(self.features) * self.dim)

    def learn(self, rows: Tensor, lengths: Tensor, gradient: Tensor) -> None:
        """A step by the gradient of the sums [B, T * dim].

        For each row with gradient g, summed over its bags: s <- s + mean(g^2), row <- row - rate * g / (sqrt(s) + eps).
        """
        weights, squares = self.fbgemm.weights_host.view(-1, self.dim), self.fbgemm.momentum1_host
        touched, bags, first = _by_row(rows.numpy(), lengths.numpy())
        by_row = F.embedding_bag(bags, gradient.reshape(-1, self.dim), first, mode="sum")
        sums = squares.index_select(0, touched) + by_row.square().mean(1)
        squares.index_copy_(0, touched, sums)
        rate, eps = self.fbgemm.get_learning_rate(), self.fbgemm.optimizer_args.eps
        weights.index_add_(0, touched, by_row * (-rate / (sums.sqrt() + eps))[:, None])


def _by_row(rows: np.ndarray, lengths: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """The rows that a batch touches, each once; the bags that touch them, row by row; where each row's bags begin."""
    order = _order(rows)
    rows, bags = rows[order], np.repeat(np.arange(len(lengths)), lengths)[order]
    first = np.flatnonzero(np.concatenate([[True], rows[1:] != rows[:-1]]))
    return torch.from_numpy(rows[first]), torch.from_numpy(bags), torch.from_numpy(first)


def _order(rows: np.ndarray) -> np.ndarray:
    """The places of row numbers, int64 and not negative, in their order; of equal ones in the order of places.

    numpy sorts 16 bits by radix, in a seventh of the time that it takes to compare whole numbers.
    """
    order = rows.astype(np.uint16).argsort(kind="stable")
    for shift in range(16, int(rows.max(initial=0)).bit_length(), 16):
        order = order[(rows[order] >> shift).astype(np.uint16).argsort(kind="stable")]
    return order


class _Sums(torch.autograd.Function):
    """Learns inside backward, as fbgemm's own lookup does."""

    @staticmethod
    def forward(ctx: Any, _: Tensor, tables: Tables, rows: Tensor, lengths: Tensor) -> Tensor:
        """[B, T * dim]."""
        ctx.tables = tables
        ctx.save_for_backward(rows, lengths)
        return tables.look_up(rows, lengths)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, ...]:
        """No gradient is left for anybody else."""
        rows, lengths = ctx.saved_tensors
        if len(rows):
            ctx.tables.learn(rows, lengths, gradient)
        return None, None, None, None


@cache
def ours_is_faster() -> bool:
    """Whether our step takes clearly less time than fbgemm's on this processor: a quarter of it on Intel's."""
    try:
        return "GenuineIntel" in PROCESSOR.read_text()
    except OSError:
        return False


def group(rows: list[int], dim: int, pooling: PoolingMode = PoolingMode.SUM) -> SplitTableBatchedEmbeddingBagsCodegen:
    """Tables of so many rows in this processor's memory, as TorchRec has fbgemm make them."""
    return SplitTableBatchedEmbeddingBagsCodegen(
        [(each, dim, EmbeddingLocation.HOST, ComputeDevice.CPU) for each in rows],
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        pooling_mode=pooling,
        learning_rate=0.1,
        eps=1e-8,
    )
