"""DLRM teachers: trained once, then frozen. A version's folder holds the model and `teacher.json`."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from recdistill import ranks
from recdistill.clicklog.batches import Batch, Rows, batches
from recdistill.clicklog.schema import Dataset
from recdistill.config.models import DlrmTeacher
from recdistill.files import write_json
from recdistill.models.carry import carry
from recdistill.models.dlrm import DLRM, mlp
from recdistill.models.frozen import WEIGHTS, load_model, load_shape, save_model, verify
from recdistill.models.shape import shape_of
from recdistill.models.sharding import device
from recdistill.models.task import ClickModel, validation_ne
from recdistill.models.trainer import fit, load_best
from recdistill.teachers.protocol import Upper
from recdistill.teachers.versions import Version

SCORING_BATCH = 1024


def train_dlrm(
    spec: DlrmTeacher,
    dataset: Dataset,
    version: Version,
    before: Path | None,
    out: Path,
    label: str,
    start: tuple[Path, Dataset] | None = None,
) -> None:
    """Trains one version of a teacher into the folder `out` (a work folder that may hold a killed run's checkpoints).

    `before` is the folder of the version that this one continues: its weights and optimizer state are where the
    training starts, and each day is then read once. `start` is the same version of an earlier night and the dataset
    whose ids it knows.
    """
    torch.manual_seed(spec.seed)
    shape = shape_of(spec, spec.dim, dataset.schema, spec.features)
    module = ClickModel(DLRM(shape))
    if start is not None:
        carry(module.model, dataset, *start)
    validation = Rows("validation", domain=version.learns.domain)
    settings = spec.train if before is None else spec.train.model_copy(update={"epochs": 1, "checks_per_epoch": 1})
    rows = dataset.rows("train", None if version.learns.days is None else list(version.learns.days))
    position = fit(
        module,
        lambda generator: batches(
            dataset, version.learns, settings.batch_size, shuffle=generator, features=shape.features
        ),
        -(-rows // settings.batch_size),
        lambda m: validation_ne(m.model, batches(dataset, validation, SCORING_BATCH, features=shape.features)),
        settings,
        out / "training",
        spec.seed,
        label,
        start=None if before is None else before / "training",
    )
    if not ranks.leads():
        return
    model = load_best(ClickModel(DLRM(shape)), out / "training").model
    fingerprint = save_model(model, out)
    write_json(
        out / "teacher.json",
        {
            "version": 1,
            "kind": "dlrm",
            "parameters": shape.parameters(),
            "fingerprint": fingerprint,
            "validation_ne": position.checks[position.best],
            "checks": position.checks,
        },
    )


class FrozenDlrm:
    """A DLRM teacher as everybody else sees it; see `protocol.Teacher`.

    Raises:
        UserError: its weights are not those that were trained.
    """

    def __init__(self, folder: Path) -> None:
        self.model = load_model(folder).to(device())
        self.dim = self.model.shape.embedding_dim
        self.features = self.model.shape.features

    @torch.no_grad()
    def score(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logit [B] and the activation in the middle of the top MLP [B, dim]."""
        z = self.model.lower(batch.to(device()))
        return self.model.upper(z)[0].cpu(), z.cpu()


def open_dlrm(folder: Path) -> FrozenDlrm:
    """The frozen DLRM in a version's folder."""
    return FrozenDlrm(folder)


class DlrmUpper(Upper):
    """The layers above the embedding, read without the tables. The answer: last hidden activation and logit.

    Raises:
        UserError: its weights are not those that were trained.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        verify(folder)
        shape = load_shape(folder)
        meta = torch.device("meta")
        # Without dropout: what is frozen answers the same while a student beside it trains.
        self.layers = mlp([shape.embedding_dim, *shape.top[shape.cut :]], 0.0, meta)
        self.head = nn.Linear(shape.top[-1], 1, device=meta)
        self.dim, self.answer_dim = shape.embedding_dim, shape.top[-1] + 1
        weights = {}
        with safe_open(folder / WEIGHTS, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (a safetensors file is no mapping)
                place, _, rest = name.partition(".")
                layer, _, inside = rest.partition(".")
                if place == "head":
                    weights[name] = file.get_tensor(name)
                elif place == "top" and int(layer) >= shape.cut:
                    weights[f"layers.{int(layer) - shape.cut}.{inside}"] = file.get_tensor(name)
        self.load_state_dict(weights, assign=True)
        self.eval().requires_grad_(False)

    def forward(self, z: Tensor) -> Tensor:
        """[K, dim] to [K, answer_dim]."""
        for layer in self.layers:
            z = layer(z)
        return torch.cat([z, self.head(z)], dim=1)
