"""Small raw logs, written as people write them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from recdistill.init.draft import Draft, draft

ROWS = 600


def columns(rows: int = ROWS) -> dict[str, Any]:
    """A log of three days with users, items, a price, tags, and a label that depends on the user."""
    rng = np.random.default_rng(0)
    user = rng.integers(0, 40, rows)
    return {
        "label": (rng.random(rows) < np.where(user % 2, 0.6, 0.2)).astype(int),
        "timestamp": 1_767_225_600 + np.sort(rng.integers(0, 3 * 86_400, rows)),
        "user_id": user,
        "item_id": rng.integers(0, 30, rows),
        "price": np.round(rng.lognormal(2, 1, rows), 2),
        "tags": rng.choice(["a|b", "b|c", "a|c", "c|d", "a|d|e", "b|e"], rows),
    }


@pytest.fixture
def log(tmp_path: Path) -> Callable[..., Path]:
    """Writes a log: `log(name, drop, **changed)`; more keywords are more columns."""

    def write(name: str = "log.csv", drop: tuple[str, ...] = (), **more: Any) -> Path:
        kept = {key: values for key, values in columns().items() if key not in drop}
        frame, path = pd.DataFrame({**kept, **more}), tmp_path / name
        if path.suffix == ".parquet":
            frame.to_parquet(path, index=False, row_group_size=50)
        else:
            text = frame.to_csv(index=False, sep="\t" if ".tsv" in name else ",")
            with pa.output_stream(str(path), compression={".gz": "gzip", ".zst": "zstd"}.get(path.suffix)) as file:
                file.write(text.encode())
        return path

    return write


@pytest.fixture
def look(log: Callable[..., Path]) -> Callable[..., Draft]:
    """What `draft` makes of such a log; `label` is passed on to it."""

    def guess(name: str = "log.csv", *, asked: str | None = None, **more: Any) -> Draft:
        return draft([str(log(name, **more))], asked)

    return guess
