"""Small models on the tiny dataset, and trainings of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from recdistill.clicklog.batches import Batch, Rows, batches
from recdistill.clicklog.schema import Dataset
from recdistill.config.models import Architecture, Train
from recdistill.models.dlrm import DLRM
from recdistill.models.shape import Shape, shape_of
from recdistill.models.task import ClickModel, normalised_entropy, score
from recdistill.models.trainer import Position, fit

QUICK = {"batch_size": 256, "epochs": 3, "embedding_rate": 0.1, "dense_rate": 0.01}


@pytest.fixture
def make_shape(tiny_dataset: Dataset) -> Callable[..., Shape]:
    """Gives the shape of an architecture on the tiny dataset: `make_shape(dim, features, **architecture)`."""

    def make(dim: int = 8, features: list[str] | None = None, **architecture: Any) -> Shape:
        settings = {"bottom": [8], "top": [16, 8], **architecture}
        return shape_of(Architecture(**settings), dim, tiny_dataset.schema, features)

    return make


@pytest.fixture
def one_batch(tiny_dataset: Dataset) -> Batch:
    """The first 64 rows."""
    return next(batches(tiny_dataset, Rows("train"), 64))


@pytest.fixture
def train(tiny_dataset: Dataset, one_thread: None) -> Callable[..., Position]:
    """Trains a model of a shape as every model is trained: `train(shape, work, dataset, seed, hooks, **settings)`.

    `model` is what to train in place of a new one, `epoch_batches` and `validate` in place of the usual.
    """

    def run(
        shape: Shape,
        work: Path,
        dataset: Dataset = tiny_dataset,
        seed: int = 0,
        model: ClickModel | None = None,
        start: Path | None = None,
        epoch_batches: Any = None,
        validate: Any = None,
        steps: int | None = None,
        **settings: Any,
    ) -> Position:
        chosen = Train(**{**QUICK, **settings})
        torch.manual_seed(seed)
        model = ClickModel(DLRM(shape)) if model is None else model

        def ne(module: ClickModel) -> float:
            return normalised_entropy(score(module.model, batches(dataset, Rows("validation"), 1000)))

        return fit(
            model,
            epoch_batches or (lambda generator: batches(dataset, Rows("train"), chosen.batch_size, shuffle=generator)),
            -(-dataset.rows("train") // chosen.batch_size) if steps is None else steps,
            validate or ne,
            chosen,
            work,
            seed,
            "train tiny",
            start=start,
        )

    return run
