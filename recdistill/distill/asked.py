"""Whom a router may have asked, and what they all say about the rows that it learns from, before there are caches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recdistill.clicklog.batches import Batch, Columns, Rows
from recdistill.clicklog.schema import Dataset
from recdistill.teachers.calibration import calibrate, drawn, sample
from recdistill.teachers.protocol import Teacher, open_teacher
from recdistill.teachers.shards import TeacherCache, joined
from recdistill.teachers.shelf import Shelf
from recdistill.teachers.versions import Version

RECOMBINED = 1 / 16
"""Of recombined rows, the share that everybody is asked about, at most."""


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


def answered(committee: Committee, shelf: Shelf | None, recombined: Path | None) -> tuple[list[Batch], list[Batch]]:
    """Validation rows, and some recombined ones if there are any, with what every teacher says about them.

    `said` float32 [B, n], calibrated on the former, and who `knows` them, bool [B, n]: of recombined rows nobody who is
    known by files alone.
    """
    dataset = Dataset(committee.dataset)
    view = shelf.view(dataset) if shelf else None
    more = [] if recombined is None else _asked_anyway(Dataset(recombined), None, None)
    files = joined([TeacherCache(path, dataset) for path in committee.answered])
    shown = sample(dataset, Rows("validation"), None, files)
    knows, others = ([committee.knows(batch) for batch in rows] for rows in (shown, more))
    said, theirs = ([torch.zeros(mask.shape) for mask in masks] for masks in (knows, others))
    for at, teacher in enumerate(committee.asked):
        model = open_teacher(committee.teachers / teacher.name / teacher.final.name)
        _ask(model, sample(dataset, Rows("validation"), model.features, view), said, at)
        known = torch.cat([mask[:, at] for mask in knows])
        whole = torch.cat([column[:, at] for column in said])[known]
        label, weight = (torch.cat([getattr(b, name) for b in shown])[known] for name in ("label", "weight"))
        slope, intercept = calibrate(whole.numpy(), label.numpy(), weight.numpy())
        if recombined is not None:
            _ask(model, _asked_anyway(Dataset(recombined), model.features, view), theirs, at)
        for column in (*said, *theirs):
            column[:, at] = slope * column[:, at] + intercept
    for at, path in enumerate(committee.answered, start=len(committee.asked)):
        for batch, column, mask in zip(shown, said, knows, strict=True):
            column[:, at], mask[:, at] = batch.extra[f"logit.{path.name}"], batch.extra[f"logit.{path.name}?"]
        for mask in others:
            mask[:, at] = False
    return _with(shown, said, knows), _with(more, theirs, others)


def asked_anyway(recombined: Dataset) -> Callable[[np.ndarray], np.ndarray]:
    """Which recombined rows (`example_id` int64 [N]) everybody is asked about, bool [N]: routers learn from them."""
    return drawn(recombined, Rows("unlabelled"), RECOMBINED)


def _asked_anyway(recombined: Dataset, features: list[str] | None, view: Columns | None) -> list[Batch]:
    return sample(recombined, Rows("unlabelled"), features, view, RECOMBINED)


def _ask(model: Teacher, rows: list[Batch], said: list[Tensor], at: int) -> None:
    """Puts a teacher's logits of rows into its column."""
    for batch, column in zip(rows, said, strict=True):
        column[:, at] = model.score(batch)[0]


def _with(rows: list[Batch], said: list[Tensor], knows: list[Tensor]) -> list[Batch]:
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
