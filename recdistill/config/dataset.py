"""The job's `dataset:` section: where the click log is and what its columns mean."""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from recdistill.config.base import MAX_NAMES, NAME, Location, Section, expand, nearest


class Files(Section):
    """Files of one table. Suffixes .gz and .zst are read as they are.

    `paths` are globs, of this machine or of an object store (`s3://bucket/...`); a shell-style default is understood:
    `${RECDISTILL_DATA:-../shared/data}/frappe/*.parquet`.
    """

    paths: list[Location] = Field(min_length=1)
    """Globs of files, or URLs; one may stand by itself."""
    format: Literal["csv", "tsv", "parquet"] | None = None
    """By suffix when absent."""
    columns: list[str] | None = None
    """Names of the columns of a text file without a header, in order; Parquet has its own."""
    delimiter: str | None = None
    """What stands between two values of a text file: comma for csv, tab for tsv when absent."""
    quoting: bool = True
    """Whether `"` around a value of a text file is not part of it, so that a delimiter or a line break may be."""
    nulls: list[str] = ["", "NA", "N/A", "null", "NULL", "NaN", "nan", "\\N"]
    """Texts that are read as missing values."""

    @field_validator("paths", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("delimiter")
    @classmethod
    def _one_byte(cls, value: str | None) -> str | None:
        if value is not None and (len(value) != 1 or not value.isascii() or value in '"\r\n'):
            raise ValueError(f"expected one ASCII character that ends no line and is no quote, came {value!r}")
        return value

    @field_validator("columns", mode="before")
    @classmethod
    def _spell_out(cls, value: Any) -> Any:
        return value if value is None else expand(value)


class Join(Files):
    """A side table (users, items) joined to the log on one column; it must fit in memory."""

    on: str
    """The log's column that both are joined by."""
    key: str | None = None
    """The side table's own name for `on`, where it differs."""
    take: list[str] | None = None
    """Columns to take; all but the key when absent."""


class Simulation(Section):
    """A generated log in place of files; see `recdistill.clicklog.simulate`."""

    rows: int = Field(200_000, ge=100)
    """Impressions, before `negative_keep_rate`; spread evenly over days."""
    days: int = Field(10, ge=3, le=3650)
    """Days that they are spread over."""
    first_day: str = "2026-01-01"
    """The first of them."""
    users: int = Field(500, ge=2)
    """At any one time, as `items` are; those who leave are replaced by new ones."""
    items: int = Field(300, ge=2)
    """At any one time."""
    domains: int = Field(4, ge=1, le=64)
    """Parts of the catalogue; in each other things count."""
    drift: float = Field(0.1, ge=0, le=1)
    """How far tastes and popularity move from one day to the next; 0 is a world that stands still."""
    negative_keep_rate: float = Field(1.0, gt=0, le=1)
    """The fraction of negatives that are written to the log, chosen at random."""
    seed: int = Field(0, ge=0)
    """Of the world and of who sees what in it."""

    @field_validator("first_day", mode="before")
    @classmethod
    def _is_a_day(cls, value: Any) -> str:
        try:
            day = date.fromisoformat(str(value))
        except ValueError:
            raise ValueError(f"{value!r} is not a day; expected one like 2026-01-01") from None
        if not 1971 <= day.year <= 2200:
            raise ValueError(f"{value!r} is out of range; expected a day in the years 1971 to 2200")
        return day.isoformat()


class Label(Section):
    """What makes a row positive: the column's value itself (0 or 1), or a comparison."""

    column: str = "label"
    """The column that it is read from."""
    at_least: float | None = None
    """A row is positive where the column, a number, is as large as this."""
    equals: str | None = None
    """A row is positive where the column is this text."""

    @model_validator(mode="after")
    def _one_rule(self) -> Label:
        if self.at_least is not None and self.equals is not None:
            raise ValueError("give `at_least` or `equals`, not both")
        return self


class Time(Section):
    """The column that orders rows. `order` is a rank with no clock: rows have an order but no day."""

    column: str
    """The column that it is read from."""
    unit: Literal["s", "ms", "us", "datetime", "order"]
    """What its numbers count since 1970 in UTC; `datetime` is a time as text or of Parquet."""


class Split(Section):
    """Which rows train, validate and test.

    - `days`: the last `test` days, the `validation` days before them, the rest trains (whole numbers), or the last
      `train` days of it: rows of earlier days are read for users' histories and then left out;
    - `random`: fractions of rows, by a salted hash of `example_id`;
    - `user_order`: each user's last `test` fraction, the `validation` fraction before it, the rest trains;
    - `time`: the last `test` fraction of all rows in order of time, the `validation` fraction before it, the rest
      trains; rows of one time are in the log's order;
    - `order`: the same in the log's own order.
    """

    by: Literal["days", "random", "user_order", "time", "order"]
    """As said above."""
    validation: float = Field(gt=0)
    """Days, or a fraction: rows that decide when to stop, what fits, and whom to believe."""
    test: float = Field(gt=0)
    """Days, or a fraction: rows that are read once, for the report."""
    train: int | None = Field(None, ge=1)
    """At most so many training days, for `days`."""
    user: str | None = None
    """The user column, for `user_order`."""
    seed: int = 0
    """Of the hash, for `random`."""

    @model_validator(mode="after")
    def _sizes(self) -> Split:
        if self.by == "days":
            if self.validation % 1 or self.test % 1:
                raise ValueError("with `by: days`, validation and test are whole numbers of days")
        elif self.validation + self.test >= 1:
            raise ValueError(f"with `by: {self.by}`, validation + test are fractions below 1 together")
        if (self.by == "user_order") != (self.user is not None):
            raise ValueError("`user` names the user column with `by: user_order`, and only there")
        if self.train is not None and self.by != "days":
            raise ValueError("`train` is a number of days, for `by: days` only")
        return self


class Hash(Section):
    """Hashing in place of a vocabulary: value -> 1 + hash(salt, value) % size."""

    size: int = Field(ge=1, le=2**40)
    """Ids that values are spread over."""
    salt: int = 0
    """With another one other values share an id."""


class _Ids(Section):
    column: str | None = None
    """The log's column; the feature's own name when absent."""
    min_count: int = Field(1, ge=1)
    """A value seen fewer times in training rows is out of vocabulary."""
    max_values: int | None = Field(None, ge=1)
    """Keep at most this many of the most frequent values."""
    hash: Hash | None = None
    share: str | None = None
    """The feature whose vocabulary and embedding table this one uses."""


class Single(_Ids):
    """One id a row."""

    kind: Literal["single"]


class Bag(_Ids):
    """Any number of ids a row: a list column, or text cut at `delimiter`."""

    kind: Literal["bag"]
    delimiter: str | None = Field(None, min_length=1)
    """Blanks around what it cuts out are dropped, and so are empty pieces."""
    max_length: int = Field(100, ge=1)
    """Ids of a row after so many are dropped."""


class History(Section):
    """The ids of feature `of` that this user had before this row, newest first, sharing that feature's table.

    Only rows with an earlier time count, never this row's own label. `outcome` says which of them.
    """

    kind: Literal["history"]
    user: str
    """The column that tells users apart."""
    of: str
    """The feature whose ids are remembered."""
    last: int = Field(20, ge=1, le=1000)
    """How many, the newest."""
    outcome: Literal["positive", "negative", "any"] = "positive"
    """Only those of rows that were positive, or negative."""
    hidden: bool = False
    """Models read it only where their `features` name it: it is there for a match."""
    matches: list[str] = Field([], exclude=True)
    """Gives the feature `<name>_<other>` too for each of these: a `match` of the `other` that this user had before. For
    one that the history is not of, `<name>_<other>_before`, a hidden history of it, is what that is counted of."""

    @field_validator("matches", mode="before")
    @classmethod
    def _spell_out(cls, value: Any) -> Any:
        names = expand(value)
        if len(set(names)) < len(names):
            raise ValueError("names a feature twice")
        return names


class Dense(Section):
    """A number: `log` is sign(x) * log(1 + |x|); then zero mean, unit variance over training rows.

    A missing or infinite value becomes 0 (the mean) and is counted.
    """

    kind: Literal["dense"]
    column: str | None = None
    """The log's column; the feature's own name when absent."""
    transform: Literal["none", "log"] = "none"
    """As said above."""
    standardise: bool = True
    """Whether the mean is taken off and the standard deviation made one."""
    bins: int | None = Field(None, ge=2, le=10_000, exclude=True)
    """Gives the feature `<name>_bucket` too, a `bucket` of so many: a model of embeddings makes more of a number that
    it also has as an id."""


class Bucket(Section):
    """A number cut at its training quantiles into `bins` ids; a missing value is an empty bag."""

    kind: Literal["bucket"]
    column: str | None = None
    """The log's column; the feature's own name when absent."""
    bins: int = Field(20, ge=2, le=10_000)
    """Ids that it is cut into; fewer where many rows have one value."""


class Match(Section):
    """How many ids of a user's history `of` are this row's own: log(1 + their number), a dense feature.

    The row's own id is that of the feature that the history is of. It says without a table whether a user comes back to
    an artist or reads this section again; a value that no training row has is never a match.
    """

    kind: Literal["match"]
    of: str
    """The history, which may be hidden."""


RESERVED = frozenset({"example_id", "label", "weight", "time", "true_probability"})
"""Columns that every dataset may have beside its features."""

Number = Dense | Match
"""What models read as a number."""

Feature = Annotated[Single | Bag | History | Dense | Bucket | Match, Field(discriminator="kind")]


def _spelled_out(name: str, feature: Feature) -> dict[str, Feature]:
    """A feature, and those that it asks for in short."""
    if isinstance(feature, Dense) and feature.bins is not None:
        bucket = Bucket(kind="bucket", column=feature.column or name, bins=feature.bins)
        return {name: feature.model_copy(update={"bins": None}), f"{name}_bucket": bucket}
    if not isinstance(feature, History):
        return {name: feature}
    bare = feature.model_copy(update={"matches": []})
    out: dict[str, Feature] = {name: bare}
    for other in feature.matches:
        of = name if other == feature.of else f"{name}_{other}_before"
        if of != name:
            out[of] = bare.model_copy(update={"of": other, "hidden": True})
        out[f"{name}_{other}"] = Match(kind="match", of=of)
    return out


class Dataset(Section):
    """The job's `dataset:` section."""

    log: Files | None = None
    simulate: Simulation | None = None
    joins: list[Join] = []
    label: Label = Label()
    weight: str | None = None
    """A column that says how much a row counts, in training and in every metric; 1 when absent."""
    time: Time | None = None
    example_id: str | None = None
    """The column that names a row; derived from file name and row number when absent."""
    true_probability: str | None = None
    """A simulated log's own click probability: kept for the report, never a feature."""
    negative_keep_rate: float = Field(1.0, gt=0, le=1)
    """The fraction of negatives that survived sampling into this log."""
    split: Split
    features: dict[Annotated[str, Field(pattern=NAME)], Feature] = Field(min_length=1)
    minimum_rows_per_day: int = Field(1, ge=0)
    """A day of fewer rows ends the run: a part of the log may be missing."""

    @field_validator("features", mode="before")
    @classmethod
    def _spell_out(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        out: dict[str, Any] = {}
        for names, feature in value.items():
            for name in expand(str(names)):
                if name in out:
                    raise ValueError(f"feature {name!r} is given twice")
                out[name] = feature
            if len(out) > MAX_NAMES:
                raise ValueError(f"more than {MAX_NAMES:,} features")
        return out

    @field_validator("features")
    @classmethod
    def _with_twins(cls, value: dict[str, Feature]) -> dict[str, Feature]:
        """With the buckets of numbers, and the matches of histories, that are asked for in short."""
        out: dict[str, Feature] = {}
        for name, feature in value.items():
            short = "bins" if isinstance(feature, Dense) else "matches"
            for made, spelled_out in _spelled_out(name, feature).items():
                if made in out or (made != name and made in value):
                    raise ValueError(f"feature {made!r} is given twice: it comes of the `{short}` of {name!r} too")
                if not re.match(NAME, made):
                    raise ValueError(f"feature {name!r} has a name too long for its `{short}`: name it otherwise")
                out[made] = spelled_out
        for name, feature in value.items():
            for other in feature.matches if isinstance(feature, History) else []:
                if not isinstance(out.get(other), Single | Bag | Bucket):
                    hint = nearest(other, value)
                    raise ValueError(
                        f"feature {name!r} matches {other!r}, which is no single, bag or bucket feature here{hint}"
                    )
        return out

    @model_validator(mode="after")
    def _fits_together(self) -> Dataset:
        if (self.log is None) == (self.simulate is None):
            raise ValueError("give either `log` (files) or `simulate`")
        for name, feature in self.features.items():
            if name in RESERVED:
                raise ValueError(f"feature {name!r} has a name that the dataset itself uses: name it otherwise")
            column = None if isinstance(feature, History | Match) else feature.column or name
            if column is not None and column in (self.label.column, self.true_probability):
                raise ValueError(f"feature {name!r} reads the label or the true probability, which would give it away")
            if isinstance(feature, Match):
                if not isinstance(self.features.get(feature.of), History):
                    raise ValueError(f"feature {name!r} refers to {feature.of!r}, which is no history feature here")
                continue
            other = feature.of if isinstance(feature, History) else getattr(feature, "share", None)
            kinds = Single | Bag | Bucket if isinstance(feature, History) else Single | Bag
            if other is not None and not isinstance(self.features.get(other), kinds):
                allowed = "single, bag or bucket" if isinstance(feature, History) else "single or bag"
                raise ValueError(f"feature {name!r} refers to {other!r}, which is no {allowed} feature here")
            if isinstance(feature, History) and self.time is None:
                raise ValueError(f"feature {name!r} is a history, which needs `time` to know what came before")
            if isinstance(feature, Single | Bag) and feature.share is not None:
                if getattr(self.features[feature.share], "share", None) is not None:
                    raise ValueError(f"feature {name!r} shares with {feature.share!r}, which itself shares")
                if feature.min_count > 1 or feature.max_values or feature.hash:
                    raise ValueError(f"feature {name!r} shares: give min_count, max_values or hash to the other one")
        if self.split.by == "days" and (self.time is None or self.time.unit == "order"):
            raise ValueError("`split: {by: days}` needs `time` with a clock (s, ms, us or datetime)")
        if self.split.by in ("user_order", "time") and self.time is None:
            raise ValueError(f"`split: {{by: {self.split.by}}}` needs `time`")
        return self
