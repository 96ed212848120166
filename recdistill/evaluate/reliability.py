"""The reliability curve and the expected calibration error, streaming and mergeable.

Rows are summed in fixed cells of 1/32 of a logit, which no chunking or order of rows can change. Neighbouring cells are
then joined into bins of about equal weight: click rates crowd near zero, where bins of equal width in probability would
hold all rows in one. A cell is never split, so rows with equal predictions share a bin.
"""

from __future__ import annotations

import numpy as np

from recdistill.evaluate.metrics import Array, Floats, sigmoid

LIMIT = 16.0
CELLS_PER_LOGIT = 32
CELLS = int(2 * LIMIT * CELLS_PER_LOGIT)
BINS = 15


class Reliability:
    """Sums of weight, prediction and label per cell of the logit axis; the first and last cell take all beyond +-16."""

    def __init__(self) -> None:
        self._sums = np.zeros((CELLS, 3))

    def update(self, label: Array, logit: Array, weight: Array | None = None) -> None:
        """Adds rows: labels 0 or 1, finite logits, weights (1 each when absent), shape [rows] each."""
        logit = np.asarray(logit, np.float64)
        ones = np.ones(len(logit)) if weight is None else np.asarray(weight, np.float64)
        cell = np.clip((logit + LIMIT) * CELLS_PER_LOGIT, 0, CELLS - 1).astype(np.intp)
        for column, values in enumerate([ones, ones * sigmoid(logit), ones * np.asarray(label)]):
            self._sums[:, column] += np.bincount(cell, values, CELLS)

    def merge(self, other: Reliability) -> None:
        """Adds every row that `other` has seen."""
        self._sums += other._sums

    def curve(self, bins: int = BINS) -> Floats:
        """At most `bins` bins of about equal weight, by rising prediction.

        Returns:
            float64 [bins, 3]: share of the weight, mean prediction, mean label; empty bins are left out.
        """
        sums = self._sums[self._sums[:, 0] > 0]
        if not len(sums):
            return np.zeros((0, 3))
        weight = sums[:, 0]
        middle = (np.cumsum(weight) - weight / 2) / weight.sum()
        of_bin = np.minimum((middle * bins).astype(np.intp), bins - 1)
        joined = np.stack([np.bincount(of_bin, column, bins) for column in sums.T], axis=1)
        joined = joined[joined[:, 0] > 0]
        return np.column_stack([joined[:, 0] / weight.sum(), joined[:, 1:] / joined[:, :1]])

    def ece(self, bins: int = BINS) -> float:
        """Expected calibration error: the weighted mean of |mean prediction - mean label| over `curve`.

        NaN without rows. It is biased upwards by about the noise of a bin, as every binned estimate is, so it is given
        without an interval.
        """
        curve = self.curve(bins)
        return float(curve[:, 0] @ np.abs(curve[:, 1] - curve[:, 2])) if len(curve) else float("nan")
