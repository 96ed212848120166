"""What a teacher is to everybody else, and how a frozen one is opened."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from recdistill.clicklog.batches import Batch
from recdistill.errors import UserError
from recdistill.files import read_json

KINDS = {
    "dlrm": ("recdistill.teachers.dlrm", "open_dlrm"),
    "sklearn": ("recdistill.teachers.trees", "open_sklearn"),
}
"""Where each kind of teacher is opened; a new architecture is a module and a line here."""
SCORING_BATCH = 1024
"""A batch's activations stay in memory that the last one used: measured 1.2 to 1.4 times as fast as 2,048 rows."""


class Teacher(Protocol):
    """A frozen teacher. What it is made of is its own business.

    `dim` is the width of its embedding; 0 for one that has a logit only. `features` are the columns it reads.
    """

    dim: int
    features: list[str]

    def score(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logit float32 [B] and embedding float32 [B, dim], without gradient; all in the processor's memory."""
        ...


class Upper(nn.Module):
    """A teacher's frozen upper layers, which answer questions: `forward(embedding + question)`.

    `forward` takes [K, dim] and returns the answer [K, answer_dim].
    """

    dim: int
    answer_dim: int


def open_teacher(folder: Path) -> Teacher:
    """The frozen teacher in a version's folder, whatever its kind."""
    kind = read_json(folder / "teacher.json")["kind"]
    if kind not in KINDS:
        raise UserError(f"{folder / 'teacher.json'}: unknown kind of teacher {kind!r}; expected {', '.join(KINDS)}")
    module, function = KINDS[kind]
    teacher: Teacher = getattr(importlib.import_module(module), function)(folder)
    return teacher


def open_upper(folder: Path) -> Upper | None:
    """The frozen upper layers of the teacher in `folder`, or None for one that is known by its outputs alone."""
    from recdistill.teachers import dlrm

    return dlrm.DlrmUpper(folder) if read_json(folder / "teacher.json")["kind"] == "dlrm" else None
