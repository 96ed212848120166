from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from recdistill.config.models import Train
from recdistill.models.dlrm import DLRM
from recdistill.models.shape import Shape
from recdistill.models.sharding import plan, quiet, shard
from recdistill.models.task import ClickModel


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
        assert torch.equal(local, before[name]), name


def test_a_model_without_numbers_is_given_some(make_shape: Callable[..., Shape]) -> None:
    model = DLRM(make_shape())
    model.embeddings = DLRM(make_shape(), device=torch.device("meta")).embeddings
    before = model.head.bias.clone()
    with quiet():
        shard(ClickModel(model), Train())
    tables = [value for name, value in model.state_dict().items() if name.startswith("embeddings")]
    assert len(tables) == 3 and all(table.local_shards()[0].tensor.abs().max() > 0 for table in tables)
    assert torch.equal(model.head.bias, before)


def test_the_optimizers_have_what_is_trained_and_nothing_else(make_shape: Callable[..., Shape]) -> None:
    with quiet():
        sharded, optimizer = shard(Beside(DLRM(make_shape())), Train(embedding_rate=0.3, dense_rate=0.2))
    frozen = {"frozen.weight", "frozen.bias"}
    names = {name.removeprefix("dense.") for name in optimizer.params}
    assert {name for name, _ in sharded.named_parameters()} - names == frozen and not names & frozen
    rates = {round(group["lr"], 6) for group in optimizer.param_groups}
    assert rates == {0.3, 0.2}


def test_tables_are_kept_whole_or_cut_into_rows_only(make_shape: Callable[..., Shape]) -> None:
    """Other ways to cut a table change row-wise Adagrad's arithmetic."""
    with quiet():
        placed = plan(ClickModel(DLRM(make_shape())))
    tables = placed.plan["model.embeddings"]
    assert tables.keys() == {"user", "item", "tags"}
    for table in tables.values():
        assert table.sharding_type in ("table_wise", "row_wise") and table.compute_kernel == "fused"
