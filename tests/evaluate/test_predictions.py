from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recdistill.errors import UserError
from recdistill.evaluate import predictions
from recdistill.evaluate.predictions import importance_columns, read_logits, read_rows, scratch_array


@pytest.fixture
def small(make_world):
    return make_world(rows=300)


@pytest.fixture
def rows(small, tmp_path):
    return read_rows(small.dataset, ["country"], tmp_path)


def write(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


def test_test_rows_are_read_in_the_order_of_parts(small, rows):
    assert np.array_equal(rows.example_id, small.ids)
    assert np.array_equal(rows.label, small.label > 0.5)
    assert np.array_equal(rows.slices["country"], small.country)
    assert np.allclose(rows.true_probability, 1 / (1 + np.exp(-small.truth)))
    assert (rows.weight == 1).all() and not rows.weighted


def test_rows_that_are_behind_are_not_held_in_memory(small, rows, tmp_path):
    weight = tmp_path / "weight.npy"
    assert resident(weight) == 0 and rows.weight.sum() == 300 and resident(weight) > 0
    for at in rows.chunks(200):
        assert rows.weight[at].all() and resident(weight) > 0
    assert resident(weight) == 0
    logits = scratch_array(tmp_path, "logits", np.float32, 300)
    read_logits(write(tmp_path / "a.parquet", example_id=small.ids, logit=small.truth.astype(np.float32)), rows, logits)
    assert resident(tmp_path / "logits.npy") == resident(tmp_path / "example_id.npy") == 0
    assert np.array_equal(logits, small.truth.astype(np.float32))


def resident(path):
    """Kilobytes of a mapped file that are in this process's memory."""
    maps = Path("/proc/self/smaps")
    if not maps.exists():
        pytest.skip("only Linux tells what is in memory")
    after = maps.read_text().split(str(path))[1]
    return int(re.search(r"Rss: +(\d+) kB", after)[1])


def test_weights_stand_for_the_whole_traffic(make_world, tmp_path):
    rows = read_rows(make_world(rows=60, keep_rate=0.25, weighted=True).dataset, [], tmp_path)
    assert rows.weighted
    assert set(rows.weight[rows.label]) <= {1, 2, 3}
    assert set(rows.weight[~rows.label]) <= {4, 8, 12}


def test_logits_are_read_whatever_their_row_groups_and_null_is_nan(small, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(predictions, "BATCH_ROWS", 70)
    logit = np.random.default_rng(0).normal(size=300).astype(np.float32)
    logit[5] = np.nan
    path = small.score("teacher", logit)
    out = np.zeros(300, np.float32)
    read_logits(path, rows, out)
    assert np.array_equal(out, logit, equal_nan=True)


def test_importance_columns_are_found_by_their_name(small):
    path = small.score("a", np.zeros(300), **{"importance.ids": np.zeros(300, np.float32)})
    assert importance_columns(path) == ["ids"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda ids, logit: (np.roll(ids, 1), logit), r"p.parquet: example_id of row 1 is \d+, but the dataset's"),
        (lambda ids, logit: (np.r_[ids[:200], ids[201], ids[200], ids[202:]], logit), "example_id of row 201 is"),
        (
            lambda ids, logit: (ids[:250], logit[:250]),
            "p.parquet: ends after row 250, but the dataset has 300 test rows",
        ),
        (lambda ids, logit: (np.r_[ids, 7], np.r_[logit, 0].astype(np.float32)), "row 301 is one too many"),
        (lambda ids, logit: (ids, np.r_[logit[:9], np.inf, logit[10:]].astype(np.float32)), "logit of row 10 is inf"),
        (lambda ids, logit: (ids, np.r_[logit[:9], np.nan, logit[10:]].astype(np.float32)), "logit of row 10 is nan"),
        (lambda ids, logit: (ids, ids), "column 'logit' is int64; expected float32"),
        (lambda ids, logit: (ids.astype(np.float64), logit), "column 'example_id' is double; expected int64"),
    ],
)
def test_predictions_of_other_rows_are_refused_by_file_and_row(small, rows, tmp_path, spoil, words):
    ids, logit = spoil(small.ids, np.zeros(300, np.float32))
    path = write(tmp_path / "p.parquet", example_id=ids, logit=logit)
    with pytest.raises(UserError, match=words):
        read_logits(path, rows, np.zeros(300, np.float32))


def test_a_file_that_is_missing_or_no_parquet_is_named(rows, tmp_path):
    with pytest.raises(UserError, match=r"none\.parquet: the predictions are not there"):
        read_logits(tmp_path / "none.parquet", rows, np.zeros(300, np.float32))
    (tmp_path / "text.parquet").write_text("no")
    with pytest.raises(UserError, match=r"text\.parquet: not readable as Parquet"):
        read_logits(tmp_path / "text.parquet", rows, np.zeros(300, np.float32))
    path = write(tmp_path / "p.parquet", example_id=rows.example_id)
    with pytest.raises(UserError, match="column 'logit' is not there"):
        read_logits(path, rows, np.zeros(300, np.float32))


def test_a_slice_that_is_no_single_feature_is_refused(small, tmp_path):
    with pytest.raises(UserError, match=r"'city' is not a single feature of .*; expected one of country"):
        read_rows(small.dataset, ["city"], tmp_path)


def test_labels_and_weights_out_of_range_are_named(make_world, tmp_path):
    world = make_world(rows=60, weighted=True)
    path = world.dataset.parts("test")[0].path
    table = pq.read_table(path, partitioning=None)
    for column, value in (("label", 0.5), ("weight", -1.0)):
        values = table[column].to_numpy().copy()
        values[3] = value
        pq.write_table(table.set_column(table.column_names.index(column), column, pa.array(values)), path)
        with pytest.raises(UserError, match=f"{column} of row 4 is {value}"):
            read_rows(world.dataset, [], tmp_path)
