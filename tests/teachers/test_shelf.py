from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from torchrec import KeyedJaggedTensor

from recdistill.clicklog.batches import Block, Rows, read_blocks
from recdistill.clicklog.schema import Dataset, write_dataset
from recdistill.errors import UserError
from recdistill.teachers.shelf import Shelf


def block_of(dataset: Dataset, shelf: Shelf) -> Block:
    part = dataset.parts("test")[0]
    return next(read_blocks(dataset, Rows("test"), parts=[part], join=shelf.view(dataset)))


def asked(shelf: Shelf, version: str, block: Block, path: Path, text: str, keep: float = 1.0) -> str:
    """What is at `path` when the answers are there: kept ones, or `text`, which is then kept."""
    kept = shelf.kept(version, block, keep)
    if not kept.fetch(path):
        path.write_text(text)
        kept.put(path)
    return path.read_text()


@pytest.fixture
def moved(tiny_dataset: Dataset, tmp_path: Path) -> Dataset:
    """The same rows under another vocabulary of users: its order is turned around, and one value is new."""
    root = tmp_path / "moved"
    shutil.copytree(tiny_dataset.root, root)
    path = tiny_dataset.vocabulary_path("user")
    values = [*pq.read_table(path)["value"].to_pylist()[::-1], "somebody new"]
    pq.write_table(pa.table({"value": values, "count": [1] * len(values)}), root / "vocabulary" / "user.parquet")
    schema = tiny_dataset.schema
    tables = [t.model_copy(update={"rows": len(values) + 1}) if t.name == "user" else t for t in schema.tables]
    for part in tiny_dataset.parts():
        table = pq.read_table(part.path, partitioning=None)
        ids = table["user"].to_pandas()
        turned = ids.where(ids.isna() | (ids == 0), len(values) - ids)
        column = pa.array([None if value != value else int(value) for value in turned], pa.int64())
        pq.write_table(
            table.set_column(table.schema.get_field_index("user"), "user", column), root / f"{part.key}.parquet"
        )
    write_dataset(root, schema.model_copy(update={"tables": tables}), tiny_dataset.manifest)
    return Dataset(root)


def ids_of(block: Block) -> KeyedJaggedTensor:
    return block.cut(0, block.rows).sparse


def test_a_teacher_sees_the_same_row_under_any_vocabulary(
    tiny_dataset: Dataset, moved: Dataset, tmp_path: Path
) -> None:
    shelf = Shelf(tmp_path / "shelf", tiny_dataset.root, "monday")
    assert shelf.view(tiny_dataset) is None
    one, two = ids_of(block_of(tiny_dataset, shelf)), ids_of(block_of(moved, shelf))
    np.testing.assert_array_equal(one.values(), two.values())
    np.testing.assert_array_equal(one.lengths(), two.lengths())
    plain = ids_of(next(read_blocks(moved, Rows("test"))))
    assert not np.array_equal(plain.values(), one.values())


def test_what_was_said_once_is_not_asked_again(tiny_dataset: Dataset, moved: Dataset, tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "shelf", tiny_dataset.root, "monday")
    one, two = block_of(tiny_dataset, shelf), block_of(moved, shelf)
    assert asked(shelf, "weights", one, tmp_path / "one", "answers") == "answers"
    assert asked(shelf, "weights", two, tmp_path / "two", "never written") == "answers"
    assert asked(shelf, "other weights", two, tmp_path / "three", "other") == "other"
    assert asked(shelf, "weights", two, tmp_path / "four", "fewer", keep=0.7) == "fewer"


def test_a_changed_row_is_asked_again(
    make_dataset: Callable[..., Dataset], tiny_dataset: Dataset, tmp_path: Path
) -> None:
    shelf = Shelf(tmp_path / "shelf", tiny_dataset.root, "monday")
    block = block_of(tiny_dataset, shelf)
    asked(shelf, "weights", block, tmp_path / "one", "answers")
    block.dense[5, 0] += 1e-6
    assert asked(shelf, "weights", block, tmp_path / "two", "new") == "new"


def test_damage_is_noticed_and_made_good(tiny_dataset: Dataset, tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "shelf", tiny_dataset.root, "monday")
    block = block_of(tiny_dataset, shelf)
    asked(shelf, "weights", block, tmp_path / "one", "answers")
    (kept,) = (tmp_path / "shelf" / "weights").iterdir()
    kept.unlink()
    kept.write_text("damaged")
    assert asked(shelf, "weights", block, tmp_path / "two", "answers") == "answers"
    assert [path.read_text() for path in (tmp_path / "shelf" / "weights").iterdir()] == ["answers"]


def test_other_means_or_salts_are_refused(tiny_dataset: Dataset, moved: Dataset, tmp_path: Path) -> None:
    schema = moved.schema
    dense = [column.model_copy(update={"mean": 1.0}) for column in schema.dense]
    write_dataset(moved.root, schema.model_copy(update={"dense": dense}), moved.manifest)
    with pytest.raises(UserError, match="not made as the teachers .* know them; teach again"):
        Shelf(tmp_path / "shelf", tiny_dataset.root, "monday").view(Dataset(moved.root))


def test_the_first_calibration_stays(tiny_dataset: Dataset, tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "shelf", tiny_dataset.root, "monday")
    assert shelf.calibration("weights", lambda: (2.0, 0.5)) == (2.0, 0.5)
    assert shelf.calibration("weights", lambda: (9.0, 9.0)) == (2.0, 0.5)
    assert shelf.calibration("other", lambda: (9.0, 9.0)) == (9.0, 9.0)
