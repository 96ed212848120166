"""The router: how important each teacher is on a row, said before any of them is asked.

It is a student of the job's own shape with a second head: r = softmax(W h) over the teachers that know the row's
domain. It learns clicks, and that sum r_i t_i predicts them (t_i: calibrated logits). All of that happens on validation
rows: every teacher answers these anyway, and none has learned from them, so the router costs no forward pass of its own
and knows teachers as they are on new rows. Training rows are answered by the versions that have not seen them, which
are weaker and not equally so: importances that are learned there teach worse (tests/benchmarks/LEDGER.md). Every second
row is kept back to tell when to stop.

Its importances weigh the committee's word (`aligner`), decide whose answers are worth their cost (`teachers.routes`),
and are what the report shows. A teacher that is known by its answers alone is taken to know every row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from recdistill import progress, ranks
from recdistill.clicklog.batches import Batch, Rows, read_blocks
from recdistill.clicklog.schema import SPLITS, Dataset, Part, SplitName
from recdistill.config.models import Train
from recdistill.distill.losses import masked_softmax, soft_click_loss
from recdistill.distill.warm import Start, begin_at
from recdistill.models.dlrm import DLRM
from recdistill.models.frozen import save_model
from recdistill.models.shape import Shape
from recdistill.models.sharding import device
from recdistill.models.task import Task, click_loss, normalised_entropy
from recdistill.models.trainer import fit, load_best
from recdistill.teachers.cache import SCORING_BATCH, calibrate, sample
from recdistill.teachers.protocol import open_teacher
from recdistill.teachers.routes import count_route, finish_routes, route_path, write_route
from recdistill.teachers.shards import TeacherCache, joined
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


class Router(Task):
    """The router of n teachers."""

    student: DLRM

    def __init__(self, shape: Shape, teachers: int) -> None:
        super().__init__()
        self.student = DLRM(shape)
        self.weigh = nn.Linear(shape.top[-1], teachers)

    def importance(self, batch: Batch, knows: Tensor) -> Tensor:
        """How much each teacher counts, float32 [B, n]; rows sum to 1, or to 0 where nobody `knows` (bool [B, n])."""
        return masked_softmax(self.weigh(self.student(batch)[1]), knows)

    def loss(self, batch: Batch) -> Tensor:
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


@dataclass(frozen=True)
class Committee:
    """Whom a router weighs: teachers that can be asked, by their versions in `teachers`, and the others' caches."""

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


def train_router(
    committee: Committee,
    shelf: Shelf | None,
    shape: Shape,
    settings: Train,
    seed: int,
    start: Start | None,
    out: Path,
) -> Router:
    """The router at its best check, trained in `out`, from `start` on if there is one."""
    dataset, rows = Dataset(committee.dataset), _answered(committee, shelf)
    learn = [batch.take(torch.arange(0, len(batch), 2)) for batch in rows]
    judge = [batch.take(torch.arange(1, len(batch), 2)) for batch in rows]

    def build() -> Router:
        torch.manual_seed(seed)
        return Router(shape, len(committee.names))

    def epoch(generator: np.random.Generator) -> Iterator[Batch]:
        for at in generator.permutation(len(learn)):
            order = torch.from_numpy(generator.permutation(len(learn[at])))
            yield from (learn[at].take(index) for index in order.split(settings.batch_size))

    begin = build()
    if start is not None:
        begin_at(begin, begin.student, start, dataset)
    steps = sum(-(-len(batch) // settings.batch_size) for batch in learn)
    fit(begin, epoch, steps, lambda router: router.committee_ne(judge), settings, out / "training", seed, "route")
    return load_best(build(), out / "training")


@torch.no_grad()
def write_routes(router: Router, committee: Committee, dataset: Dataset, split: SplitName, out: Path) -> None:
    """Writes the routes of a split's rows into `out`; files that are there already are kept."""
    router, rows, asked = router.to(device()), Rows(split), [teacher.name for teacher in committee.asked]
    parts = rows.parts(dataset)

    def write(at: int) -> np.ndarray:
        path = route_path(out, parts[at].key)
        if not path.exists():
            ids, importance = _importance(router, committee, dataset, rows, parts[at])
            write_route(path, ids, committee.names, importance)
        progress.current().update(f"route {split}", at + 1, len(parts))
        return count_route(path, asked)

    counts = ranks.deal(range(len(parts)), partial(map, write))
    if ranks.leads():
        finish_routes(out, committee.names, asked, np.sum(counts, axis=0))


def route(
    folder: Path,
    mark: str,
    committee: Committee,
    recombined: Path | None,
    shelf: Shelf | None,
    shape: Shape,
    settings: Train,
    seed: int,
    start: Start | None = None,
) -> None:
    """The unit of the stage `route`: a folder of routes for each split, `unlabelled` for recombined rows."""

    def make(work: Path) -> None:
        router = train_router(committee, shelf, shape, settings, seed, start, work).eval()
        if ranks.leads():
            save_model(router.student, work)
        for split in SPLITS:
            write_routes(router, committee, Dataset(committee.dataset), split, work / split)
        if recombined is not None:
            write_routes(router, committee, Dataset(recombined), "unlabelled", work / "unlabelled")

    ranks.once(folder, mark, make)


def _answered(committee: Committee, shelf: Shelf | None) -> list[Batch]:
    """Validation rows with what every teacher says about them: `said` float32 [B, n], calibrated, and `knows`."""
    dataset = Dataset(committee.dataset)
    answered = joined([TeacherCache(path, dataset) for path in committee.answered])
    rows = sample(dataset, Rows("validation"), None, answered)
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


def _importance(
    router: Router, committee: Committee, dataset: Dataset, rows: Rows, part: Part
) -> tuple[np.ndarray, np.ndarray]:
    """`example_id` [N] and importance float32 [N, n] of a part's rows."""
    ids, found = [np.zeros(0, np.int64)], [np.zeros((0, len(committee.names)), np.float32)]
    for block in read_blocks(dataset, rows, parts=[part]):
        for index in torch.arange(block.rows).split(SCORING_BATCH):
            batch = block.take(index).to(device())
            knows = committee.knows(batch)
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
