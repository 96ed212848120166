"""Tables with fewer rows than there are ids: who has a row alone, and who shares which.

Frequent ids keep a row each. Ids that are less so share rows by likeness (`models.clusters`): a number for each says
which, and is found before a student learns. All others share these rows by hash.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recdistill.models.shape import TableShape, packs

PRIME, KNUTH, BITS = 2147483647, 2654435761, 16
"""Knuth's multiplicative hash. The product of two positive numbers of 31 and 32 bits fits int64."""


class Sharing(nn.Module):
    """The rows of `tables` that ids have.

    `clusters`, int32, holds which of its table's shared rows each clustered id has, table by table, two in each number
    where 16 bits are enough. Until that is known it is by hash, too.
    """

    clusters: Tensor

    def __init__(self, tables: list[TableShape], device: torch.device | None = None) -> None:
        super().__init__()
        self.cut = [table.rows < table.source_rows for table in tables]
        self.own = [table.own for table in tables]
        self.shared = [max(1, table.rows - table.own) for table in tables]
        self.clustered = [table.clustered for table in tables]
        self.first = [0, *itertools.accumulate(self.clustered)][:-1]
        """Where a table's are among `clusters`."""
        self._kind = torch.int16 if packs(tables) else torch.int32
        self._copy: tuple[Tensor, int, Tensor] | None = None
        if any(self.clustered):
            ends = zip(self.own, self.clustered, self.shared, strict=True)
            by_hash = [hashed(torch.arange(own, own + count), shared) for own, count, shared in ends]
            self.register_buffer("clusters", self._packed(torch.cat(by_hash)).to(device))

    @torch.no_grad()
    def fill(self, clusters: Tensor) -> None:
        """Has each clustered id share the row, of those that its table shares, that int [clustered] says."""
        self.clusters.copy_(self._packed(clusters))

    def cluster(self, at: Tensor) -> Tensor:
        """What was filled in, int64, at some places, int64."""
        mask = 0xFFFF if self._kind == torch.int16 else 0xFFFFFFFF
        return self._beside(at).view(self._kind)[at].long() & mask

    def forward(self, ids: Tensor, tables: list[int], counts: Tensor) -> Tensor:
        """The row of each id, int64 [N]: `counts` [K] ids of each of K `tables`, one after the other."""
        if not any(self.cut):
            return ids
        parts = ids.split(counts.tolist())
        rows = [self._rows(table, part) if self.cut[table] else part for table, part in zip(tables, parts, strict=True)]
        return torch.cat(rows)

    def of(self, table: int, ids: np.ndarray) -> np.ndarray:
        """The row of each id, int64 [N], of one table."""
        return self(torch.from_numpy(ids.copy()), [table], torch.tensor([len(ids)])).numpy()

    def _rows(self, table: int, ids: Tensor) -> Tensor:
        own, clustered = self.own[table], self.clustered[table]
        rows, at = hashed(ids, self.shared[table]), ids - own
        if clustered:
            known = self.cluster(at.clamp(0, clustered - 1) + self.first[table])
            rows = torch.where(at < clustered, known, rows)
        return torch.where(at < 0, ids, rows + own)

    def _packed(self, clusters: Tensor) -> Tensor:
        narrow = clusters.to(self._kind)  # 16 bits without a sign: the upper half of them is negative
        return F.pad(narrow, (0, len(narrow) % 2 if self._kind == torch.int16 else 0)).view(torch.int32)

    def _beside(self, ids: Tensor) -> Tensor:
        """`clusters` where the ids are: a batch is located before it goes to the model's device."""
        if self.clusters.device == ids.device:
            return self.clusters
        whole, version = self.clusters, self.clusters._version
        if self._copy is None or self._copy[0] is not whole or self._copy[1] != version:
            self._copy = whole, version, whole.to(ids.device)
        return self._copy[2]


def hashed(ids: Tensor, size: int) -> Tensor:
    """A number in [0, size) for each id, int64 [N]."""
    return ((ids % PRIME) * KNUTH >> BITS) % size
