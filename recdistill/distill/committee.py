"""What the committee said about a batch, as tensors, and who its members are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recdistill.clicklog.batches import Batch
from recdistill.clicklog.columns import Vectors
from recdistill.teachers.codes import decode
from recdistill.teachers.protocol import Upper


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
    router says of them, else 1; `embedding` for each teacher, coded as it was cached, None where none was read.
    """

    logit: Tensor
    present: Tensor
    importance: Tensor
    embedding: list[Vectors | None]

    def embedded(self, teacher: int, rows: Tensor) -> Tensor:
        """A teacher's embedding of some rows (int64 [K]), float32 [K, dim]; zeros where absent, [K, 0] without any."""
        codes = self.embedding[teacher]
        return self.logit.new_zeros(len(rows), 0) if codes is None else decode(codes.of(rows))

    def take(self, rows: Tensor) -> Answers:
        """Logits, presence and importance of some rows (int64), without embeddings."""
        return Answers(self.logit[rows], self.present[rows], self.importance[rows], [])


def together(parts: list[Answers]) -> Answers:
    """What was said about several batches, without embeddings."""
    logit, present, importance = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("logit", "present", "importance")
    )
    return Answers(logit, present, importance, [])


def answers(batch: Batch, members: list[Member]) -> Answers:
    """The columns that the teacher caches joined to a batch; a teacher without a column answered nothing."""
    silence, alike = torch.zeros_like(batch.label), torch.ones_like(batch.label)
    nobody = silence.bool()
    logit = [batch.extra.get(f"logit.{member.name}", silence) for member in members]
    present = [batch.extra.get(f"logit.{member.name}?", nobody) for member in members]
    vectors = [batch.vectors.get(f"embedding.{member.name}") for member in members]
    importance = [batch.extra.get(f"importance.{member.name}", alike) for member in members]
    return Answers(torch.stack(logit, dim=1), torch.stack(present, dim=1), torch.stack(importance, dim=1), vectors)
