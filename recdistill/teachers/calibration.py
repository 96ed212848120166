"""Samples of rows, and what is learned of them: what a logit means, and how one embedding's space lies in another's."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from recdistill.clicklog.batches import Batch, Columns, Rows, folds_of, read_blocks
from recdistill.clicklog.parts import read_part
from recdistill.clicklog.schema import Dataset
from recdistill.teachers.protocol import SCORING_BATCH

SAMPLE_ROWS = 1 << 16
"""Rows of a sample: validation rows that calibrate a version and align its embedding, for example."""

ABSENT = 100.0
"""The variance that what an absence changes is given beforehand."""

SAME = 1e-6
"""The spread of logits that are but rounded."""

BOLD = 1e6
"""The same of a slope, of standardised logits: next to none."""

TOLERANCE = 1e-8
"""Of a gradient, in rows: where one row in a thousand is positive, a larger one leaves the mean prediction off."""


def sample(
    dataset: Dataset, rows: Rows, features: list[str] | None, view: Columns | None, most: float = 1.0
) -> list[Batch]:
    """The rows that are `drawn`."""
    chosen = drawn(dataset, rows, most)
    out: list[Batch] = []
    for block in read_blocks(dataset, rows, features=features, join=view):
        index = torch.from_numpy(np.flatnonzero(chosen(block.example_id.numpy())))
        out += [block.take(some) for some in index.split(SCORING_BATCH) if len(some)]
    return out


def drawn(dataset: Dataset, rows: Rows, most: float = 1.0) -> Callable[[np.ndarray], np.ndarray]:
    """Which of the rows (`example_id` int64 [N]) are of a sample of them, bool [N].

    It has about `SAMPLE_ROWS`, or the share `most` of them where that is less. Drawn by a hash of `example_id`: every
    fifth row of a log that has four negatives after each click is no sample.
    """
    parts = rows.parts(dataset)
    count = sum(part.rows for part in parts)
    if rows.domain and count > SAMPLE_ROWS:  # a narrow domain needs all of its rows
        count = sum(rows.select(read_part(part, rows.columns())).num_rows for part in parts)
    one_of = max(round(1 / most), -(-count // SAMPLE_ROWS))
    return lambda example_id: folds_of(example_id, one_of) == 0


def evened(weight: np.ndarray) -> np.ndarray:
    """Weights with a mean of 1: what they are measured in says nothing, and priors count in rows."""
    even = weight / weight.mean(dtype=np.float64) if weight.any() else weight
    return even.astype(np.result_type(weight, np.float32))


def calibrate(logit: np.ndarray, label: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of Platt scaling (1999), fitted by logistic regression on rows that were not learned from.

    (1, 0) where the labels are all equal; logits that are all equal are moved to the base rate. Whatever logits are
    measured in, the answer is the same: they are standardised first. Labels that they part without an error would want
    an infinite slope, and get a finite one (`BOLD`).
    """
    if len(np.unique(label)) < 2 or not weight.any():
        return 1.0, 0.0
    logit, weight = logit.astype(np.float64), evened(weight)
    mean = float(np.average(logit, weights=weight))
    spread = float(np.sqrt(np.average((logit - mean) ** 2, weights=weight)))
    if spread <= SAME * max(1.0, abs(mean)):
        rate = float(np.average(label, weights=weight))
        return (1.0, math.log(rate / (1 - rate)) - mean) if 0 < rate < 1 else (1.0, 0.0)
    standard = ((logit - mean) / spread)[:, None]
    fitted = LogisticRegression(C=BOLD, tol=TOLERANCE).fit(standard, label, sample_weight=weight)
    slope = float(fitted.coef_[0, 0]) / spread
    return slope, float(fitted.intercept_[0]) - slope * mean


def calibrate_among(
    logit: np.ndarray, absent: np.ndarray, label: np.ndarray, weight: np.ndarray
) -> tuple[float, float, np.ndarray]:
    """The same where some are `absent`, bool [N, n], for whom both are others.

    Returns:
        Slope and intercept where nobody is, and what is added to both for each who is, [2, n]. These are drawn a little
        to 0. (1, 0) and zeros where the labels are all equal.
    """
    count = absent.shape[1]
    if len(np.unique(label)) < 2:
        return 1.0, 0.0, np.zeros((2, count))
    told = np.column_stack([logit, absent * logit[:, None], absent])
    fitted = LogisticRegression(C=ABSENT, tol=TOLERANCE, max_iter=1000).fit(told, label, sample_weight=evened(weight))
    return float(fitted.coef_[0, 0]), float(fitted.intercept_[0]), fitted.coef_[0, 1:].reshape(2, count)


def alignment(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The matrix [dim + 1, dim] that maps `[source, 1]` onto `target`: ridge regression, 1e-3 of the mean variance."""
    middle, goal = source.mean(axis=0, dtype=np.float64), target.mean(axis=0, dtype=np.float64)
    gram, cross = np.zeros((len(middle), len(middle))), np.zeros((len(middle), len(goal)))
    for start in range(0, len(source), SCORING_BATCH):
        x = source[start : start + SCORING_BATCH] - middle
        gram += x.T @ x
        cross += x.T @ (target[start : start + SCORING_BATCH] - goal)
    gram[np.diag_indices_from(gram)] += 1e-3 * np.trace(gram) / len(gram) + 1e-12  # an embedding may be constant
    matrix = np.linalg.solve(gram, cross)
    return np.vstack([matrix, goal - middle @ matrix]).astype(np.float32)
