from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recdistill.clicklog.batches import Batch, Rows, batches
from recdistill.clicklog.schema import Dataset
from recdistill.errors import UserError
from recdistill.files import read_json
from recdistill.models.dlrm import DLRM
from recdistill.models.shape import Shape
from recdistill.models.task import ClickModel, normalised_entropy, score
from recdistill.models.trainer import Position, load_best
from recdistill.progress import Progress, installed

Run = Callable[..., Position]
GOLDEN = [0.749439, 0.720314, 0.708529, 0.689727, 0.670346, 0.647727, 0.626702, 0.611204, 0.603651, 0.603735]


def state(module: nn.Module) -> dict[str, Tensor]:
    """A copy of every number, sharded or not."""
    out = {}
    for name, value in module.state_dict().items():
        local = value.local_shards()[0].tensor if hasattr(value, "local_shards") else value
        out[name] = local.detach().clone()
    return out


def best(shape: Shape, work: Path) -> dict[str, Tensor]:
    return state(load_best(ClickModel(DLRM(shape)), work))


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name].cpu(), other[name].cpu()) for name in one)


def fixed_batches(dataset: Dataset, count: int, size: int = 128) -> list[Batch]:
    return list(itertools.islice(batches(dataset, Rows("train"), size), count))


def test_training_beats_the_base_rate(
    train: Run, make_shape: Callable[..., Shape], tiny_dataset: Dataset, tmp_path: Path
) -> None:
    shape = make_shape()
    position = train(shape, tmp_path, epochs=4)
    assert position.finished and position.losses[-1] < position.losses[0] - 0.05
    assert min(position.checks) < 0.93
    model = load_best(ClickModel(DLRM(shape)), tmp_path).model
    ne = normalised_entropy(score(model, batches(tiny_dataset, Rows("test"), 100)))
    assert ne < 0.93 and not model.training


def test_the_loss_curve_is_the_one_it_always_was(train: Run, make_shape: Callable[..., Shape], tmp_path: Path) -> None:
    """Each check is one batch. Where arithmetic is changed on purpose, the new curve goes here."""
    position = train(make_shape(), tmp_path, epochs=2, checks_per_epoch=9, patience=100)
    assert position.losses[:10] == pytest.approx(GOLDEN, abs=1e-4)


