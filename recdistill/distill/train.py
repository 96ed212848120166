"""Training one student by one method with one seed, and what it says about validation and test rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from recdistill import ranks
from recdistill.clicklog.batches import Batch, Columns, Rows, batches, in_turn
from recdistill.clicklog.schema import Dataset, SplitName
from recdistill.config.job import Distill
from recdistill.config.job import Method as MethodName
from recdistill.config.models import Train
from recdistill.distill.aligner import QAAligner
from recdistill.distill.committee import Member
from recdistill.distill.consensus import Consensus, Mean
from recdistill.distill.methods import Alone, Confidence, Distiller, Hint, Method, Single
from recdistill.distill.warm import Start, begin_at
from recdistill.files import atomic, write_json
from recdistill.models.dlrm import DLRM
from recdistill.models.frozen import save_model
from recdistill.models.shape import Shape
from recdistill.models.sharding import device
from recdistill.models.task import validation_ne
from recdistill.models.trainer import Position, fit, load_best
from recdistill.models.untrained import Untrained
from recdistill.teachers.calibration import calibrate, sample
from recdistill.teachers.protocol import open_upper
from recdistill.teachers.routes import Routed
from recdistill.teachers.shards import TeacherCache, joined
from recdistill.teachers.versions import FINAL
from recdistill.teachers.windows import Windows

SCORING_BATCH = 8192


@dataclass(frozen=True)
class Materials:
    """What every distillation of a job works from."""

    dataset: Path
    teachers: Path
    caches: Path
    foundation_first: tuple[str, ...]
    """Names of the committee's members, the foundation first."""
    student: Untrained
    recombined: tuple[Path, Path] | None = None
    """The dataset of recombined rows and the caches of what teachers said about them."""
    start: Start | None = None
    """An earlier student, where this one begins."""
    routed: Routed | None = None
    """How important teachers are, and whose answers count, for a method that weighs them."""
    foretell: bool = False
    """Whether what was said about training rows tells how good teachers are (see `Teachers.foretell`)."""

    def open(self) -> Opened:
        """The datasets, their caches and the members with their frozen upper layers."""
        shown = _asked(self.dataset, self.caches, self.foundation_first, "train", self.routed)
        members = []
        for cache in shown.caches:
            trained_here = FINAL in cache.manifest.versions
            upper = open_upper(self.teachers / cache.name / FINAL) if trained_here else None
            members.append(Member(cache.name, cache.dim, upper))
        more = None
        if self.recombined is not None:
            # Who is known by a file alone answers none of these rows, whatever an earlier job left beside the others.
            asked = tuple(cache.name for cache in shown.caches if FINAL in cache.manifest.versions)
            more = _asked(*self.recombined, asked, "unlabelled", self.routed)
        return Opened(shown, more, members, calibrates(self.foretell), self.start)


def calibrates(foretell: bool) -> tuple[SplitName, ...]:
    """Of whose rows it is learned how answers are put together (see `Teachers.foretell`)."""
    return ("validation", "train") if foretell else ("validation",)


