"""Typed rows to the dataset's columns: texts become ids, numbers are standardised, histories are gathered."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recdistill.clicklog.hashing import hashed_ids
from recdistill.clicklog.history import ByUser, History, alone
from recdistill.clicklog.layout import Layout
from recdistill.clicklog.lookup import Lookup, factorise
from recdistill.clicklog.match import matches
from recdistill.clicklog.schema import DenseColumn, Schema, Sparse, Table
from recdistill.clicklog.statistics import transform
from recdistill.clicklog.typed import Counts
from recdistill.config.dataset import Bag, Bucket, Dataset, Match, Number
from recdistill.config.dataset import Dense as DenseSpec
from recdistill.config.dataset import History as HistorySpec
from recdistill.errors import UserError

ROW_COLUMNS = {
    "example_id": pa.int64(),
    "label": pa.float32(),
    "weight": pa.float32(),
    "time": pa.int64(),
    "true_probability": pa.float32(),
}
"""Columns of a row beside its features, where the log has them."""


class Encoder:
    """Encodes typed tables, one after the other, in time order where there are histories.

    Args:
        schema: of the dataset that the ids are for.
        vocabularies: the folder that holds `<table>.parquet`.
        layout: of the typed tables.
        row_columns: which of `ROW_COLUMNS` to hand on.

    Attributes:
        counts: by feature, rows whose value is `missing`, ids that are `unseen`, numbers that are `not_finite`.
    """

    def __init__(self, schema: Schema, vocabularies: Path, layout: Layout, row_columns: list[str]) -> None:
        self.counts: Counts = Counter()
        self._layout = layout
        self._features: dict[str, Sparse | DenseColumn] = {feature.name: feature for feature in schema.sparse}
        self._features |= {feature.name: feature for feature in schema.dense}
        self._tables = {table.name: table for table in schema.tables}
        _check(self._features, self._tables, layout.spec, vocabularies.parent / "schema.json")
        self._lookups = {
            table.name: _lookup(vocabularies / f"{table.name}.parquet", table)
            for table in schema.tables
            if table.encoding == "vocabulary"
        }
        self._histories = {
            name: History(feature.last)
            for name, feature in layout.spec.features.items()
            if isinstance(feature, HistorySpec)
        }
        self._row_columns = row_columns
        self.schema = pa.schema(
            {name: ROW_COLUMNS[name] for name in row_columns}
            | {name: _arrow_type(self._features[name]) for name in layout.spec.features}
        )

    def encode(self, typed: pa.Table) -> pa.Table:
        """The dataset's columns for a typed table, row by row in the same order."""
        out: dict[str, pa.Array] = {name: _one(typed[name]).cast(ROW_COLUMNS[name]) for name in self._row_columns}
        for name, column in self._layout.features.items():
            if column in typed.column_names:
                out[name] = self._feature(self._features[name], _one(typed[column]))
        by_user: dict[str, ByUser] = {}
        for name in self._histories:
            user = _history(self._layout.spec, name).user
            if user not in by_user:
                by_user[user] = ByUser(_one(typed[self._layout.users[user]]), typed["time"].to_numpy())
            out[name] = self._history(name, typed, out, by_user[user])
        for name, spec in self._layout.spec.features.items():
            if isinstance(spec, Match):
                out[name] = matches(out[spec.of], out[_history(self._layout.spec, spec.of).of])
        return pa.table([out[name] for name in self.schema.names], schema=self.schema)

    def _feature(self, feature: Sparse | DenseColumn, cells: pa.Array) -> pa.Array:
        if isinstance(feature, DenseColumn):
            return self._dense(feature, cells)
        table = self._tables[feature.table]
        if feature.kind == "bag":
            sizes = np.asarray(pc.list_value_length(cells))
            self._count("missing", feature.name, sizes == 0)
            ids = self._text_ids(feature.name, table, pc.list_flatten(cells))
            offsets = np.concatenate([np.zeros(1, np.int32), np.cumsum(sizes, dtype=np.int32)])
            return pa.ListArray.from_arrays(pa.array(offsets), pa.array(ids))
        missing = np.asarray(cells.is_null())
        self._count("missing", feature.name, missing)
        if table.encoding == "bucket":
            numbers = pc.fill_null(cells, 0.0).to_numpy(zero_copy_only=False)
            ids = 1 + np.searchsorted(np.array(table.boundaries), numbers, side="right")
        else:
            ids = self._text_ids(feature.name, table, cells)
        return pa.array(ids.astype(np.int64), mask=missing)

    def _text_ids(self, name: str, table: Table, cells: pa.StringArray) -> np.ndarray:
        """Ids of texts, int64; what stands for a missing one means nothing."""
        if table.encoding == "hash":
            distinct, codes = factorise(cells)
            return np.append(hashed_ids(distinct, table.salt or 0, table.rows - 1), 0)[codes]
        ids = self._lookups[table.name].find(cells) + 1
        self._count("unseen", name, (ids == 0) & np.asarray(cells.is_valid()))
        return ids

    def _dense(self, feature: DenseColumn, cells: pa.Array) -> pa.Array:
        spec = self._layout.spec.features[feature.name]
        assert isinstance(spec, DenseSpec)
        missing = np.asarray(cells.is_null())
        raw = cells.to_numpy(zero_copy_only=False)
        with np.errstate(over="ignore"):
            scaled = ((transform(raw, spec.transform) - feature.mean) / feature.std).astype(np.float32)
        good = np.isfinite(scaled)
        self._count("missing", feature.name, missing)
        self._count("not_finite", feature.name, ~good & ~missing)
        return pa.array(np.where(good, scaled, np.float32(0)))

    def _history(self, name: str, typed: pa.Table, out: dict[str, pa.Array], by_user: ByUser) -> pa.ListArray:
        spec = _history(self._layout.spec, name)
        items = out[spec.of]
        happened = np.asarray(items.is_valid())
        if spec.outcome != "any":
            wanted = pc.equal(_one(typed["label"]), 1 if spec.outcome == "positive" else 0)
            happened &= np.asarray(pc.fill_null(wanted, False))
        added = pc.if_else(pa.array(happened), items, None)
        added = added if pa.types.is_list(added.type) else alone(added)
        lists = self._histories[name].extend(by_user, added)
        self._count("missing", name, np.asarray(pc.list_value_length(lists)) == 0)
        if self._tables[spec.of].encoding == "vocabulary":
            self._count("unseen", name, np.asarray(pc.list_flatten(lists)) == 0)
        return lists

    def _count(self, what: str, feature: str, flags: np.ndarray) -> None:
        self.counts[what, feature] += int(flags.sum())


