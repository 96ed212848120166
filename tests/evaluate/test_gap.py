from __future__ import annotations

import json

import numpy as np
import pytest

from recdistill.evaluate.gap import Estimate, account, no_account, over_seeds, recovered, stat

RNG = np.random.default_rng(0)


def estimate(value, noise=0.0, shared=0.0):
    return Estimate(value, value + noise * RNG.normal(size=1000) + shared)


def test_recovery_is_the_share_of_the_gap_and_keeps_the_pairing():
    # Rows move all three models alike, so the share has no noise at all.
    rows = 0.05 * RNG.normal(size=1000)
    alone, method, foundation = (estimate(value, shared=rows) for value in (0.70, 0.78, 0.80))
    found = account({"diverse": method}, alone, foundation, 0.95)
    assert found["recovered"]["diverse"] == pytest.approx({"mean": 0.8, "low": 0.8, "high": 0.8})
    assert found["gap"] == pytest.approx({"mean": 0.1, "low": 0.1, "high": 0.1})


def test_recovery_may_be_negative_or_above_one():
    alone, foundation = estimate(0.7), estimate(0.8)
    assert recovered(estimate(0.69), alone, foundation).value == pytest.approx(-0.1)
    assert recovered(estimate(0.82), alone, foundation).value == pytest.approx(1.2)


@pytest.mark.parametrize(("foundation", "noise"), [(0.705, 0.01), (0.69, 0.0)])
def test_a_gap_within_its_noise_is_no_gap_to_recover(foundation, noise):
    found = account({"diverse": estimate(0.8)}, estimate(0.7, noise), estimate(foundation), 0.95)
    assert found["recovered"] == {"diverse": None}
    assert found["gap"]["reason"].startswith("no gap to recover")
    assert found["gap"]["mean"] == pytest.approx(foundation - 0.7)


def test_an_undefined_metric_is_null_with_a_reason():
    nan = Estimate(float("nan"), np.full(1000, np.nan))
    found = account({"diverse": nan}, nan, nan, 0.95)
    assert found["gap"]["mean"] is None and found["gap"]["low"] is None
    assert "not defined" in found["gap"]["reason"]
    json.dumps(found, allow_nan=False)
    assert no_account(["diverse"], "why")["gap"]["reason"] == "why"


def test_a_resample_without_a_gap_counts_as_beyond_any_bound():
    gap = np.linspace(-0.01, 0.1, 100)
    zero, half = Estimate(0.0, np.zeros(100)), Estimate(0.05, np.full(100, 0.05))
    ratio = recovered(half, zero, Estimate(0.08, gap))
    assert np.isposinf(ratio.replicates[gap <= 0]).all()
    assert np.isneginf(recovered(-half, zero, Estimate(0.08, gap)).replicates[gap <= 0]).all()
    found = stat(ratio, 0.95)
    assert found["high"] is None and "unbounded" in found["reason"]
    assert found["low"] == pytest.approx(0.5, rel=0.05)


def test_resamples_that_are_nan_are_left_out():
    replicates = np.arange(100.0)
    replicates[::2] = np.nan
    assert Estimate(50.0, replicates).interval(0.9) == (5.0, 95.0)
    assert np.isnan(
        recovered(Estimate(0, replicates), Estimate(0, np.zeros(100)), Estimate(1, replicates)).replicates[0]
    )


def test_a_method_is_the_mean_of_its_seeds_in_every_resample():
    replicates = np.array([[1.0, 2.0, 6.0], [1.0, 2.0, 6.0]])
    found = over_seeds(np.array([1.0, 2.0, 6.0]), replicates, np.array([[0, 0], [1, 2]]), 2.0)
    assert found.value == 3.0
    assert found.replicates.tolist() == [-1.0, 5.0]
