"""The dataset contract: `schema.json`, `manifest.json` and `day=YYYY-MM-DD/part-<split>-NNNNN.parquet`.

Columns of a part: `example_id` int64, `label` float32 (0 or 1), then where the log has them `weight` float32, `time`
int64 (microseconds, or the log's own rank) and `true_probability` float32; each dense feature float32, standardised,
never NaN; each single feature int64, null where missing; each bag a list of int64, empty where missing. Ids of a table
lie in [0, rows); row 0 is the value that training never saw. Rows without a clock lie under the day `NO_DAY`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from recdistill.config.base import NAME
from recdistill.files import fingerprint, read_record, write_json

NO_DAY = "1970-01-01"
PART_ROWS = 1 << 18
"""The most rows of one part, and so the unit of reading, caching and shuffling."""
ROW_GROUP_ROWS = 1 << 16

SplitName = Literal["train", "validation", "test", "unlabelled"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
"""The splits of a log. `unlabelled` rows come from `recombine`: without `label`, `weight` and `time`."""


Name = Annotated[str, Field(pattern=NAME)]
Day = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$")]
Count = Annotated[int, Field(ge=0)]
PART_KEY = r"^day=\d{4}-\d\d-\d\d/part-(train|validation|test|unlabelled)-\d{5,}$"
"""Names and days are parts of paths, which must not lead out of the dataset's folder."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Table(_Record):
    """One embedding table's rows: row 0 is out of vocabulary, the others follow.

    `vocabulary` values are in `vocabulary/<name>.parquet` (`value` string, `count` int64), most frequent first, the
    value at position i has id i + 1. `hash` ids are 1 + xxh3_64(value, seed=salt) % size. `bucket` ids are
    1 + the number of `boundaries` that are <= the value.
    """

    name: Name
    rows: Count
    encoding: Literal["vocabulary", "hash", "bucket"]
    salt: int | None = None
    boundaries: list[float] | None = None

    @model_validator(mode="after")
    def _is_cut(self) -> Table:
        if self.encoding == "bucket":
            cuts = self.boundaries or []
            if len(cuts) + 2 != self.rows or any(one >= other for one, other in itertools.pairwise(cuts)):
                raise ValueError("buckets need ascending boundaries, two fewer than rows")
        if self.encoding == "hash" and self.rows < 2:
            raise ValueError("a hashed table needs a row beside row 0")
        return self


class Sparse(_Record):
    """A feature of ids; `source` is its section of the job file."""

    name: Name
    kind: Literal["single", "bag"]
    table: Name
    source: dict[str, Any]


class DenseColumn(_Record):
    """A dense feature: `(transform(x) - mean) / std`."""

    name: Name
    mean: float
    std: float = Field(gt=0)
    source: dict[str, Any]

    @property
    def history(self) -> str | None:
        """The history whose ids it counts, of a match."""
        return self.source.get("of") if self.source.get("kind") == "match" else None


class Schema(_Record):
    """What a dataset's columns mean; ships with every exported student."""

    version: Literal[1] = 1
    sparse: list[Sparse]
    dense: list[DenseColumn]
    tables: list[Table]
    negative_keep_rate: float = Field(1.0, gt=0, le=1)
    has_weight: bool = False
    has_time: bool = False
    has_true_probability: bool = False
    spec: dict[str, Any] = {}
    """The job's `dataset:` section that made it, where the log lay left out: what encodes another log the same way."""

    @model_validator(mode="after")
    def _fits_together(self) -> Schema:
        tables = [table.name for table in self.tables]
        features = [*(feature.name for feature in self.sparse), *(column.name for column in self.dense)]
        if len(set(tables)) < len(tables) or len(set(features)) < len(features):
            raise ValueError("a name is there twice")
        for feature in self.sparse:
            if feature.table not in tables:
                raise ValueError(f"feature {feature.name!r} has no table {feature.table!r}")
        bags = {feature.name: feature.source.get("of") for feature in self.sparse if feature.kind == "bag"}
        for column in self.dense:
            if column.history is not None and bags.get(column.history) not in [each.name for each in self.sparse]:
                raise ValueError(f"feature {column.name!r} has no history {column.history!r}")
        return self

    def table(self, feature: str) -> Table:
        """The table that a sparse feature looks up."""
        name = next(sparse.table for sparse in self.sparse if sparse.name == feature)
        return next(table for table in self.tables if table.name == name)


class PartRecord(_Record):
    """One Parquet file of the dataset."""

    day: Day
    split: SplitName
    index: Count
    rows: Count
    positives: Count
    sha256: str


class Manifest(_Record):
    """Everything ingest wrote, and what it counted on the way (`counts`: what, then feature, then rows).

    `vocabularies` has the SHA-256 of each table's: the same ids may stand for other values.
    """

    version: Literal[1] = 1
    parts: list[PartRecord]
    vocabularies: dict[str, str] = {}
    counts: dict[str, dict[str, int]] = {}

    @model_validator(mode="after")
    def _each_once(self) -> Manifest:
        keys = {(part.day, part.split, part.index) for part in self.parts}
        if len(keys) < len(self.parts):
            raise ValueError("a part is there twice")
        return self


@dataclass(frozen=True)
class Part:
    """A part and where it lies."""

    path: Path
    day: str
    split: SplitName
    index: int
    rows: int

    @property
    def key(self) -> str:
        """`day=.../part-<split>-NNNNN`: the same for a part and for every cache shard made from it."""
        return part_key(self.day, self.split, self.index)


def part_key(day: str, split: str, index: int) -> str:
    """The path of a part inside its dataset, without the suffix."""
    return f"day={day}/part-{split}-{index:05d}"


class Dataset:
    """An ingested dataset, opened for reading."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.schema = read_schema(self.root)
        self.manifest = read_record(self.root / "manifest.json", Manifest, "dataset's manifest")

    @cached_property
    def fingerprint(self) -> str:
        """Changes whenever the schema, a vocabulary or any byte of any part does."""
        told: list[Any] = [self.schema.model_dump(), [part.sha256 for part in self.manifest.parts]]
        values = self.manifest.vocabularies
        return fingerprint([*told, values] if values else told)  # without any, it is that of earlier versions

    @cached_property
    def days(self) -> list[str]:
        """Every day that has rows, in order."""
        return sorted({part.day for part in self.manifest.parts})

    def parts(self, split: SplitName | None = None, days: list[str] | None = None) -> list[Part]:
        """Parts in order of day, then split, then index."""
        records = [
            record
            for record in self.manifest.parts
            if (split is None or record.split == split) and (days is None or record.day in days)
        ]
        records.sort(key=lambda record: (record.day, get_args(SplitName).index(record.split), record.index))
        return [
            Part(
                self.root / (part_key(record.day, record.split, record.index) + ".parquet"),
                record.day,
                record.split,
                record.index,
                record.rows,
            )
            for record in records
        ]

    def rows(self, split: SplitName | None = None, days: list[str] | None = None) -> int:
        """Rows of a split."""
        return sum(part.rows for part in self.parts(split, days))

    def vocabulary_path(self, table: str) -> Path:
        """Where the values of a `vocabulary` table are."""
        return self.root / "vocabulary" / f"{table}.parquet"


def write_dataset(root: Path, schema: Schema, manifest: Manifest) -> None:
    """Writes the two JSON files that make a folder of parts a dataset; the manifest comes last."""
    write_json(root / "schema.json", schema.model_dump())
    write_json(root / "manifest.json", manifest.model_dump())


def read_schema(root: Path) -> Schema:
    """The schema of a dataset or of an exported student."""
    return read_record(Path(root) / "schema.json", Schema, "dataset's schema")
