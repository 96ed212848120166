"""What the committee said about a batch, as tensors, and who its members are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recdistill.clicklog.batches import Batch
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

    `logit` float32 [B, n], calibrated, 0 where absent; `present` bool [B, n]; `embedding` float32 [B, dim_i] for each
    teacher, zeros where absent, or empty when the reader was not asked for embeddings.
    """

    logit: Tensor
    present: Tensor
    embedding: list[Tensor]


def answers(batch: Batch, members: list[Member], embedding: bool) -> Answers:
    """The columns that the teacher caches joined to a batch."""
    names = [member.name for member in members]
    absent = batch.label.new_zeros(len(batch), 0)
    return Answers(
        logit=torch.stack([batch.extra[f"logit.{name}"] for name in names], dim=1),
        present=torch.stack([batch.extra[f"logit.{name}?"] for name in names], dim=1),
        embedding=[batch.extra[f"embedding.{member.name}"].float() if member.dim else absent for member in members]
        if embedding
        else [],
    )
