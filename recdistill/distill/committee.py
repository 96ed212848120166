"""What the committee said about a batch, as tensors, and who its members are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recdistill.clicklog.batches import Batch
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
    router says of them, else 1; `embedding` for each teacher, uint8 as it was cached, zeros where absent; [B, 0] where
    none was read.
    """

    logit: Tensor
    present: Tensor
    importance: Tensor
    embedding: list[Tensor]

    def embedded(self, teacher: int, rows: Tensor) -> Tensor:
        """A teacher's embedding of some rows (int64 [K]), float32 [K, dim]."""
        codes = self.embedding[teacher].index_select(0, rows)
        return decode(codes) if codes.shape[1] else codes

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
    none, nobody = batch.label.new_zeros(len(batch), 0), silence.bool()
    logit = [batch.extra.get(f"logit.{member.name}", silence) for member in members]
    present = [batch.extra.get(f"logit.{member.name}?", nobody) for member in members]
    vectors = [batch.extra.get(f"embedding.{member.name}", none) for member in members]
    importance = [batch.extra.get(f"importance.{member.name}", alike) for member in members]
    return Answers(torch.stack(logit, dim=1), torch.stack(present, dim=1), torch.stack(importance, dim=1), vectors)
