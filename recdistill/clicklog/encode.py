"""Encodes a raw log with what a dataset learned, for scoring: ids, means and hash salts are those of its folder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from pydantic import ValidationError

from recdistill.clicklog.encoder import Encoder
from recdistill.clicklog.schema import ROW_GROUP_ROWS, Schema, read_schema
from recdistill.clicklog.scratch import Scratch, rechunk
from recdistill.clicklog.sources import log_of
from recdistill.clicklog.typed import Counts, TypedLog
from recdistill.config.dataset import Dataset, Files, Join
from recdistill.errors import UserError


def raw_log(root: Path, paths: list[str]) -> Files:
    """Files that look like the log that the dataset or student in `root` was made from: same columns, same nulls.

    The format is told by each file's suffix, so that Parquet may be scored by what learned from CSV.
    """
    learned = section_of(root, read_schema(root)).log
    assert learned is not None
    settings = {**learned.model_dump(), "paths": paths}
    known = all(any(suffix in Path(path).suffixes for suffix in (".csv", ".tsv", ".parquet", ".pq")) for path in paths)
    return log_of(settings | {"format": None} if known else settings)


POSITION = "$position"
"""Where a row stands in the log."""


def encode_log(
    root: Path, log: Files, joins: list[Join] | None = None, positions: bool = False, counts: Counts | None = None
) -> Iterator[pa.Table]:
    """Encodes a raw log exactly as ingest encoded the one that `root` was made from.

    Histories are built from the rows of this log alone, in order of time, so a log to be scored brings the earlier rows
    that should count; where outcomes are not known yet, the label's cell is left empty.

    Args:
        root: a folder with `schema.json` and `vocabulary/`: a dataset or an exported student.
        log: the raw log.
        joins: its side tables; those that the dataset was made with when None.
        positions: adds the column `POSITION`, int64, where rows are in order of time.
        counts: is added to: what an `Encoder` counts on the way.

    Yields:
        Tables of at most `ROW_GROUP_ROWS` rows: `example_id`, `label` (float32, null where not known) if the log has
        one, and the features as a dataset has them. In the log's order, or in order of time where there are histories.

    Raises:
        UserError: the log lacks a column or holds a cell that cannot be read.
    """
    root = Path(root)
    schema = read_schema(root)
    section = section_of(root, schema)
    section = section.model_copy(update={"log": log, "joins": section.joins if joins is None else joins})
    raw = TypedLog(section, scoring=True)
    row_columns = ["example_id", "label"] if raw.has_label else ["example_id"]
    encoder = Encoder(schema, root / "vocabulary", raw.layout, row_columns)
    if counts is not None:
        encoder.counts = counts
    if raw.layout.time is None:
        yield from map(encoder.encode, rechunk(raw, ROW_GROUP_ROWS))
        return
    with tempfile.TemporaryDirectory() as folder, Scratch(Path(folder) / "scratch") as scratch:
        scratch.write(raw.layout.schema, raw)
        for typed in scratch.stream(f'SELECT * FROM rows ORDER BY "time", "{POSITION}"'):
            table = encoder.encode(typed)
            yield table.append_column(POSITION, typed[POSITION].cast(pa.int64())) if positions else table


def section_of(root: Path, schema: Schema) -> Dataset:
    """The `dataset:` section that `root` was made by; it does not say where its log lay."""
    if not schema.spec:
        raise UserError(f"{root / 'schema.json'}: does not say how its log was read; ingest the log again")
    try:
        return Dataset.model_validate({**schema.spec, "log": {**schema.spec["log"], "paths": ["?"]}})
    except (ValidationError, KeyError, TypeError):
        raise UserError(
            f"{root / 'schema.json'}: how its log was read is not said as this release says it; ingest the log again"
        ) from None
