from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recdistill.clicklog.batches import Rows, batches
from recdistill.clicklog.recombine import recombine
from recdistill.clicklog.schema import Dataset
from recdistill.config.job import Recombine

GROUPS = [["item", "tags"], ["price"]]


def rows_of(dataset: Dataset, split: str, day: str) -> pa.Table:
    parts = dataset.parts(split, [day])  # type: ignore[arg-type]
    return pa.concat_tables([pq.read_table(part.path, partitioning=None) for part in parts])


@pytest.fixture(scope="module")
def made(tiny_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return recombine(tiny_dataset, Recombine(rows=2.5, groups=GROUPS), tmp_path_factory.mktemp("recombined"))


def test_each_training_part_gives_its_share_and_no_other_split_does(tiny_dataset: Dataset, made: Dataset) -> None:
    shown = {part.day: part.rows for part in tiny_dataset.parts("train")}
    assert {part.day: part.rows for part in made.parts()} == {day: round(2.5 * rows) for day, rows in shown.items()}
    assert {part.split for part in made.parts()} == {"unlabelled"}


def test_rows_of_another_split_can_be_recombined_and_their_labels_stay_there(
    tiny_dataset: Dataset, tmp_path: Path
) -> None:
    some = recombine(tiny_dataset, Recombine(rows=1, groups=GROUPS), tmp_path, split="validation")
    shown = tiny_dataset.parts("validation")
    assert [(part.day, part.rows) for part in some.parts()] == [(part.day, part.rows) for part in shown]
    assert {part.split for part in some.parts()} == {"unlabelled"}
    assert all("label" not in rows_of(some, "unlabelled", day).column_names for day in some.days)


def test_groups_stay_together_and_every_row_is_new_to_its_day(tiny_dataset: Dataset, made: Dataset) -> None:
    for day in made.days:
        shown, new = rows_of(tiny_dataset, "train", day).to_pylist(), rows_of(made, "unlabelled", day).to_pylist()
        items = {(row["item"], tuple(row["tags"])): None for row in shown}
        rest = {(row["user"], row["age"]): row for row in shown}
        swapped: Counter[tuple[bool, bool]] = Counter()
        for row in new:
            assert (row["item"], tuple(row["tags"])) in items
            base = rest[row["user"], row["age"]]
            swapped[row["item"] != base["item"], row["price"] != base["price"]] += 1
        # Another row may have the same item; prices are all different.
        assert swapped[False, False] < 0.08 * len(new)
        assert all(swapped[kind] > 0.2 * len(new) for kind in [(True, False), (False, True), (True, True)])


def test_each_group_comes_from_elsewhere_in_half_of_the_rows_and_from_a_row_of_its_own(
    tiny_dataset: Dataset, tmp_path: Path
) -> None:
    each = recombine(tiny_dataset, Recombine(rows=20, groups=[["item"], ["tags"], ["user"], ["price"]]), tmp_path)
    for day in each.days:
        shown = {row["age"]: row for row in rows_of(tiny_dataset, "train", day).to_pylist()}
        new = rows_of(each, "unlabelled", day).to_pylist()
        prices = {row["price"]: row for row in shown.values()}
        moved = np.array([row["price"] != shown[row["age"]]["price"] for row in new])
        assert abs(moved.mean() - 8 / 15) < 0.05  # of all choices but that of none
        with_price = np.array([row["user"] == prices[row["price"]]["user"] for row in new])[moved]
        chance = np.mean([row["user"] == other["user"] for row in shown.values() for other in shown.values()])
        assert with_price.mean() < chance + 0.05


def test_rows_have_no_label_and_ids_of_their_own(made: Dataset) -> None:
    tables = [rows_of(made, "unlabelled", day) for day in made.days]
    assert all("label" not in table.column_names for table in tables)
    ids = np.concatenate([table["example_id"].to_numpy() for table in tables])
    assert len(np.unique(ids)) == len(ids) == made.rows("unlabelled")
    for batch in batches(made, Rows("unlabelled"), 500):
        assert not batch.labelled and not batch.label.any() and bool((batch.weight == 1).all())


def test_the_same_settings_give_the_same_bytes(tiny_dataset: Dataset, made: Dataset, tmp_path: Path) -> None:
    again = recombine(tiny_dataset, Recombine(rows=2.5, groups=GROUPS), tmp_path / "again")
    other = recombine(tiny_dataset, Recombine(rows=2.5, groups=GROUPS, seed=1), tmp_path / "other")
    assert again.fingerprint == made.fingerprint != other.fingerprint
