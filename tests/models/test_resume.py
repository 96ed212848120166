from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recdistill.clicklog.batches import Batch, Rows, batches
from recdistill.clicklog.schema import Dataset
from recdistill.config.models import Train
from recdistill.models.dlrm import DLRM
from recdistill.models.shape import Shape
from recdistill.models.task import ClickModel, normalised_entropy, score
from recdistill.models.trainer import Position, fit, load_best

SETTINGS: dict[str, Any] = {"batch_size": 256, "epochs": 3, "embedding_rate": 0.1, "dense_rate": 0.01}
Hook = Callable[[int], None]


def go(root: Path, shape: Shape, work: Path, settings: dict[str, Any], hook: Hook = lambda check: None) -> Position:
    """Trains on the dataset in `root`; `hook` is called at each check."""
    dataset, chosen, checks = Dataset(Path(root)), Train(**settings), iter(range(100))

    def validate(module: ClickModel) -> float:
        hook(next(checks))
        return normalised_entropy(score(module.model, batches(dataset, Rows("validation"), 1000)))

    torch.manual_seed(5)
    return fit(
        ClickModel(DLRM(shape)),
        lambda generator: batches(dataset, Rows("train"), chosen.batch_size, shuffle=generator),
        -(-dataset.rows("train") // chosen.batch_size),
        validate,
        chosen,
        Path(work),
        5,
        "train tiny",
    )


def by_hand(root: str, work: str, shape: str, settings: str) -> None:
    """What a process of its own does until it is killed."""
    torch.set_num_threads(1)
    go(Path(root), Shape.model_validate_json(shape), Path(work), json.loads(settings))


def weights(shape: Shape, work: Path) -> dict[str, Any]:
    return load_best(ClickModel(DLRM(shape)), work).state_dict()


@pytest.fixture
def shape(make_shape: Callable[..., Shape], one_thread: None) -> Shape:
    return make_shape(dropout=0.3)


def assert_equal(shape: Shape, one: Path, other: Path) -> None:
    first, second = weights(shape, one), weights(shape, other)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_killed_and_resumed_is_straight_through(
    tiny_dataset: Dataset, shape: Shape, tmp_path: Path, kill_at: Callable[..., None]
) -> None:
    settings = {**SETTINGS, "checks_per_epoch": 2, "weight_decay": 0.01}
    straight = go(tiny_dataset.root, shape, tmp_path / "straight", settings)
    killed = tmp_path / "killed"
    kill_at(
        r"position\.json$",
        4,
        __file__,
        "by_hand",
        tiny_dataset.root,
        killed,
        shape.model_dump_json(),
        json.dumps(settings),
    )
    kept = Position.model_validate_json((killed / "position.json").read_text())
    assert (kept.epoch, kept.step > 0, len(kept.checks)) == (1, True, 3)
    assert go(tiny_dataset.root, shape, killed, settings) == straight
    assert_equal(shape, tmp_path / "straight", killed)


@pytest.mark.parametrize("settings", [{}, {"checks_per_epoch": 4}, {"epochs": 6, "patience": 1, "dense_rate": 0.1}])
@pytest.mark.parametrize("at", [0, 2])
def test_interrupted_at_a_check_and_resumed_is_straight_through(
    tiny_dataset: Dataset, shape: Shape, tmp_path: Path, settings: dict[str, Any], at: int
) -> None:
    def interrupt(check: int) -> None:
        if check == at:
            raise KeyboardInterrupt

    settings = {**SETTINGS, **settings}
    straight = go(tiny_dataset.root, shape, tmp_path / "straight", settings)
    if len(straight.checks) > at:
        with pytest.raises(KeyboardInterrupt):
            go(tiny_dataset.root, shape, tmp_path / "broken", settings, interrupt)
    assert go(tiny_dataset.root, shape, tmp_path / "broken", settings) == straight
    assert_equal(shape, tmp_path / "straight", tmp_path / "broken")


def test_what_is_finished_is_not_trained_again(tiny_dataset: Dataset, shape: Shape, tmp_path: Path) -> None:
    first = go(tiny_dataset.root, shape, tmp_path, SETTINGS)
    asked: list[int] = []
    assert go(tiny_dataset.root, shape, tmp_path, SETTINGS, asked.append) == first
    assert not asked


def test_a_seed_decides_everything(tiny_dataset: Dataset, shape: Shape, tmp_path: Path) -> None:
    one, other = (go(tiny_dataset.root, shape, tmp_path / name, SETTINGS) for name in ("one", "other"))
    assert one == other
    assert_equal(shape, tmp_path / "one", tmp_path / "other")


def test_going_on_from_another_training_keeps_weights_and_optimizers(
    train: Callable[..., Position], make_shape: Callable[..., Shape], tiny_dataset: Dataset, tmp_path: Path
) -> None:
    """Two epochs at once equal one, then one more that starts from the first."""
    stream = list(batches(tiny_dataset, Rows("train"), 512))
    halves = [stream[:2], stream[2:4]]
    shape = make_shape()

    def reader(epochs: list[list[Batch]]) -> Callable[[np.random.Generator], Iterator[Batch]]:
        left = iter(epochs)
        return lambda generator: iter(next(left))

    rising = iter([0.9, 0.8])
    train(shape, tmp_path / "both", epoch_batches=reader(halves), steps=2, epochs=2, validate=lambda m: next(rising))
    train(shape, tmp_path / "first", epoch_batches=reader(halves[:1]), steps=2, epochs=1)
    train(
        shape,
        tmp_path / "second",
        seed=9,
        start=tmp_path / "first",
        epoch_batches=reader(halves[1:]),
        steps=2,
        epochs=1,
    )
    assert_equal(shape, tmp_path / "both", tmp_path / "second")
