"""AUC, log loss, normalised entropy and calibration: exact, streaming, mergeable. To add a metric, start here.

Everything takes logits, never probabilities: a logit of 40 and one of 50 still rank apart, and their log loss is exact.
Labels are 0 or 1, weights are finite and not negative. A metric that its rows cannot define (AUC and NE where all rows
are of one class, calibration where none is positive) is NaN; reports turn that into null and a reason.

Where a log kept only a fraction w of its negatives, `population_logit` and `population_weight` move rows to the traffic
that the log was drawn from, and every metric then speaks about that traffic. AUC is the same on both sides by its
definition: a shift of all logits keeps their order, and one factor on all negatives cancels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Floats = NDArray[np.float64]

METRICS = ("auc", "ne", "log_loss", "calibration")
"""The metrics that have a bootstrap interval."""
HIGHER_IS_BETTER = {"auc": True, "ne": False}
"""The metrics that a gap is measured in."""


def population_logit(logit: Array, negative_keep_rate: float) -> Floats:
    """Moves logits from a log that kept the fraction w of its negatives to the whole traffic: logit + log w."""
    return np.asarray(logit, np.float64) + np.log(negative_keep_rate)


def population_weight(label: Array, weight: Array | None, negative_keep_rate: float) -> Floats:
    """Weights of a log's rows as a sample of the whole traffic: a negative that was kept stands for 1 / w of them.

    Args:
        label: 0 or 1, shape [rows].
        weight: shape [rows]; 1 each when absent.
        negative_keep_rate: w in (0, 1], the fraction of negatives that the log kept.
    """
    ones = np.ones(len(label)) if weight is None else np.asarray(weight, np.float64)
    return np.where(np.asarray(label) > 0.5, ones, ones / negative_keep_rate)


def sigmoid(logit: Array) -> Floats:
    """1 / (1 + exp(-logit)) in float64; exact in both tails."""
    logit = np.asarray(logit, np.float64)
    tail = np.exp(-np.abs(logit))
    return np.where(logit >= 0, 1.0, tail) / (1.0 + tail)


def log_losses(label: Array, logit: Array) -> Floats:
    """Per row, -log of the probability that was given to the label, in nats; float64, finite for any finite logit."""
    logit = np.asarray(logit, np.float64)
    wrong = np.where(np.asarray(label) > 0.5, -logit, logit)
    return np.maximum(wrong, 0.0) + np.log1p(np.exp(-np.abs(wrong)))


def auc(label: Array, score: Array, weight: Array | None = None) -> float:
    """Area under the ROC curve: the probability that a positive scores above a negative, ties counting one half.

    Args:
        label: 0 or 1, shape [rows].
        score: anything ordered, shape [rows]; infinities are fine.
        weight: shape [rows]; without it a faster path is taken, with the same result.

    Returns:
        A number in [0, 1], the same for any order of the rows; NaN where one class is missing or weighs nothing.

    Raises:
        ValueError: a score is NaN.
    """
    score = np.asarray(score)
    if weight is not None:
        return _area(_rank(label, score, weight))
    positive = np.asarray(label) > 0.5
    ones, zeros = np.sort(score[positive]), np.sort(score[~positive])
    if not ones.size or not zeros.size:
        return float("nan")
    # Sorting puts NaN last.
    if np.isnan(ones[-1]) or np.isnan(zeros[-1]):
        raise ValueError("a score is NaN; expected numbers that can be ordered")
    few, many = (ones, zeros) if ones.size <= zeros.size else (zeros, ones)
    below = int(np.searchsorted(many, few, "left").sum()) + int(np.searchsorted(many, few, "right").sum())
    share = below / 2 / (few.size * many.size)
    return share if few is ones else 1.0 - share


@dataclass(frozen=True)
class _Ranks:
    """Distinct scores, ascending, and the weight of each class at each of them."""

    score: Array
    positive: Floats
    negative: Floats


def _rank(label: Array, score: Array, weight: Array | None) -> _Ranks:
    order = np.argsort(score, kind="stable")
    positive = np.asarray(label)[order] > 0.5
    ones = np.ones(len(order)) if weight is None else np.asarray(weight, np.float64)[order]
    return _collapse(score[order], np.where(positive, ones, 0.0), np.where(positive, 0.0, ones))


def _collapse(score: Array, positive: Floats, negative: Floats) -> _Ranks:
    """Sums the weights of equal neighbours."""
    if not score.size:
        return _Ranks(score, positive, negative)
    if np.isnan(score[-1]):
        raise ValueError("a score is NaN; expected numbers that can be ordered")
    first = np.flatnonzero(np.concatenate([[True], score[1:] != score[:-1]]))
    if first.size == score.size:
        return _Ranks(score, positive, negative)
    return _Ranks(score[first], np.add.reduceat(positive, first), np.add.reduceat(negative, first))


def _area(ranks: _Ranks) -> float:
    total = ranks.positive.sum() * ranks.negative.sum()
    if not total:
        return float("nan")
    below = np.cumsum(ranks.negative) - ranks.negative
    return float(ranks.positive @ (below + ranks.negative / 2) / total)


class AucAccumulator:
    """Exact AUC over chunks of any size, in any order, from any number of processes.

    Holds the distinct scores with the weight of each class at each: at most one entry per row, far fewer for coarse
    scores. Merging is exact: counts stay whole numbers, weights are summed in float64.
    """

    def __init__(self) -> None:
        self._runs: list[_Ranks] = []

    def update(self, label: Array, score: Array, weight: Array | None = None) -> None:
        """Adds rows; arguments as in `auc`."""
        self._push(_rank(label, np.asarray(score), weight))

    def merge(self, other: AucAccumulator) -> None:
        """Adds every row that `other` has seen; `other` stays as it is."""
        for run in list(other._runs):
            self._push(run)

    def compute(self) -> float:
        """The AUC of all rows so far; NaN where one class is missing."""
        return _area(self._all())

    def placements(self, label: Array, score: Array) -> Floats:
        """Per row, the weighted share of the other class on the right side of this row's score, ties one half.

        Their mean over positives, and their mean over negatives, is the AUC: they are DeLong's placement values (DeLong
        et al. 1988), which make the AUC's sampling error that of two means.

        Args:
            label: 0 or 1, shape [rows].
            score: scores that `update` has seen, shape [rows].

        Returns:
            float64 [rows] in [0, 1].

        Raises:
            ValueError: a score was never given to `update`, or one class is missing.
        """
        ranks = self._all()
        positives, negatives = ranks.positive.sum(), ranks.negative.sum()
        if not positives or not negatives:
            raise ValueError("placements need rows of both classes")
        # Looking scores up in their order is four times faster than in the rows' order.
        order = np.argsort(score)
        at = np.empty(len(order), np.intp)
        at[order] = np.minimum(np.searchsorted(ranks.score, score[order]), ranks.score.size - 1)
        if not np.array_equal(ranks.score[at], score):
            raise ValueError("a score was never given to `update`")
        below = (np.cumsum(ranks.negative) - ranks.negative / 2) / negatives
        above = 1.0 - (np.cumsum(ranks.positive) - ranks.positive / 2) / positives
        return np.where(np.asarray(label) > 0.5, below[at], above[at])

    def _push(self, run: _Ranks) -> None:
        # Runs at least halve in length from one to the next, so that a row is merged O(log rows) times.
        self._runs.append(run)
        while len(self._runs) > 1 and self._runs[-2].score.size <= 2 * self._runs[-1].score.size:
            self._merge_last()

    def _merge_last(self) -> None:
        right, left = self._runs.pop(), self._runs.pop()
        score = np.concatenate([left.score, right.score])
        order = np.argsort(score, kind="stable")
        positive = np.concatenate([left.positive, right.positive])[order]
        negative = np.concatenate([left.negative, right.negative])[order]
        self._runs.append(_collapse(score[order], positive, negative))

    def _all(self) -> _Ranks:
        if not self._runs:
            return _Ranks(np.zeros(0), np.zeros(0), np.zeros(0))
        while len(self._runs) > 1:
            self._merge_last()
        return self._runs[0]


def from_sums(weight: Floats, loss: Floats, probability: Floats) -> dict[str, Floats]:
    """Log loss, NE and calibration from sums over rows, for one model or for any number of resamples at once.

    NE is the mean log loss over the entropy of the base rate (He et al. 2014): 1 for who knows the base rate only, 0
    for who knows all. Calibration is the mean prediction over the mean label: above 1 predicts too many clicks.

    Args:
        weight: sum of weights of the negatives and of the positives, shape [..., 2].
        loss: weighted sum of `log_losses`, shape [..., 2].
        probability: weighted sum of predictions, shape [..., 2].

    Returns:
        `log_loss`, `ne`, `calibration` and `base_rate`, float64 [...] each; NaN where undefined.
    """
    total, positive = weight.sum(-1), weight[..., 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        base = positive / total
        entropy = -(base * np.log(base) + (1 - base) * np.log1p(-base))
        log_loss = loss.sum(-1) / total
        ne = np.where(entropy > 0, log_loss / entropy, np.nan)
        calibration = np.where(positive > 0, probability.sum(-1) / positive, np.nan)
    return {"log_loss": log_loss, "ne": ne, "calibration": calibration, "base_rate": base}


class LogLossSums:
    """Streaming log loss, NE and calibration; float64 sums, mergeable."""

    def __init__(self) -> None:
        self._sums = np.zeros((3, 2))

    def update(self, label: Array, logit: Array, weight: Array | None = None) -> None:
        """Adds rows: labels 0 or 1, logits, weights (1 each when absent), shape [rows] each."""
        positive = np.asarray(label) > 0.5
        ones = np.ones(len(positive)) if weight is None else np.asarray(weight, np.float64)
        columns = np.stack([ones, ones * log_losses(positive, logit), ones * sigmoid(logit)])
        self._sums[:, 0] += columns[:, ~positive].sum(1)
        self._sums[:, 1] += columns[:, positive].sum(1)

    def merge(self, other: LogLossSums) -> None:
        """Adds every row that `other` has seen."""
        self._sums += other._sums

    def compute(self) -> dict[str, float]:
        """`log_loss` (nats), `ne`, `calibration` and `base_rate` of all rows so far; NaN where undefined."""
        return {name: float(value) for name, value in from_sums(*self._sums).items()}
