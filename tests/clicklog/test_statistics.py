from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recdistill.clicklog.ingest import ingest
from recdistill.clicklog.statistics import Moments, transform
from recdistill.config.dataset import Dataset as Section

NUMBERS = st.lists(st.floats(-1e6, 1e6), max_size=50)


@given(st.lists(NUMBERS, max_size=5))
def test_merged_moments_equal_those_of_all_values(parts):
    values = np.array([value for part in parts for value in part])
    merged = sum((Moments.of(np.array(part)) for part in parts), Moments())
    assert merged.count == len(values)
    if len(values):
        assert merged.mean == pytest.approx(values.mean(), abs=1e-6)
        assert np.sqrt(merged.squares / merged.count) == pytest.approx(values.std(), abs=1e-4)


def test_values_all_alike_have_unit_deviation():
    assert Moments.of(np.full(5, 3.0)).std == Moments().std == 1.0
    for size in (3, 1000, 65_536):  # the mean of many 0.1 is not 0.1
        parts = Moments.of(np.full(size, 0.1)) + Moments.of(np.full(7, 0.1))
        assert parts.std == 1.0
    assert Moments.of(1e9 + np.arange(10.0)).std == pytest.approx(np.arange(10).std())


def test_transform():
    values = np.array([0.0, np.e - 1, 1 - np.e, np.inf, 1e300])
    assert transform(values, "log")[:3] == pytest.approx([0, 1, -1])
    assert transform(values, "none")[:3] == pytest.approx(values[:3])
    for name in ("log", "none"):
        assert np.isnan(transform(values, name)[3:]).all()


def vocabulary(dataset, table):
    return pq.read_table(dataset.vocabulary_path(table)).to_pydict()


def one_feature(logs, values, split, feature, **changes):
    """Ingests one feature; rows that `split` marks are the first ones, which train."""
    rows = len(values) + 2 * split
    log = {"x": [*values, *[None] * 2 * split], "clicked": ([0, 1] * rows)[:rows]}
    section = {"example_id": None, "time": None, "features": {"x": feature}, **changes}
    fraction = split / rows
    return logs.ingest(log, split={"by": "order", "validation": fraction, "test": fraction}, **section)


def test_a_vocabulary_is_ordered_by_count_then_value(logs):
    values = ["b", "a", "c", "é", "c", "b", "a", "d", "B"]
    dataset = one_feature(logs, values, 3, {"kind": "single"})
    assert vocabulary(dataset, "x") == {"value": ["a", "b", "c", "B", "d", "é"], "count": [2, 2, 2, 1, 1, 1]}
    assert dataset.schema.table("x").rows == 7


def test_rare_values_and_those_over_the_limit_are_left_out(logs):
    values = ["a"] * 4 + ["b"] * 3 + ["c"] * 2 + ["d"]
    rare = one_feature(logs, values, 3, {"kind": "single", "min_count": 3})
    assert vocabulary(rare, "x") == {"value": ["a", "b"], "count": [4, 3]}
    assert rare.manifest.counts["unseen"] == {"x": 3}
    few = one_feature(logs, values, 3, {"kind": "single", "max_values": 1})
    assert vocabulary(few, "x") == {"value": ["a"], "count": [4]}
    none = one_feature(logs, values, 3, {"kind": "single", "min_count": 99})
    assert none.schema.table("x").rows == 1 and none.manifest.counts["unseen"] == {"x": 10}


def test_a_bag_counts_what_is_left_after_cutting(logs, read):
    bag = {"kind": "bag", "delimiter": "|", "max_length": 2}
    dataset = one_feature(logs, ["a|b|c", "a", "b|a", "c|c|a"], 2, bag)
    assert vocabulary(dataset, "x") == {"value": ["a", "b", "c"], "count": [3, 2, 2]}
    assert read(dataset)["x"].to_pylist()[:4] == [[1, 2], [1], [2, 1], [3, 3]]
    assert dataset.manifest.counts["truncated"] == {"x": 2}
    assert dataset.manifest.counts["missing"] == {"x": 4}


