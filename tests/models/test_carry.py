from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recdistill.clicklog.batches import Rows, batches
from recdistill.clicklog.schema import Dataset, write_dataset
from recdistill.config.models import Student
from recdistill.models.carry import carry, earlier_rows
from recdistill.models.dlrm import DLRM
from recdistill.models.frozen import save_model
from recdistill.models.shape import TableShape, shape_of
from recdistill.models.sharing import Sharing
from recdistill.models.size import solve


def test_rows_follow_values() -> None:
    of_each, before = np.array([0, 1, 2, 2, 1]), np.array([5, 3, 1, 0, 7])
    np.testing.assert_array_equal(earlier_rows(4, of_each, before), [5, 3, 1, 0])


@given(st.integers(2, 40), st.integers(2, 60), st.data())
def test_every_row_begins_somewhere_in_the_earlier_table(height: int, ids: int, data: st.DataObject) -> None:
    height = min(height, ids)
    own = height if height == ids else height * 3 // 4
    table = TableShape(name="t", features=["t"], rows=height, source_rows=ids, own=own, clustered=(ids - own) // 2)
    earlier = np.array(data.draw(st.lists(st.integers(0, ids - 1), min_size=ids, max_size=ids)))
    of_each = Sharing([table]).of(0, np.arange(ids))
    found = earlier_rows(height, of_each, earlier)
    np.testing.assert_array_equal(found[:own], earlier[:own])  # frequent ids decide for themselves
    for row, begins in enumerate(found):
        assert begins in earlier[of_each == row] if row in of_each else begins == 0


@pytest.mark.parametrize("dim", [4, 1])
def test_a_model_says_the_same_under_a_moved_vocabulary(tiny_dataset: Dataset, tmp_path: Path, dim: int) -> None:
    root = tmp_path / "moved"
    shutil.copytree(tiny_dataset.root, root)
    values = pq.read_table(tiny_dataset.vocabulary_path("item"))["value"].to_pylist()[::-1]
    pq.write_table(pa.table({"value": values, "count": [1] * len(values)}), root / "vocabulary" / "item.parquet")
    for part in tiny_dataset.parts():
        rows = pq.read_table(part.path, partitioning=None)
        ids = rows["item"].to_numpy()
        turned = pa.array(np.where(ids == 0, 0, len(values) + 1 - ids))
        at = rows.schema.get_field_index("item")
        pq.write_table(rows.set_column(at, "item", turned), root / f"{part.key}.parquet")
    write_dataset(root, tiny_dataset.schema, tiny_dataset.manifest)
    moved = Dataset(root)
    shape = shape_of(Student(top=[8, 4]), dim, tiny_dataset.schema, None)
    torch.manual_seed(0)
    before, after = DLRM(shape), DLRM(shape)
    save_model(before, tmp_path / "before")
    one, two = (next(batches(d, Rows("test"), 64)) for d in (tiny_dataset, moved))
    assert not torch.allclose(after(two)[0], before(one)[0])
    carry(after, moved, tmp_path / "before", tiny_dataset)
    torch.testing.assert_close(after(two)[0], before(one)[0])


def test_what_does_not_fit_begins_anew(tiny_dataset: Dataset, tmp_path: Path) -> None:
    schema = tiny_dataset.schema
    before = DLRM(shape_of(Student(top=[8, 4]), 4, schema, None))
    save_model(before, tmp_path / "before")
    wider = DLRM(shape_of(Student(top=[8, 4]), 8, schema, None))
    tables = wider.embeddings.state_dict()
    kept = {name: value.clone() for name, value in tables.items()}
    carry(wider, tiny_dataset, tmp_path / "before", tiny_dataset)
    assert all(torch.equal(kept[name], value) for name, value in wider.embeddings.state_dict().items())
    assert torch.equal(wider.top[1][0].weight, before.top[1][0].weight)
    assert wider.top[0][0].weight.shape != before.top[0][0].weight.shape


def test_a_cut_table_is_filled_from_a_whole_one(tiny_dataset: Dataset, tmp_path: Path) -> None:
    schema = tiny_dataset.schema
    before = DLRM(shape_of(Student(top=[8]), 4, schema, None))
    save_model(before, tmp_path / "before")
    (shape,) = solve(Student(top=[8], dims=[4], compression=2), schema, before.shape.parameters())
    small = DLRM(shape)
    carry(small, tiny_dataset, tmp_path / "before", tiny_dataset)
    user = next(table for table in shape.tables if table.name == "user")
    assert user.rows < user.source_rows
    bags, bags_before = small.embeddings.embedding_bags["user"], before.embeddings.embedding_bags["user"]
    assert torch.equal(bags.weight[: user.own], bags_before.weight[: user.own])
