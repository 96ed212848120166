"""What ingest learns from training rows, and from no others: vocabularies, bucket boundaries, means and deviations."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recdistill.clicklog.hashing import hashed_ids
from recdistill.clicklog.layout import Layout
from recdistill.clicklog.schema import Dataset as DatasetOnDisk
from recdistill.clicklog.schema import DenseColumn, Schema, Sparse, Table
from recdistill.clicklog.scratch import Scratch
from recdistill.clicklog.typed import Counts
from recdistill.config.dataset import Bag, Bucket, Dataset, Dense, Hash, History, Match, Single
from recdistill.files import atomic

_TRAIN = '"$split" = 0'
FINITE = float(np.finfo(np.float32).max)
"""The largest value that a dense feature may have."""
_ROUNDING = 1e-13
"""Of a mean of equal numbers, relative to it, with room to spare."""


def learn(scratch: Scratch, layout: Layout, out: Path, like: DatasetOnDisk | None = None) -> tuple[Schema, Counts]:
    """Works out the schema of a dataset and writes `out/vocabulary/*.parquet`.

    What a model that learned from the dataset `like` sees of a row is kept: means, deviations and bucket boundaries are
    that dataset's, and its values that no training row has stand at the end of the vocabularies, with a count of 0.

    Returns:
        The schema, and for each hashed table how many distinct training values share an id with another (`collisions`).
    """
    spec, counts = layout.spec, Counter[tuple[str, str]]()
    kept = {column.name: column for column in like.schema.dense} if like else {}
    cut = {table.name: table.boundaries or [] for table in like.schema.tables} if like else {}
    tables: list[Table] = []
    sparse: list[Sparse] = []
    dense: list[DenseColumn] = []
    for name, feature in spec.features.items():
        column, source = f'"{layout.features[name]}"', feature.model_dump(mode="json")
        if isinstance(feature, Match):
            dense.append(DenseColumn(name=name, mean=0.0, std=1.0, source=source))
            continue
        if isinstance(feature, Dense):
            if name in kept:
                dense.append(kept[name])
                continue
            moments = _moments(scratch, column, feature) if feature.standardise else Moments()
            dense.append(DenseColumn(name=name, mean=moments.mean, std=moments.std, source=source))
            continue
        shared = feature.of if isinstance(feature, History) else getattr(feature, "share", None)
        kind = "bag" if isinstance(feature, Bag | History) else "single"
        sparse.append(Sparse(name=name, kind=kind, table=shared or name, source=source))
        if isinstance(feature, Bucket):
            boundaries = cut[name] if name in cut else _boundaries(scratch, column, feature.bins)
            rows = len(boundaries) + 2
            tables.append(Table(name=name, rows=rows, encoding="bucket", boundaries=boundaries))
        elif isinstance(feature, Single | Bag) and shared is None:
            values = f"unnest({column})" if isinstance(feature, Bag) else column
            if feature.hash is not None:
                counts["collisions", name] = _collisions(scratch, values, feature.hash)
                size, salt = feature.hash.size, feature.hash.salt
                tables.append(Table(name=name, rows=size + 1, encoding="hash", salt=salt))
            else:
                known = like.vocabulary_path(name) if like else None
                rows = _vocabulary(scratch, values, feature, out / "vocabulary" / f"{name}.parquet", known) + 1
                tables.append(Table(name=name, rows=rows, encoding="vocabulary"))
    schema = Schema(
        sparse=sparse,
        dense=dense,
        tables=tables,
        negative_keep_rate=spec.negative_keep_rate,
        has_weight=spec.weight is not None,
        has_time=spec.time is not None,
        has_true_probability=spec.true_probability is not None,
        spec=portable(spec),
    )
    return schema, counts


def portable(spec: Dataset) -> dict:
    """The `dataset:` section as JSON without where the log lay, so that a log that was moved gives the same dataset."""
    section = spec.model_dump(mode="json", exclude={"simulate"})
    section["log"].pop("paths")
    return section


@dataclass(frozen=True)
class Moments:
    """Number, mean and sum of squared deviations of some values; `+` merges two (Chan, Golub, LeVeque 1979)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    @staticmethod
    def of(values: np.ndarray) -> Moments:
        """Of an array of float64."""
        if not len(values):
            return Moments()
        mean = float(values.mean())
        return Moments(len(values), mean, float(np.square(values - mean).sum()))

    def __add__(self, other: Moments) -> Moments:
        count = self.count + other.count
        if not count:
            return self
        apart = other.mean - self.mean
        squares = self.squares + other.squares + apart * apart * self.count * other.count / count
        return Moments(count, self.mean + apart * other.count / count, squares)

    @property
    def std(self) -> float:
        """The standard deviation over the values, not a sample's; 1 where they are all alike but for rounding."""
        found = float(np.sqrt(self.squares / self.count)) if self.count else 0.0
        return found if found > _ROUNDING * abs(self.mean) else 1.0


