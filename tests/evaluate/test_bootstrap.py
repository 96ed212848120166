from __future__ import annotations

import numpy as np
import pytest

from recdistill.evaluate.bootstrap import (
    COMPONENTS,
    TILE,
    block_rows,
    class_sums,
    components,
    counts,
    replicates,
    seed_draws,
    seed_stretch,
)
from recdistill.evaluate.gap import over_seeds
from recdistill.evaluate.metrics import METRICS, AucAccumulator, LogLossSums, auc

RESAMPLES = 400


def world(rows=3000, models=3, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.normal(-1, 1, rows)
    label = rng.random(rows) < 1 / (1 + np.exp(-truth))
    logit = truth + rng.normal(size=(models, rows)) * np.arange(models)[:, None]
    # Coarse scores tie; the last model answers half of the rows only.
    logit = np.round(logit, 1)
    logit[-1, ::2] = np.nan
    return label, logit, rng.integers(1, 4, rows).astype(float)


def placed(label, logit, weight):
    found, exact = np.zeros(logit.shape), []
    for model, scores in enumerate(logit):
        there = ~np.isnan(scores)
        ranks = AucAccumulator()
        ranks.update(label[there], scores[there], weight[there])
        found[model, there] = ranks.placements(label[there], scores[there])
        exact.append(ranks.compute())
    return found, np.array(exact)


def fast(label, logit, weight, resamples=RESAMPLES, seed=0):
    placement, exact = placed(label, logit, weight)
    size = block_rows(resamples)
    cuts = [slice(start, start + size) for start in range(0, len(label), size)]
    blocks = ((label[at], components(label[at], logit[:, at], placement[:, at], weight[at])) for at in cuts)
    return replicates(class_sums(blocks, resamples, seed), exact)


def slow(label, logit, weight, resamples=RESAMPLES):
    """The same draws, every metric computed anew from the drawn rows."""
    assert len(label) <= block_rows(resamples), "one block"
    order = np.argsort(label, kind="stable")
    label, logit, weight = label[order], logit[:, order], weight[order]
    found = {metric: np.zeros((resamples, len(logit))) for metric in METRICS}
    for resample, drawn in enumerate(counts(resamples, len(label), 0, 0)):
        for model, scores in enumerate(logit):
            there = ~np.isnan(scores)
            sums = LogLossSums()
            sums.update(label[there], scores[there], (weight * drawn)[there])
            values = {**sums.compute(), "auc": auc(label[there], scores[there], (weight * drawn)[there])}
            for metric in METRICS:
                found[metric][resample, model] = values[metric]
    return found


def test_agrees_with_exact_resampling():
    label, logit, weight = world()
    quick, exact = fast(label, logit, weight), slow(label, logit, weight)
    for metric in ("ne", "log_loss", "calibration"):
        assert quick[metric] == pytest.approx(exact[metric], rel=2e-5), metric
    # AUC is linearised: each resample within a small part of the noise, intervals with them.
    noise = exact["auc"].std(axis=0)
    assert (np.abs(quick["auc"] - exact["auc"]).max(axis=0) < 0.15 * noise).all()
    for tail in (0.025, 0.975):
        difference = np.quantile(quick["auc"], tail, axis=0) - np.quantile(exact["auc"], tail, axis=0)
        assert (np.abs(difference) < 0.1 * noise).all()
    # So are differences between models, whose noise is smaller.
    paired = [found["auc"][:, 0] - found["auc"][:, 1] for found in (quick, exact)]
    assert np.quantile(paired[0], [0.025, 0.975]) == pytest.approx(
        np.quantile(paired[1], [0.025, 0.975]), abs=0.08 * paired[1].std()
    )


def test_is_centred_on_the_exact_metrics():
    label, logit, weight = world(rows=20_000)
    found = fast(label, logit, weight)
    _, exact = placed(label, logit, weight)
    assert found["auc"].mean(0) == pytest.approx(exact, abs=3 * found["auc"].std() / RESAMPLES**0.5)


def test_same_seed_same_replicates_other_seed_others():
    label, logit, weight = world(rows=500)
    first, again, other = (fast(label, logit, weight, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first["auc"], again["auc"])
    assert not np.array_equal(first["auc"], other["auc"])


def test_a_model_is_the_same_to_the_bit_beside_any_others():
    label, logit, weight = world(rows=1500)
    block = components(label, np.vstack([logit] * 12), np.vstack([logit] * 12), weight)
    sums = class_sums([(label, block)], RESAMPLES, 0)
    width = len(logit) * COMPONENTS
    assert block.shape[1] == 12 * width > 2 * TILE
    for some in (width, 5 * width, 12 * width):
        few = class_sums([(label, block[:, -some:])], RESAMPLES, 0)
        for start in range(0, some, width):
            assert np.array_equal(few[..., start : start + width], sums[..., :width])


def test_blocks_of_rows_are_drawn_apart():
    assert not np.array_equal(counts(10, 100, 0, 0), counts(10, 100, 0, 1))


def test_counts_are_poisson_of_mean_one():
    drawn = counts(1000, 1000, 0, 0)
    assert drawn.mean() == pytest.approx(1, abs=0.004)
    assert drawn.var() == pytest.approx(1, abs=0.01)
    for value, mass in enumerate([0.36788, 0.36788, 0.18394, 0.06131, 0.01533]):
        assert (drawn == value).mean() == pytest.approx(mass, abs=0.002)


def test_memory_does_not_grow_with_resamples():
    assert block_rows(1000) * 1000 < 2**22 + 4096
    assert block_rows(50_000) * 50_000 < 2**22
    assert block_rows(100) == 4096


def test_resamples_of_one_class_are_nan():
    label = np.array([True, False, False, False])
    found = fast(label, np.zeros((1, 4)), np.ones(4))
    # A third of the resamples miss the one positive.
    assert 0.25 < np.isnan(found["auc"]).mean() < 0.5
    assert np.nanmax(found["auc"]) == np.nanmin(found["auc"]) == 0.5


@pytest.mark.parametrize("seeds", [2, 5])
def test_seed_draws_give_the_unbiased_variance_of_the_mean(seeds):
    values = np.random.default_rng(0).normal(size=seeds)
    means = values[seed_draws(seeds, 40_000, 0)].mean(axis=1)
    assert means.mean() == pytest.approx(values.mean(), abs=0.02)
    assert means.var() == pytest.approx(values.var(ddof=1) / seeds, rel=0.05)


def test_one_seed_is_always_drawn():
    assert seed_draws(1, 7, 0).tolist() == [[0]] * 7


def test_intervals_over_five_seeds_cover_the_truth():
    rng, draws, stretch = np.random.default_rng(0), seed_draws(5, 500, 0), seed_stretch(5, 0.95)
    covered = 0
    for _ in range(1000):
        values = rng.normal(size=5)
        low, high = over_seeds(values, np.tile(values, (500, 1)), draws, stretch).interval(0.95)
        covered += low <= 0 <= high
    assert 0.92 < covered / 1000 < 0.97


def test_stretch_is_that_of_students_t():
    assert seed_stretch(5, 0.95) == pytest.approx(2.7764 / 1.96, rel=1e-4)
    assert seed_stretch(10_000, 0.95) == pytest.approx(1, abs=1e-3)
    assert seed_stretch(1, 0.95) == 1.0


def test_intervals_cover_a_known_gap():
    """300 small test sets of one world, whose true gap a large set tells: nine in ten 90% intervals hold it."""
    truth_label, truth_logit, _ = world(rows=400_000, models=3)
    aucs = [auc(truth_label, scores) for scores in truth_logit[:2]]
    known = {"auc": aucs[0] - aucs[1]}
    sums = [LogLossSums(), LogLossSums()]
    for each, scores in zip(sums, truth_logit, strict=False):
        each.update(truth_label, scores)
    known["ne"] = sums[1].compute()["ne"] - sums[0].compute()["ne"]
    covered = {"auc": 0, "ne": 0}
    for seed in range(300):
        label, logit, _ = world(rows=400, seed=seed + 1)
        found = fast(label, logit[:2], np.ones(400), resamples=200, seed=seed)
        for metric, sign in (("auc", 1), ("ne", -1)):
            gap = sign * (found[metric][:, 0] - found[metric][:, 1])
            low, high = np.quantile(gap, [0.05, 0.95])
            covered[metric] += low <= known[metric] <= high
    assert 0.84 < covered["auc"] / 300 < 0.95
    assert 0.84 < covered["ne"] / 300 < 0.95
