"""Columns that belong together, in a log that nobody can explain: a category follows from an item, a city from a user.

Rows are recombined by groups of such columns where it is not known who the user is and what the item
(`distill.recombine`): an item with another's category is a row that no log could hold, and what teachers say of it is
of little use (Frappe without its columns' names, in tests/benchmarks/LEDGER.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recdistill.init.profile import Profile

LEAST_PAIRS = 500
"""Pairs of rows with the same value that it takes to tell what follows from it."""
COMPARED = 2_000_000_000
"""Values that are compared at most, every column with every other: of a wide log fewer rows are looked at."""
APART = 0.05
"""A column follows from another where two rows that are alike in that one differ in it so seldom, beside any two."""


def together(columns: Sequence[Profile]) -> list[list[str]]:
    """Names of columns that follow from one another, two or more to a group, as the columns are ordered.

    A column joins the one of the fewest values that it follows from, and by it all that this one is with.
    """
    joined = {column.name: column.name for column in columns}
    for name, source in _sources(columns).items():
        kept, given = joined[source], joined[name]
        joined = {other: kept if root == given else root for other, root in joined.items()}
    groups: dict[str, list[str]] = {}
    for name, root in joined.items():
        groups.setdefault(root, []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def _sources(columns: Sequence[Profile]) -> dict[str, str]:
    """The column that each follows from, of those that follow from any."""
    if not columns:
        return {}
    mix = np.random.default_rng(0).permutation(len(columns[0].codes))  # neighbours in a log are alike
    mix = mix[: COMPARED // len(columns) ** 2]
    codes = {column.name: column.codes[mix] for column in columns}
    by_chance = {name: 1 - float(((np.bincount(found + 1) / len(mix)) ** 2).sum()) for name, found in codes.items()}
    sources: dict[str, str] = {}
    for whole in sorted(columns, key=lambda column: column.distinct):
        order = np.argsort(codes[whole.name], kind="stable")
        value = codes[whole.name][order]
        alike = (value[1:] == value[:-1]) & (value[1:] >= 0)
        if alike.sum() < LEAST_PAIRS:
            continue
        for part in columns:
            if part is whole or part.name in sources or part.distinct > whole.distinct:
                continue
            other = codes[part.name][order]
            if (other[1:] != other[:-1])[alike].mean() < APART * by_chance[part.name]:
                sources[part.name] = whole.name
    return sources
