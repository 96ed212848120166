"""The router: which teachers are worth asking about a row, said before any of them is asked.

It is a student of the job's own shape with a second head: r = softmax(W h) over the teachers that know the row's
domain. It learns clicks, and that sum r_i t_i predicts them (t_i: calibrated logits). All of that happens on validation
rows: every teacher answers these anyway, and none has learned from them, so the router costs no forward pass of its own
and knows teachers as they are on new rows. Every second row is kept back to tell when to stop.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from recdistill import progress, ranks
from recdistill.clicklog.batches import Batch, Rows, read_blocks
from recdistill.clicklog.schema import Dataset, Part, SplitName
from recdistill.config.models import Train
from recdistill.distill.losses import masked_softmax, soft_click_loss
from recdistill.models.dlrm import DLRM
from recdistill.models.shape import Shape
from recdistill.models.sharding import device
from recdistill.models.task import click_loss, normalised_entropy
from recdistill.models.trainer import fit, load_best
from recdistill.teachers.cache import SCORING_BATCH, calibrate, sample
from recdistill.teachers.protocol import open_teacher
from recdistill.teachers.routes import count_route, finish_routes, route_path, write_route
from recdistill.teachers.shelf import Shelf
from recdistill.teachers.versions import Version

LEAST = 1e-4
"""No teacher that knows a row is less important than that: in the routes' float16, 0 means that it does not."""


