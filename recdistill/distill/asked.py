"""Whom a router may have asked, and what they all say about validation rows, before there are any caches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from recdistill.clicklog.batches import Batch, Rows
from recdistill.clicklog.schema import Dataset
from recdistill.teachers.cache import calibrate, sample
from recdistill.teachers.protocol import open_teacher
from recdistill.teachers.shards import TeacherCache, joined
from recdistill.teachers.shelf import Shelf
from recdistill.teachers.versions import Version


@dataclass(frozen=True)
class Askable:
    """A teacher that can be asked: its name and its final version."""

    name: str
    final: Version

    @property
    def domain(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """What a row must be for the teacher to answer."""
        return self.final.learns.domain


@dataclass(frozen=True)
class Committee:
    """Whom routers speak of: teachers that can be asked, by their versions in `teachers`, and the others' caches."""

    dataset: Path
    teachers: Path
    asked: list[Askable]
    answered: list[Path]

    @property
    def names(self) -> list[str]:
        """Those that can be asked first."""
        return [*(teacher.name for teacher in self.asked), *(path.name for path in self.answered)]

    def knows(self, batch: Batch) -> Tensor:
        """Whether teachers know rows, bool [B, n]."""
        known = [_knows(batch, teacher) for teacher in self.asked]
        return torch.stack([*known, *(torch.ones_like(batch.label).bool() for _ in self.answered)], dim=1)


def answered(committee: Committee, shelf: Shelf | None) -> list[Batch]:
    """Validation rows with what every teacher says about them: `said` float32 [B, n], calibrated, and `knows`."""
    dataset = Dataset(committee.dataset)
    files = joined([TeacherCache(path, dataset) for path in committee.answered])
    rows = sample(dataset, Rows("validation"), None, files)
    view = shelf.view(dataset) if shelf else None
    knows = [committee.knows(batch) for batch in rows]
    said = [torch.zeros(mask.shape) for mask in knows]
    for at, teacher in enumerate(committee.asked):
        model = open_teacher(committee.teachers / teacher.name / teacher.final.name)
        seen = sample(dataset, Rows("validation"), model.features, view)
        for batch, column in zip(seen, said, strict=True):
            column[:, at] = model.score(batch)[0]
        known = torch.cat([mask[:, at] for mask in knows])
        whole = torch.cat([column[:, at] for column in said])[known]
        label, weight = (torch.cat([getattr(b, name) for b in rows])[known] for name in ("label", "weight"))
        slope, intercept = calibrate(whole.numpy(), label.numpy(), weight.numpy())
        for column in said:
            column[:, at] = slope * column[:, at] + intercept
    for at, path in enumerate(committee.answered, start=len(committee.asked)):
        for batch, column, mask in zip(rows, said, knows, strict=True):
            column[:, at], mask[:, at] = batch.extra[f"logit.{path.name}"], batch.extra[f"logit.{path.name}?"]
    return [
        replace(batch, extra={"said": column * mask, "knows": mask})
        for batch, column, mask in zip(rows, said, knows, strict=True)
    ]


def _knows(batch: Batch, teacher: Askable) -> Tensor:
    """Whether rows are of a teacher's domain, bool [B]."""
    known = torch.ones(len(batch), dtype=torch.bool, device=batch.label.device)
    for feature, ids in teacher.domain:
        bags = batch.sparse[feature]
        there = bags.lengths() > 0
        fits = torch.zeros_like(known)
        fits[there] = torch.isin(bags.values(), torch.tensor(ids, device=known.device))
        known &= fits
    return known