def _history(spec: Dataset, name: str) -> HistorySpec:
    feature = spec.features[name]
    assert isinstance(feature, HistorySpec)
    return feature


def _arrow_type(feature: Sparse | DenseColumn) -> pa.DataType:
    if isinstance(feature, DenseColumn):
        return pa.float32()
    return pa.int64() if feature.kind == "single" else pa.list_(pa.int64())


def _check(learned: dict[str, Sparse | DenseColumn], tables: dict[str, Table], spec: Dataset, path: Path) -> None:
    """Refuses a schema (in `path`) whose features and tables are not those that `spec` asks for."""
    for name, feature in spec.features.items():
        known = learned.get(name)
        if isinstance(feature, Number):
            fits = isinstance(known, DenseColumn)
        else:
            owner = feature.of if isinstance(feature, HistorySpec) else getattr(feature, "share", None) or name
            hashed = getattr(spec.features[owner], "hash", None) is not None
            encoding = "bucket" if isinstance(spec.features[owner], Bucket) else "hash" if hashed else "vocabulary"
            kind = "bag" if isinstance(feature, Bag | HistorySpec) else "single"
            fits = isinstance(known, Sparse) and (known.kind, known.table) == (kind, owner)
            fits = fits and tables[owner].encoding == encoding
        if not fits or len(learned) > len(spec.features):
            raise UserError(
                f"{path}: feature {name!r} is not what `spec` says there; run the stage that wrote it again"
            )


def _lookup(path: Path, table: Table) -> Lookup:
    """The values of a table; as many as it has rows, but for row 0."""
    try:
        column = pq.read_table(path, columns=["value"], partitioning=None)
        values = _one(column["value"]) if column.column_names else None
        if values is not None:
            values.validate(full=True)  # UTF-8, above all
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: the vocabulary cannot be read ({error}); run the stage that wrote it again") from None
    if values is None or values.type != pa.string() or values.null_count:
        raise UserError(f"{path}: no vocabulary, for it has no texts in a column 'value'; run its stage again")
    lookup = Lookup(values)
    if len(lookup) != table.rows - 1:
        raise UserError(
            f"{path}: {len(lookup):,} different values, where the schema has {table.rows - 1:,}; run its stage again"
        )
    return lookup


def _one(column: pa.ChunkedArray) -> pa.Array:
    chunks = column.chunks
    return chunks[0] if len(chunks) == 1 else pa.concat_arrays(chunks) if chunks else pa.array([], column.type)
