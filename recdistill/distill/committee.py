"""What the committee said about a batch, as tensors, and who its members are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recdistill.clicklog.batches import Batch, Block
from recdistill.clicklog.columns import Vectors
from recdistill.teachers.codes import decode
from recdistill.teachers.protocol import Upper
from recdistill.teachers.windows import EMBEDDED


@dataclass(frozen=True)
class Member:
    """A teacher as a distillation method knows it.

    `dim` is the width of its cached embedding (0: none); `upper` are its frozen upper layers where it has such.
    """

    name: str
    dim: int
    upper: Upper | None = None


@dataclass(frozen=True)
class Answers:
    """The cached answers of n teachers on B rows.

    `logit` float32 [B, n], calibrated, 0 where absent; `present` bool [B, n]; `importance` float32 [B, n], what a
    router says of them, else 1; `read` bool [B], the rows of which embeddings were read; `embedding` for each teacher,
    coded as it was cached, None where none was read.
    """

    logit: Tensor
    present: Tensor
    importance: Tensor
    read: Tensor
    embedding: list[Vectors | None]

    def embedded(self, teacher: int, rows: Tensor) -> Tensor:
        """A teacher's embedding of some rows (int64 [K]), float32 [K, dim]; zeros where absent, [K, 0] without any."""
        codes = self.embedding[teacher]
        return self.logit.new_zeros(len(rows), 0) if codes is None else decode(codes.of(rows))


def answers(batch: Batch | Block, members: list[Member]) -> Answers:
    """The columns that the teacher caches joined to rows; a teacher without a column answered nothing."""
    silence, alike = torch.zeros_like(batch.label), torch.ones_like(batch.label)
    nobody = silence.bool()
    logit = [batch.extra.get(f"logit.{member.name}", silence) for member in members]
    present = [batch.extra.get(f"logit.{member.name}?", nobody) for member in members]
    vectors = [batch.vectors.get(f"embedding.{member.name}") for member in members]
    importance = [batch.extra.get(f"importance.{member.name}", alike) for member in members]
    read = batch.extra.get(EMBEDDED, alike).bool()
    return Answers(torch.stack(logit, 1), torch.stack(present, 1), torch.stack(importance, 1), read, vectors)
