"""AUC, log loss, normalised entropy and calibration: exact, streaming, mergeable. To add a metric, start here.

Everything takes logits, never probabilities: a logit of 40 and one of 50 still rank apart, and their log loss is exact.
Labels are 0 or 1, weights are finite and not negative. A metric that its rows cannot define (AUC and NE where all rows
are of one class, calibration where none is positive) is NaN; reports turn that into null and a reason.

Where a log kept only a fraction w of its negatives, `population_logit` and `population_weight` move rows to the traffic
that the log was drawn from, and every metric then speaks about that traffic. AUC is the same on both sides by its
definition: a shift of all logits keeps their order, and one factor on all negatives cancels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Floats = NDArray[np.float64]

METRICS = ("auc", "ne", "log_loss", "calibration")
"""The metrics that have a bootstrap interval."""
HIGHER_IS_BETTER = {"auc": True, "ne": False}
"""The metrics that a gap is measured in."""
_FEW = 1 << 20
"""Rows that are not worth sorting before they are asked about."""


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
    ranks = AucAccumulator()
    ranks.update(label, score, weight)
    return ranks.compute()


class _Scores:
    """The scores of one class, which tell how many of them lie below any other score.

    Chunks are kept as they come, and sorted whenever their rows have doubled. Where at most half of the scores are
    distinct, each is then kept once, with its weight.
    """

    def __init__(self) -> None:
        self.score: Array = np.zeros(0)
        """Ascending, of all chunks that `settle` has seen."""
        self.weight: Floats | None = None
        """Of each of `score`; None where all weigh one."""
        self._ends: Floats = np.zeros(1)
        """Weight of the first k of `score`, where they have weights."""
        self._chunks: list[tuple[Array, Floats | None]] = []
        self._rows = 0
        """Of `_chunks`."""

    def add(self, score: Array, weight: Floats | None) -> None:
        if score.size:
            self._chunks.append((score, weight))
            self._rows += score.size
        if self._rows > max(self.score.size, _FEW):
            self.settle()

    def merge(self, other: _Scores) -> None:
        for score, weight in [(other.score, other.weight), *other._chunks]:
            self.add(score, weight)

    def settle(self) -> None:
        """Sorts what came since the last time in among the others."""
        if not self._chunks:
            return
        if self.score.size:
            self._chunks.append((self.score, self.weight))
        score = np.concatenate([score for score, _ in self._chunks])
        if all(weight is None for _, weight in self._chunks):
            score.sort()
            weight = None
        else:
            weights = [np.ones(len(score)) if weight is None else weight for score, weight in self._chunks]
            order = np.argsort(score)
            score, weight = score[order], np.concatenate(weights)[order]
        self._chunks, self._rows = [], 0
        self.score, self.weight = _distinct(score, weight)
        if self.weight is not None:
            self._ends = np.concatenate([[0.0], np.cumsum(self.weight)])

    @property
    def total(self) -> float:
        """The weight of all."""
        return float(self.score.size if self.weight is None else self.weight.sum())

    def twice_below(self, score: Array) -> Array:
        """Twice the weight of what lies below each of `score` (ascending), a tie counting one half of its weight."""
        left, right = (np.searchsorted(self.score, score, side) for side in ("left", "right"))
        return left + right if self.weight is None else self._ends[left] + self._ends[right]

    def have(self, score: Array) -> bool:
        """Whether every one of `score` (ascending) is among them."""
        at = np.searchsorted(self.score, score)
        return not score.size or bool(at[-1] < self.score.size and np.array_equal(self.score[at], score))


def _distinct(score: Array, weight: Floats | None) -> tuple[Array, Floats | None]:
    """Each score once with its weight, if at most half of the sorted scores are distinct; else as they are."""
    new = np.concatenate([[True], score[1:] != score[:-1]])
    if np.count_nonzero(new) > score.size // 2:
        return score, weight
    first = np.flatnonzero(new)
    if weight is None:
        return score[first], np.diff(first, append=score.size).astype(np.float64)
    return score[first], np.add.reduceat(weight, first)


class AucAccumulator:
    """Exact AUC over chunks of any size, in any order, from any number of processes.

    Holds the scores (their weights too, if there are any): at most one entry a row, far fewer for coarse scores.
    Merging is exact: counts stay whole numbers, weights are summed in float64.
    """

    def __init__(self) -> None:
        self._negatives, self._positives = _Scores(), _Scores()

    def update(self, label: Array, score: Array, weight: Array | None = None) -> None:
        """Adds rows; arguments as in `auc`."""
        score, positive = np.asarray(score), np.asarray(label) > 0.5
        if np.isnan(score).any():
            raise ValueError("a score is NaN; expected numbers that can be ordered")
        for scores, chosen in ((self._negatives, ~positive), (self._positives, positive)):
            scores.add(score[chosen], None if weight is None else np.asarray(weight, np.float64)[chosen])

    def merge(self, other: AucAccumulator) -> None:
        """Adds every row that `other` has seen; `other` stays as it is."""
        self._negatives.merge(other._negatives)
        self._positives.merge(other._positives)

    def compute(self) -> float:
        """The AUC of all rows so far; NaN where one class is missing or weighs nothing."""
        negatives, positives = self._settled()
        pairs = negatives.total * positives.total
        if not pairs:
            return float("nan")
        # The smaller class is looked up in the larger one.
        rare = positives.score.size <= negatives.score.size
        few, many = (positives, negatives) if rare else (negatives, positives)
        twice = many.twice_below(few.score)
        share = float(twice.sum() if few.weight is None else few.weight @ twice) / 2 / pairs
        return share if rare else 1.0 - share

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
        negatives, positives = self._settled()
        if not negatives.total or not positives.total:
            raise ValueError("placements need rows of both classes")
        # Looking scores up in their order is four times faster than in the rows' order.
        order = np.argsort(score)
        score, positive = np.asarray(score)[order], np.asarray(label)[order] > 0.5
        placed = np.empty(len(order))
        for own, other, rows in ((negatives, positives, ~positive), (positives, negatives, positive)):
            if not own.have(score[rows]):
                raise ValueError("a score was never given to `update`")
            share = other.twice_below(score[rows]) / 2 / other.total
            placed[order[rows]] = share if own is positives else 1.0 - share
        return placed

    def _settled(self) -> tuple[_Scores, _Scores]:
        self._negatives.settle()
        self._positives.settle()
        return self._negatives, self._positives


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
