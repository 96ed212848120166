"""Columns that say too much: how well one column alone tells the label, and whether it only counts time."""

from __future__ import annotations

import numpy as np

from recdistill.evaluate.metrics import Array, auc
from recdistill.init.profile import Profile

LEAK = 0.99
"""A column that reaches this AUC by itself is left out."""
SUSPICIOUS = 0.95
"""One that reaches this is kept, and pointed at."""
CLOCK = 0.98
"""A rank correlation with time above this makes a column a second clock."""
PURE, SELDOM = 0.995, 0.8
"""Of rows with one value nearly all are positive, where no more than so many of all rows are: it comes of the click."""
_BINS, _FEW, _ENOUGH = 64, 20, 100
_LEAST = 20
"""Rows of each class that a half needs for its AUC to mean anything."""
ENOUGH = 3 * _LEAST
"""Rows of each class with which both halves have so many."""


def alone(column: Profile, label: Array) -> float:
    """The AUC of a column as the only thing that is known: half of the rows says what a value means, half is scored.

    A number is taken as itself too, in either direction, and the better of the two counts. A missing value is a value.

    Args:
        column: its profile.
        label: bool [rows].

    Returns:
        AUC in [0, 1]; 0.5 where there are too few rows of a class to tell.
    """
    learned, scored = _halves(len(label))
    if min(np.bincount(label[half], minlength=2).min() for half in (learned, scored)) < _LEAST:
        return 0.5
    codes = _codes(column)
    seen = np.bincount(codes[learned], minlength=codes.max() + 1)
    clicked = np.bincount(codes[learned], label[learned], codes.max() + 1)
    rate = label[learned].mean()
    score = (clicked + rate) / (seen + 1)
    found = auc(label[scored], score[codes[scored]])
    if column.numbers is not None and len(column.known):
        plain = auc(label, np.nan_to_num(column.numbers, nan=float(np.median(column.known))))
        found = max(found, plain, 1 - plain)
    return found


def comes_of(column: Profile, label: Array) -> bool:
    """Whether a value, or having any but the most frequent one, goes with positive rows alone.

    As a like does, which comes of a click and is far too seldom to tell a click by itself.
    """
    if label.mean() > SELDOM:
        return False
    codes = column.codes + 1
    rows, positive = np.bincount(codes), np.bincount(codes, label)
    groups = np.stack([rows, positive]) if column.distinct <= _FEW else np.zeros((2, 0))
    others = [[len(label) - rows.max()], [label.sum() - positive[rows.argmax()]]]
    rows, positive = np.concatenate([groups, others], axis=1)
    return bool(((rows >= _ENOUGH) & (positive >= PURE * rows)).any())


def follows(column: Profile, time: Array) -> float:
    """The rank correlation (Spearman) of a column's numbers with time, without its sign; 0 for what is no number."""
    if column.numbers is None or column.missing or column.distinct < 3:
        return 0.0
    ranks = [_ranks(values) for values in (column.numbers, time)]
    return 0.0 if np.ptp(ranks[1]) == 0 else float(abs(np.corrcoef(ranks[0], ranks[1])[0, 1]))


def _halves(rows: int) -> tuple[Array, Array]:
    """Two random halves of the rows, the same for every column."""
    first = np.random.default_rng(0).random(rows) < 0.5
    return first, ~first


def _codes(column: Profile) -> Array:
    """Values as int [rows], 0 where missing; a number of many values is cut at its quantiles."""
    if column.numbers is None or column.distinct <= _BINS:
        return column.codes + 1
    edges = np.unique(np.quantile(column.known, np.linspace(0, 1, _BINS + 1)[1:-1]))
    binned = np.searchsorted(edges, column.numbers, "right") + 1
    return np.where(np.isnan(column.numbers), 0, binned)


def _ranks(values: Array) -> Array:
    """Ranks from 0, ties sharing the mean of theirs."""
    _, codes, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - counts / 2 - 0.5)[codes]
