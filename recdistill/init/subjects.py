"""Which features are an item's own: they go with it when a row is recombined (`distill.recombine`)."""

from __future__ import annotations

import numpy as np

from recdistill.evaluate.metrics import Array
from recdistill.init.profile import Profile

LEAST_ROWS = 2.0
"""Rows an item, on average: with fewer, everything seems to follow from it."""
BEFORE, KNOWN = 0.8, 0.8
"""Of the last fifth of the rows, more than this share must be of items that the rows before have."""
ALIKE = 0.5
"""Of a column's values at least this share must be items for it to hold items."""
FOLLOWS, EXPLAINED = 1.02, 0.5
"""A column follows from an item where it has no more values than so many an item; a number that changes, such as a
counter, is the item's where the item explains so much of its variance, and more than the user does."""
COMMON = 0.5
"""What items have in common has at most so many values an item, or a piece."""
AGAIN = 0.1
"""Users come back to items where they did so in this share of rows."""


def tells(item: Profile) -> bool:
    """Whether items have rows enough to tell what is theirs."""
    return len(item.codes) >= LEAST_ROWS * item.distinct


def comes_again(item: Profile, time: Array) -> bool:
    """Whether later rows are of items known before; `time`, [rows], is anything that orders rows.

    Of items that live for hours, such as news, teachers know too much on the days that they learned from. They must go
    from day to day there, and say what they think of a day before they learn from it (Globo, in
    tests/benchmarks/LEDGER.md).
    """
    order = np.argsort(time, kind="stable")
    first, last = np.split(item.codes[order], [int(len(order) * BEFORE)])
    return bool(np.isin(last, first).mean() > KNOWN)


def of_each(user: Profile, time: Array) -> Array:
    """How many of its user's rows are before each row, as a share of them: float64 [rows], in [0, 1)."""
    order = np.lexsort([time, user.codes])
    rows = np.bincount(user.codes + 1)  # -1 is a user, too
    first = np.repeat(np.cumsum(rows) - rows, rows)
    share = np.empty(len(order))
    share[order] = (np.arange(len(order)) - first) / np.repeat(rows, rows)
    return share


def holds_items(column: Profile, item: Profile, delimiter: str | None) -> bool:
    """Whether a column's values, or what a list or the delimiter cuts them into, are mostly ids of items."""
    values = {piece for pieces in column.cut(delimiter) for piece in pieces}
    return len(values & set(item.values)) >= ALIKE * max(1, len(values))


def follows(column: Profile, item: Profile) -> bool:
    """Whether a column is the same wherever an item is."""
    return _pairs(item, column) <= FOLLOWS * item.distinct


def in_common(column: Profile, item: Profile, delimiter: str | None) -> bool:
    """Whether a column is the item's, and says of most items what it says of others: a genre, not a title.

    A list, or a text with a delimiter, is taken piece by piece.
    """
    pieces = [piece for pieces in column.cut(delimiter) for piece in pieces]
    return follows(column, item) and 1 < len(set(pieces)) <= COMMON * max(len(pieces), item.distinct)


def comes_back(user: Profile, item: Profile) -> bool:
    """Whether users meet an item again, in so many rows that it is worth counting."""
    return len(item.codes) - _pairs(user, item) >= AGAIN * len(item.codes)


def goes_with(column: Profile, item: Profile, user: Profile) -> bool:
    """Whether a column tells of the item and not of the user or the moment."""
    if follows(column, item):
        return column.distinct > 1
    if column.numbers is None:
        return False
    of_item, of_user = (_explained(column.numbers, subject.codes) for subject in (item, user))
    return of_item > max(EXPLAINED, of_user)


def _pairs(one: Profile, other: Profile) -> int:
    """How many different pairs of values rows have."""
    return len(np.unique(one.codes.astype(np.int64) << 32 | other.codes.astype(np.int64) & 0xFFFFFFFF))


def _explained(numbers: Array, codes: Array) -> float:
    """The share of the variance of numbers [rows] that lies between groups [rows], less what chance explains."""
    there = ~np.isnan(numbers) & (codes >= 0)
    value, group = numbers[there], codes[there]
    total = value.var() if len(value) else 0.0
    if not total:
        return 0.0
    count = np.bincount(group)
    mean = np.bincount(group, value)[count > 0] / count[count > 0]
    raw = float((count[count > 0] * (mean - value.mean()) ** 2).sum() / (total * len(value)))
    chance = (len(mean) - 1) / (len(value) - 1)
    return (raw - chance) / (1 - chance) if chance < 1 else 0.0
