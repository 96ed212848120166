"""Which rows train, validate and test, as one SQL expression over typed rows; and whether the days are all there.

With `user_order`, `time` and `order`, the last floor(n * test) of n rows test and the floor(n * validation) before them
validate, so a user of few rows trains only.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from recdistill.clicklog.scratch import Scratch
from recdistill.clicklog.typed import Counts, TypedLog
from recdistill.config.dataset import Dataset
from recdistill.errors import UserError

DAY = 86_400_000_000
"""Microseconds."""


def arrange(scratch: Scratch, log: TypedLog) -> Counts:
    """Puts the scratch rows in order of time and adds `$split`: 0 train, 1 validation, 2 test, -1 none of them.

    Returns:
        Days in the middle of the log that have no rows (`missing_days`, the day).

    Raises:
        UserError: too few days; a day with too few rows; a split without rows; training rows that are all alike; two
            rows of one day with the same id.
    """
    spec = log.layout.spec
    days = rows_by_day(scratch) if has_clock(spec) else {}
    missing = _check_days(spec, days)
    columns = _split_sql(spec, log, list(days))
    scratch.arrange(columns, sort=not log.in_order or spec.split.by == "user_order")
    _check_splits(scratch, spec)
    _check_ids(scratch, spec, list(days))
    return missing


def has_clock(spec: Dataset) -> bool:
    """Whether rows have a day."""
    return spec.time is not None and spec.time.unit != "order"


def day_name(day: int) -> str:
    """`YYYY-MM-DD` of a day counted from 1970."""
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=day)).strftime("%Y-%m-%d")


def _split_sql(spec: Dataset, log: TypedLog, days: list[int]) -> str:
    split = spec.split
    if split.by == "days":
        test, validation = int(split.test), int(split.validation)
        if len(days) <= test + validation:
            shown = ", ".join(map(day_name, days[:3])) + (", ..." if len(days) > 3 else "")
            raise UserError(
                f"split: {validation} validation and {test} test days leave no day to train on: the log has "
                f"{len(days)} ({shown}); ask for fewer, or see whether `time` names the right column and unit"
            )
        known = len(days) - test - validation
        first = known - min(known, split.train or known)
        return _case('"time"', days[known] * DAY, days[-test] * DAY, days[first] * DAY)
    if split.by == "random":
        return _case('"$draw"', 1 - split.validation - split.test, 1 - split.test)
    if split.by in ("time", "order"):
        in_order = split.by == "order" or log.in_order
        rank = '"$position"' if in_order else '(row_number() OVER (ORDER BY "time", "$position") - 1)'
        return _case(rank, *_first_rows(f"{log.rows}::BIGINT", split.validation, split.test))
    user = f'"{log.layout.users[split.user or ""]}"'
    rank = f'row_number() OVER (PARTITION BY {user} ORDER BY "time", "$position") - 1'
    count = f"count(*) OVER (PARTITION BY {user})"
    return _case(rank, *_first_rows(count, split.validation, split.test))


def _case(value: str, validation: object, test: object, train: object = None) -> str:
    before = "" if train is None else f"WHEN {value} < {train} THEN -1 "
    cases = f"{before}WHEN {value} < {validation} THEN 0 WHEN {value} < {test} THEN 1 ELSE 2"
    return f'(CASE {cases} END)::TINYINT AS "$split"'


def _first_rows(count: str, validation: float, test: float) -> tuple[str, str]:
    """The rank of the first validation row and of the first test row, in SQL's exact decimal numbers."""
    tested, validated = (f"floor({count} * {Decimal(repr(share)):f})" for share in (test, validation))
    return f"({count} - {tested} - {validated})", f"({count} - {tested})"


def rows_by_day(scratch: Scratch) -> dict[int, int]:
    """How many rows each day has, days counted from 1970, in order."""
    return dict(scratch.run(f'SELECT "time" // {DAY} AS day, count(*) FROM rows GROUP BY day ORDER BY day'))


def rows_by_split(scratch: Scratch, clock: bool, where: str) -> dict[tuple[int, int], int]:
    """How many of the rows `where` (SQL) each day has in each split; days count from 1970, and all is day 0 without a
    `clock`.
    """
    day = f'"time" // {DAY}' if clock else "0"
    found = scratch.run(f'SELECT {day} AS day, "$split", count(*) FROM rows{where} GROUP BY day, "$split"')
    return {(day, split): rows for day, split, rows in found}


def _check_days(spec: Dataset, days: dict[int, int]) -> Counts:
    missing: Counts = Counter()
    for day in range(min(days), max(days) + 1) if days else ():
        rows = days.get(day, 0)
        if rows < spec.minimum_rows_per_day and (rows or spec.minimum_rows_per_day > 1):
            raise UserError(
                f"day {day_name(day)} has {rows} rows; expected at least {spec.minimum_rows_per_day} "
                "(`minimum_rows_per_day`); is the log of that day whole?"
            )
        if not rows:
            missing["missing_days", day_name(day)] = 0
    return missing


def _check_splits(scratch: Scratch, spec: Dataset) -> None:
    found = dict.fromkeys(range(3), (0, 0))
    for split, rows, positives in scratch.run('SELECT "$split", count(*), sum(label) FROM rows GROUP BY "$split"'):
        found[split] = (rows, int(positives))
    for split, name in enumerate(("training", "validation", "test")):
        if not found[split][0]:
            raise UserError(f"split: no {name} rows; the log is too small for `by: {spec.split.by}` with these sizes")
    rows, positives = found[0]
    if positives in (0, rows):
        kind = "positive" if positives else "negative"
        raise UserError(f"all {rows} training rows are {kind}; is the rule in `label` ({spec.label.column!r}) right?")


def _check_ids(scratch: Scratch, spec: Dataset, days: list[int]) -> None:
    # A day at a time: its ids are in memory at once. Rows are in order of time, so no other day is read.
    wanted: list[int | None] = [*days] or [None]
    for day in wanted:
        within = "" if day is None else f'WHERE "time" >= {day * DAY} AND "time" < {(day + 1) * DAY}'
        twice = scratch.run(
            f"SELECT example_id, count(*) AS rows FROM rows {within} GROUP BY example_id HAVING rows > 1 "
            "ORDER BY example_id LIMIT 1"
        )
        for example, rows in twice:
            when = "" if day is None else f" of day {day_name(day)}"
            raise UserError(
                f"example_id {example} stands in {rows} rows{when}; expected one row each "
                f"(column {spec.example_id!r}; without `example_id` one is derived)"
            )
