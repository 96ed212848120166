from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import log_loss, roc_auc_score

from recdistill.evaluate.metrics import (
    AucAccumulator,
    LogLossSums,
    auc,
    log_losses,
    population_logit,
    population_weight,
    sigmoid,
)


@st.composite
def scored_rows(draw):
    """Labels, scores (often tied) and weights (sometimes zero)."""
    rows = draw(st.integers(2, 60))
    score = draw(
        st.one_of(
            hnp.arrays(np.float32, rows, elements=st.integers(-3, 3)),
            hnp.arrays(np.float64, rows, elements=st.floats(-100, 100)),
        )
    )
    label = draw(hnp.arrays(np.int8, rows, elements=st.integers(0, 1)))
    weight = draw(hnp.arrays(np.float64, rows, elements=st.floats(0, 10).map(lambda value: round(value, 2))))
    assume((weight[label == 1]).sum() > 0 and (weight[label == 0]).sum() > 0)
    return label, score, weight


@given(scored_rows())
def test_auc_is_that_of_scikit_learn(rows):
    label, score, weight = rows
    assert auc(label, score) == pytest.approx(roc_auc_score(label, score), abs=1e-12)
    assert auc(label, score, weight) == pytest.approx(roc_auc_score(label, score, sample_weight=weight), abs=1e-12)


@given(scored_rows(), st.randoms(use_true_random=False))
def test_auc_does_not_depend_on_the_order_of_rows(rows, random):
    label, score, weight = rows
    order = list(range(len(label)))
    random.shuffle(order)
    assert auc(label[order], score[order]) == auc(label, score)
    assert auc(label[order], score[order], weight[order]) == pytest.approx(auc(label, score, weight), abs=1e-12)


@given(scored_rows(), st.integers(1, 20), st.booleans())
def test_merged_chunks_give_the_whole(rows, size, weighted):
    label, score, weight = rows
    whole = auc(label, score, weight if weighted else None)
    parts = [AucAccumulator(), AucAccumulator()]
    for number, start in enumerate(range(0, len(label), size)):
        at = slice(start, start + size)
        parts[number % 2].update(label[at], score[at], weight[at] if weighted else None)
    parts[0].merge(parts[1])
    assert parts[0].compute() == pytest.approx(whole, abs=1e-12)


def test_merging_leaves_the_other_accumulator_as_it_was():
    first, second = AucAccumulator(), AucAccumulator()
    first.update(np.array([1, 0]), np.array([0.0, 1.0]))
    second.update(np.array([1, 0]), np.array([1.0, 0.0]))
    first.merge(second)
    assert (first.compute(), second.compute()) == (0.5, 1.0)


@given(scored_rows())
def test_placements_are_the_shares_that_they_say(rows):
    label, score, weight = rows
    ranks = AucAccumulator()
    ranks.update(label, score, weight)
    found = ranks.placements(label, score)
    for row in range(len(label)):
        other = label != label[row]
        above = score[other] < score[row] if label[row] else score[other] > score[row]
        expected = np.average(above + 0.5 * (score[other] == score[row]), weights=weight[other])
        assert found[row] == pytest.approx(expected, abs=1e-12)
    for one in (0, 1):
        assert np.average(found[label == one], weights=weight[label == one]) == pytest.approx(ranks.compute())


def test_placements_of_a_score_never_seen_are_refused():
    ranks = AucAccumulator()
    ranks.update(np.array([1, 0]), np.array([0.0, 1.0]))
    with pytest.raises(ValueError, match="never given"):
        ranks.placements(np.array([1]), np.array([0.5]))
    one_class = AucAccumulator()
    one_class.update(np.array([1]), np.array([0.0]))
    with pytest.raises(ValueError, match="both classes"):
        one_class.placements(np.array([1]), np.array([0.0]))


@pytest.mark.parametrize("weight", [None, np.ones(6)])
def test_a_constant_score_is_a_coin(weight):
    assert auc(np.array([0, 1, 0, 1, 1, 0]), np.full(6, 0.3), weight) == 0.5


