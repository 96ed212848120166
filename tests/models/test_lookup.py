from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torchrec import KeyedJaggedTensor

from recdistill.clicklog.batches import Batch, Rows, batches
from recdistill.clicklog.schema import Dataset
from recdistill.errors import UserError
from recdistill.models.dlrm import DLRM
from recdistill.models.lookup import Lookup
from recdistill.models.shape import Shape
from recdistill.models.size import _cut


@pytest.mark.parametrize("rows", [1, 200])
@pytest.mark.parametrize("height", [3, 10_000])
@pytest.mark.parametrize("dim", [1, 2, 4])
@pytest.mark.parametrize("known", [{}, {"user": 20, "tags": 9}])
def test_what_is_looked_up_at_once_is_what_tables_say(
    make_shape: Callable[..., Shape], tiny_dataset: Dataset, known: dict[str, int], dim: int, height: int, rows: int
) -> None:
    batch = next(batches(tiny_dataset, Rows("train"), rows))
    model = DLRM(_cut(make_shape(dim=dim), height, known)).eval()
    if model.shape.clusters:  # not by hash, as they are until they are filled
        model.row_map.sharing.fill(torch.zeros(sum(model.row_map.sharing.clustered), dtype=torch.int32))
    served = copy.deepcopy(model).at_once()
    torch.testing.assert_close(served.vectors(batch), model.vectors(batch))
    torch.testing.assert_close(served(batch)[0], model(batch)[0])
    turned = batch.sparse.permute([2, 0, 1])
    assert turned.keys() != batch.sparse.keys()
    batch.sparse = turned
    torch.testing.assert_close(served(batch)[0], model(batch)[0])


def test_a_served_model_has_one_tensor_for_all_tables_and_no_collection(make_shape: Callable[..., Shape]) -> None:
    model = DLRM(make_shape(dim=2))
    kept = model.shape.account()["tables"]
    served = model.at_once()
    assert isinstance(served.lookup, Lookup) and served.lookup.tables.numel() == kept
    assert not any("embedding_bags" in name for name, _ in served.named_parameters())


@pytest.mark.parametrize("feature", ["user", "item", "tags"])
@pytest.mark.parametrize("beyond", [-1, None, 2**40])
def test_an_id_that_its_table_does_not_have_is_an_error(
    make_shape: Callable[..., Shape], one_batch: Batch, feature: str, beyond: int | None
) -> None:
    """The next table begins where its table ends, and must not answer for it."""
    served = DLRM(make_shape(dim=2)).at_once()
    table = next(table for table in served.shape.tables if feature in table.features)
    sparse = one_batch.sparse
    ids, at = sparse.values().clone(), sparse.offset_per_key()[sparse.keys().index(feature)] + 1
    ids[at] = table.rows if beyond is None else beyond
    one_batch.sparse = KeyedJaggedTensor(keys=sparse.keys(), values=ids, lengths=sparse.lengths())
    with pytest.raises(UserError, match=rf"feature '{feature}': id {int(ids[at])} is not one of the {table.rows} rows"):
        served(one_batch)
