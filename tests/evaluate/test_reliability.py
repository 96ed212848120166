from __future__ import annotations

import numpy as np
import pytest

from recdistill.evaluate.metrics import sigmoid
from recdistill.evaluate.reliability import Reliability

RNG = np.random.default_rng(0)
LOGIT = RNG.normal(-2, 1, 20_000)
LABEL = (RNG.random(20_000) < sigmoid(LOGIT)).astype(float)
WEIGHT = RNG.integers(1, 4, 20_000).astype(float)


def of(logit, label=LABEL, weight=WEIGHT):
    found = Reliability()
    found.update(label, logit, weight)
    return found


def test_bins_hold_equal_weight_and_true_means():
    curve = of(LOGIT).curve(10)
    assert curve[:, 0] == pytest.approx(np.full(10, 0.1), abs=0.01)
    assert curve[:, 1].tolist() == sorted(curve[:, 1])
    assert curve[:, 0] @ curve[:, 1] == pytest.approx(np.average(sigmoid(LOGIT), weights=WEIGHT))
    assert curve[:, 0] @ curve[:, 2] == pytest.approx(np.average(LABEL, weights=WEIGHT))


def test_ece_is_that_of_bins_cut_at_quantiles():
    for shift in (0.0, 0.7, -1.5):
        logit = LOGIT + shift
        order = np.argsort(logit)
        expected = 0.0
        for rows in np.array_split(order, 15):
            expected += len(rows) / len(order) * abs(sigmoid(logit[rows]).mean() - LABEL[rows].mean())
        assert of(logit, weight=None).ece() == pytest.approx(expected, abs=2e-3)


def test_ece_tells_a_calibrated_model_from_one_that_is_not():
    assert of(LOGIT).ece() < 0.01
    assert of(LOGIT + 1).ece() > 0.1


def test_merged_parts_give_the_whole():
    parts = [Reliability(), Reliability()]
    for number in range(2):
        at = slice(number * 7000, 7000 if number == 0 else None)
        parts[number].update(LABEL[at], LOGIT[at], WEIGHT[at])
    parts[0].merge(parts[1])
    assert parts[0].curve() == pytest.approx(of(LOGIT).curve(), rel=1e-12)


def test_extreme_and_equal_predictions_share_bins():
    curve = of(np.array([-1000.0, 1000.0, 1000.0, 0.0, 0.0]), np.array([0, 1, 1, 0, 1]), None).curve()
    assert curve == pytest.approx(np.array([[0.2, 0, 0], [0.4, 0.5, 0.5], [0.4, 1, 1]]))


def test_nothing_has_no_error():
    assert np.isnan(Reliability().ece())
    assert Reliability().curve().shape == (0, 3)