def test_tables_and_dense_layers_are_both_trained(
    train: Run, make_shape: Callable[..., Shape], tiny_dataset: Dataset, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = ClickModel(DLRM(make_shape()))
    kinds, before = {}, {}

    def one_step(generator: np.random.Generator) -> Iterator[Batch]:
        kinds.update({name: type(value).__name__ for name, value in model.state_dict().items()})
        before.update(state(model))
        yield next(batches(tiny_dataset, Rows("train"), 1000))

    train(make_shape(), tmp_path, model=model, epoch_batches=one_step, epochs=1)
    after = state(model)
    assert {name for name, kind in kinds.items() if "Sharded" in kind} == {
        f"model.embeddings.embedding_bags.{table}.weight" for table in ("user", "item", "tags")
    }
    # Adam's first step moves every weight that has a gradient by the learning rate, whatever the gradient.
    moved = (after["model.head.bias"] - before["model.head.bias"]).abs()
    assert moved.item() == pytest.approx(0.01, rel=1e-3)
    for name in before:
        assert not torch.equal(before[name], after[name]), name


class Reference:
    """Row-wise Adagrad and AdamW, as their papers say, on a model's own tensors."""

    def __init__(self, model: DLRM, settings: dict[str, float]) -> None:
        self.tables = list(model.embeddings.parameters())
        self.sums = [torch.zeros(len(table)) for table in self.tables]
        tables = {id(table) for table in self.tables}
        self.dense = [value for value in model.parameters() if id(value) not in tables]
        self.moments = [(torch.zeros_like(value), torch.zeros_like(value)) for value in self.dense]
        self.settings, self.steps = settings, 0

    @torch.no_grad()
    def step(self) -> None:
        self.steps += 1
        for table, total in zip(self.tables, self.sums, strict=True):
            total += table.grad.square().mean(1)
            table -= self.settings["embedding_rate"] * table.grad / (total.sqrt() + 1e-8)[:, None]
        for value, (first, second) in zip(self.dense, self.moments, strict=True):
            value *= 1 - self.settings["dense_rate"] * self.settings["weight_decay"]
            first += 0.1 * (value.grad - first)
            second += 0.001 * (value.grad.square() - second)
            direction = (first / (1 - 0.9**self.steps)) / ((second / (1 - 0.999**self.steps)).sqrt() + 1e-8)
            value -= self.settings["dense_rate"] * direction


@pytest.mark.parametrize("layout", [{}, {"interaction": "cross", "features": ["user", "item", "tags"]}])
def test_sharded_training_is_a_plain_loop(
    train: Run, make_shape: Callable[..., Shape], make_dataset: Callable[..., Dataset], tmp_path: Path, layout: Any
) -> None:
    dataset = make_dataset(rows=1500, weighted=True)
    stream, shape = fixed_batches(dataset, 6), make_shape(**layout)
    settings = {"embedding_rate": 0.1, "dense_rate": 0.01, "weight_decay": 0.1}
    torch.manual_seed(0)
    model, start = ClickModel(DLRM(shape)), {}

    def epoch_batches(generator: np.random.Generator) -> Iterator[Batch]:
        start.update(state(model))
        yield from stream

    position = train(
        shape, tmp_path / "work", dataset, model=model, epoch_batches=epoch_batches, steps=6, epochs=1, **settings
    )
    plain = ClickModel(DLRM(shape))
    plain.load_state_dict(start)
    optimizer, losses = Reference(plain.model, settings), []
    for batch in stream:
        logit = plain.model(batch)[0]
        loss = (batch.weight * F.binary_cross_entropy_with_logits(logit, batch.label, reduction="none")).sum()
        loss = loss / batch.weight.sum()
        plain.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert position.losses == pytest.approx([np.mean(losses)], abs=1e-6)
    for name, value in best(shape, tmp_path / "work").items():
        torch.testing.assert_close(value, plain.state_dict()[name], atol=1e-5, rtol=0, msg=name)


def test_a_loss_that_is_no_number_reaches_no_table(
    train: Run, make_shape: Callable[..., Shape], tiny_dataset: Dataset, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = ClickModel(DLRM(make_shape()))
    twin = copy.deepcopy(model)
    few = fixed_batches(tiny_dataset, 3)
    few[2].dense[5, 0] = float("nan")
    with pytest.raises(UserError, match=r"train tiny: the loss is nan in epoch 1, batch 3; it was not learned"):
        train(make_shape(), tmp_path / "all", model=model, epoch_batches=lambda _: iter(few), steps=3)
    train(make_shape(), tmp_path / "two", model=twin, epoch_batches=lambda _: iter(few[:2]), steps=2, epochs=1)
    assert_same(state(twin), state(model))
    assert all(torch.isfinite(value).all() for value in state(model).values())


def test_the_best_check_is_kept_and_training_stops(
    train: Run, make_shape: Callable[..., Shape], tmp_path: Path
) -> None:
    scripted, seen = iter([0.9, 0.8, 0.85, 0.81, 0.7]), []

    def validate(module: ClickModel) -> float:
        seen.append(state(module))
        return next(scripted)

    position = train(make_shape(), tmp_path, validate=validate, epochs=9, patience=2)
    assert (position.checks, position.best, position.finished) == ([0.9, 0.8, 0.85, 0.81], 1, True)
    assert_same(best(make_shape(), tmp_path), seen[1])
    assert not any(torch.equal(seen[1][name], seen[3][name]) for name in seen[1])
    assert sorted(path.name for path in tmp_path.glob("check-*")) == ["check-1", "check-3"]


class Told(Progress):
    def __init__(self) -> None:
        self.heard: list[tuple[float, float, str]] = []

    def update(self, task: str, done: float, total: float, note: str = "") -> None:
        assert task == "train tiny"
        self.heard.append((done, total, note))


@pytest.mark.parametrize("actual", [4, 9, 12])
def test_how_far_a_training_is_is_told_with_every_batch_and_ends_once(
    train: Run, make_shape: Callable[..., Shape], tiny_dataset: Dataset, tmp_path: Path, actual: int
) -> None:
    """Nine batches are expected of each of five epochs; the third has the second bad check in a row."""
    scripted, told = iter([0.9, 0.95, 0.97]), Told()
    stream = fixed_batches(tiny_dataset, actual)
    with installed(told):
        train(
            make_shape(),
            tmp_path,
            validate=lambda module: next(scripted),
            epoch_batches=lambda generator: iter(stream),
            steps=9,
            epochs=5,
            patience=2,
        )
    done = [done for done, _, _ in told.heard]
    assert done[: min(actual, 9)] == pytest.approx([batch / 9 for batch in range(min(actual, 9))])
    assert done == sorted(done) and len(done) == 3 * (actual + 1)
    assert [heard for heard in told.heard if heard[0] >= heard[1]] == [(5, 5, "validation NE 0.9000")]
    assert [note for _, _, note in told.heard[:: actual + 1]] == ["", "validation NE 0.9000", "validation NE 0.9500"]


def test_no_rows_is_an_error(train: Run, make_shape: Callable[..., Shape], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="train tiny: there are no rows to train on"):
        train(make_shape(), tmp_path, epoch_batches=lambda generator: iter([]), steps=0)


@pytest.mark.parametrize("ne", [math.inf, math.nan])
def test_a_validation_that_judges_nothing_is_an_error(
    train: Run, make_shape: Callable[..., Shape], tmp_path: Path, ne: float
) -> None:
    with pytest.raises(UserError, match=r"train tiny: .*validation"):
        train(make_shape(), tmp_path, validate=lambda module: ne)


@pytest.mark.parametrize("actual", [2, 4, 5, 8, 9, 12])
def test_an_epoch_ends_where_its_rows_do(
    train: Run, make_shape: Callable[..., Shape], tiny_dataset: Dataset, tmp_path: Path, actual: int
) -> None:
    """The caller expects 9 batches, and so a check after 3; folds and domains leave fewer, ends of blocks make more."""
    given, stream = [], fixed_batches(tiny_dataset, actual)

    def epoch_batches(generator: np.random.Generator) -> Iterator[Batch]:
        for batch in stream:
            given.append(batch)
            yield batch

    position = train(
        make_shape(), tmp_path, epoch_batches=epoch_batches, steps=9, checks_per_epoch=3, epochs=2, patience=100
    )
    assert (len(given), position.epoch, position.finished) == (2 * actual, 2, True)
    assert len(position.checks) == 2 * min(3, math.ceil(actual / 3))


def test_position_is_written_for_people(train: Run, make_shape: Callable[..., Shape], tmp_path: Path) -> None:
    position = train(make_shape(), tmp_path, epochs=1)
    assert read_json(tmp_path / "position.json") == position.model_dump()
