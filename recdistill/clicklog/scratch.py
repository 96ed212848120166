"""Typed rows on disk, as a DuckDB view: sorted, counted and read again with memory that does not grow with the log."""

from __future__ import annotations

import itertools
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from recdistill.clicklog.bounds import BYTES
from recdistill.clicklog.schema import ROW_GROUP_ROWS
from recdistill.errors import UserError

_MEMORY = "512MB"
_THREADS = 2
"""More would need more memory."""
_GROUPS = 64
"""Row groups of a file of typed rows, at most."""
_FETCHED = 1 << 12
"""Rows of a result that DuckDB hands over at once, without a bound on their bytes; fewer take no longer."""


class Scratch:
    """A folder of temporary files, removed at the end of the `with` block, and a DuckDB connection that works in it.

    The rows are the view `rows`: first the typed ones, as they came; then as `arrange` leaves them. `rows` is also the
    query behind it: with that, another process reads the same folder, and leaves it where it is.
    """

    def __init__(self, folder: Path, rows: str | None = None) -> None:
        self.folder, self.rows = folder, rows or ""
        self._owns, self._typed = rows is None, list[Path]()

    def __enter__(self) -> Scratch:
        import duckdb

        if self._owns:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
        self._errors = (duckdb.OutOfMemoryException, duckdb.IOException)
        self._connection = duckdb.connect(
            config={
                "memory_limit": _MEMORY,
                "threads": min(_THREADS, os.cpu_count() or 1),
                "temp_directory": str(self.folder / f"spill-{uuid.uuid4().hex}"),
            }
        )
        self._connection.execute("SET enable_progress_bar = false")
        if self.rows:
            self._view(self.rows)
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        if self._owns:
            shutil.rmtree(self.folder, ignore_errors=True)

    def write(self, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
        """Puts batches into the scratch folder and makes them the view `rows`."""
        self.open(dict.fromkeys(write_typed(self.folder / "typed", schema, batches), 0))

    def open(self, files: dict[Path, int]) -> None:
        """Makes files of typed rows, one after the other, the view `rows`; each has what is added to its positions."""
        self._typed = list(files)
        names = ", ".join(map(_quoted, files))
        moved = f'"$position" + ({list(files.values())}::BIGINT[])[file_index::BIGINT + 1] AS "$position"'
        replaced = f" REPLACE ({moved})" if any(files.values()) else ""
        self._view(f"SELECT *{replaced} FROM read_parquet([{names}])")

    def arrange(self, columns: str, *, sort: bool) -> None:
        """Adds columns, given as SQL expressions `x AS y, ...`, to the view `rows`.

        Rows are written anew, in order of time and then of their position in the log, when `sort` says so; else the
        expressions are worked out each time that they are asked for.
        """
        if not sort:
            self._view(f"SELECT *, {columns} FROM ({self.rows})")
            return
        path = self.folder / "sorted.parquet"
        self.run(
            f'COPY (SELECT *, {columns} FROM rows ORDER BY "time", "$position") TO {_quoted(path)} '
            f"(FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {ROW_GROUP_ROWS})"
        )
        self._view(f"SELECT * FROM read_parquet({_quoted(path)})")
        for typed in self._typed:
            typed.unlink()

    def _view(self, query: str) -> None:
        self.rows = query
        self.run(f"CREATE OR REPLACE VIEW rows AS {query}")

    def run(self, sql: str) -> list[tuple[Any, ...]]:
        """Runs one statement; its whole result, which must be small."""
        with self._mistakes():
            return self._connection.execute(sql).fetchall()

    def stream(self, sql: str) -> Iterator[pa.Table]:
        """Runs a query; its result as tables of `ROW_GROUP_ROWS` rows (see `rechunk`)."""
        with self._mistakes():
            yield from rechunk(self._connection.sql(sql).to_arrow_reader(_FETCHED), ROW_GROUP_ROWS)

    @contextmanager
    def _mistakes(self) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            said = str(error).split("\n")[0]
            raise UserError(
                f"{self.folder}: working files could not be written or sorted ({said}); free some disk space, "
                "about twice what the log takes, or shorten its texts and lists (`max_length`)"
            ) from None


def write_typed(base: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> list[Path]:
    """Writes typed rows to files `<base>-<number>.parquet`, each whole or not at all.

    A writer remembers every row group until its file ends, in small pieces that keep what lies between them from being
    given back: of a single file, memory would grow by some 20 bytes a row.
    """
    paths: list[Path] = []
    groups = rechunk(batches, ROW_GROUP_ROWS)
    while (first := next(groups, None)) is not None:
        paths.append(base.with_name(f"{base.name}-{len(paths):05d}.parquet"))
        partial = paths[-1].with_suffix(".partial")
        with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
            for group in itertools.chain([first], itertools.islice(groups, _GROUPS - 1)):
                writer.write_table(group)
        partial.replace(paths[-1])
    return paths


def rechunk(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """The same rows as tables of `rows` rows, fewer at the end and where they are large, each column in one chunk."""
    held: list[pa.Table] = []
    have = size = 0
    for batch in batches:
        held.append(pa.Table.from_batches([batch]))
        have += batch.num_rows
        size += batch.nbytes
        while have >= rows or size >= BYTES:
            whole = pa.concat_tables(held)
            yield whole.slice(0, rows).combine_chunks()
            held = [whole.slice(rows)]
            have, size = held[0].num_rows, held[0].nbytes
    if have:
        yield pa.concat_tables(held).combine_chunks()


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"
