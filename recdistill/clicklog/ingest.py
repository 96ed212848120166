"""The stage `ingest`: a raw click log in, a dataset out.

    recdistill ingest pipelines/jobs/frappe.yaml --out dataset

1. Read: raw files are typed, checked and joined (`typed`), and put on disk once (`scratch`).
2. Arrange: rows are brought into the order of time where they are not, and each is given its split (`split`).
3. Learn: vocabularies, boundaries and moments come from training rows (`statistics`).
4. Encode: rows become ids and standardised numbers (`encoder`), and are written as parts (`parts`).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from recdistill.clicklog.encoder import ROW_COLUMNS, Encoder
from recdistill.clicklog.parts import PartWriter
from recdistill.clicklog.schema import SPLITS, Dataset, Manifest, write_dataset
from recdistill.clicklog.scratch import Scratch
from recdistill.clicklog.split import DAY, arrange, has_clock
from recdistill.clicklog.statistics import learn
from recdistill.clicklog.typed import TypedLog
from recdistill.config import dataset as config
from recdistill.errors import UserError
from recdistill.progress import Progress, silent


def ingest(spec: config.Dataset, out: Path, report: Progress = silent, like: Dataset | None = None) -> Dataset:
    """Reads the log that `spec.log` names and writes it to `out` as a dataset; the manifest comes last.

    What an earlier call left in `out`, finished or not, is written anew: the same input gives the same bytes.

    Args:
        spec: the job's `dataset:` section, with `log`.
        out: a folder for the dataset alone.
        report: told how far it is.
        like: an earlier dataset that this one must be readable beside (see `statistics.learn`).

    Raises:
        UserError: the log, a side table or the section cannot be used; the message says which cell, column or key.
    """
    if spec.log is None:
        raise UserError("dataset.log: not given; a simulated log is written first, then ingested like any other")
    out = Path(out)
    log = TypedLog(spec)
    for source in log.sources:
        if out.resolve() in source.path.resolve().parents:
            raise UserError(f"{source.path}: lies in the folder {out} that the dataset goes to; choose another folder")
    _clear(out)
    with Scratch(out / ".scratch") as scratch:
        scratch.write(log.layout.schema, _watched(log, report))
        missing_days = arrange(scratch, log)
        schema, collisions = learn(scratch, log.layout, out, like)
        row_columns = [name for name in ROW_COLUMNS if name in log.layout.schema.names]
        encoder = Encoder(schema, out / "vocabulary", log.layout, row_columns)
        writer = PartWriter(out)
        _encode(scratch, encoder, writer, log, report)
    records = sorted(writer.records, key=lambda part: (part.day, SPLITS.index(part.split), part.index))
    counts = _by_kind({**log.counts, **encoder.counts, **collisions, **missing_days})
    write_dataset(out, schema, Manifest(parts=records, counts=counts))
    return Dataset(out)


def _watched(log: TypedLog, report: Progress) -> Iterator[pa.RecordBatch]:
    for batch in log:
        report.update("read", log.files_done, len(log.sources), f"{log.rows:,} rows")
        yield batch
    report.update("read", len(log.sources), len(log.sources), f"{log.rows:,} rows")


def _encode(scratch: Scratch, encoder: Encoder, writer: PartWriter, log: TypedLog, report: Progress) -> None:
    done = 0
    clock = has_clock(log.layout.spec)
    for typed in scratch.stream("SELECT * FROM rows"):
        days = typed["time"].to_numpy() // DAY if clock else np.zeros(typed.num_rows, np.int64)
        writer.add(encoder.encode(typed), days, typed["$split"].to_numpy())
        done += typed.num_rows
        report.update("encode", done, log.rows)
    writer.close()


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
