from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import TargetEncoder

from recdistill.clicklog.batches import Rows
from recdistill.clicklog.schema import Dataset
from recdistill.teachers.target_encoding import (
    FOLDS,
    MISSING,
    PRIOR_ROWS,
    Impressions,
    Jagged,
    TargetEncoding,
    fit_transform,
    sample,
    singles,
)

ALL = ["price", "age", "user", "item", "tags"]


def rows_of(
    ids: dict[str, list[list[int]]], label: list[int] | np.ndarray, fold: list[int] | None = None
) -> Impressions:
    """Rows without dense features, in folds as asked."""
    jagged: dict[str, Jagged] = {
        name: (
            np.array([value for bag in bags for value in bag], np.int64),
            np.array([len(bag) for bag in bags], np.int64),
        )
        for name, bags in ids.items()
    }
    key = np.arange(len(label), dtype=np.uint64) if fold is None else np.array(fold, np.uint64)
    ones = np.ones(len(label), np.float32)
    return Impressions(np.zeros((len(label), 0), np.float32), jagged, np.array(label, np.float32), ones, key)


def unstandardised(encoding: TargetEncoding, matrix: np.ndarray) -> np.ndarray:
    return matrix * encoding.arrays["std"] + encoding.arrays["mean"]


def test_rates_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    ids, label = rng.integers(0, 20, 500), rng.integers(0, 2, 500)
    encoding, _ = fit_transform(rows_of({"x": [[value] for value in ids]}, label), {"x"})
    peer = TargetEncoder(smooth=PRIOR_ROWS, target_type="binary").fit(ids[:, None], label)
    new = np.arange(25)
    columns = unstandardised(encoding, encoding.transform(rows_of({"x": [[value] for value in new]}, np.zeros(25))))
    rate = 1 / (1 + np.exp(-columns[:, 0]))
    np.testing.assert_allclose(rate, peer.transform(new[:, None])[:, 0], rtol=1e-5)
    np.testing.assert_allclose(columns[:, 1], np.log1p(np.bincount(ids, minlength=25)), rtol=1e-4, atol=1e-5)


def test_rows_are_encoded_by_the_other_folds() -> None:
    label = [1, 1, 0, 0, 1, 0]
    rows = rows_of({"x": [[1], [1], [1], [1], [2], [2]]}, label, fold=[0, 0, 1, 2, 3, 4])
    encoding, matrix = fit_transform(rows, {"x"})
    columns = unstandardised(encoding, matrix)
    rate = 0.5
    odds = (0 + PRIOR_ROWS * rate) / (2 + PRIOR_ROWS * (1 - rate))
    assert columns[0, 0] == pytest.approx(np.log(odds), abs=1e-5), "the clicks of its own fold do not count"
    assert columns[0, 1] == pytest.approx(np.log1p(2 * FOLDS / (FOLDS - 1)), abs=1e-5)
    assert columns[4, 0] < np.log(rate / (1 - rate)) < columns[5, 0]


@given(st.integers(0, 10_000), st.integers(0, 59))
def test_no_row_sees_its_own_label(seed: int, row: int) -> None:
    rng = np.random.default_rng(seed)
    bags = [list(rng.integers(0, 4, size)) for size in rng.integers(0, 3, 60)]
    label = rng.integers(0, 2, 60)
    label[[(row + 1) % 60, (row + 2) % 60]] = 0, 1
    found = []
    for mine, others in [(0, 1), (1, 0)]:
        # two labels of one fold change places, so that the overall rate stays
        label[row], label[(row + FOLDS) % 60] = mine, others
        encoding, matrix = fit_transform(rows_of({"x": bags}, label), set())
        found.append(unstandardised(encoding, matrix)[row])
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)


def test_noise_gives_the_labels_away_only_to_an_encoding_in_sample() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 4000)
    rows = rows_of({"x": [[value] for value in rng.integers(0, 2000, 4000)]}, label)
    encoding, out_of_fold = fit_transform(rows, {"x"})
    in_sample = encoding.transform(rows)
    assert abs(np.corrcoef(out_of_fold[:, 0], label)[0, 1]) < 0.06
    assert np.corrcoef(in_sample[:, 0], label)[0, 1] > 0.5


