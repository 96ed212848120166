"""How rows are split into training, validation and test: in order of time wherever there is one."""

from __future__ import annotations

import numpy as np

from recdistill.config.base import expand
from recdistill.config.dataset import Split, Time
from recdistill.evaluate.metrics import Array
from recdistill.init.dialect import CRITEO
from recdistill.init.profile import Profile
from recdistill.init.roles import Roles
from recdistill.init.sample import Sample

DAY = 86_400_000_000
"""Microseconds."""
_ROWS_A_DAY, _MANY_DAYS = 10_000, 60
"""Many days of fewer rows each are too small a unit."""
_HELD_OUT = 100_000
"""Rows that validation and test should each have, or a tenth of the log's."""
_BEGUN = 1 / 3
"""Of the usual day's rows: with fewer the last day has only begun."""
_ROWS_A_USER = 5
_TENTH = {"validation": 0.1, "test": 0.1}


def choose_split(
    found: Roles, columns: dict[str, Profile], time: Array | None, sample: Sample
) -> tuple[Split, Time | None, list[str]]:
    """By days where there are enough full ones, by each user's order, by time, by the log's order, or at random.

    Args:
        found: what columns are.
        columns: profiles of the sample.
        time: the sampled rows' times or ranks, where there is such a column.
        sample: the sample.

    Returns:
        The split, the time as it is best read for it, and doubts.
    """
    if sample.files.columns == expand(CRITEO):
        return Split(by="order", **_TENTH), found.time, ["rows are taken to be in order of time, as Criteo's are"]
    if found.time is None or time is None:
        said = "no column is a time: rows are split at random, which flatters every model"
        return Split(by="random", **_TENTH), None, [said]
    span = 0
    if found.time.unit != "order":
        days, span = len(np.unique(time // DAY)), int(np.ptp(time)) // DAY + 1
        of_a_day = (len(time) if sample.places == 1 else sample.rows) / span  # of one place, its days are all there
        if days >= 4 and (span <= _MANY_DAYS or of_a_day >= _ROWS_A_DAY):
            held = max(1, round(min(_HELD_OUT, sample.rows / 10) / of_a_day))
            rows = np.unique(time // DAY, return_counts=True)[1]
            # A day that the log ends in is no test; of a part of a log it cannot be told.
            begun = int(sample.whole and days > 4 and rows[-1] < _BEGUN * np.median(rows))
            few = f"the last day has few rows ({rows[-1]:,}), so the one before is the test, too"
            test = max(held, 1 if days < 8 else 2) + begun
            return Split(by="days", validation=held, test=test), found.time, [few] * begun
    user = found.subjects.get("user")
    known = user is not None and not columns[user].missing
    if user and known and "item" in found.subjects and len(time) / columns[user].distinct >= _ROWS_A_USER:
        order = _as_order(found.time)
        said = f"each user's last tenth is the test ({user}, in order of {order.column})"
        return Split(by="user_order", user=user, **_TENTH), order, [said]
    said = f"the last tenth of the rows, in order of {found.time.column}, is the test"
    return Split(by="time", **_TENTH), _as_order(found.time) if span > _MANY_DAYS else found.time, [said]


def _as_order(time: Time) -> Time:
    """Days of a few hundred rows each are no good as folders: a time that is a number is used as an order."""
    return time if time.unit == "datetime" else Time(column=time.column, unit="order")
