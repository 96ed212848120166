"""Which columns are the user, the item, the row's id, its weight, beside the label and the time."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from recdistill.config.dataset import Label, Time
from recdistill.errors import UserError
from recdistill.evaluate.metrics import Array
from recdistill.init import names
from recdistill.init.clock import find_time
from recdistill.init.label import find_label
from recdistill.init.profile import Profile


@dataclass
class Roles:
    """What was found, `doubts` about it, and columns that are a second clock."""

    label: Label
    positive: Array
    """bool [rows]."""
    time: Time | None
    clocks: list[str]
    doubts: list[str]
    subjects: dict[str, str] = field(default_factory=dict)
    """The columns of `user` and `item`, which are features too."""
    example_id: str | None = None
    weight: str | None = None
    true_probability: str | None = None

    @property
    def named(self) -> dict[str, str]:
        """Columns that are no features, and what each is instead."""
        roles = {
            "label": self.label.column,
            "time": self.time.column if self.time else None,
            "example_id": self.example_id,
            "weight": self.weight,
            "true_probability": self.true_probability,
        }
        return {column: role for role, column in roles.items() if column is not None}


def assign(columns: dict[str, Profile], label: str | None, where: str, whole: bool) -> Roles:
    """Finds the roles.

    Args:
        columns: profiles of a sample.
        label: the label's column, where somebody said so.
        where: the log's name, for messages.
        whole: whether the sample is the whole log.

    Raises:
        UserError: no column can be the label, several can, or all rows are alike.
    """
    rule, positive, doubts = find_label(columns, label, where)
    if positive.all() or not positive.any():
        kind = "positive" if positive[0] else "negative"
        what = f"all {len(positive):,} rows looked at are {kind} by {rule.column!r}"
        if whole:
            raise UserError(f"{where}: {what}; expected both kinds (--label names another column)")
        doubts.append(f"{what}; is the log sorted by it?")
    others = {name: column for name, column in columns.items() if name != rule.column}
    found = {"user": _subject(others, names.USER), "item": _subject(others, names.ITEM)}
    time, clocks, said = find_time({name: column for name, column in others.items() if name not in found.values()})
    subjects = {role: column for role, column in found.items() if column is not None}
    roles = Roles(rule, positive, time, clocks, [*doubts, *said], subjects)
    for name, column in others.items():
        if name not in roles.named and name not in roles.clocks:
            _add(roles, name, column)
    return roles


def _add(roles: Roles, name: str, column: Profile) -> None:
    words = names.words(name)
    if words == ["true", "probability"] and _within(column, 1):
        roles.true_probability = name
    elif roles.weight is None and names.mentions(name, names.WEIGHT) and _within(column, np.inf):
        roles.weight = name
        roles.doubts.append(f"{name} is taken as each row's weight")
    elif roles.example_id is None and column.unique and (names.subject(name) in names.EXAMPLE or words == ["id"]):
        roles.example_id = name


def _subject(columns: dict[str, Profile], ranked: tuple[str, ...]) -> str | None:
    """The first column that is named after one of these things, in their order."""
    several = [name for name, column in columns.items() if column.family in ("number", "text") and column.distinct > 2]
    found = {names.subject(name): name for name in reversed(several)}
    return next((found[word] for word in ranked if word in found), None)


def _within(column: Profile, high: float) -> bool:
    return bool(len(column.known)) and not column.missing and bool(((column.known >= 0) & (column.known <= high)).all())