def test_a_bag_has_the_mean_of_its_ids_and_its_length() -> None:
    rng = np.random.default_rng(1)
    bags = [list(rng.integers(0, 5, size)) for size in rng.integers(0, 4, 300)]
    encoding, _ = fit_transform(rows_of({"x": bags}, rng.integers(0, 2, 300)), set())
    new = [[0], [1], [0, 1], [], [77]]
    columns = unstandardised(encoding, encoding.transform(rows_of({"x": new}, np.zeros(5))))
    np.testing.assert_allclose(columns[2, :2], (columns[0, :2] + columns[1, :2]) / 2, atol=1e-5)
    np.testing.assert_allclose(columns[3, :2], encoding.arrays["unseen"], atol=1e-5)
    np.testing.assert_allclose(columns[4, :2], encoding.arrays["unseen"], atol=1e-5)
    np.testing.assert_allclose(columns[:, 2], [1, 1, 2, 0, 1], atol=1e-5)


def test_columns_are_standardised(tiny_dataset: Dataset) -> None:
    rows = sample(tiny_dataset, Rows("train"), ALL, 10_000, 0)
    assert rows is not None
    _, matrix = fit_transform(rows, singles(tiny_dataset.schema))
    assert matrix.dtype == np.float32
    assert matrix.shape == (2250, 2 + 2 * 2 + 3)
    np.testing.assert_allclose(matrix.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(matrix.std(axis=0), 1, atol=1e-3)


def test_a_feature_that_is_always_empty_is_no_mistake() -> None:
    encoding, matrix = fit_transform(rows_of({"x": [[]] * 10}, [0, 1] * 5), set())
    assert np.isfinite(matrix).all()
    assert np.isfinite(encoding.transform(rows_of({"x": [[3], []]}, [0, 1]))).all()


def test_a_missing_value_is_an_id_of_its_own(tiny_dataset: Dataset) -> None:
    rows = sample(tiny_dataset, Rows("train"), ["user", "tags"], 10_000, 0)
    assert rows is not None
    values, lengths = rows.ids["user"]
    assert (lengths == 1).all()
    table = [pq.read_table(part.path, columns=["user"], partitioning=None) for part in tiny_dataset.parts("train")]
    assert (values == MISSING).sum() == sum(piece["user"].null_count for piece in table) > 0
    assert (rows.ids["tags"][0] >= 0).all()


def test_a_sample_holds_rows_as_they_are(tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sample(tiny_dataset, Rows("train"), ALL, 10_000, 3)
    monkeypatch.setattr("recdistill.clicklog.batches.PART_ROWS", 300)
    monkeypatch.setattr("recdistill.teachers.target_encoding.PART_ROWS", 100)
    part = sample(tiny_dataset, Rows("train"), ALL, 700, 3)
    assert whole is not None and part is not None
    assert len(part) == 700
    assert (np.diff(whole.key.astype(np.float64)) >= 0).all()
    expected = whole.take(np.arange(700))
    np.testing.assert_array_equal(part.key, expected.key)
    np.testing.assert_array_equal(part.dense, expected.dense)
    np.testing.assert_array_equal(part.label, expected.label)
    for name in expected.ids:
        for one, other in zip(part.ids[name], expected.ids[name], strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_sample_is_spread_over_days_and_follows_the_seed(tiny_dataset: Dataset) -> None:
    first = set(pq.read_table(tiny_dataset.parts("train")[0].path, partitioning=None)["price"].to_pylist())
    drawn = []
    for seed in (0, 1):
        rows = sample(tiny_dataset, Rows("train"), ["price", "item"], 600, seed)
        assert rows is not None
        of_first_day = sum(float(price) in first for price in rows.dense[:, 0])
        assert 60 < of_first_day < 140, "a sixth of them"
        drawn.append(set(rows.dense[:, 0].tolist()))
    assert 100 < len(drawn[0] & drawn[1]) < 240, "two draws of 600 among 2250 share 160"
