from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recdistill.clicklog.ingest import ingest
from recdistill.clicklog.schema import Dataset
from recdistill.config import dataset as config
from recdistill.nightly.drift import drift_of, psi

COUNTS = st.lists(st.integers(0, 1000), min_size=2, max_size=10)


@given(COUNTS, st.integers(1, 5))
def test_psi_is_zero_for_alike_and_positive_for_others(counts: list[int], times: int) -> None:
    one = np.array(counts)
    assert psi(one, one) == 0
    assert psi(one, one[::-1]) >= 0
    assert psi(one, one[::-1]) == pytest.approx(psi(one[::-1], one))


def test_psi_by_hand() -> None:
    p, q = np.array([50.5, 50.5]) / 101, np.array([90.5, 10.5]) / 101
    assert psi(np.array([50, 50]), np.array([90, 10])) == pytest.approx(((q - p) * np.log(q / p)).sum())


def test_a_days_drift(make_dataset: Callable[..., Dataset]) -> None:
    dataset = make_dataset(rows=4000)
    drift = drift_of(dataset)
    assert drift.rows == dataset.rows("test") and drift.usual_rows == 500
    assert drift.click_rate == sum(p.positives for p in dataset.manifest.parts if p.split == "test") / drift.rows
    assert drift.psi.keys() == {"user", "item", "tags", "price", "age"}
    assert max(drift.psi.values()) < 0.2  # all days are alike
    assert drift.new_ids.keys() == {"user", "item", "tags"}
    assert max(abs(value) for value in drift.new_ids.values()) < 0.1


def test_a_shifted_feature_shows(make_dataset: Callable[..., Dataset]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    dataset = make_dataset(rows=4000)
    path = dataset.parts("test")[0].path
    table = pq.read_table(path, partitioning=None)
    for name, values in (
        ("price", pa.array(table["price"].to_numpy() + 1, pa.float32())),
        ("item", pa.array(np.zeros(table.num_rows, np.int64))),
    ):
        table = table.set_column(table.schema.get_field_index(name), name, values)
    pq.write_table(table, path)
    drift = drift_of(dataset)
    assert drift.psi["price"] > 0.3 and drift.psi["item"] > 1 and drift.psi["age"] < 0.2
    assert drift.new_ids["item"] > 0.9


def test_that_histories_grow_is_no_drift(tmp_path: Path) -> None:
    """Days that are all alike, of a log that has just begun."""
    rng = np.random.default_rng(0)
    rows = [f"{n // 500},u{rng.integers(60)},i{rng.integers(20)},{n % 2}" for n in range(3000)]
    days = [f"2026-01-{int(row.partition(',')[0]) + 1:02} 10:00:{n % 60:02},{row}" for n, row in enumerate(rows)]
    (tmp_path / "log.csv").write_text("\n".join(["ts,day,user,item,label", *days]))
    spec = config.Dataset.model_validate(
        {
            "log": {"paths": str(tmp_path / "log.csv")},
            "time": {"column": "ts", "unit": "datetime"},
            "split": {"by": "days", "validation": 1, "test": 1},
            "features": {
                "user": {"kind": "single"},
                "item": {"kind": "single"},
                "clicked": {"kind": "history", "user": "user", "of": "item", "matches": ["item"]},
            },
        }
    )
    found = drift_of(ingest(spec, tmp_path / "dataset")).psi
    assert found.keys() == {"user", "item", "clicked"} and max(found.values()) < 0.1