@pytest.mark.parametrize("bins", [2, 3, 7])
def test_bucket_boundaries_are_quantiles_of_training_values(logs, read, bins):
    rng = np.random.default_rng(bins)
    values = [None if x < 0.1 else float(x) for x in rng.random(200)] + [float("inf"), float("-inf"), -0.0, 0.0]
    dataset = one_feature(logs, values, 9, {"kind": "bucket", "bins": bins})
    finite = np.sort([value for value in values if value is not None and np.isfinite(value)])
    expected = [finite[i * len(finite) // bins] for i in range(1, bins)]
    assert dataset.schema.table("x").boundaries == expected
    assert dataset.schema.table("x").rows == len(expected) + 2
    got = read(dataset)["x"].to_pylist()[: len(values)]
    assert got == [None if v is None else 1 + sum(b <= v for b in expected) for v in values]


def test_a_bucket_without_spread_has_one_bin(logs):
    assert one_feature(logs, [5.0] * 8, 2, {"kind": "bucket"}).schema.table("x").boundaries == []
    assert one_feature(logs, [None] * 8, 2, {"kind": "bucket"}).schema.table("x").boundaries == []


@pytest.mark.parametrize("how", ["none", "log"])
def test_dense_values_are_standardised_over_training_rows(logs, read, how):
    values = [1.0, 2.0, None, 9.0, float("inf"), 4.0, 1e200, -3.0]
    dataset = one_feature(logs, values, 2, {"kind": "dense", "transform": how})
    got = read(dataset)["x"].to_numpy()
    finite = [0, 1, 3, 5, 7]
    assert got[finite].mean() == pytest.approx(0, abs=1e-6) and got[finite].std() == pytest.approx(1, abs=1e-6)
    assert (got[[2, 4, 6, 8, 9, 10, 11]] == 0).all()
    assert dataset.manifest.counts["not_finite"] == {"x": 2}
    assert dataset.manifest.counts["missing"] == {"x": 5}


def test_dense_values_can_stay_as_they_are(logs, read):
    dataset = one_feature(logs, [1.0, 2.5, None, -7.0], 2, {"kind": "dense", "standardise": False})
    assert read(dataset)["x"].to_pylist()[:4] == [1.0, 2.5, 0.0, -7.0]


def test_a_hashed_feature_reports_distinct_values_that_share_an_id(logs, read):
    values = [f"v{number}" for number in range(50)]
    dataset = one_feature(logs, values, 5, {"kind": "single", "hash": {"size": 20, "salt": 5}})
    ids = read(dataset)["x"].to_pylist()[:50]
    assert dataset.manifest.counts["collisions"] == {"x": 50 - len(set(ids))}
    assert min(ids) >= 1 and max(ids) <= 20 and dataset.schema.table("x").rows == 21
    assert dataset.schema.table("x").salt == 5 and not dataset.vocabulary_path("x").exists()


def test_a_dataset_may_keep_what_another_one_learned(tmp_path):
    """Numbers mean the same; ids are its own, and every value of the other one has one."""

    def made(name, items, shift, like=None):
        rows = [f"{index % 2},{item},{index + shift}" for index, item in enumerate(items)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["label,item,x", *rows]))
        section = {
            "log": {"paths": str(tmp_path / f"{name}.csv")},
            "split": {"by": "order", "validation": 0.1, "test": 0.1},
            "features": {
                "item": {"kind": "single"},
                "x": {"kind": "dense"},
                "cut": {"kind": "bucket", "column": "x", "bins": 4},
            },
        }
        return ingest(Section.model_validate(section), tmp_path / name, like=like)

    before = made("before", ["a", "b", "b", "c"] * 5, 0)
    after = made("after", ["d", "d", "c", "d"] * 5, 100, before)
    assert after.schema.dense == before.schema.dense
    boundaries = [next(t.boundaries for t in d.schema.tables if t.name == "cut") for d in (before, after)]
    assert boundaries[0] == boundaries[1]
    assert vocabulary(after, "item") == {"value": ["d", "c", "b", "a"], "count": [12, 4, 0, 0]}
    assert after.schema.table("item").rows == 5
    alone = made("alone", ["d", "d", "c", "d"] * 5, 100)
    assert alone.schema.dense != before.schema.dense and vocabulary(alone, "item")["value"] == ["d", "c"]
