"""Where a student begins: at the same student of an earlier night (see `models.carry`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch.distributed.checkpoint as dcp

from recdistill.clicklog.schema import Dataset
from recdistill.distill.methods import Distiller
from recdistill.files import file_sha256, verify
from recdistill.models.carry import carry
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


def begin_at(distiller: Distiller, start: Start, dataset: Dataset) -> None:
    """Fills `distiller`, a student of `dataset`, with what of the earlier one fits."""
    carry(distiller.student, dataset, start.folder, Dataset(start.dataset))
    if start.method:
        _carry_method(distiller, start.folder / "training")


def _carry_method(distiller: Distiller, training: Path) -> None:
    """What the method itself trains (an aligner's importance above all) from the earlier training's best check."""
    trained = [name for name, value in distiller.named_parameters() if value.requires_grad]
    whole = distiller.state_dict()
    state = {name: whole[name].clone() for name in trained if name.startswith("method.")}
    if not state:
        return
    best = training / f"check-{position_of(training).best}"
    verify(best, training)
    with quiet():
        dcp.load({"model": state}, checkpoint_id=best, no_dist=True)
    distiller.load_state_dict(state, strict=False)
