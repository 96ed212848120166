"""The raw log as typed rows (`layout`): every cell read, checked and joined, nothing encoded yet."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recdistill.clicklog import values
from recdistill.clicklog.hashing import derived_ids, draws, example_ids
from recdistill.clicklog.joins import SideTable, no_column, origins
from recdistill.clicklog.layout import Layout
from recdistill.clicklog.sources import Source, column_names, find, read
from recdistill.clicklog.values import Column
from recdistill.config.dataset import Bag, Dataset, Files, Label, Single
from recdistill.errors import UserError

Counts = Counter[tuple[str, str]]
"""What was counted and for which feature or side table -> rows."""


class Tally(NamedTuple):
    """What was found out about some rows on the way (see `TypedLog`); the times are those of the first and the last."""

    rows: int
    counts: Counts
    in_order: bool
    first_time: int | None
    last_time: int | None


class TypedLog:
    """A raw log, read once as typed batches by iterating.

    Attributes:
        rows, files_done: rows given and files ended so far.
        in_order: whether rows came in order of time.
        counts: list cells cut to `max_length` (`truncated`), rows that a side table lacks (`unmatched`).
        has_label: whether the log has the label's column; it must, unless the layout is for scoring.
    """

    in_order: bool

    def __init__(self, spec: Dataset, scoring: bool = False) -> None:
        assert spec.log is not None
        self.layout = Layout(spec, scoring)
        self._files, self._scoring = spec.log, scoring
        self._begin()
        self.sources = find(spec.log)
        self._tables = [SideTable(join) for join in spec.joins]
        self._log_columns = self._choose_columns(column_names(self.sources[0], spec.log))
        self._check_names()

    def __reduce__(self) -> Any:
        return TypedLog, (self.layout.spec, self._scoring)

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        yield from self.read(self.sources)
        self.refuse_empty()

    def part(self) -> TypedLog:
        """The same log with a tally of its own, to read some of its files."""
        other = copy.copy(self)
        other._begin()
        return other

    @property
    def tally(self) -> Tally:
        """What was found out so far."""
        return Tally(self.rows, self.counts, self.in_order, self._first_time, self._last_time)

    def add(self, tally: Tally) -> None:
        """Takes what was found out about the files that come next."""
        self.rows += tally.rows
        self.counts.update(tally.counts)
        self.in_order = self.in_order and tally.in_order
        if tally.first_time is not None:
            self._watch_order(np.array([tally.first_time, tally.last_time]))

    def refuse_empty(self) -> None:
        """Raises `UserError` where no row was read."""
        if not self.rows:
            raise UserError(f"{self.sources[0].path}: the log has no rows")

    def read(self, sources: Sequence[Source]) -> Iterator[pa.RecordBatch]:
        """Typed batches of these files; `$position` counts from the first row that is read."""
        for source in sources:
            first = 0
            for batch in self._read(source):
                if batch.num_rows:
                    yield self._typed(Cells(batch, source, first, self._files, self._tables, self.counts))
                first += batch.num_rows
            self.files_done += 1

    def _begin(self) -> None:
        self.rows, self.files_done = 0, 0
        self.in_order = True
        self.counts: Counts = Counter()
        self._first_time: int | None = None
        self._last_time = -(2**63)

    def _choose_columns(self, names: list[str]) -> list[str]:
        """Decides which columns come from side tables and loads those; returns which come from the log."""
        label = self.layout.spec.label.column
        self.has_label = label in names or any(label in table.columns for table in self._tables)
        needs = list(self.layout.needs)
        if self.has_label or not self._scoring:
            needs.append(label)
        elif self.layout.label_matters:
            raise UserError(
                f"{self.sources[0].path}: there is no column {label!r}, which histories of positive or negative rows "
                "need; leave its cell empty in rows whose outcome is not known yet"
            )
        if not self.has_label and not self._scoring:
            said = no_column(self.sources[0], label, names)
            hint = "; `label: {column: ...}` names the one that says who clicked" if len(names) > 1 else ""
            raise UserError(said + hint)
        needs = list(dict.fromkeys([*needs, *(table.on for table in self._tables)]))
        taken = origins(self.sources[0], names, self._tables, needs)
        for table in self._tables:
            table.load([name for name in needs if taken[name] is table])
        return [name for name in needs if taken[name] is None]

    def _check_names(self) -> None:
        """Derived ids hang on file names, so two files must not have the same."""
        if self.layout.spec.example_id is None:
            seen: dict[str, Source] = {}
            for source in self.sources:
                other = seen.setdefault(source.name, source)
                if other is not source:
                    raise UserError(
                        f"{source.path} and {other.path}: rows are named after their file, both {source.name!r}; name "
                        "them by one glob with the folder above them, or give `example_id`"
                    )

    def _read(self, source: Source) -> Iterator[pa.RecordBatch]:
        names = column_names(source, self._files)
        for name in self._log_columns:
            if name not in names:
                raise UserError(no_column(source, name, names))
        return read(source, self._files, self._log_columns)

    def _typed(self, cells: Cells) -> pa.RecordBatch:
        layout, spec = self.layout, self.layout.spec
        if spec.example_id is None:
            ids = pa.array(derived_ids(cells.source.name, cells.first, cells.rows))
        else:
            ids = example_ids(cells[spec.example_id])
        out: dict[str, pa.Array] = {
            "$position": pa.array(np.arange(self.rows, self.rows + cells.rows)),
            "example_id": ids,
            "label": self._label(cells),
        }
        if layout.weight:
            out["weight"] = _bounded(cells[layout.weight], np.inf, "a weight, finite and not negative")
        if layout.time:
            out["time"] = values.micros(cells[layout.time.column], layout.time.unit)
            self._watch_order(np.asarray(out["time"]))
        if layout.true_probability:
            out["true_probability"] = _bounded(cells[layout.true_probability], 1.0, "a probability")
        if layout.draws:
            out["$draw"] = pa.array(draws(np.asarray(ids), spec.split.seed))
        for name, column in layout.users.items():
            out[column] = values.text(cells[name])
            if name == layout.split_user:
                cells[name].refuse(pc.is_null(out[column]), "a user, which `split` needs")
        for name, column in layout.features.items():
            if column in layout.schema.names:
                out[column] = self._feature(name, cells[layout.raw(name)])
        self.rows += cells.rows
        return pa.record_batch([out[name] for name in layout.schema.names], schema=layout.schema)

    def _label(self, cells: Cells) -> pa.Array:
        if not self.has_label:
            return pa.nulls(cells.rows, pa.int8())
        column, rule = cells[self.layout.spec.label.column], self.layout.spec.label
        numbers = values.text(column) if rule.equals is not None else values.numbers(column, _expected_label(rule))
        if not self._scoring:
            column.refuse(pc.is_null(numbers), _expected_label(rule))
        if rule.equals is not None:
            return pc.equal(numbers, rule.equals).cast(pa.int8())
        if rule.at_least is not None:
            return pc.greater_equal(numbers, rule.at_least).cast(pa.int8())
        column.refuse(pc.and_(pc.not_equal(numbers, 0.0), pc.not_equal(numbers, 1.0)), _expected_label(rule))
        return numbers.cast(pa.int8())

    def _feature(self, name: str, column: Column) -> pa.Array:
        feature = self.layout.spec.features[name]
        if isinstance(feature, Single):
            return values.text(column)
        if isinstance(feature, Bag):
            bags, longer = values.lists(column, feature.delimiter, feature.max_length)
            if longer:
                self.counts["truncated", name] += longer
            return bags
        return values.numbers(column, "a number; `nulls` beside `paths` says what is none, `kind: single` takes words")

    def _watch_order(self, times: np.ndarray) -> None:
        self.in_order = self.in_order and self._last_time <= times[0] and bool((times[1:] >= times[:-1]).all())
        self._last_time = int(times[-1])
        if self._first_time is None:
            self._first_time = int(times[0])


class Cells:
    """One raw batch: its own columns and those that side tables add, by name."""

    def __init__(
        self, batch: pa.RecordBatch, source: Source, first: int, files: Files, tables: list[SideTable], counts: Counts
    ) -> None:
        self.source, self.first, self.rows = source, first, batch.num_rows
        file = str(source.path)
        self._columns = {
            name: Column(name, values.drop_nulls(cells, files.nulls), file, first)
            for name, cells in zip(batch.schema.names, batch.columns, strict=True)
        }
        for table in tables:
            found, unmatched = table.find(values.text(self[table.on]))
            counts["unmatched", table.name] += unmatched
            for name, cells in found.items():
                self._columns[name] = Column(name, cells, f"{table.name} joined to {file}", first)

    def __getitem__(self, name: str) -> Column:
        return self._columns[name]


def _bounded(column: Column, high: float, expected: str) -> pa.Array:
    numbers = values.numbers(column)
    inside = pc.and_(pc.greater_equal(numbers, 0.0), pc.less_equal(numbers, high))
    column.refuse(pc.invert(pc.fill_null(pc.and_(inside, pc.is_finite(numbers)), False)), expected)
    return numbers.cast(pa.float32())


def _expected_label(rule: Label) -> str:
    if rule.equals is not None:
        return "a value to compare with `equals`"
    return (
        "0 or 1, or a rule such as `label: {equals: yes}` or `{at_least: 4}`"
        if rule.at_least is None
        else "a number to compare with `at_least`"
    )
