"""What a logit means is found exactly, whatever it and the weights are measured in, and of every narrow domain."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from recdistill.clicklog.batches import Rows, read_blocks
from recdistill.clicklog.schema import Dataset
from recdistill.evaluate.metrics import log_losses
from recdistill.teachers import calibration
from recdistill.teachers.calibration import calibrate, calibrate_among, drawn, evened

ROWS = 60_000


def simulated(rate: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits that are too bold, and clicks with about this rate; float32 as they are in caches."""
    rng = np.random.default_rng(seed)
    truth = np.log(rate / (1 - rate)) + rng.normal(size=ROWS)
    label = (rng.random(ROWS) < 1 / (1 + np.exp(-truth))).astype(np.float32)
    return (1.2 * truth + rng.normal(size=ROWS)).astype(np.float32), label, np.ones(ROWS, np.float32)


@pytest.mark.parametrize("rate", [0.3, 0.005])
def test_slope_and_intercept_are_the_best_there_are(rate: float) -> None:
    logit, label, weight = simulated(rate)

    def loss(parts: np.ndarray) -> float:
        return float(log_losses(label, parts[0] * logit.astype(float) + parts[1]).mean())

    best = minimize(loss, [1.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-14, "maxiter": 2000})
    slope, intercept = calibrate(logit, label, weight)
    assert (slope, intercept) == pytest.approx(tuple(best.x), abs=2e-3)
    mean = float((1 / (1 + np.exp(-slope * logit.astype(float) - intercept))).mean())
    assert mean == pytest.approx(label.mean(), rel=1e-4)


def test_it_does_not_matter_what_logits_and_weights_are_measured_in() -> None:
    logit, label, weight = simulated(0.1)
    slope, intercept = calibrate(logit, label, weight)
    for scale, shift, heavy in ((0.01, 5, 1), (100, -3, 1), (1, 0, 1e-8), (1, 0, 1e6)):
        there = calibrate((scale * logit + shift).astype(np.float32), label, heavy * weight)
        assert there[0] * scale == pytest.approx(slope, rel=1e-3)
        assert there[1] + there[0] * shift == pytest.approx(intercept, abs=2e-3)
    absent = np.random.default_rng(1).random((ROWS, 2)) < [0.3, 0.0]
    told = [calibrate_among(logit, absent, label, heavy * weight) for heavy in (np.float32(1), np.float32(1e-8))]
    np.testing.assert_allclose(*(np.hstack([one[0], one[1], one[2].ravel()]) for one in told), atol=1e-3)


def test_what_tells_nothing_has_the_base_rate_and_what_tells_all_stays_finite() -> None:
    label = np.array([0, 0, 1, 1] * 50, np.float32)
    weight = np.where(label > 0, 3, 1)
    assert calibrate(np.full(200, 2, np.float32), label, weight) == pytest.approx((1, np.log(3) - 2))
    assert calibrate(label, label, np.zeros(200)) == (1.0, 0.0)
    slope, intercept = calibrate(20 * label - 10, label, np.ones(200))
    assert 0 < slope < 10 and abs(intercept) < 1


def test_weights_of_one_stay_as_they_are() -> None:
    ones = np.ones(7, np.float32)
    assert evened(ones).dtype == np.float32 and (evened(3 * ones) == 1).all() and not evened(0 * ones).any()


def test_a_narrow_domain_is_sampled_whole(tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Rows("validation", domain=(("item", (1, 2)),))
    ids = np.concatenate([block.example_id.numpy() for block in read_blocks(tiny_dataset, rows)])
    monkeypatch.setattr(calibration, "SAMPLE_ROWS", len(ids))
    assert tiny_dataset.rows("validation") > 2 * len(ids) > 0
    assert drawn(tiny_dataset, rows)(ids).all()
    every = np.concatenate([block.example_id.numpy() for block in read_blocks(tiny_dataset, Rows("validation"))])
    assert 0 < drawn(tiny_dataset, Rows("validation"))(every).mean() < 1
