from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from recdistill.clicklog.schema import Dataset, Manifest, Table, write_dataset
from recdistill.evaluate import slices
from recdistill.evaluate.predictions import read_rows
from recdistill.evaluate.slices import by_day, cut, importance, slice_metrics


@pytest.fixture
def small(make_world):
    return make_world(rows=600)


@pytest.fixture
def rows(small, tmp_path):
    return read_rows(small.dataset, ["country"], tmp_path)


def test_values_are_the_most_frequent_ones_by_name(small, rows, tmp_path):
    (part,) = cut(small.dataset, rows, tmp_path)
    assert part.names[:2] == ["de", "fr"]
    assert set(part.names) == {"de", "fr", "it", "(missing)", "(not seen in training)"}
    for name, id_ in (("de", 1), ("fr", 2), ("it", 3), ("(missing)", -1), ("(not seen in training)", 0)):
        value = part.names.index(name)
        assert np.array_equal(part.code == value, small.country == id_)
        assert part.rows[value] == (small.country == id_).sum()
        assert part.positives[value] == small.label[small.country == id_].sum()


def test_rare_values_belong_to_no_slice(small, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(slices, "VALUES", 2)
    (part,) = cut(small.dataset, rows, tmp_path)
    assert part.names == ["de", "fr"]
    assert np.array_equal(part.code < 0, ~np.isin(small.country, [1, 2]))


def test_metrics_are_those_of_the_slices_rows(small, rows, tmp_path):
    (part,) = cut(small.dataset, rows, tmp_path)
    logits = np.stack([small.truth, -small.truth]).astype(np.float32)
    found = {record["value"]: record for record in slice_metrics(part, rows, logits, {"a": [0], "b": [0, 1]})}
    inside = small.country == 1
    expected = roc_auc_score(small.label[inside], small.truth[inside])
    assert found["de"]["models"]["a"]["auc"] == pytest.approx(expected)
    assert found["de"]["models"]["b"]["auc"] == pytest.approx(0.5)
    assert found["de"]["models"]["a"]["ne"] < 1 and found["de"]["models"]["a"]["calibration"] > 0
    assert found["de"]["reason"] is None


def test_days_are_told_apart_in_order(small, rows, tmp_path, monkeypatch):
    found = by_day(small.dataset, rows, tmp_path)
    assert found.names == ["2026-01-02", "2026-01-03"] and found.rows == [200, 400]
    assert found.positives == [small.label[:200].sum(), small.label[200:].sum()]
    assert np.array_equal(found.code, np.repeat([0, 1], [200, 400]))
    (first, second) = slice_metrics(found, rows, small.truth[None].astype(np.float32), {"a": [0]})
    assert first["models"]["a"]["auc"] == pytest.approx(roc_auc_score(small.label[:200], small.truth[:200]))
    assert second["models"]["a"]["auc"] == pytest.approx(roc_auc_score(small.label[200:], small.truth[200:]))
    monkeypatch.setattr(slices, "VALUES", 1)
    found = by_day(small.dataset, rows, tmp_path)
    assert found.names == ["2026-01-02"] and np.array_equal(found.code, np.repeat([0, -1], [200, 400]))


def test_one_day_is_not_told_apart(small, rows, tmp_path):
    parts = [part for part in small.dataset.manifest.parts if part.day != "2026-01-03"]
    write_dataset(small.dataset.root, small.dataset.schema, Manifest(parts=parts))
    assert by_day(Dataset(small.dataset.root), rows, tmp_path) is None


def test_a_model_that_skips_rows_has_metrics_where_it_answers_all(small, rows, tmp_path):
    (part,) = cut(small.dataset, rows, tmp_path)
    some = small.truth.astype(np.float32)
    some[np.flatnonzero(small.country == 2)[5]] = np.nan
    found = {record["value"]: record for record in slice_metrics(part, rows, some[None], {"a": [0]})}
    assert found["fr"]["models"]["a"] == {"auc": None, "ne": None, "calibration": None}
    assert found["de"]["models"]["a"]["auc"] > 0.6


def test_a_slice_of_one_class_says_so(small, rows, tmp_path):
    rows.label[small.country == 3] = False
    (part,) = cut(small.dataset, rows, tmp_path)
    found = {record["value"]: record for record in slice_metrics(part, rows, small.truth[None], {"a": [0]})}
    assert found["it"]["models"]["a"] == {"auc": None, "ne": None, "calibration": None}
    assert found["it"]["reason"] == "these rows hold one class only"


def test_importance_is_a_mean_over_rows_and_seeds(small, rows, tmp_path):
    first = np.where(small.country == 1, 0.8, 0.2).astype(np.float32)
    paths = [
        small.score(f"d-{seed}", small.truth, **{"importance.x": first * scale, "importance.y": 1 - first})
        for seed, scale in ((0, 1.0), (1, 0.5))
    ]
    parts = cut(small.dataset, rows, tmp_path)
    found = importance(paths, rows, parts)
    assert found["overall"]["x"] == pytest.approx(0.75 * first.mean())
    de = next(record for record in found["slices"][0]["values"] if record["value"] == "de")
    assert de["importance"] == pytest.approx({"x": 0.6, "y": 0.2})
    assert de["rows"] == (small.country == 1).sum()


def test_unanswered_rows_are_left_out_of_importance(small, rows, tmp_path):
    import pyarrow as pa

    values = pa.array(np.where(small.country == 1, 0.8, np.nan).astype(np.float32), from_pandas=True)
    path = small.score("d", small.truth, **{"importance.x": values})
    found = importance([path], rows, cut(small.dataset, rows, tmp_path))
    assert found["overall"]["x"] == pytest.approx(0.8)
    fr = next(record for record in found["slices"][0]["values"] if record["value"] == "fr")
    assert fr["importance"] == {"x": None}


def test_no_importance_where_nobody_records_it(small, rows, tmp_path):
    assert importance([small.score("d", small.truth)], rows, []) is None
    assert importance([], rows, []) is None


def test_ids_without_a_vocabulary_have_names_too():
    hashed = Table(name="t", rows=9, encoding="hash", salt=0)
    assert slices._name(hashed, 5, None) == "#5"
    bucket = Table(name="t", rows=5, encoding="bucket", boundaries=[0.5, 2, 10.25])
    assert [slices._name(bucket, id_, None) for id_ in range(-1, 5)] == [
        "(missing)",
        "(not seen in training)",
        "below 0.5",
        "0.5 to 2",
        "2 to 10.25",
        "from 10.25",
    ]
