from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from recdistill.clicklog.batches import Batch
from recdistill.models.dlrm import DLRM
from recdistill.models.fault import find_fault
from recdistill.models.shape import Shape


@pytest.fixture
def model(make_shape: Callable[..., Shape]) -> DLRM:
    torch.manual_seed(0)
    return DLRM(make_shape())


def test_a_dense_value_is_named_with_its_rows(model: DLRM, one_batch: Batch) -> None:
    one_batch.dense[[3, 9], 1] = torch.tensor([math.nan, math.inf])
    three, nine = one_batch.example_id[[3, 9]].tolist()
    assert find_fault(model, one_batch) == (
        f"Not finite: 'age' on the rows with example_id {three}, {nine}. Correct or leave out these rows"
    )


def test_a_sentence_does_not_list_everything(model: DLRM, one_batch: Batch) -> None:
    one_batch.dense[:, 0] = math.nan
    one_batch.extra = {f"logit.{name}": torch.full((64,), math.nan) for name in "abcdefg"}
    told = find_fault(model, one_batch)
    assert "'price' on the rows" in told and "'logit.d'" in told and "'logit.e'" not in told
    assert "and 59 more" in told and "; and 3 more." in told and len(told) < 700


def test_what_a_teacher_said_is_named(model: DLRM, one_batch: Batch) -> None:
    one_batch.extra = {"logit.llm": torch.zeros(64), "logit.llm?": torch.ones(64).bool()}
    one_batch.extra["embedding.llm"] = torch.zeros(64, 4).half()
    one_batch.extra["embedding.llm"][7, 2] = math.inf
    told = find_fault(model, one_batch)
    assert told.startswith(f"Not finite: 'embedding.llm' on the rows with example_id {int(one_batch.example_id[7])}.")


def test_a_table_that_is_not_finite_is_named_by_its_feature(model: DLRM, one_batch: Batch) -> None:
    row = int(one_batch.sparse["item"].values()[5])
    with torch.no_grad():
        model.embeddings.embedding_bags["item"].weight[row] = math.inf
    told = find_fault(model, one_batch)
    assert told.startswith("Not finite: 'item' on the rows with example_id ")
    assert str(int(one_batch.example_id[5])) in told


def test_a_model_that_diverged_is_told_to_learn_slower(model: DLRM, one_batch: Batch) -> None:
    with torch.no_grad():
        model.head.bias.fill_(math.nan)
    told = find_fault(model, one_batch)
    assert "the model has diverged" in told and "and 59 more" in told and "lower train.embedding_rate" in told
