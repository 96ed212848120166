"""What kind of feature each remaining column is, which are left out, and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from recdistill.config.dataset import Bag, Bucket, Dense, Single
from recdistill.evaluate.metrics import Array
from recdistill.init import leaks, names
from recdistill.init.clock import nearly
from recdistill.init.profile import Profile

Kind = Single | Bag | Dense | Bucket

_STRONG, _WEAK = "|;", ", "
"""Delimiters: weak ones also stand inside values ("1,000 - 5,000", "United Kingdom")."""
_AGAIN = {False: 1.5, True: 4.0}
"""In how many cells a piece must stand, on average, to be a value by itself; by whether delimiters are weak."""
_FEW = 100
"""A whole number of at most this many values may be a category whatever it is called."""
_UNIQUE = 0.9
_SKEWED = 1.0
_COUNTED = 10


@dataclass(frozen=True)
class Choice:
    """One column's fate: a feature of some kind, or left out (`kind` None) for a reason.

    `doubt` is what people should look at; `suspicious` marks what may give the label away.
    """

    column: str
    kind: Kind | None
    reason: str
    doubt: str | None = None
    suspicious: bool = False


def choose(column: Profile, positive: Array, time: Array | None, role: str | None, rows: int) -> Choice:
    """Decides about one column.

    Args:
        column: its profile.
        positive: the rows' labels.
        time: the rows' times, where there is a clock.
        role: what it is known to be ("user", "item"), if so.
        rows: about how many rows the log has.
    """
    if unusable := _unusable(column):
        return unusable
    if role is None and (why := nearly(column)):
        return Choice(column.name, None, "a time that cannot order rows", f"{why}; mend it, and it can order rows")
    told = leaks.alone(column, positive)
    if left_out := _leaking(column, told, positive) or (None if role else _useless(column, time)):
        return left_out
    kind, reason, doubt = _kind(column, role, rows)
    doubt = doubt or names.served_otherwise(column.name)
    suspicious = told > leaks.SUSPICIOUS
    if suspicious:
        doubt = f"alone it tells the label with AUC {told:.3f}; is it known before the click?"
    return Choice(column.name, kind, reason, doubt, suspicious)


def _unusable(column: Profile) -> Choice | None:
    first = column.values[:100]
    bracketed = [value for value in first if value[:1] + value[-1:] in ("[]", "{}")]
    if column.family == "other":
        return Choice(column.name, None, f"no feature can be made of {column.cells.type}")
    if column.family == "list" and pa.types.is_floating(column.cells.type.value_type):
        doubt = "holds lists of numbers, such as an embedding; write each number into a column of its own, as dense"
        return Choice(column.name, None, "lists of numbers", doubt)
    if not column.name.strip():
        return Choice(column.name, None, "a column without a name")
    if column.distinct == 0:
        return Choice(column.name, None, "empty")
    if column.distinct == 1 and not column.missing:
        return Choice(column.name, None, "always the same")
    if len(bracketed) > len(first) / 2:
        doubt = f"holds lists or objects as text ({bracketed[0][:20]} ...); write them as a|b|c, or as lists in Parquet"
        return Choice(column.name, None, "lists or objects as text", doubt)
    return None


def _leaking(column: Profile, told: float, positive: Array) -> Choice | None:
    if told > leaks.LEAK:
        doubt = f"left out, for alone it tells the label with AUC {told:.4f}, as if it were made from it"
        return Choice(column.name, None, "gives the label away", doubt, True)
    if names.known_afterwards(column.name, column.family == "flag" or set(column.values) <= {"0", "1"}):
        doubt = "left out, for by its name it is known only after the impression"
        return Choice(column.name, None, "known only afterwards", doubt, True)
    if leaks.comes_of(column, positive):
        doubt = "left out, for with some of its values every row is positive, as if it came of the click"
        return Choice(column.name, None, "known only afterwards", doubt, True)
    return None


def _useless(column: Profile, time: Array | None) -> Choice | None:
    """Columns whose values never come again."""
    name, rows = column.name, len(column.codes)
    if time is not None and not names.mentions(name, ("weekday", "dow")) and leaks.follows(column, time) > leaks.CLOCK:
        return Choice(name, None, "only counts time")
    if names.mentions(name, names.VISIT) and column.distinct > 0.05 * rows and not column.name.endswith("type"):
        return Choice(name, None, "names one visit, which never comes again")
    if _of_one_row(column):
        if column.is_whole and leaks.follows(column, np.arange(rows)) > leaks.CLOCK:
            return Choice(name, None, "only counts rows")
        is_id = column.family == "text" or (column.is_whole and names.mentions(name, ("id",)))
        if is_id and _delimiter(column) is None:
            return Choice(name, None, "almost every row has a value of its own")
    return None


def _of_one_row(column: Profile) -> bool:
    rows = len(column.codes)
    return column.distinct > _UNIQUE * rows >= _FEW


def _kind(column: Profile, role: str | None, rows: int) -> tuple[Kind, str, str | None]:
    """The kind, what speaks for it, and what is unsure about it."""
    single = Single(kind="single", min_count=_min_count(column.distinct, rows))
    if role is not None:
        return single, f"the {role}, {column.distinct:,} values", None
    if column.family == "list":
        return Bag(kind="bag", min_count=_min_count(column.distinct, rows)), "lists", None
    if column.numbers is not None:
        return _kind_of_numbers(column, single)
    delimiter = _delimiter(column)
    if delimiter is None:
        return single, f"{column.distinct:,} values", None
    doubt = None if delimiter in _STRONG else f"cut at {delimiter!r} into a bag"
    return Bag(kind="bag", delimiter=delimiter), f"values joined by {delimiter!r}", doubt


def _kind_of_numbers(column: Profile, single: Single) -> tuple[Kind, str, str | None]:
    dense = Dense(kind="dense", transform="log" if _skewed(column.known) else "none")
    if not column.is_whole:
        return dense, "numbers", None
    values = f"{column.distinct:,} values"
    quantity = names.mentions(column.name, names.QUANTITY)
    category = names.mentions(column.name, names.CATEGORY)
    category = category or (not quantity and names.mentions(column.name, names.HISTORY))
    if column.distinct <= 2 or (category and not quantity):
        return single, values, None
    if quantity and not category:
        return dense, "whole numbers", None
    if _counts(column.known):
        return dense, "counts", "taken as a number (dense), as counts are distributed so; if it is an id, say single"
    if _of_one_row(column):
        doubt = "taken as a number (dense), as almost every row has a value of its own"
        return dense, "whole numbers", doubt
    doubt = "taken as an id (single), though it holds whole numbers; if it is a quantity, say dense"
    return single, values, None if column.distinct <= _FEW else doubt


def _min_count(distinct: int, rows: int) -> int:
    """Rare values of large vocabularies only cost memory."""
    if distinct < 1000 or rows < 20_000:
        return 1
    return 2 if rows < 1_000_000 else 5


def _skewed(known: Array) -> bool:
    """Whether there is a long tail to the right, so that a logarithm helps."""
    spread = known.std()
    return bool(spread > 0 and np.mean(((known - known.mean()) / spread) ** 3) > _SKEWED)


def _counts(known: Array) -> bool:
    """Whether 0 or 1 is the most frequent value, and the others thin out above it."""
    values, rows = np.unique(known, return_counts=True)
    return bool(values[0] >= 0 and values[rows.argmax()] <= 1 and len(values) > _COUNTED and _skewed(known))


def _delimiter(column: Profile) -> str | None:
    """What joins the values of a text column that holds several in a cell, if they do.

    Pieces must come again in other cells: more often for a weak delimiter, and then they must be words.
    """
    if column.family != "text":
        return None
    for delimiter in _STRONG + _WEAK:
        weak = delimiter in _WEAK
        cut = [value.split(delimiter) for value in column.values if delimiter in value]
        pieces = Counter(piece.strip() for cell in cut for piece in cell if piece.strip())
        often = len(cut) >= max(5, 0.2 * column.distinct) and pieces.total() >= _AGAIN[weak] * len(pieces)
        if often and not (weak and any(not any(map(str.isalpha, piece)) for piece in pieces) and not _ids(cut)):
            return delimiter
    return None


def _ids(cut: list[list[str]]) -> bool:
    """Whether cells hold whole numbers, several to a cell, which are not the groups of three of one long number."""
    whole = all(piece.strip().isdigit() for cell in cut for piece in cell)
    return whole and any(len(piece.strip()) != 3 for cell in cut for piece in cell[1:])
