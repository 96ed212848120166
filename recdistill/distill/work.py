"""The units of the stage `distill`: one student; and the choice among settings, on validation rows alone."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from recdistill.config.job import Distill, Method, Tune
from recdistill.distill.train import Materials, distill_one
from recdistill.files import read_json
from recdistill.ranks import once


def distill_unit(
    folder: Path, mark: str, materials: Materials, method: Method, seed: int, settings: Distill, label: str
) -> None:
    """Trains one student into `folder`."""

    def make(work: Path) -> None:
        distill_one(materials, method, seed, settings, label, work)

    once(folder, mark, make)


def candidates(method: Method, settings: Distill) -> list[Distill]:
    """What the search tries for a method: `trials` settings, or fewer where there are no more to try.

    The settings as they stand are the first. The others are drawn without repetition from all combinations of the
    lists; `alone` has no teachers' weight to search, and spends its trials on the other lists.
    """
    tune = settings.tune
    grid = itertools.product(
        tune.embedding_rate or [settings.train.embedding_rate],
        tune.dense_rate or [settings.train.dense_rate],
        (tune.soft_weight if method != "alone" else []) or [settings.soft_weight],
    )
    all_of_them = [_with(settings, *values) for values in grid]
    order = np.random.default_rng(tune.seeds[0]).permutation(len(all_of_them))
    bare = settings.model_copy(update={"tune": Tune()})
    chosen = [bare, *(all_of_them[at] for at in order if all_of_them[at] != bare)]
    return chosen[: tune.trials]


def best_of(trials: Sequence[Sequence[Path]]) -> int:
    """Index of the trial, given by its students' folders, with the lowest mean validation NE."""
    found = [[read_json(folder / "training.json")["validation_ne"] for folder in folders] for folders in trials]
    return int(np.argmin([np.mean(values) for values in found]))


def _with(settings: Distill, embedding_rate: float, dense_rate: float, soft_weight: float) -> Distill:
    train = settings.train.model_copy(update={"embedding_rate": embedding_rate, "dense_rate": dense_rate})
    return settings.model_copy(update={"train": train, "soft_weight": soft_weight, "tune": Tune()})