@dataclass(frozen=True)
class Asked:
    """A dataset and what teachers said about its rows."""

    dataset: Dataset
    caches: list[TeacherCache]
    split: SplitName
    routed: Routed | None

    def steps(self, batch_size: int) -> int:
        """Batches of an epoch, but for the short ones at the ends of blocks."""
        return -(-self.dataset.rows(self.split) // batch_size)

    def stream(self, method: Method, shape: Shape, batch_size: int, generator: np.random.Generator) -> Iterator[Batch]:
        """One epoch of shuffled training batches with the columns that the method reads."""
        reads = method.reads if self.split == "train" else method.reads_recombined
        windows = Windows(method.looks_at, generator.spawn(1)[0]) if reads == "embeddings" else None
        join = None if reads == "nothing" else self._said(windows)
        return batches(
            self.dataset,
            Rows(self.split),
            batch_size,
            shuffle=generator,
            join=join,
            features=shape.features,
            add=method.hear,
        )

    def sampled(self, split: SplitName) -> list[Batch]:
        """What was said about rows of a split, as many as calibrate a teacher, without their features."""
        return sample(self.dataset, Rows(split), [], self._said())

    def _said(self, embedded: Windows | None = None) -> Columns:
        join = joined(self.caches, embedded)
        return join if self.routed is None else self.routed.weigh(join)


@dataclass(frozen=True)
class Opened:
    """What a student learns from: rows of the log, recombined rows if any, and the committee."""

    shown: Asked
    recombined: Asked | None
    members: list[Member]
    calibrates: tuple[SplitName, ...]
    """Of whose rows it is learned how the committee's answers are put together."""
    start: Start | None = None


def _asked(dataset: Path, caches: Path, names: tuple[str, ...], split: SplitName, routed: Routed | None) -> Asked:
    opened = Dataset(dataset)
    return Asked(opened, [TeacherCache(caches / name, opened) for name in names], split, routed)


def make_method(name: MethodName, members: list[Member], hidden: int, settings: Distill) -> Method:
    """The method of this name for a student whose last hidden activation is `hidden` wide."""
    if name == "diverse":
        return QAAligner(members, hidden, settings.diverse)
    kinds: dict[str, type[Method]] = {
        "alone": Alone,
        "single": Single,
        "mean": Mean,
        "hint": Hint,
        "confidence": Confidence,
    }
    return kinds[name](members, hidden)


def distill_one(materials: Materials, name: MethodName, seed: int, settings: Distill, label: str, out: Path) -> None:
    """Trains a student into the work folder `out`: the model, calibrated, its predictions, `training.json`.

    Raises `RuntimeError` if any number of a frozen teacher changed on the way; nothing may do that.
    """
    opened = materials.open()
    distiller, position = train_student(opened, materials.student, name, seed, settings, label, out)
    if not ranks.leads():
        return
    calibration = calibrate_student(distiller.student, opened.shown.dataset)
    save_model(distiller.student, out)
    for split in ("validation", "test"):
        write_predictions(distiller, opened.shown, split, out / f"{split}.parquet")
    write_json(
        out / "training.json",
        {
            "method": name,
            "seed": seed,
            "parameters": materials.student.shape.parameters(),
            "validation_ne": position.checks[position.best],
            "checks": position.checks,
            "losses": position.losses,
            "calibration": calibration,
        },
    )


def train_student(
    opened: Opened, student: Untrained, name: MethodName, seed: int, settings: Distill, label: str, out: Path
) -> tuple[Distiller, Position]:
    """The best check of a student and its method, unsharded, and how the training went."""
    members, dataset, size, shape = opened.members, opened.shown.dataset, settings.train.batch_size, student.shape
    unlabelled = settings.recombine.weight if settings.recombine else 0.0

    def build() -> Distiller:
        torch.manual_seed(seed)
        model = student.build()
        method = make_method(name, members, shape.top[-1], settings)
        return Distiller(model, method, settings.soft_weight, unlabelled)

    distiller = build()
    if opened.start is not None:
        begin_at(distiller, distiller.student, opened.start, dataset)
    method = distiller.method
    if isinstance(method, Consensus):
        method.calibrate([batch for split in opened.calibrates for batch in opened.shown.sampled(split)])
    recombined = opened.recombined if method.reads != "nothing" else None
    steps, more = opened.shown.steps(size), recombined.steps(size) if recombined else 0

    def epoch(generator: np.random.Generator) -> Iterator[Batch]:
        if recombined is None:
            return opened.shown.stream(method, shape, size, generator)
        one, two = generator.spawn(2)  # each stream is read by a thread of its own
        return in_turn(
            opened.shown.stream(method, shape, size, one),
            recombined.stream(method, shape, size, two),
            more / steps,
        )

    before = _frozen(members)
    position = fit(
        distiller,
        epoch,
        steps + more,
        lambda m: validation_ne(
            m.student, batches(dataset, Rows("validation"), SCORING_BATCH, features=shape.features)
        ),
        settings.train,
        out / "training",
        seed,
        label,
    )
    best = load_best(build(), out / "training")
    if any(not torch.equal(a, b) for a, b in zip(before, _frozen(members), strict=True)):
        raise RuntimeError(f"{label}: a frozen teacher was changed by the training of a student")
    return best, position


def train_alone(dataset: Dataset, student: Untrained, settings: Train, seed: int, label: str, out: Path) -> DLRM:
    """A student that has learned the clicks of training rows, and nothing from teachers, at its best check."""
    opened = Opened(Asked(dataset, [], "train", None), None, [], ())
    return train_student(opened, student, "alone", seed, Distill(train=settings), label, out)[0].student


@torch.no_grad()
def calibrate_student(student: DLRM, dataset: Dataset) -> tuple[float, float]:
    """Puts Platt scaling, fitted on validation rows, into the student's last layer; returns its slope and intercept.

    So students of all methods are calibrated as teachers' answers are, and pay nothing for it when they serve. What is
    left between them is what they know. A student that orders validation rows no better than chance is left as it is.
    """
    rows, student = sample(dataset, Rows("validation"), [*student.shape.features], None), student.to(device())
    logit = torch.cat([student(batch.to(device()))[0].cpu() for batch in rows])
    label, weight = (torch.cat([getattr(batch, name) for batch in rows]) for name in ("label", "weight"))
    slope, intercept = calibrate(logit.numpy(), label.numpy(), weight.numpy())
    if slope <= 0:
        return 1.0, 0.0
    student.head.weight.mul_(slope)
    student.head.bias.mul_(slope).add_(intercept)
    return slope, intercept


@torch.no_grad()
def write_predictions(distiller: Distiller, asked: Asked, split: SplitName, path: Path) -> None:
    """`example_id`, `logit` and, where teachers are weighed, `importance.<teacher>`: rows in the dataset's order."""
    student, routed = distiller.student.to(device()), asked.routed
    names = [f"importance.{cache.name}" for cache in asked.caches] if routed else []
    schema = pa.schema([("example_id", pa.int64()), ("logit", pa.float32()), *((name, pa.float32()) for name in names)])
    stream = batches(
        asked.dataset,
        Rows(split),
        SCORING_BATCH,
        join=routed.importance if routed else None,
        features=student.shape.features,
    )
    with atomic(path) as partial, pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        for batch in stream:
            columns = [student(batch.to(device()))[0], *(batch.extra[name] for name in names)]
            ids = pa.array(batch.example_id.numpy())
            writer.write_table(pa.table([ids, *map(_column, columns)], schema=schema))


def _column(values: Tensor) -> pa.Array:
    return pa.array(np.ascontiguousarray(values.cpu().numpy()), pa.float32())


def _frozen(members: list[Member]) -> list[Tensor]:
    """A copy of every number of the committee that takes part in training, in the processor's memory."""
    uppers = [member.upper for member in members if member.upper is not None]
    return [value.detach().clone().cpu() for upper in uppers for value in upper.state_dict().values()]
