"""Which column orders the rows: a clock, and in which unit, or a rank without one."""

from __future__ import annotations

import re
from typing import Literal

import numpy as np

from recdistill.clicklog.values import Column, micros
from recdistill.config.dataset import Time
from recdistill.errors import UserError
from recdistill.evaluate.metrics import Array
from recdistill.init import names
from recdistill.init.dialect import unnamed
from recdistill.init.profile import Profile

Unit = Literal["s", "ms", "us", "datetime", "order"]
_SCALES: dict[Unit, float] = {"s": 1.0, "ms": 1e3, "us": 1e6}
_FIRST_SECOND, _LAST_SECOND = 631_152_000.0, 4_102_444_800.0
"""The years 1990 and 2100."""
_DATE = re.compile(r"\d{1,4}[./]\d{1,2}[./]\d{1,4}\b")
_MOMENTS = 100
"""A column without a name of so many different large numbers may be a clock."""


def find_time(columns: dict[str, Profile]) -> tuple[Time | None, list[str], list[str]]:
    """The time, where there is one; columns that are a second clock; doubts."""
    units = {name: unit for name, column in columns.items() if (unit := clock_unit(column)) is not None}
    named = [name for name in units if names.mentions(name, names.TIME)]
    of_rows = [name for name in named if not names.mentions(name, names.BIRTH)] or named
    if not units:
        rank = next((name for name, column in columns.items() if _is_rank(column)), None)
        if rank is None:
            return None, [], []
        return Time(column=rank, unit="order"), [], [f"{rank} is taken as an order without a clock"]
    # The finest clock tells most rows apart.
    best = max(of_rows or units, key=lambda name: columns[name].distinct)
    doubts = []
    if not named:
        doubts.append(f"{best} is taken as the time (unit {units[best]}); its name does not say so")
    elif names.mentions(best, names.BIRTH):
        doubts.append(f"{best} is taken as the time, though by its name it is when a user or an item began")
    elif len(of_rows) > 1:
        doubts.append(f"{best} is taken as the time, the finest of {', '.join(of_rows)}")
    return Time(column=best, unit=units[best]), [name for name in units if name != best], doubts


def clock_unit(column: Profile) -> Unit | None:
    """The unit of a column that may be a clock; None for one that may not, or that has gaps."""
    if column.missing or column.distinct < 2 or names.mentions(column.name, ("id", "ids")):
        return None
    if column.family == "time":
        return "datetime"
    if column.family == "text":
        return "datetime" if _reads_as_dates(column) else None
    # Seconds look like any large number: the name must say that they are a time, where there is one.
    told = names.mentions(column.name, names.TIME) or (unnamed(column.name) and column.distinct > _MOMENTS)
    unit = _counted_in(column)
    return unit if unit != "s" or told else None


def nearly(column: Profile) -> str | None:
    """Why a column that is named after a time, or holds times, cannot be the clock; None for any other column."""
    if column.family == "time" or (names.mentions(column.name, names.TIME) and _counted_in(column)):
        return f"looks like a time, but {column.missing:.1%} of its cells are empty" if column.missing else None
    if column.family == "text" and names.mentions(column.name, names.TIME) and clock_unit(column) is None:
        first = column.values[:100]
        if all(_DATE.match(value) for value in first):
            return f"looks like a time, but is written as {first[0][:30]!r}"
        if column.missing and _begin_with_years(column):
            return f"looks like a time, but {column.missing:.1%} of its cells are empty"
    return None


def _counted_in(column: Profile) -> Unit | None:
    """The unit in which all numbers that are there are times of these years."""
    known = column.known
    for unit, scale in _SCALES.items():
        if len(known) and ((known >= _FIRST_SECOND * scale) & (known <= _LAST_SECOND * scale)).all():
            return unit
    return None


def _begin_with_years(column: Profile) -> bool:
    return all(len(value) >= 8 and value[:4].isdigit() for value in column.values[:100])


def instants(column: Profile, unit: Unit) -> Array:
    """A time column's cells: int64 microseconds, or ranks with `order`."""
    return np.asarray(micros(Column(column.name, column.cells, "the log", 0), unit))


def _reads_as_dates(column: Profile) -> bool:
    if not _begin_with_years(column):
        return False
    try:
        instants(column, "datetime")
    except UserError:
        return False
    return True


def _is_rank(column: Profile) -> bool:
    """Whether a column counts rows or moments without being a clock: seq_in_user, or days written as 20260131."""
    if not column.is_whole or column.missing or column.distinct < 2:
        return False
    moments = names.mentions(column.name, (*names.TIME, "day", "hour")) and bool((column.known >= 1e5).all())
    return moments or names.mentions(column.name, names.ORDER)
