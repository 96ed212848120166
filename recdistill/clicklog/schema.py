"""The dataset contract: `schema.json`, `manifest.json` and `day=YYYY-MM-DD/part-<split>-NNNNN.parquet`.

Columns of a part: `example_id` int64, `label` float32 (0 or 1), then where the log has them `weight` float32, `time`
int64 (microseconds, or the log's own rank) and `true_probability` float32; each dense feature float32, standardised,
never NaN; each single feature int64, null where missing; each bag a list of int64, empty where missing. Ids of a table
lie in [0, rows); row 0 is the value that training never saw. Rows without a clock lie under the day `NO_DAY`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from recdistill.errors import UserError
from recdistill.files import fingerprint, read_json, write_json

Model = TypeVar("Model", bound=BaseModel)

NO_DAY = "1970-01-01"
PART_ROWS = 1 << 18
"""The most rows of one part, and so the unit of reading, caching and shuffling."""
ROW_GROUP_ROWS = 1 << 16

SplitName = Literal["train", "validation", "test", "unlabelled"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
"""The splits of a log. `unlabelled` rows come from `recombine`: without `label`, `weight` and `time`."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Table(_Record):
    """One embedding table's rows: row 0 is out of vocabulary, the others follow.

    `vocabulary` values are in `vocabulary/<name>.parquet` (`value` string, `count` int64), most frequent first, the
    value at position i has id i + 1. `hash` ids are 1 + xxh3_64(value, seed=salt) % size. `bucket` ids are
    1 + the number of `boundaries` that are <= the value.
    """

    name: str
    rows: int
    encoding: Literal["vocabulary", "hash", "bucket"]
    salt: int | None = None
    boundaries: list[float] | None = None


class Sparse(_Record):
    """A feature of ids; `source` is its section of the job file."""

    name: str
    kind: Literal["single", "bag"]
    table: str
    source: dict[str, Any]


class DenseColumn(_Record):
    """A dense feature: `(transform(x) - mean) / std`."""

    name: str
    mean: float
    std: float
    source: dict[str, Any]


class Schema(_Record):
    """What a dataset's columns mean; ships with every exported student."""

    version: Literal[1] = 1
    sparse: list[Sparse]
    dense: list[DenseColumn]
    tables: list[Table]
    negative_keep_rate: float = 1.0
    has_weight: bool = False
    has_time: bool = False
    has_true_probability: bool = False
    spec: dict[str, Any] = {}
    """The job's `dataset:` section that made it, where the log lay left out: what encodes another log the same way."""

    def table(self, feature: str) -> Table:
        """The table that a sparse feature looks up."""
        name = next(sparse.table for sparse in self.sparse if sparse.name == feature)
        return next(table for table in self.tables if table.name == name)


class PartRecord(_Record):
    """One Parquet file of the dataset."""

    day: str
    split: SplitName
    index: int
    rows: int
    positives: int
    sha256: str


class Manifest(_Record):
    """Everything ingest wrote, and what it counted on the way (`counts`: what, then feature, then rows)."""

    version: Literal[1] = 1
    parts: list[PartRecord]
    counts: dict[str, dict[str, int]] = {}


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
        self.manifest = _load(Manifest, self.root / "manifest.json")

    @cached_property
    def fingerprint(self) -> str:
        """Changes whenever the schema or any byte of any part does."""
        return fingerprint([self.schema.model_dump(), [part.sha256 for part in self.manifest.parts]])

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
    return _load(Schema, Path(root) / "schema.json")


def _load(model: type[Model], path: Path) -> Model:
    try:
        return model.model_validate(read_json(path))
    except ValidationError as error:
        raise UserError(f"{path}: not a version-1 {model.__name__.lower()} ({error.errors()[0]['msg']})") from None
