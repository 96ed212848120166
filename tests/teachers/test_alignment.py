from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recdistill.teachers.calibration import alignment, calibrate, calibrate_among


@settings(max_examples=20)
@given(dim=st.integers(1, 12), seed=st.integers(0, 99), scale=st.floats(0.01, 100))
def test_alignment_finds_the_way_back_from_a_turned_space(dim: int, seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    target = (np.maximum(rng.normal(size=(2000, dim)), 0)).astype(np.float32)
    turn = np.linalg.qr(rng.normal(size=(dim, dim)))[0] * scale
    source = (target @ turn + rng.normal(size=dim)).astype(np.float32)
    matrix = alignment(source, target)
    assert matrix.shape == (dim + 1, dim) and matrix.dtype == np.float32
    back = source @ matrix[:-1] + matrix[-1]
    assert np.abs(back - target).mean() < 0.02 * np.abs(target).mean()


def test_alignment_of_an_embedding_that_says_nothing_is_the_mean() -> None:
    target = np.arange(12, dtype=np.float32).reshape(4, 3)
    matrix = alignment(np.full((4, 3), 7, np.float32), target)
    np.testing.assert_allclose(np.array([7, 7, 7]) @ matrix[:-1] + matrix[-1], target.mean(axis=0), rtol=1e-5)


def test_calibration_recovers_slope_and_intercept() -> None:
    rng = np.random.default_rng(0)
    logit = rng.normal(0, 2, 100_000).astype(np.float32)
    label = (rng.random(len(logit)) < 1 / (1 + np.exp(-(0.5 * logit - 1)))).astype(np.float32)
    weight = np.ones(len(logit), np.float32)
    assert calibrate(logit, label, weight) == (pytest.approx(0.5, abs=0.02), pytest.approx(-1, abs=0.03))
    # A row of weight 2 is a row that is there twice.
    weight[:50_000] = 2
    twice = np.concatenate([logit, logit[:50_000]]), np.concatenate([label, label[:50_000]])
    assert calibrate(logit, label, weight) == pytest.approx(calibrate(*twice, np.ones(150_000)), abs=1e-3)
    assert calibrate(logit, np.ones_like(label), weight) == (1.0, 0.0)


def test_calibration_among_absences_gives_each_its_own() -> None:
    """Slopes of 1, 0.6 and 0.3 and intercepts of 0, -0.5 and -0.5 where nobody, the first and both are absent."""
    rng = np.random.default_rng(0)
    logit = rng.normal(0, 2, 200_000)
    absent = np.array([[False, False], [True, False], [True, True]])[rng.integers(3, size=len(logit))]
    slope, intercept = 1 - absent @ [0.4, 0.3], absent @ [-0.5, 0.0]
    label = (rng.random(len(logit)) < 1 / (1 + np.exp(-(slope * logit + intercept)))).astype(np.float32)
    whole, level, less = calibrate_among(logit, absent, label, np.ones(len(logit)))
    assert (whole, level) == (pytest.approx(1, abs=0.03), pytest.approx(0, abs=0.03))
    np.testing.assert_allclose(less, [[-0.4, -0.3], [-0.5, 0]], atol=0.05)
    whole, level, less = calibrate_among(logit, absent, np.ones_like(label), np.ones(len(logit)))
    assert (whole, level) == (1.0, 0.0) and not less.any()
