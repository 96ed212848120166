from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torchrec import KeyedJaggedTensor

from recdistill.clicklog.batches import Batch, Rows, batches
from recdistill.clicklog.schema import Dataset
from recdistill.models.dlrm import DLRM
from recdistill.models.frozen import load_model, save_model
from recdistill.models.shape import Shape
from recdistill.models.size import _cut

LAYOUTS = [
    {"interaction": "dot"},
    {"interaction": "cross", "cross_layers": 3},
    {"interaction": "none"},
    {"features": ["user", "tags"]},
    {"features": ["item", "price"]},
    {"top": [8], "bottom": []},
    {"top": [16, 8, 4]},
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_two_halves_make_the_whole(make_shape: Callable[..., Shape], tiny_dataset: Dataset, layout: dict) -> None:
    shape = make_shape(**layout)
    model = DLRM(shape)
    one_batch = next(batches(tiny_dataset, Rows("train"), 64, features=shape.features))
    z = model.lower(one_batch)
    assert z.shape == (64, shape.embedding_dim) and z.min() >= 0
    (logit, hidden), (again, same) = model(one_batch), model.upper(z)
    assert (logit.shape, hidden.shape) == ((64,), (64, shape.top[-1]))
    assert torch.equal(logit, again) and torch.equal(hidden, same)
    assert torch.equal(model.head(hidden).squeeze(1), logit)


@pytest.mark.parametrize("dim", [8, 2, 1])
def test_vectors_are_the_means_of_their_rows(make_shape: Callable[..., Shape], one_batch: Batch, dim: int) -> None:
    model = DLRM(make_shape(dim=dim))
    vectors = model.vectors(one_batch)
    assert vectors.shape == (64, 4, dim)
    empty = 0
    for field, name in enumerate(["user", "item", "tags"]):
        table = model.embeddings.embedding_bags[name].weight.view(-1, dim)
        for row, bag in enumerate(one_batch.sparse[name].to_dense()):
            expected = table[bag].mean(0) if len(bag) else torch.zeros(dim)
            torch.testing.assert_close(vectors[row, field], expected)
            empty += not len(bag)
    assert empty
    torch.testing.assert_close(vectors[:, 3], model.bottom(one_batch.dense))


def test_dot_interaction_is_every_pair_once(make_shape: Callable[..., Shape]) -> None:
    model, vectors = DLRM(make_shape()), torch.randn(5, 4, 8)
    expected = [
        torch.cat([row.flatten(), torch.stack([row[i] @ row[j] for i in range(4) for j in range(i + 1, 4)])])
        for row in vectors
    ]
    torch.testing.assert_close(model.interact(vectors), torch.stack(expected))
    assert torch.autograd.gradcheck(model.interact, vectors.double().requires_grad_())


def test_cross_interaction_is_that_of_dcn_v2(make_shape: Callable[..., Shape]) -> None:
    model, vectors = DLRM(make_shape(interaction="cross", cross_layers=2)), torch.randn(5, 4, 8)
    x0 = x = vectors.flatten(1)
    for layer in model.cross.layers:
        x = x0 * (x @ layer.weight.T + layer.bias) + x
    torch.testing.assert_close(model.interact(vectors), x)


@pytest.mark.parametrize("dim", [8, 2])
def test_a_model_with_shared_rows_scores_the_same_after_saving(
    make_shape: Callable[..., Shape], tiny_dataset: Dataset, tmp_path: object, dim: int
) -> None:
    model = DLRM(_cut(make_shape(dim=dim), 10)).eval()
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    for batch in batches(tiny_dataset, Rows("test"), 100):
        assert torch.equal(model(batch)[0], again(batch)[0])


def test_features_may_come_in_any_order(make_shape: Callable[..., Shape], one_batch: Batch) -> None:
    for shape in (make_shape(), _cut(make_shape(), 10), make_shape(dim=2), _cut(make_shape(dim=1), 10)):
        model = DLRM(shape).eval()
        keys = one_batch.sparse.keys()[::-1]
        turned = KeyedJaggedTensor.from_jt_dict({key: one_batch.sparse[key] for key in keys})
        assert turned.keys() == keys != shape.sparse
        assert torch.equal(model(replace(one_batch, sparse=turned))[0], model(one_batch)[0])


def test_dropout_is_for_training(make_shape: Callable[..., Shape], one_batch: Batch) -> None:
    model = DLRM(make_shape(dropout=0.5))
    assert not torch.equal(model(one_batch)[0], model(one_batch)[0])
    model.eval()
    assert torch.equal(model(one_batch)[0], model(one_batch)[0])
