"""Typed rows on disk, as a DuckDB view: sorted, counted and read again with memory that does not grow with the log."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from recdistill.clicklog.schema import ROW_GROUP_ROWS
from recdistill.errors import UserError

_MEMORY = "512MB"
_THREADS = 2
"""More would need more memory."""


class Scratch:
    """A folder of temporary files, removed at the end of the `with` block, and a DuckDB connection that works in it.

    The rows are the view `rows`: first the typed ones, as they came; then as `arrange` leaves them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Scratch:
        import duckdb

        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        self._errors = (duckdb.OutOfMemoryException, duckdb.IOException)
        self._connection = duckdb.connect(
            config={
                "memory_limit": _MEMORY,
                "threads": min(_THREADS, os.cpu_count() or 1),
                "temp_directory": str(self._folder / "spill"),
            }
        )
        self._connection.execute("SET enable_progress_bar = false")
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def write(self, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
        """Puts batches into the scratch folder and makes them the view `rows`."""
        path = self._folder / "typed.parquet"
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for table in rechunk(batches, ROW_GROUP_ROWS):
                writer.write_table(table)
        self.run(f"CREATE VIEW rows AS SELECT * FROM read_parquet({_quoted(path)})")

    def arrange(self, columns: str, *, sort: bool) -> None:
        """Adds columns, given as SQL expressions `x AS y, ...`, to the view `rows`.

        Rows are written anew, in order of time and then of their position in the log, when `sort` says so; else the
        expressions are worked out each time that they are asked for.
        """
        if not sort:
            self.run("ALTER VIEW rows RENAME TO typed")
            self.run(f"CREATE VIEW rows AS SELECT *, {columns} FROM typed")
            return
        path = self._folder / "sorted.parquet"
        self.run(
            f'COPY (SELECT *, {columns} FROM rows ORDER BY "time", "$position") TO {_quoted(path)} '
            f"(FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {ROW_GROUP_ROWS})"
        )
        self.run(f"CREATE OR REPLACE VIEW rows AS SELECT * FROM read_parquet({_quoted(path)})")
        (self._folder / "typed.parquet").unlink()

    def run(self, sql: str) -> list[tuple[Any, ...]]:
        """Runs one statement; its whole result, which must be small."""
        with self._mistakes():
            return self._connection.execute(sql).fetchall()

    def stream(self, sql: str) -> Iterator[pa.Table]:
        """Runs a query; its result as tables of exactly `ROW_GROUP_ROWS` rows, the last one shorter."""
        with self._mistakes():
            yield from rechunk(self._connection.sql(sql).to_arrow_reader(ROW_GROUP_ROWS), ROW_GROUP_ROWS)

    @contextmanager
    def _mistakes(self) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            said = str(error).split("\n")[0]
            raise UserError(
                f"{self._folder}: working files could not be written or sorted ({said}); free some disk space, "
                "about twice what the log takes"
            ) from None


def rechunk(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """The same rows as tables of exactly `rows` rows, the last one shorter, each column in one chunk."""
    held: list[pa.Table] = []
    have = 0
    for batch in batches:
        held.append(pa.Table.from_batches([batch]))
        have += batch.num_rows
        while have >= rows:
            whole = pa.concat_tables(held)
            yield whole.slice(0, rows).combine_chunks()
            have -= rows
            held = [whole.slice(rows)]
    if have:
        yield pa.concat_tables(held).combine_chunks()


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"
