"""The stage `ingest`: a raw click log in, a dataset out.

    recdistill ingest pipelines/jobs/frappe.yaml --out dataset

1. Read: raw files are typed, checked and joined (`typed`), and put on disk once (`scratch`). A map over files.
2. Arrange: rows are brought into the order of time where they are not, and each is given its split (`split`).
3. Learn: vocabularies, boundaries and moments come from training rows (`statistics`).
4. Encode: rows become ids and standardised numbers (`encoder`), and are dealt out among parts (`parts`). A map over
   days, but for histories, which need all earlier rows.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from recdistill.clicklog.encoder import ROW_COLUMNS, Encoder
from recdistill.clicklog.layout import Layout
from recdistill.clicklog.parts import PartWriter
from recdistill.clicklog.schema import SPLITS, Dataset, Manifest, PartRecord, Schema, write_dataset
from recdistill.clicklog.scratch import Scratch, write_typed
from recdistill.clicklog.sources import Source
from recdistill.clicklog.split import DAY, arrange, has_clock, rows_by_day, rows_by_split
from recdistill.clicklog.statistics import learn
from recdistill.clicklog.typed import Counts, Tally, TypedLog
from recdistill.config import dataset as config
from recdistill.errors import UserError
from recdistill.files import file_sha256
from recdistill.progress import Progress, silent
from recdistill.spread import Spread, in_turn


def ingest(
    spec: config.Dataset,
    out: Path,
    report: Progress = silent,
    like: Dataset | None = None,
    spread: Spread = in_turn,
) -> Dataset:
    """Reads the log that `spec.log` names and writes it to `out` as a dataset; the manifest comes last.

    What an earlier call left in `out`, finished or not, is written anew: the same input gives the same bytes.

    Args:
        spec: the job's `dataset:` section, with `log`.
        out: a folder for the dataset alone.
        report: told how far it is.
        like: an earlier dataset that this one must be readable beside (see `statistics.learn`).
        spread: who does the maps; the dataset does not depend on it.

    Raises:
        UserError: the log, a side table or the section cannot be used; the message says which cell, column or key.
    """
    if spec.log is None:
        raise UserError("dataset.log: not given; a simulated log is written first, then ingested like any other")
    out = Path(out)
    log = TypedLog(spec)
    for source in log.sources:
        if isinstance(source.path, Path) and out.resolve() in source.path.resolve().parents:
            raise UserError(f"{source.path}: lies in the folder {out} that the dataset goes to; choose another folder")
    _clear(out)
    with Scratch(out / ".scratch") as scratch:
        _read(log, scratch, spread, report)
        missing_days = arrange(scratch, log)
        schema, collisions = learn(scratch, log.layout, out, like)
        encode = _Encode(scratch, log.layout, schema, out, report, log.rows)
        encoded = spread(_days(scratch, log.layout) if spread is not in_turn else [None], encode)
    records = [record for written, _ in encoded for record in written]
    records.sort(key=lambda part: (part.day, SPLITS.index(part.split), part.index))
    counts: Counts = Counter()
    for found in (log.counts, *(counted for _, counted in encoded), collisions, missing_days):
        counts.update(found)
    vocabularies = {path.stem: file_sha256(path) for path in sorted((out / "vocabulary").glob("*.parquet"))}
    write_dataset(out, schema, Manifest(parts=records, vocabularies=vocabularies, counts=_by_kind(counts)))
    return Dataset(out)


def _read(log: TypedLog, scratch: Scratch, spread: Spread, report: Progress) -> None:
    """Puts the log into the scratch folder, each of its files apart; all as one where this process reads all."""
    groups = [log.sources] if spread is in_turn else [[source] for source in log.sources]
    files: dict[Path, int] = {}
    for paths, tally in spread(list(enumerate(groups)), _Read(log, scratch.folder, report)):
        files |= dict.fromkeys(paths, log.rows)
        log.add(tally)
    log.refuse_empty()
    scratch.open(files)


class _Read:
    """Reads files of a log into files of typed rows."""

    def __init__(self, log: TypedLog, folder: Path, report: Progress = silent) -> None:
        self._log, self._folder, self._report = log, folder, report

    def __reduce__(self) -> Any:
        return _Read, (self._log, self._folder)

    def __call__(self, shard: tuple[int, list[Source]]) -> tuple[list[Path], Tally]:
        number, sources = shard
        log = self._log.part()

        def watched() -> Iterator[pa.RecordBatch]:
            for batch in log.read(sources):
                self._report.update("read", log.files_done, len(sources), f"{log.rows:,} rows")
                yield batch
            self._report.update("read", len(sources), len(sources), f"{log.rows:,} rows")

        return write_typed(self._folder / f"typed-{number:05d}", log.layout.schema, watched()), log.tally


class _Encode:
    """Encodes rows of some days, or all rows, into parts: their records, and what was counted."""

    def __init__(
        self, scratch: Scratch, layout: Layout, schema: Schema, out: Path, report: Progress = silent, rows: int = 0
    ) -> None:
        self._scratch, self._layout, self._schema, self._out = scratch, layout, schema, out
        self._report, self._rows = report, rows
        row_columns = [name for name in ROW_COLUMNS if name in layout.schema.names]
        self._encoder = Encoder(schema, out / "vocabulary", layout, row_columns)

    def __reduce__(self) -> Any:
        return _opened, (self._scratch.folder, self._scratch.rows, self._layout.spec, self._schema, self._out)

    def __call__(self, day: int | None) -> tuple[list[PartRecord], Counts]:
        where = "" if day is None else f' WHERE "time" >= {day * DAY} AND "time" < {(day + 1) * DAY}'
        clock, done = has_clock(self._layout.spec), 0
        counted = rows_by_split(self._scratch, clock, where)
        writer = PartWriter(self._out, self._scratch.folder, counted)
        self._encoder.counts = Counter()
        for typed in self._scratch.stream(f"SELECT * FROM rows{where}"):
            days = typed["time"].to_numpy() // DAY if clock else np.zeros(typed.num_rows, np.int64)
            writer.add(self._encoder.encode(typed), days, typed["$split"].to_numpy())
            done += typed.num_rows
            self._report.update("encode", done, self._rows)
        writer.close()
        return writer.records, self._encoder.counts


def _opened(folder: Path, rows: str, spec: config.Dataset, schema: Schema, out: Path) -> _Encode:
    """The same in another process, which reads the scratch folder until it ends."""
    return _Encode(Scratch(folder, rows).__enter__(), Layout(spec), schema, out)


def _days(scratch: Scratch, layout: Layout) -> list[int] | list[None]:
    """Days that can be encoded apart; only all rows together where there are none, or rows need earlier ones."""
    apart = has_clock(layout.spec) and not any(isinstance(f, config.History) for f in layout.spec.features.values())
    return list(rows_by_day(scratch)) if apart else [None]


def _by_kind(counts: Mapping[tuple[str, str], int]) -> dict[str, dict[str, int]]:
    nested: dict[str, dict[str, int]] = {}
    for (kind, name), rows in sorted(counts.items()):
        nested.setdefault(kind, {})[name] = rows
    return nested


def _clear(out: Path) -> None:
    """Removes what an ingest writes, and nothing else."""
    for name in ("manifest.json", "schema.json"):
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / "vocabulary", ignore_errors=True)
    for split in SPLITS:
        for part in out.glob(f"day=*/*part-{split}-*.parquet*"):
            part.unlink()
