"""Training and checkpoints under several real ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

from recdistill.clicklog.batches import Batch, Rows, batches
from recdistill.clicklog.schema import Dataset
from recdistill.config.models import Train
from recdistill.errors import UserError
from recdistill.models import sharding, steps
from recdistill.models.dlrm import DLRM
from recdistill.models.shape import Shape
from recdistill.models.sharding import cut_by_rows, plan_for, quiet, shard
from recdistill.models.steps import Steps
from recdistill.models.task import ClickModel, validation_ne
from recdistill.models.trainer import Position, _resume, _save, fit, load_best
from tests import in_ranks

TABLES = ["user", "item", "tags"]
# 501 is odd, and the last batch of an epoch has one row: two ranks cannot share either out evenly.
SETTINGS = Train(batch_size=501, epochs=2, checks_per_epoch=2, embedding_rate=0.1, dense_rate=0.01, weight_decay=0.01)
ROWS = 3 * 501 + 1
pytestmark = pytest.mark.usefixtures("on_cpus")
PLANS = [
    pytest.param([], {"table_wise", "row_wise"}, id="as planned"),
    pytest.param(TABLES, {"row_wise"}, id="by rows"),
    pytest.param(["item"], {"table_wise", "row_wise"}, id="one by rows"),
]


def go(root: Path, shape: Shape, work: Path, by_rows: list[str], fault: int | None = None) -> Position:
    """Trains on the dataset in `root`; `fault` is a row of each batch whose price is made NaN."""
    cut_by_rows(by_rows)
    dataset = Dataset(root)

    def epoch_batches(generator: np.random.Generator) -> Iterator[Batch]:
        for batch in batches(dataset, Rows("train"), SETTINGS.batch_size, shuffle=generator):
            if fault is not None:
                batch.dense[fault, 0] = float("nan")
            yield batch

    torch.manual_seed(5)
    return fit(
        ClickModel(DLRM(shape)),
        epoch_batches,
        -(-dataset.rows("train") // SETTINGS.batch_size),
        lambda module: validation_ne(module.model, batches(dataset, Rows("validation"), 97)),
        SETTINGS,
        work,
        5,
        "train tiny",
    )


def watched(root: Path, shape: Shape, work: Path) -> list[tuple[str, bool]]:
    """Trains, and tells of each step how tables were asked, and whether the next batch's ids were on their way."""
    told, loss = [], Steps._loss

    def watching(steps: Steps, batch: Batch | None) -> tuple[Tensor, float]:
        following = [context.fused_splits_awaitables for context in list(steps._pipeline.contexts)[1:2]]  # type: ignore
        told.append((type(steps._task.dlrm.embeddings.forward).__name__, any(following)))
        return loss(steps, batch)

    Steps._loss = watching  # type: ignore[method-assign]
    go(root, shape, work, [])
    return told


def copy(shape: Shape, work: Path, to: Path, by_rows: list[str]) -> None:
    """Loads the last check of `work` into the ranks that there are, and writes it again."""
    cut_by_rows(by_rows)
    with quiet():
        model, optimizer = shard(ClickModel(DLRM(shape)), SETTINGS)
    position = _resume(work, model, optimizer)
    _save(to, model, optimizer, position)


def tensors(work: Path) -> dict[str, Tensor]:
    """Every tensor of the newest check: weights and states of both optimizers."""
    newest = max(work.glob("check-*"), key=lambda folder: int(folder.name.removeprefix("check-")))
    with quiet():
        dcp_to_torch_save(newest, work / "flat.pt")

    def flat(value: Any, place: str) -> Iterator[tuple[str, Tensor]]:
        for name, inner in value.items():
            if isinstance(inner, dict):
                yield from flat(inner, f"{place}/{name}")
            elif isinstance(inner, Tensor):
                yield f"{place}/{name}", inner

    return dict(flat(torch.load(work / "flat.pt", weights_only=True), ""))


@pytest.fixture(scope="module")
def shape() -> Shape:
    tables = [
        {"name": name, "features": [name], "rows": rows, "source_rows": rows, "own": rows}
        for name, rows in zip(TABLES, (80, 40, 12), strict=True)
    ]
    layers: dict[str, Any] = {"bottom": [8], "interaction": "dot", "cross_layers": 2, "top": [16, 8], "dropout": 0.0}
    return Shape.model_validate({"dim": 8, "tables": tables, "sparse": TABLES, "dense": ["price", "age"], **layers})


@pytest.fixture
def dataset(make_dataset: Callable[..., Dataset]) -> Dataset:
    found = make_dataset(rows=2004, weighted=True)
    assert found.rows("train") == ROWS
    return found


@pytest.fixture(autouse=True)
def nothing_by_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharding, "_by_rows", set())


def planned(shape: Shape) -> set[str]:
    """How two ranks would cut its tables."""
    with quiet():
        plan = plan_for(DLRM(shape, torch.device("meta")), 2, 2, SETTINGS.batch_size).plan["embeddings"]
    return {table.sharding_type for table in plan.values()}


