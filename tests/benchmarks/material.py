"""The log, the runs and the models that the benchmarks of training share."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from recdistill.clicklog.batches import Batch, Rows, batches
from recdistill.clicklog.schema import Dataset
from recdistill.config import Job
from recdistill.config.load import load_job
from recdistill.config.models import Student, Train
from recdistill.models.dlrm import DLRM
from recdistill.models.shape import Shape, shape_of
from recdistill.models.task import ClickModel
from recdistill.models.trainer import fit
from recdistill.progress import silent
from recdistill.runs import Run
from recdistill.stages import run_job

DEMO = Path(__file__).parents[2] / "pipelines" / "jobs" / "demo.yaml"
SINGLE = ["domain", "hour", "weekday", "user", "age", "country", "device", "item", "category", "brand"]
DENSE = ["price", "user_views", "user_clicks", "item_views", "item_clicks"]
DIM = 8
"""Of the student's embeddings, where nothing else is said."""
Stream = Iterator[Batch]


def job(rows: int, *overrides: str) -> Job:
    """The demo's job on a simulated log with `rows` training rows, seven days of ten, by many users of many items.

    Without recombined rows and routes: what is measured is one epoch over the log.
    """
    world = f"dataset.simulate={{rows: {max(rows, 100) * 10 // 7}, users: 20000, items: 5000}}"
    return load_job(DEMO, [world, "workers=1", "distill.recombine=null", "teachers.route={}", *overrides])


def run(job: Job, folder: Path, upto: str) -> Path:
    """The job's run folder, every stage up to `upto` done."""
    with Run(folder, job) as held:
        run_job(job, held, upto, silent)
    return folder


def simulated(rows: int, folder: Path) -> Dataset:
    """An ingested simulated log."""
    return Dataset(run(job(rows), folder, "ingest") / "stages" / "ingest")


def student(dataset: Dataset, features: list[str] | None = None, dim: int = DIM) -> Shape:
    """A student of the default architecture with a row for every id."""
    return shape_of(Student(), dim, dataset.schema, features)


def train(dataset: Dataset, shape: Shape, settings: Train, watch: Callable[[Stream], Stream] = lambda it: it) -> int:
    """One epoch of the trainer over the rows of the dataset; returns how many. `watch` may look at the batches."""
    torch.manual_seed(0)

    def epoch(generator: np.random.Generator) -> Stream:
        return watch(batches(dataset, Rows("train"), settings.batch_size, shuffle=generator, features=shape.features))

    return fit_once(ClickModel(DLRM(shape)), epoch, dataset.rows("train"), settings)


def fit_once(module: nn.Module, epoch: Callable[[np.random.Generator], Stream], rows: int, settings: Train) -> int:
    """`trainer.fit`, from Parquet to a checkpoint, without validation; returns `rows`."""
    steps = -(-rows // settings.batch_size)
    with tempfile.TemporaryDirectory() as work:
        fit(module, epoch, steps, lambda _: 1.0, settings, Path(work), 0, "train")
    return rows