def transform(values: np.ndarray, name: str) -> np.ndarray:
    """`none`, or `log`: sign(x) * log(1 + |x|); NaN where a value is not finite in float32."""
    values = np.where(np.abs(values) <= FINITE, values, np.nan)
    return np.sign(values) * np.log1p(np.abs(values)) if name == "log" else values


def _moments(scratch: Scratch, column: str, feature: Dense) -> Moments:
    moments = Moments()
    for table in scratch.stream(f"SELECT {column} FROM rows WHERE {_TRAIN} AND {column} IS NOT NULL"):
        values = transform(table.column(0).to_numpy(), feature.transform)
        moments += Moments.of(values[np.isfinite(values)])
    return moments


def _boundaries(scratch: Scratch, column: str, bins: int) -> list[float]:
    """The values at ranks floor(i * n / bins), i = 1 .. bins - 1, of n sorted ones: distinct, above the smallest."""
    finite = f"{_TRAIN} AND isfinite({column})"
    total = scratch.run(f"SELECT count({column}) FROM rows WHERE {finite}")[0][0]
    ranks = np.arange(1, bins) * total // bins
    found: list[float] = []
    smallest, before = np.inf, 0
    for table in scratch.stream(
        f"SELECT {column} + 0.0 AS value, count(*) AS count FROM rows WHERE {finite} GROUP BY value ORDER BY value"
    ):
        values = table.column(0).to_numpy()
        ends = before + np.cumsum(table.column(1).to_numpy())
        smallest, before = min(smallest, values[0]), ends[-1]
        here = ranks[ranks < before]
        ranks = ranks[len(here) :]
        found += values[np.searchsorted(ends, here, side="right")].tolist()
    return sorted({value for value in found if value > smallest})


def _vocabulary(scratch: Scratch, values: str, feature: Single | Bag, path: Path, known: Path | None) -> int:
    """Writes the values of training rows that are kept, most frequent first, then other `known` ones; says how many."""
    limit = f"LIMIT {feature.max_values}" if feature.max_values is not None else ""
    schema = pa.schema({"value": pa.string(), "count": pa.int64()})
    rows = 0
    others = {} if known is None else dict.fromkeys(pq.read_table(known, partitioning=None)["value"].to_pylist())
    with atomic(path) as partial, pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        for table in scratch.stream(
            f"SELECT value, count(*) AS count FROM (SELECT {values} AS value FROM rows WHERE {_TRAIN}) "
            f"WHERE value IS NOT NULL GROUP BY value HAVING count(*) >= {feature.min_count} "
            f"ORDER BY count DESC, value {limit}"
        ):
            writer.write_table(table.cast(schema))
            rows += table.num_rows
            if others:
                for value in table["value"].to_pylist():
                    others.pop(value, None)
        if others:
            writer.write_table(pa.table({"value": list(others), "count": [0] * len(others)}, schema=schema))
    return rows + len(others)


def _collisions(scratch: Scratch, values: str, hash_: Hash) -> int:
    """Distinct training values less their distinct ids. Holds eight bytes for each distinct value."""
    query = f"SELECT DISTINCT value FROM (SELECT {values} AS value FROM rows WHERE {_TRAIN}) WHERE value IS NOT NULL"
    parts = [hashed_ids(table.column(0).to_pylist(), hash_.salt, hash_.size) for table in scratch.stream(query)] or [
        np.zeros(0, np.int64)
    ]
    ids = np.concatenate(parts)
    return len(ids) - len(np.unique(ids))