@pytest.mark.parametrize("label", [np.zeros(3), np.ones(3), np.zeros(0)])
def test_one_class_has_no_auc(label):
    score = np.arange(len(label), dtype=float)
    assert np.isnan(auc(label, score))
    assert np.isnan(auc(label, score, np.ones(len(label))))
    ranks = AucAccumulator()
    ranks.update(label, score)
    assert np.isnan(ranks.compute())
    assert np.isnan(AucAccumulator().compute())


def test_a_class_of_no_weight_has_no_auc():
    assert np.isnan(auc(np.array([0, 1]), np.array([0.0, 1.0]), np.array([1.0, 0.0])))


def test_nan_scores_are_refused_and_infinite_ones_are_ranked():
    label = np.array([0, 1, 1])
    for weight in (None, np.ones(3)):
        with pytest.raises(ValueError, match="NaN"):
            auc(label, np.array([0.0, np.nan, 1.0]), weight)
        assert auc(label, np.array([-np.inf, 0.0, np.inf]), weight) == 1.0


@given(scored_rows())
def test_log_loss_is_that_of_scikit_learn(rows):
    label, score, weight = rows
    logit = np.clip(score, -20, 20)
    sums = LogLossSums()
    sums.update(label, logit, weight)
    found = sums.compute()
    assert found["log_loss"] == pytest.approx(log_loss(label, sigmoid(logit), sample_weight=weight), abs=1e-6)
    assert found["calibration"] == pytest.approx(
        np.average(sigmoid(logit), weights=weight) / np.average(label, weights=weight)
    )
    assert found["base_rate"] == pytest.approx(np.average(label, weights=weight))


@given(scored_rows(), st.integers(1, 20))
def test_merged_log_loss_sums_give_the_whole(rows, size):
    label, score, weight = rows
    whole, parts = LogLossSums(), [LogLossSums(), LogLossSums()]
    whole.update(label, score, weight)
    for number, start in enumerate(range(0, len(label), size)):
        at = slice(start, start + size)
        parts[number % 2].update(label[at], score[at], weight[at])
    parts[0].merge(parts[1])
    assert parts[0].compute() == pytest.approx(whole.compute(), nan_ok=True)


def test_extreme_logits_have_exact_losses():
    label = np.array([1, 0, 1, 0])
    assert log_losses(label, np.array([-100.0, 100.0, 100.0, -100.0])) == pytest.approx(
        [100.0, 100.0, 3.720076e-44, 3.720076e-44], rel=1e-6
    )
    assert sigmoid(np.array([-800.0, 0.0, 800.0])).tolist() == [0.0, 0.5, 1.0]


def test_whoever_knows_only_the_base_rate_has_an_ne_of_one():
    label = np.repeat([1, 0], [30, 70])
    weight = np.where(label == 1, 2.0, 1.0)
    base = 60 / 130
    sums = LogLossSums()
    sums.update(label, np.full(100, np.log(base / (1 - base))), weight)
    assert sums.compute()["ne"] == pytest.approx(1.0)
    assert sums.compute()["calibration"] == pytest.approx(1.0)


def test_one_class_has_no_ne():
    for one in (0, 1):
        sums = LogLossSums()
        sums.update(np.full(3, one), np.zeros(3))
        found = sums.compute()
        assert np.isnan(found["ne"]) and np.isfinite(found["log_loss"])
        assert np.isnan(found["calibration"]) == (one == 0)


@given(scored_rows(), st.sampled_from([1.0, 0.5, 0.25]))
def test_sampled_negatives_speak_about_the_whole_traffic(rows, keep_rate):
    """Each kept negative stands for 1 / w of its kind, scored by the probability in the population."""
    label, score, _ = rows
    logit = population_logit(score, keep_rate)
    sums, whole = LogLossSums(), LogLossSums()
    sums.update(label, logit, population_weight(label, None, keep_rate))
    copies = np.where(label == 1, 1, round(1 / keep_rate))
    odds = np.exp(np.repeat(score, copies).astype(float)) * keep_rate
    whole.update(np.repeat(label, copies), np.log(odds))
    assert sums.compute() == pytest.approx(whole.compute())
    assert auc(label, score, population_weight(label, None, keep_rate)) == pytest.approx(auc(label, score))
