from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from recdistill import parallel
from recdistill.config.models import Train
from recdistill.errors import UserError
from recdistill.models import sharding
from recdistill.models.dlrm import DLRM
from recdistill.models.shape import Shape
from recdistill.models.sharding import cut_by_rows, plan_for, quiet, shard
from recdistill.models.task import ClickModel

SIZES = {"user": 80, "item": 40, "tags": 12}


class Beside(nn.Module):
    """A model with something trained beside it, and something frozen."""

    def __init__(self, model: DLRM) -> None:
        super().__init__()
        self.model, self.beside, self.frozen = model, nn.Linear(3, 2), nn.Linear(2, 2).requires_grad_(False)


def test_a_sharded_model_begins_as_it_was_built(make_shape: Callable[..., Shape]) -> None:
    """Whatever is built beside it: the students of one seed begin alike under every method."""
    torch.manual_seed(0)
    model = DLRM(make_shape())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with quiet():
        shard(Beside(model), Train())
    after = model.state_dict()
    assert after.keys() == before.keys()
    for name, value in after.items():
        local = value.local_shards()[0].tensor if hasattr(value, "local_shards") else value
        assert torch.equal(local.cpu(), before[name]), name


def test_a_model_without_numbers_is_given_some(make_shape: Callable[..., Shape]) -> None:
    model = DLRM(make_shape())
    model.embeddings = DLRM(make_shape(), device=torch.device("meta")).embeddings
    before = model.head.bias.clone()
    with quiet():
        shard(ClickModel(model), Train())
    tables = [value for name, value in model.state_dict().items() if name.startswith("embeddings")]
    assert len(tables) == 3 and all(table.local_shards()[0].tensor.abs().max() > 0 for table in tables)
    assert torch.equal(model.head.bias.cpu(), before)


def test_the_optimizers_have_what_is_trained_and_nothing_else(make_shape: Callable[..., Shape]) -> None:
    with quiet():
        sharded, optimizer = shard(Beside(DLRM(make_shape())), Train(embedding_rate=0.3, dense_rate=0.2))
    frozen = {"frozen.weight", "frozen.bias"}
    names = {name.removeprefix("dense.") for name in optimizer.params}
    assert {name for name, _ in sharded.named_parameters()} - names == frozen and not names & frozen
    rates = {round(group["lr"], 6) for group in optimizer.param_groups}
    assert rates == {0.3, 0.2}


@pytest.mark.usefixtures("on_cpus")
def test_a_checkpoint_has_the_state_of_what_never_had_a_gradient(make_shape: Callable[..., Shape]) -> None:
    """What a step does not use, such as the questions to a teacher that was not asked yet."""
    with quiet():
        sharded, optimizer = shard(Beside(DLRM(make_shape())), Train())
    before = {name: sorted(value) for name, value in optimizer.state_dict()["state"].items()}
    some = [name for name in before if name.startswith("dense.")]
    assert some and all(before[name] == ["exp_avg", "exp_avg_sq", "step"] for name in some)
    first = next(value for value in sharded.parameters() if value.requires_grad and value.dim() == 2)
    first.grad = torch.ones_like(first)
    optimizer.step()
    assert {name: sorted(value) for name, value in optimizer.state_dict()["state"].items()} == before


def test_tables_are_kept_whole_or_cut_into_rows_only(make_shape: Callable[..., Shape]) -> None:
    """Other ways to cut a table change row-wise Adagrad's arithmetic."""
    found = set()
    for world in (1, 2, 3, 40):
        tables = planned(make_shape(), world)
        assert tables.keys() == {"user", "item", "tags"}
        for name, table in tables.items():
            found.add((world, table.sharding_type))
            assert table.sharding_type in ("table_wise", "row_wise") and table.compute_kernel == "fused"
            shards = [shard.shard_sizes for shard in table.sharding_spec.shards]
            assert sum(rows for rows, _ in shards) == SIZES[name] and all(rows and dim == 8 for rows, dim in shards)
    assert {kind for world, kind in found if world == 1} == {"table_wise"}
    assert len({kind for world, kind in found if world == 2}) == 2


def test_tables_are_cut_by_rows_where_it_is_asked(
    make_shape: Callable[..., Shape], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharding, "_by_rows", set())
    cut_by_rows(["user", "tags"])
    # Of twelve rows six ranks have two each, and two ranks none: such a table stays whole.
    for world, kind in ((2, "row_wise"), (4, "row_wise"), (8, "table_wise")):
        tables = planned(make_shape(), world)
        assert (tables["user"].sharding_type, tables["tags"].sharding_type) == ("row_wise", kind)


@pytest.mark.usefixtures("on_cpus")
def test_tables_that_do_not_fit_are_refused(make_shape: Callable[..., Shape], monkeypatch: pytest.MonkeyPatch) -> None:
    big = [table.model_copy(update={"rows": 10**9}) for table in make_shape().tables]
    shape = make_shape().model_copy(update={"tables": big})
    monkeypatch.setattr(parallel, "memory", lambda: 80 * 2**30)
    with pytest.raises(UserError, match="3 tables with their optimizer, 100.6 GiB, do not fit into 2 ranks of 40.0"):
        planned(shape, 2)
    monkeypatch.setattr(parallel, "memory", lambda: 160 * 2**30)
    assert planned(shape, 2)


def planned(shape: Shape, world: int) -> dict[str, Any]:
    with quiet():
        return plan_for(DLRM(shape, torch.device("meta")), world, world, 1024).plan["embeddings"]
