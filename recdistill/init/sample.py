"""A bounded look at a log: at some places of some files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from recdistill.clicklog.sources import Source, column_names, find, open_bytes, open_parquet, read
from recdistill.clicklog.values import drop_nulls
from recdistill.config.dataset import Files
from recdistill.errors import UserError
from recdistill.init.dialect import HEAD_BYTES

ROWS = 100_000
"""Rows that are looked at."""
PLACES = 8
"""Files, and row groups or places of a file, that they are taken from."""


@dataclass(frozen=True)
class Sample:
    """Some rows of a log, in its order.

    Attributes:
        files: how the log is read.
        sources: every file of the log.
        table: the rows; text columns of a text log are strings, missing values are null.
        rows: about how many rows the log has; exactly, where it is Parquet or `whole`.
        whole: the sample is the whole log.
        places: from how many places of the log the rows are; of 1, they are its first.
    """

    files: Files
    sources: list[Source]
    table: pa.Table
    rows: int
    whole: bool
    places: int


def take(files: Files) -> Sample:
    """Reads a sample.

    Raises:
        UserError: a file is damaged, has other columns than the first, or there are no rows.
    """
    sources = find(files)
    chosen = [sources[at] for at in _spread(len(sources))]
    names = column_names(chosen[0], files)
    for other in chosen[1:]:
        differing = sorted(set(names) ^ set(column_names(other, files)))
        if differing:
            raise UserError(
                f"{other.path}: column {differing[0]!r} is not in {chosen[0].path} too, or the other way round; init "
                "reads one table: write side tables (users, items) into `dataset.joins` by hand"
            )
    quota = -(-ROWS // len(chosen))
    tables, ended, places = [], len(chosen) == len(sources), 0
    for source in chosen:
        batches, whole, groups = _head(source, files, names, quota)
        tables.append(pa.Table.from_batches(batches) if batches else None)
        ended, places = ended and whole, places + groups
    table = _joined([table for table in tables if table is not None], files)
    if table is None or not table.num_rows:
        raise UserError(f"{sources[0].path}: the log has no rows")
    rows = table.num_rows if ended else max(table.num_rows, _counted(sources))
    return Sample(files, sources, table, rows, ended, places)


def _spread(count: int) -> list[int]:
    """At most `PLACES` positions of `count`, the first and the last among them."""
    return sorted(set(np.linspace(0, count - 1, min(count, PLACES)).astype(int).tolist()))


def _head(source: Source, files: Files, names: list[str], quota: int) -> tuple[list[pa.RecordBatch], bool, int]:
    """About `quota` rows of one file, whether they are all that it has, and from how many places of it they are."""
    if source.format != "parquet":
        places = _places(source, quota)
        with suppress(UserError):  # a place may lie inside a value of several lines
            if len(places) > 1:
                each = -(-quota // len(places))
                found = [_first(read(source, files, names, start=start), each)[0] for start in places]
                return [batch for batches in found for batch in batches], False, len(places)
        return *_first(read(source, files, names), quota), 1
    with open_parquet(source) as file:
        groups = file.num_row_groups
    picked = [[at] for at in _spread(groups)] if groups else []
    batches, whole = [], len(picked) == groups
    for group in picked:
        more, ended = _first(read(source, files, names, group), -(-quota // len(picked)))
        batches += more
        whole = whole and ended
    return batches, whole, len(picked)


def _places(source: Source, quota: int) -> list[int]:
    """Bytes of a text file after which to begin: others than 0 where it is not packed and has rows enough."""
    if source.codec or not isinstance(source.path, Path):
        return [0]
    size = source.path.stat().st_size
    with open_bytes(source) as stream:
        head = stream.read(HEAD_BYTES)
    lines = head.count(b"\n")
    if size * lines <= 2 * quota * len(head):
        return [0]
    last = size - (quota // PLACES + 2) * len(head) // lines
    return np.linspace(0, last, PLACES).astype(int).tolist()


def _first(stream: Iterator[pa.RecordBatch], quota: int) -> tuple[list[pa.RecordBatch], bool]:
    found, left = [], quota
    for batch in stream:
        found.append(batch.slice(0, left))
        if batch.num_rows > left:
            return found, False
        left -= batch.num_rows
    return found, True


def _joined(tables: list[pa.Table], files: Files) -> pa.Table | None:
    if not tables:
        return None
    clean = [
        pa.table(
            {
                name: pa.chunked_array([drop_nulls(chunk, files.nulls) for chunk in table[name].chunks])
                for name in table.column_names
            }
        )
        for table in tables
    ]
    try:
        return pa.concat_tables(clean, promote_options="permissive").combine_chunks()
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        said = str(error).splitlines()[0]
        raise UserError(f"the log's files disagree about a column ({said}); make them alike") from None


def _counted(sources: list[Source]) -> int:
    """Rows by Parquet files' footers; of text files, as many as their bytes hold of rows like their first."""
    rows, packed, seen, lines, looked_at = 0, 0, 0, 0, _spread(len(sources))
    for at, source in enumerate(sources):
        if source.format == "parquet":
            with open_parquet(source) as file:
                rows += file.metadata.num_rows
            continue
        packed += source.path.stat().st_size
        if at in looked_at:
            with open_bytes(source) as stream:
                head = stream.read(HEAD_BYTES)
            lines += head.count(b"\n")
            seen += len(pa.Codec(source.codec).compress(head)) if source.codec else len(head)
    return rows + round(packed / max(1, seen) * lines)
