"""A tiny dataset, written by hand in the dataset contract, whose labels can be learned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recdistill.clicklog.schema import (
    SPLITS,
    Dataset,
    DenseColumn,
    Manifest,
    PartRecord,
    Schema,
    Sparse,
    SplitName,
    Table,
    part_key,
    write_dataset,
)
from recdistill.files import file_sha256

USERS, ITEMS, TAGS = 80, 40, 12
"""Ids of each table, row 0 included."""


def tiny_schema(**changes: Any) -> Schema:
    """Two single features (`user` may be missing), a bag, two dense ones."""
    sizes = {"user": USERS, "item": ITEMS, "tags": TAGS}
    return Schema(
        sparse=[Sparse(name=name, kind="bag" if name == "tags" else "single", table=name, source={}) for name in sizes],
        dense=[DenseColumn(name=name, mean=0.0, std=1.0, source={}) for name in ("price", "age")],
        tables=[Table(name=name, rows=rows, encoding="vocabulary") for name, rows in sizes.items()],
        **changes,
    )


def tiny_rows(rows: int, seed: int = 0) -> tuple[dict[str, pa.Array], np.ndarray]:
    """Columns of `rows` impressions and their true log-odds. A row's worth lies in user, item, tags and price."""
    world = np.random.default_rng(7)
    user_taste, item_worth, tag_worth = (world.normal(0, 1, size) for size in (USERS, ITEMS, TAGS))
    rng = np.random.default_rng(seed)
    user = rng.integers(0, USERS, rows)
    item = np.minimum(rng.geometric(0.08, rows), ITEMS - 1)
    lengths = rng.integers(0, 5, rows)
    tags = rng.integers(0, TAGS, lengths.sum())
    price, age = rng.normal(size=(2, rows))
    row = np.repeat(np.arange(rows), lengths)
    tag_mean = np.bincount(row, tag_worth[tags], minlength=rows) / np.maximum(lengths, 1)
    truth = -0.5 + user_taste[user] + item_worth[item] + tag_mean + 0.7 * price * np.sign(user_taste[user])
    label = (rng.random(rows) < 1 / (1 + np.exp(-truth))).astype(np.float32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    columns = {
        "example_id": pa.array(rng.permutation(10 * rows)[:rows].astype(np.int64) - 3 * rows),
        "label": pa.array(label),
        "price": pa.array(price.astype(np.float32)),
        "age": pa.array(age.astype(np.float32)),
        "user": pa.array(user, mask=rng.random(rows) < 0.05),
        "item": pa.array(item),
        "tags": pa.ListArray.from_arrays(offsets, pa.array(tags)),
    }
    return columns, truth


def write_tiny(
    root: Path, rows: int = 3000, days: int = 8, seed: int = 0, weighted: bool = False, keep_rate: float = 1.0
) -> Dataset:
    """Writes the dataset: one part a day, the last day tests, the one before validates."""
    columns, _ = tiny_rows(rows, seed)
    if weighted:
        columns["weight"] = pa.array(np.random.default_rng(seed).integers(1, 4, rows).astype(np.float32))
    table, parts = pa.table(columns), []
    for day, at in enumerate(np.array_split(np.arange(rows), days)):
        split: SplitName = SPLITS[max(0, day - days + 3)]
        name = f"2026-01-{day + 1:02d}"
        path = root / (part_key(name, split, 0) + ".parquet")
        path.parent.mkdir(parents=True, exist_ok=True)
        chosen = table.slice(at[0], len(at))
        pq.write_table(chosen, path)
        positives = int(chosen["label"].to_numpy().sum())
        parts.append(
            PartRecord(day=name, split=split, index=0, rows=len(at), positives=positives, sha256=file_sha256(path))
        )
    vocabulary = root / "vocabulary"
    vocabulary.mkdir()
    for feature, size in {"user": USERS, "item": ITEMS, "tags": TAGS}.items():
        values = {"value": [f"{feature[0]}{value}" for value in range(1, size)], "count": [1] * (size - 1)}
        pq.write_table(pa.table(values), vocabulary / f"{feature}.parquet")
    write_dataset(root, tiny_schema(has_weight=weighted, negative_keep_rate=keep_rate), Manifest(parts=parts))
    return Dataset(root)


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """3000 rows over eight days: six train, one validates, one tests. Read only."""
    return write_tiny(tmp_path_factory.mktemp("tiny") / "dataset")


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., Dataset]:
    """Writes a tiny dataset of its own: `make_dataset(rows, days, seed, weighted, keep_rate)`."""
    return lambda **options: write_tiny(tmp_path / "dataset", **options)
