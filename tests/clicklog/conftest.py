"""Small logs and what ingest makes of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from recdistill.clicklog.ingest import ingest
from recdistill.clicklog.schema import SPLITS, Dataset
from recdistill.config.dataset import Dataset as Section

Table = dict[str, Any]


def small_log(rows: int = 300, seed: int = 0, days: int = 6) -> Table:
    """A log with a column for every kind of feature; times in milliseconds, ascending, some of them equal."""
    rng = np.random.default_rng(seed)
    start = 1_700_000_000_000 // 86_400_000 * 86_400_000
    times = np.sort(rng.integers(0, days * 24 * 60, rows)) * 60_000 + start
    return {
        "id": list(range(1000, 1000 + rows)),
        "when": times.tolist(),
        "clicked": rng.integers(0, 2, rows).tolist(),
        "user": [f"u{number}" for number in rng.integers(0, 12, rows)],
        "item": rng.integers(0, 30, rows).tolist(),
        "tags": ["|".join(f"t{tag}" for tag in rng.integers(0, 9, size)) or None for size in rng.integers(0, 4, rows)],
        "price": [None if x < 0.1 else round(float(x) * 50, 3) for x in rng.random(rows)],
        "age": [None if x < 0.1 else int(60 * x) for x in rng.random(rows)],
    }


FEATURES: dict[str, Any] = {
    "user": {"kind": "single"},
    "item": {"kind": "single", "min_count": 3},
    "hashed": {"kind": "single", "column": "item", "hash": {"size": 7, "salt": 3}},
    "tags": {"kind": "bag", "delimiter": "|"},
    "price": {"kind": "dense", "transform": "log"},
    "age": {"kind": "bucket", "bins": 4},
    "liked": {"kind": "history", "user": "user", "of": "item", "last": 3},
}
SECTION: dict[str, Any] = {
    "example_id": "id",
    "label": {"column": "clicked"},
    "time": {"column": "when", "unit": "ms"},
    "split": {"by": "days", "validation": 1, "test": 1},
    "features": FEATURES,
}


class Logs:
    """Writes logs to a folder of their own and ingests them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, table: Table, name: str = "log.parquet") -> Path:
        """A raw file, in the format that its name's suffix tells."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        arrow = pa.table(table)
        if path.suffix == ".parquet":
            pq.write_table(arrow, path)
            return path
        options = pyarrow.csv.WriteOptions(delimiter="\t" if ".tsv" in name else ",")
        codec = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)
        with pa.output_stream(str(path), compression=codec) as stream:
            pyarrow.csv.write_csv(arrow, stream, options)
        return path

    def section(self, raw: Table | Path | list[str], **changes: Any) -> Section:
        """A `dataset:` section for a log: `SECTION` with some keys changed; None takes one out."""
        if isinstance(raw, dict):
            raw = self.write(raw)
        paths = raw if isinstance(raw, list) else [str(raw)]
        section = {"log": {"paths": paths}, **SECTION, **changes}
        return Section.model_validate({key: value for key, value in section.items() if value is not None})

    def ingest(self, raw: Table | Path | list[str], out: str = "dataset", **changes: Any) -> Dataset:
        """The dataset that `section` gives."""
        return ingest(self.section(raw, **changes), self.folder / out)


@pytest.fixture
def logs(tmp_path: Path) -> Logs:
    """Writes logs and ingests them, below the test's own folder."""
    return Logs(tmp_path)


@pytest.fixture
def small() -> Callable[..., Table]:
    """Makes a small log: `small(rows, seed, days)`."""
    return small_log


@pytest.fixture
def features() -> dict[str, Any]:
    """One feature of every kind, over the columns of a small log."""
    return dict(FEATURES)


@pytest.fixture
def read() -> Callable[..., pa.Table]:
    """Reads a dataset's rows, in its order: `read(dataset, split)`."""

    def rows(dataset: Dataset, split: Any = None) -> pa.Table:
        splits = SPLITS if split is None else (split,)
        tables = [
            pq.read_table(part.path, partitioning=None).append_column("split", pa.array([name] * part.rows))
            for name in splits
            for part in dataset.parts(name)
        ]
        return pa.concat_tables(tables)

    return rows
