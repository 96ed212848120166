"""Side tables (users, items) that are looked up for each row of the log. A side table is held in memory."""

from __future__ import annotations

import difflib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recdistill.clicklog.lookup import Lookup
from recdistill.clicklog.sources import Source, column_names, find, read
from recdistill.clicklog.values import Column, drop_nulls, text
from recdistill.config.dataset import Join
from recdistill.errors import UserError


class SideTable:
    """A side table: which columns it can give, and the rows of some of them by key.

    `name` is its file, for messages and counts; `on` the log's column that is looked up.
    """

    def __init__(self, join: Join) -> None:
        self._join = join
        self._sources = find(join)
        self._key = join.key or join.on
        self.on = join.on
        self.name = self._sources[0].path.name
        names = column_names(self._sources[0], join)
        missing = [name for name in [self._key, *(join.take or [])] if name not in names]
        if missing:
            said = f"{self._sources[0].path}: there is no column {missing[0]!r}; it has {', '.join(names)}"
            raise UserError(said if missing[0] != self._key else f"{said}; `key` names the one to join on")
        self.columns = join.take if join.take is not None else [name for name in names if name != self._key]
        self._rows: dict[str, pa.Array] = {}

    def load(self, columns: list[str]) -> None:
        """Reads the key and `columns` into memory.

        Raises:
            UserError: two rows have the same key, or a file of the table lacks a column.
        """
        wanted = list(dict.fromkeys([self._key, *columns]))
        batches = [
            {name: drop_nulls(batch.column(name), self._join.nulls) for name in wanted}
            for source in self._sources
            for batch in self._read(source, wanted)
        ]
        keys = pa.concat_arrays(
            [text(Column(self._key, batch[self._key], self.name, 0)) for batch in batches]
            or [pa.array([], pa.string())]
        )
        counts = pc.value_counts(keys.drop_null())
        repeated = counts.filter(pc.greater(counts.field("counts"), 1))
        if len(repeated):
            key = repeated[0].as_py()
            raise UserError(
                f"{self._sources[0].path}: {key['counts']} rows have {self._key} {key['values']!r}; "
                "expected one row a key"
            )
        self._lookup = Lookup(keys)
        for name in columns:
            self._rows[name] = _concat(name, [batch[name] for batch in batches], self.name)

    def find(self, keys: pa.StringArray) -> tuple[dict[str, pa.Array], int]:
        """The loaded columns for each key, null where the table has no such row, and how many rows that were."""
        at = self._lookup.find(keys)
        index = pa.array(at, mask=at < 0)
        return {name: values.take(index) for name, values in self._rows.items()}, int(np.sum(at < 0))

    def _read(self, source: Source, wanted: list[str]) -> list[pa.RecordBatch]:
        names = column_names(source, self._join)
        for name in wanted:
            if name not in names:
                raise UserError(f"{source.path}: there is no column {name!r}, which other files of this table have")
        return list(read(source, self._join, wanted))


def origins(source: Source, log: list[str], tables: list[SideTable], needs: list[str]) -> dict[str, SideTable | None]:
    """Where each needed column comes from: a side table, or None for the log, whose columns are `log`.

    Raises:
        UserError: a column is nowhere, or in two places.
    """
    found: dict[str, SideTable | None] = {}
    for name in needs:
        places = [*([None] if name in log else []), *(table for table in tables if name in table.columns)]
        if not places:
            raise UserError(no_column(source, name, [*log, *(known for table in tables for known in table.columns)]))
        if len(places) > 1:
            where = " and ".join("the log" if table is None else table.name for table in places)
            raise UserError(f"column {name!r} is in {where}; say with `take` which columns a side table gives")
        found[name] = places[0]
    return found


def no_column(source: Source, name: str, known: list[str]) -> str:
    """What to say about a column that is missing, with the nearest name that is there."""
    other = next((mark for mark in ";\t|, " if mark in known[0]), None) if len(known) == 1 else None
    if other:
        return (
            f"{source.path}: there is no column {name!r}, for the header is one column, {known[0]!r}; "
            f"is the delimiter {other!r}? Say so with `delimiter`, beside `paths`"
        )
    near = difflib.get_close_matches(name, known, 2, cutoff=0.5)
    shown = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
    return f"{source.path}: there is no column {name!r}; " + (
        f"did you mean {' or '.join(map(repr, near))}?" if near else f"it has {shown}"
    )


def _concat(name: str, parts: list[pa.Array], file: str) -> pa.Array:
    kinds = {part.type for part in parts}
    if not parts:
        return pa.array([], pa.string())
    if len(kinds) > 1:
        parts = [text(Column(name, part, file, 0)) for part in parts]
    return pa.concat_arrays(parts)
