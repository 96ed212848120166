"""From log files to a job: looks at a sample, assigns roles, chooses features, and sizes the models to fit."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property

from recdistill.config.base import NAME
from recdistill.config.dataset import RESERVED, Bag, Bucket, Dense, Single, Split
from recdistill.config.job import Recombine, Tune
from recdistill.config.models import DlrmTeacher, Student, Train
from recdistill.errors import UserError
from recdistill.evaluate.metrics import Array
from recdistill.init import leaks
from recdistill.init.clock import instants
from recdistill.init.dialect import describe
from recdistill.init.features import Choice, choose
from recdistill.init.names import HISTORY, mentions
from recdistill.init.profile import Profile, profile
from recdistill.init.roles import Roles, assign
from recdistill.init.sample import Sample, take
from recdistill.init.sizes import (
    NEWEST,
    choose_recombined,
    choose_student,
    choose_teacher,
    choose_training,
    choose_without,
)
from recdistill.init.splits import choose_split
from recdistill.init.subjects import comes_again, comes_back, follows, goes_with, holds_items, in_common, of_each, tells
from recdistill.init.together import together

LEAST_ROWS = 100
MOST_BUCKETS, BINS = 64, 20
"""Numbers that are cut into buckets too, at most, and into how many."""
MOST_MATCHED = 8
"""Features that a history is compared with: each is a history of its own to keep."""


@dataclass
class Draft:
    """Everything that a job file says, and what people should know about it.

    Attributes:
        sample: what was looked at.
        roles: the label, the time and so on.
        choices: every column that has no role, kept or left out.
        features: the kept ones by feature name.
        split: how rows are split.
        student: fits the log.
        teacher: the foundation.
        training: how students learn.
        tune: what is tried first.
        doubts: sentences.
        columns: profiles by column.
        recombine: how rows that nobody was shown are made; None where items are new and rows have no days.
        news: days bring new items, so teachers go from day to day.
    """

    sample: Sample
    roles: Roles
    choices: list[Choice]
    features: dict[str, Choice]
    split: Split
    teacher: DlrmTeacher
    student: Student
    training: Train
    tune: Tune
    doubts: list[str]
    columns: dict[str, Profile]
    recombine: Recombine | None
    news: bool

    def distinct(self, name: str) -> int:
        """How many values the sample has of a feature."""
        return self.columns[self.features[name].column].distinct

    @property
    def histories(self) -> dict[str, str]:
        """Names of history features and the outcome that each is of, where user, item and time are known.

        What somebody rated low tells as much as what was rated high; what somebody did not click is what was shown.
        """
        if self.roles.time is None or len(self.roles.subjects) < 2:
            return {}
        rated = self.roles.label.at_least is not None
        found = {"liked": "positive", "disliked": "negative"} if rated else {"clicked": "positive"}
        return {name if name not in self.columns else f"{name}_before": outcome for name, outcome in found.items()}

    @cached_property
    def matched(self) -> list[str]:
        """Features of which it is counted how many a user's earlier items have the row's own (a history's `matches`).

        What items have in common, and items themselves where users come back to them: a small student has no room to
        learn that from ids (MovieLens-1M and Globo, in tests/benchmarks/LEDGER.md).
        """
        if not self.histories:
            return []
        user, item = (self.columns[self.roles.subjects[role]] for role in ("user", "item"))
        own = [self.named(item.name)] if comes_back(user, item) else []
        shared = [name for name, choice in self.features.items() if self._in_common(choice, item)]
        return [name for name in (*own, *shared) if self._free(name)][:MOST_MATCHED]

    def _in_common(self, choice: Choice, item: Profile) -> bool:
        kind, column = choice.kind, self.columns[choice.column]
        ids = isinstance(kind, Single | Bag | Bucket) and getattr(kind, "share", None) is None
        return ids and column is not item and tells(item) and in_common(column, item, getattr(kind, "delimiter", None))

    def _free(self, name: str) -> bool:
        """Whether nothing else is called like what a history's match with this feature makes."""
        made = [f"{history}_{name}{end}" for history in self.histories for end in ("", "_before")]
        return not any(name in self.features or not re.match(NAME, name) for name in made)

    @property
    def matches(self) -> list[str]:
        """The features that these make."""
        return [f"{history}_{name}" for history in self.histories for name in self.matched]

    def named(self, column: str) -> str:
        """The feature that reads a column."""
        return next(name for name, choice in self.features.items() if choice.column == column)


def draft(paths: list[str], label: str | None = None) -> Draft:
    """Looks at a log and guesses.

    Raises:
        UserError: the log cannot be read, is too short, has no label that can be told, or nothing to learn from.
    """
    files, doubts = describe(paths)
    sample = take(files)
    where = str(sample.sources[0].path)
    if sample.table.num_rows < LEAST_ROWS:
        raise UserError(f"{where}: {sample.table.num_rows} rows; expected {LEAST_ROWS} or more to split and learn from")
    columns = {name: profile(name, sample.table[name].combine_chunks()) for name in sample.table.column_names}
    found = assign(columns, label, where, sample.whole)
    time = instants(columns[found.time.column], found.time.unit) if found.time else None
    choices = _choices(columns, found, time, sample.rows)
    features = _name({choice.column: choice for choice in choices if choice.kind is not None})
    if not features:
        reasons = "; ".join(f"{choice.column}: {choice.reason}" for choice in choices)[:300] or "no other column"
        nothing = f"beside the label {found.label.column!r} nothing is left to learn from"
        raise UserError(f"{where}: {nothing} ({reasons})")
    features = _sharing(_with_buckets(features), columns, found.subjects.get("item"))
    kept = {choice.column for choice in features.values()}
    found.subjects = {role: column for role, column in found.subjects.items() if column in kept}
    split, found.time, said = choose_split(found, columns, time, sample)
    if found.time is not None and leaks.alone(columns[found.time.column], found.positive) > leaks.SUSPICIOUS:
        said.append(f"the label follows {found.time.column}: is the log sorted by its label?")
    if (rarer := int(min(found.positive.sum(), (~found.positive).sum()))) < leaks.ENOUGH:
        said.append(f"{rarer} rows of the rarer class are too few to see which columns give the label away")
    teacher = choose_teacher(sample.rows)
    student, small = choose_student(features, columns, teacher)
    doubts = [*_about_columns(choices, True), *doubts, *found.doubts, *said, *small, *_about_columns(choices, False)]
    new = "item" in found.subjects and time is not None and not _comes_again(split, columns, found.subjects, time)
    news = new and split.by == "days"
    recombine = None if new and not news else _recombine(features, columns, found.subjects, news, sample.rows)
    training, tune = choose_training(sample.rows)
    if gone := choose_without(features, columns, _owned(features, columns, found.subjects, recombine)):
        student = student.model_copy(update={"without": [gone]})
    return Draft(
        sample, found, choices, features, split, teacher, student, training, tune, doubts, columns, recombine, news
    )


def _comes_again(split: Split, columns: dict[str, Profile], subjects: dict[str, str], time: Array) -> bool:
    """Whether rows that are held out are of items that are learned from: users' last rows, or all users' last days."""
    when = of_each(columns[subjects["user"]], time) if split.by == "user_order" else time
    return comes_again(columns[subjects["item"]], when)


def _recombine(
    features: dict[str, Choice], columns: dict[str, Profile], subjects: dict[str, str], news: bool, rows: int
) -> Recombine:
    """Items change places where it is known what is theirs; elsewhere all columns do, as they belong together."""
    if own := _of_the_item(features, columns, subjects, news):
        return Recombine(rows=NEWEST if news else choose_recombined(rows), groups=own)
    names = _names(features)
    groups = together([columns[column] for column in names])
    return Recombine(
        rows=choose_recombined(rows), groups=[[names[column] for column in one] for one in groups], others="each"
    )


def _of_the_item(
    features: dict[str, Choice], columns: dict[str, Profile], subjects: dict[str, str], news: bool
) -> list[list[str]]:
    """What changes places; nothing unless user and item are known, and items are there often enough.

    Of news, what moves, such as counters, does so without the item: on later days old items are read again, and who
    never met these with such numbers goes by the items alone (Globo, in tests/benchmarks/LEDGER.md).
    """
    if len(subjects) < 2:
        return []
    user, item = (columns[subjects[role]] for role in ("user", "item"))
    if not tells(item):
        return []
    own: list[str] = []
    moving: list[str] = []
    for column, name in _names(features).items():
        if column == subjects["item"] or (column != subjects["user"] and goes_with(columns[column], item, user)):
            (moving if news and not follows(columns[column], item) else own).append(name)
    return [group for group in (own, moving) if group]


def _owned(
    features: dict[str, Choice], columns: dict[str, Profile], subjects: dict[str, str], recombine: Recombine | None
) -> dict[str, list[str]]:
    """What follows from user and item, or else from the column of the most values among those that belong together."""
    names = _names(features)
    if recombine is not None and recombine.others == "each":
        ordered = [
            sorted(group, key=lambda name: -columns[features[name].column].distinct) for group in recombine.groups
        ]
        return {owner: rest for owner, *rest in ordered}
    owned = {}
    for owner in filter(lambda column: tells(columns[column]), subjects.values()):
        rest = [column for column in names if column not in subjects.values()]
        owned[names[owner]] = [names[column] for column in rest if follows(columns[column], columns[owner])]
    return owned


def _names(features: dict[str, Choice]) -> dict[str, str]:
    """The name of each column's feature, of a number's two that of the number: its bucket goes where it goes."""
    return {choice.column: name for name, choice in features.items() if not isinstance(choice.kind, Bucket)}


def _choices(columns: dict[str, Profile], found: Roles, time: Array | None, rows: int) -> list[Choice]:
    clock = time if found.time and found.time.unit != "order" else None
    role = {column: role for role, column in found.subjects.items()}
    return [
        Choice(name, None, "a second clock")
        if name in found.clocks
        else choose(column, found.positive, clock, role.get(name), rows)
        for name, column in columns.items()
        if name not in found.named
    ]


def _about_columns(choices: list[Choice], suspicious: bool) -> list[str]:
    """Doubts about columns, those of a kind together."""
    together: dict[str, list[str]] = {}
    for choice in choices:
        if choice.doubt is not None and choice.suspicious == suspicious:
            together.setdefault(choice.doubt, []).append(choice.column)
    return [f"{', '.join(columns)}: {doubt}" for doubt, columns in together.items()]


def _name(columns: dict[str, Choice]) -> dict[str, Choice]:
    """Feature names: the column's own where it is fit for one."""
    out: dict[str, Choice] = {}
    for column, choice in columns.items():
        fit = re.match(NAME, column) and ".." not in column and column not in RESERVED
        name = column if fit else re.sub(r"[^A-Za-z0-9_]+", "_", column).strip("_") or "column"
        if not fit and (name in RESERVED or not re.match(NAME, name)):
            name = f"c_{name}"
        out[_free(name, set(out) | (set() if fit else set(columns)))] = choice
    return out


def _free(name: str, taken: set[str]) -> str:
    return name if name not in taken else next(f"{name}_{n}" for n in range(2, 10_000) if f"{name}_{n}" not in taken)


def _sharing(features: dict[str, Choice], columns: dict[str, Profile], item: str | None) -> dict[str, Choice]:
    """Earlier items, a column each or all in one, are looked up where the item itself is."""
    own = next((name for name, choice in features.items() if choice.column == item), None)
    out = dict(features)
    for name, choice in features.items():
        kind, column = choice.kind, columns[choice.column]
        if own is None or name == own or not mentions(column.name, HISTORY) or not isinstance(kind, Single | Bag):
            continue
        if holds_items(column, columns[features[own].column], getattr(kind, "delimiter", None)):
            out[name] = replace(choice, kind=kind.model_copy(update={"min_count": 1, "share": own}))
    return out


def _with_buckets(features: dict[str, Choice]) -> dict[str, Choice]:
    """A model of embeddings makes more of a number that it also has as an id, and without any id there is no model."""
    dense = sum(isinstance(choice.kind, Dense) for choice in features.values())
    if MOST_BUCKETS < dense < len(features):
        return features
    out: dict[str, Choice] = {}
    for name, choice in features.items():
        kind, twin = choice.kind, f"{name}_bucket"
        out[name] = choice
        if isinstance(kind, Dense) and twin not in features and re.match(NAME, twin):
            out[name] = replace(choice, kind=kind.model_copy(update={"bins": BINS}))
            out[twin] = replace(choice, kind=Bucket(kind="bucket", bins=BINS))
    return out