@pytest.mark.parametrize(("by_rows", "kinds"), PLANS)
def test_two_ranks_learn_what_one_learns(
    dataset: Dataset, shape: Shape, tmp_path: Path, one_thread: None, by_rows: list[str], kinds: set[str]
) -> None:
    alone = go(dataset.root, shape, tmp_path / "one", [])
    cut_by_rows(by_rows)
    assert planned(shape) == kinds
    found = in_ranks.call(2, go, dataset.root, shape, tmp_path / "two", by_rows)
    assert_alike(found, alone)
    one, two = (load_best(ClickModel(DLRM(shape)), tmp_path / name).state_dict() for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-4, rtol=0, msg=name)


def test_ids_of_the_next_batch_are_sent_while_this_one_is_learned(
    dataset: Dataset, shape: Shape, tmp_path: Path
) -> None:
    last = ("PipelinedForward", False)  # of those before a check, which looks at a model that waits for nothing
    for told in in_ranks.call(2, watched, dataset.root, shape, tmp_path / "work"):
        assert told == 2 * [("PipelinedForward", True), last, ("PipelinedForward", True), last]


def test_one_rank_learns_the_same_through_the_pipeline(
    dataset: Dataset, shape: Shape, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = go(dataset.root, shape, tmp_path / "in turn", [])

    def piped(optimizer: torch.optim.Optimizer, forward: steps.Forward) -> TrainPipelineSparseDist:
        steps_model = forward.__self__._model  # type: ignore[attr-defined]
        return TrainPipelineSparseDist(steps_model, optimizer, torch.device("cpu"), custom_model_fwd=forward)

    monkeypatch.setattr(steps, "InTurn", piped)
    assert go(dataset.root, shape, tmp_path / "piped", []) == alone


def test_a_table_may_have_fewer_rows_than_there_are_ranks(dataset: Dataset, shape: Shape, tmp_path: Path) -> None:
    low = [table.model_copy(update={"rows": 2, "own": 1}) for table in shape.tables]
    shape = shape.model_copy(update={"tables": low})
    alone = go(dataset.root, shape, tmp_path / "one", [])
    assert_alike(in_ranks.call(3, go, dataset.root, shape, tmp_path / "three", TABLES), alone)


@pytest.mark.parametrize("by_rows", [[], TABLES])
def test_narrow_tables_are_cut_like_others(
    dataset: Dataset, shape: Shape, tmp_path: Path, one_thread: None, by_rows: list[str]
) -> None:
    narrow = shape.model_copy(update={"dim": 2})
    alone = go(dataset.root, narrow, tmp_path / "one", [])
    assert_alike(in_ranks.call(2, go, dataset.root, narrow, tmp_path / "two", by_rows), alone)


def assert_alike(found: list[Position], alone: Position) -> None:
    assert all(one == found[0] for one in found) and found[0].finished
    assert found[0].losses == pytest.approx(alone.losses, abs=1e-6)
    assert found[0].checks == pytest.approx(alone.checks, abs=1e-5)


def test_a_checkpoint_loads_bit_for_bit_under_other_ranks(dataset: Dataset, shape: Shape, tmp_path: Path) -> None:
    """Written by two ranks; read and written again by one and by three, then by two that cut otherwise."""
    work = tmp_path / "work"
    in_ranks.call(2, go, dataset.root, shape, work, ["user"])
    before = tensors(work)
    assert len(before) > 3 * 11 and sum("momentum1" in name for name in before) == 3
    copy(shape, work, tmp_path / "1", [])
    in_ranks.call(3, copy, shape, work, tmp_path / "3", ["user", "tags"])
    in_ranks.call(2, copy, shape, tmp_path / "3", tmp_path / "2", ["item"])
    for other in "123":
        after = tensors(tmp_path / other)
        assert after.keys() == before.keys()
        for name, value in before.items():
            assert torch.equal(after[name], value), (other, name)


def test_every_rank_stops_at_a_loss_that_is_no_number(dataset: Dataset, shape: Shape, tmp_path: Path) -> None:
    """The row lies in the second rank's half; the first must neither learn nor wait for ever."""
    first = next(batches(dataset, Rows("train"), 501, shuffle=np.random.default_rng([5, 0])))
    work = tmp_path / "work"
    found = in_ranks.call(2, go, dataset.root, shape, work, [], 400)
    assert [type(error) for error in found] == [UserError, UserError] and str(found[0]) == str(found[1])
    row = int(first.example_id[400])
    assert str(found[0]) == (
        "train tiny: the loss is nan in epoch 1, batch 1; it was not learned. Not finite: 'price' on the rows with "
        f"example_id {row}. Correct or leave out these rows"
    )
    assert not work.exists()


def test_a_checkpoint_of_other_tensors_is_refused(dataset: Dataset, shape: Shape, tmp_path: Path) -> None:
    work = tmp_path / "work"
    go(dataset.root, shape, work, [])
    cut = shape.model_copy(update={"dim": 4})
    with pytest.raises(UserError, match=r"check-3: this checkpoint .* cut .* and train again$"):
        go(dataset.root, cut, work, [])
    file = next((work / "check-3").glob("*.distcp"))
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match=r"check-3.__0_0.distcp: damaged since .* remove the folder .*work and"):
        go(dataset.root, shape, work, [])
