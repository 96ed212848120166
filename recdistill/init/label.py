"""Which column is the label, and what makes a row of it positive."""

from __future__ import annotations

import numpy as np

from recdistill.config.base import nearest
from recdistill.config.dataset import Label
from recdistill.errors import UserError
from recdistill.evaluate.metrics import Array
from recdistill.init import names
from recdistill.init.dialect import unnamed
from recdistill.init.profile import Profile

_RATINGS = 21
"""A rating has at most this many different values."""
_YES = ("1", "yes", "y", "true", "t", "click", "clicked", "positive", "pos", "buy", "like", "liked")
_SHOWN, _MOST = 12, 0.9
"""Names that a message has; of a count, the share of rows above zero with which `above zero` still tells rows apart."""

Rule = tuple[Label, Array, list[str]]
"""The job's rule, bool [rows] that says which sampled rows are positive, and doubts."""


def find_label(columns: dict[str, Profile], asked: str | None, where: str) -> Rule:
    """Finds the label.

    Args:
        columns: profiles of a sample.
        asked: the label's column, where somebody said so, or `column=value` for what makes a row positive.
        where: the log's name, for messages.

    Raises:
        UserError: no column can be the label, or several can.
    """
    name, _, value = (asked or "").partition("=")
    if asked not in columns and value and name in columns:
        return _equal_to(columns[name], value, where)
    chosen, doubts = _column(columns, asked, where)
    label, positive, said = _rule(columns[chosen], where)
    return label, positive, [*doubts, *said]


def _equal_to(column: Profile, value: str, where: str) -> Rule:
    if value not in column.values:
        raise UserError(f"{where}: no row has {column.name} = {value!r}; it holds {_some(column.values)}")
    return Label(column=column.name, equals=value), column.codes == column.values.index(value), []


def _column(columns: dict[str, Profile], asked: str | None, where: str) -> tuple[str, list[str]]:
    if asked is not None:
        if asked not in columns:
            hint = nearest(asked, columns) or f"; it has {_some(columns)}"
            raise UserError(f"{where}: there is no column {asked!r} for the label{hint}")
        return asked, []
    for found in _candidates(columns):
        if found:
            more = [f"the label is {found[0]}, though {', '.join(found[1:])} might be it too"] if found[1:] else []
            return found[0], more
    binary = [name for name, column in columns.items() if _is_binary(column) and _has_two(column)]
    if len(binary) == 1 or (binary and unnamed(binary[0]) and binary[0] == next(iter(columns))):
        return binary[0], [f"the label is {binary[0]}, for it holds 0 and 1; its name does not say so"]
    if binary:
        raise UserError(f"{where}: several columns hold 0 and 1 ({_some(binary)}); say with --label which is the label")
    raise UserError(
        f"{where}: no column looks like a label (0 and 1, or a rating) among {_some(columns)}; name it with --label, "
        "or a value of it that is positive, as in --label behavior=buy"
    )


def _candidates(columns: dict[str, Profile]) -> list[list[str]]:
    """Columns that their name says are the label: those that are called so, those that speak of it, and ratings.

    Yes or no comes before numbers: a log with both was made for clicks.
    """
    called = [name for name in columns if "_".join(names.words(name)) in names.LABEL]
    called.sort(key=lambda name: names.LABEL.index("_".join(names.words(name))))
    speak = [n for n in columns if names.mentions(n, names.LABEL) and not names.mentions(n, names.HISTORY)]
    rated = [name for name in columns if names.mentions(name, names.RATING)]
    return [
        [name for name in called if _has_two(columns[name]) or _is_binary(columns[name])],
        [name for name in speak if _is_binary(columns[name])],
        [name for name in called if len(np.unique(columns[name].known)) > 2],
        [name for name in rated if 2 < len(np.unique(columns[name].known)) <= _RATINGS],
    ]


def _rule(column: Profile, where: str) -> Rule:
    name = column.name
    if column.missing and column.family != "other":
        share = f"{column.missing:.1%} of the rows looked at"
        raise UserError(f"{where}: the label {name!r} is empty in {share}; expected one in each row")
    if column.numbers is not None:
        return _rule_of_numbers(name, column.numbers)
    if column.family == "flag" or column.distinct == 2:
        yes = next((value for value in column.values if value.strip().lower() in _YES), _rarer(column))
        positive = column.codes == column.values.index(yes)
        said = f"a row is positive where {name} is {yes!r}, the rarer of its two values ({positive.mean():.0%})"
        return Label(column=name, equals=yes), positive, [] if yes.strip().lower() in _YES else [said]
    if column.family != "text":
        found = str(column.cells.type)
        raise UserError(f"{where}: the label {name!r} holds {found}; expected 0 and 1, two values, or numbers")
    raise UserError(
        f"{where}: the label {name!r} holds {column.distinct:,} different texts ({_some(column.values)}); say which is "
        f"positive, as in --label {name}={column.values[0]}"
    )


def _rule_of_numbers(name: str, numbers: Array) -> Rule:
    values = np.unique(numbers)
    if np.isin(values, (0.0, 1.0)).all():
        return Label(column=name), numbers == 1, []
    if len(values) <= _RATINGS:
        # The one that comes nearest to half of the rows.
        shares = np.array([np.mean(numbers >= value) for value in values[1:]] or [1.0])
        least = values[-len(shares) :][np.argmin(np.abs(shares - 0.5))]
    elif values[0] <= 0 < values[-1] and np.mean(numbers > 0) <= _MOST:
        least = values[values > 0][0]
    else:
        least = np.quantile(numbers, 0.5, method="higher")
    positive = numbers >= least
    said = f"a row is positive where {name} is {least:g} or more ({positive.mean():.0%} of the rows looked at)"
    return Label(column=name, at_least=float(least)), positive, [said]


def _rarer(column: Profile) -> str:
    return column.values[int(np.bincount(column.codes, minlength=column.distinct).argmin())]


def _has_two(column: Profile) -> bool:
    return column.distinct == 2 and not column.missing


def _is_binary(column: Profile) -> bool:
    return column.family == "flag" or (len(column.known) > 0 and bool(np.isin(column.known, (0.0, 1.0)).all()))


def _some(found: list[str] | dict[str, Profile]) -> str:
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(list(found)[:_SHOWN]) + more
