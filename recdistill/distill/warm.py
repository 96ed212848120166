"""Where a student or a router begins: at the same one of an earlier night (see `models.carry`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch.distributed.checkpoint as dcp
from torch import nn

from recdistill.clicklog.schema import Dataset
from recdistill.files import file_sha256, verify
from recdistill.models.carry import carry
from recdistill.models.dlrm import DLRM
from recdistill.models.frozen import WEIGHTS
from recdistill.models.sharding import quiet
from recdistill.models.trainer import position_of


@dataclass(frozen=True)
class Start:
    """An earlier student: the folder that it was trained in, and the dataset whose ids it knows."""

    folder: Path
    dataset: Path
    method: bool
    """Whether what was trained beside it is taken over too: only while the teachers are the same."""

    def fingerprint(self) -> list[str | bool]:
        """All that a student which begins here depends on."""
        return [file_sha256(self.folder / WEIGHTS), Dataset(self.dataset).fingerprint, self.method]


def begin_at(module: nn.Module, student: DLRM, start: Start, dataset: Dataset) -> None:
    """Fills `student`, of `dataset`, and what `module` trains beside it, with what of the earlier ones fits."""
    carry(student, dataset, start.folder, Dataset(start.dataset))
    if start.method:
        _carry_rest(module, start.folder / "training")


def _carry_rest(module: nn.Module, training: Path) -> None:
    """What is trained beside the student (a router's importance above all) from the earlier training's best check."""
    trained = [name for name, value in module.named_parameters() if value.requires_grad]
    whole = module.state_dict()
    state = {name: whole[name].clone() for name in trained if not name.startswith("student.")}
    if not state:
        return
    best = training / f"check-{position_of(training).best}"
    verify(best, training)
    with quiet():
        dcp.load({"model": state}, checkpoint_id=best, no_dist=True)
    module.load_state_dict(state, strict=False)