@dataclass(frozen=True)
class Askable:
    """A teacher that can be asked: its name and its final version."""

    name: str
    final: Version

    @property
    def domain(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """What a row must be for the teacher to answer."""
        return self.final.learns.domain


class Router(nn.Module):
    """The router of n teachers, whose `forward` is its loss."""

    student: DLRM

    def __init__(self, shape: Shape, teachers: int) -> None:
        super().__init__()
        self.student = DLRM(shape)
        self.weigh = nn.Linear(shape.top[-1], teachers)

    def importance(self, batch: Batch, knows: Tensor) -> Tensor:
        """How much each teacher counts, float32 [B, n]; rows sum to 1, or to 0 where nobody `knows` (bool [B, n])."""
        return masked_softmax(self.weigh(self.student(batch)[1]), knows)

    def forward(self, batch: Batch) -> Tensor:
        """The click losses of the student and of the committee as weighed, a scalar; `extra` has `said` and `knows`."""
        logit, hidden = self.student(batch)
        weights = masked_softmax(self.weigh(hidden), batch.extra["knows"])
        committee = (weights * batch.extra["said"]).sum(1)
        answered = batch.weight * batch.extra["knows"].any(1)
        return click_loss(logit, batch) + soft_click_loss(committee, batch.label, answered)

    def committee_ne(self, rows: Iterable[Batch]) -> float:
        """NE of the committee as weighed."""
        rows = (batch.to(self.weigh.weight.device) for batch in rows)
        return normalised_entropy(
            ((self.importance(batch, batch.extra["knows"]) * batch.extra["said"]).sum(1), batch) for batch in rows
        )


def train_router(
    asked: list[Askable],
    teachers: Path,
    dataset: Dataset,
    shelf: Shelf | None,
    shape: Shape,
    settings: Train,
    seed: int,
    out: Path,
) -> Router:
    """The router at its best check; `teachers` holds a folder of versions for each teacher."""
    rows = _answered(asked, teachers, dataset, shelf)
    learn = [batch.take(torch.arange(0, len(batch), 2)) for batch in rows]
    judge = [batch.take(torch.arange(1, len(batch), 2)) for batch in rows]

    def build() -> Router:
        torch.manual_seed(seed)
        return Router(shape, len(asked))

    def epoch(generator: np.random.Generator) -> Iterator[Batch]:
        for at in generator.permutation(len(learn)):
            order = torch.from_numpy(generator.permutation(len(learn[at])))
            yield from (learn[at].take(index) for index in order.split(settings.batch_size))

    steps = sum(-(-len(batch) // settings.batch_size) for batch in learn)
    fit(build(), epoch, steps, lambda router: router.committee_ne(judge), settings, out / "training", seed, "route")
    return load_best(build(), out / "training")


@torch.no_grad()
def write_routes(router: Router, asked: list[Askable], dataset: Dataset, split: SplitName, out: Path) -> None:
    """Writes the routes of a split's rows into `out`; files that are there already are kept."""
    router, names, rows = router.to(device()), [teacher.name for teacher in asked], Rows(split)
    parts = rows.parts(dataset)

    def write(at: int) -> np.ndarray:
        path = route_path(out, parts[at].key)
        if not path.exists():
            ids, importance = _importance(router, asked, dataset, rows, parts[at])
            write_route(path, ids, names, importance)
        progress.current().update(f"route {split}", at + 1, len(parts))
        return count_route(path, names)

    counts = ranks.deal(range(len(parts)), write)
    if ranks.leads():
        finish_routes(out, names, np.sum(counts, axis=0))


def route(
    folder: Path,
    mark: str,
    asked: list[Askable],
    teachers: Path,
    dataset: Path,
    recombined: Path | None,
    shelf: Shelf | None,
    shape: Shape,
    settings: Train,
    seed: int,
) -> None:
    """The unit of the stage `route`: routes of the training rows in `train`, of recombined rows in `unlabelled`."""

    def make(work: Path) -> None:
        opened = Dataset(dataset)
        router = train_router(asked, teachers, opened, shelf, shape, settings, seed, work).eval()
        write_routes(router, asked, opened, "train", work / "train")
        if recombined is not None:
            write_routes(router, asked, Dataset(recombined), "unlabelled", work / "unlabelled")

    ranks.once(folder, mark, make)


def _answered(asked: list[Askable], teachers: Path, dataset: Dataset, shelf: Shelf | None) -> list[Batch]:
    """Validation rows with what every teacher says about them: `said` float32 [B, n], calibrated, and `knows`."""
    rows = sample(dataset, Rows("validation"), None, None)
    view = shelf.view(dataset) if shelf else None
    knows = [torch.stack([_knows(batch, teacher) for teacher in asked], dim=1) for batch in rows]
    said = [torch.zeros(len(batch), len(asked)) for batch in rows]
    for at, teacher in enumerate(asked):
        model = open_teacher(teachers / teacher.name / teacher.final.name)
        seen = sample(dataset, Rows("validation"), model.features, view)
        for batch, column in zip(seen, said, strict=True):
            column[:, at] = model.score(batch)[0]
        known = torch.cat([mask[:, at] for mask in knows])
        whole = torch.cat([column[:, at] for column in said])[known]
        label, weight = (torch.cat([getattr(b, name) for b in rows])[known] for name in ("label", "weight"))
        slope, intercept = calibrate(whole.numpy(), label.numpy(), weight.numpy())
        for column in said:
            column[:, at] = slope * column[:, at] + intercept
    return [
        replace(batch, extra={"said": column * mask, "knows": mask})
        for batch, column, mask in zip(rows, said, knows, strict=True)
    ]


def _importance(
    router: Router, asked: list[Askable], dataset: Dataset, rows: Rows, part: Part
) -> tuple[np.ndarray, np.ndarray]:
    """`example_id` [N] and importance float32 [N, n] of a part's rows."""
    ids, found = [np.zeros(0, np.int64)], [np.zeros((0, len(asked)), np.float32)]
    for block in read_blocks(dataset, rows, parts=[part]):
        for index in torch.arange(block.rows).split(SCORING_BATCH):
            batch = block.take(index).to(device())
            knows = torch.stack([_knows(batch, teacher) for teacher in asked], dim=1)
            importance = router.importance(batch, knows).clamp_min(LEAST) * knows
            ids.append(batch.example_id.cpu().numpy())
            found.append(importance.cpu().numpy())
    return np.concatenate(ids), np.concatenate(found)


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
