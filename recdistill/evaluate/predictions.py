"""Reads the dataset's test rows and every model's predictions for them, and checks that they are the same rows.

Both are kept as arrays in a scratch folder (`TMPDIR` says where) and mapped into memory: 21 bytes a row, 9 more for
each slice, and 8 for each model.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import DTypeLike

from recdistill.clicklog.parts import read_part
from recdistill.clicklog.schema import Dataset
from recdistill.errors import UserError
from recdistill.evaluate.metrics import Array, population_weight
from recdistill.files import naming

BATCH_ROWS = 1 << 16
CHUNK_ROWS = 1 << 18
"""Rows that are in memory at a time."""
IMPORTANCE = "importance."


@dataclass(frozen=True)
class Scored:
    """A model and where its test predictions are.

    `method` and `seed` are a student's; a teacher has neither, nor has the committee.
    """

    name: str
    role: Literal["teacher", "committee", "student"]
    method: str | None
    seed: int | None
    parameters: int
    path: Path
    saved: float | None = None
    """The share of (row, teacher) pairs that a student of the trade-off curve did without; None: it is of no curve."""


@dataclass(frozen=True)
class Rows:
    """The test split, in the order of the dataset's parts; arrays of shape [rows]."""

    example_id: Array
    """int64."""
    label: Array
    """bool."""
    weight: Array
    """float64, as a sample of the whole traffic (see `population_weight`)."""
    slices: dict[str, Array]
    """Per feature, int64 ids; -1 where missing."""
    true_probability: Array | None
    """float32, in the log's own terms, where the log knows it."""
    weighted: bool
    """Whether ranks are weighted: the log's own weights matter to AUC, the keep-rate's do not."""
    negative_keep_rate: float

    def __len__(self) -> int:
        return len(self.label)

    def chunks(self, rows: int = CHUNK_ROWS) -> Iterator[slice]:
        """Cuts the rows into ranges of at most `rows`; those behind are not held in memory."""
        for start in range(0, len(self), rows):
            yield slice(start, min(start + rows, len(self)))
            unmap(self.example_id, self.label, self.weight, *self.slices.values())


def scratch_array(folder: Path, name: str, dtype: DTypeLike, shape: int | tuple[int, ...]) -> Array:
    """A writable array on disk. Its room is taken at once: a mapped file on a disk that fills up later is a crash."""
    shape, path = shape if isinstance(shape, tuple) else (shape,), folder / f"{name}.npy"
    array = np.lib.format.open_memmap(path, "w+", np.dtype(dtype), shape)
    with naming(path), path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def unmap(*arrays: Array) -> None:
    """Takes mapped arrays out of memory until they are looked at again; what they hold stays on disk."""
    for array in arrays:
        mapped = getattr(array, "_mmap", None)
        if mapped is not None:
            mapped.madvise(mmap.MADV_DONTNEED)


def read_rows(dataset: Dataset, slices: list[str], scratch: Path) -> Rows:
    """Copies what evaluation needs of the test rows to the scratch folder.

    Raises:
        UserError: there are no test rows, a slice is not a single feature, or a label or weight is out of range.
    """
    parts, rows = dataset.parts("test"), dataset.rows("test")
    if not rows:
        raise UserError(f"{dataset.root}: the dataset has no test rows; widen `dataset.split.test` and ingest again")
    _check_slices(dataset, slices)
    schema = dataset.schema
    found: dict[str, Array] = {
        "example_id": scratch_array(scratch, "example_id", np.int64, rows),
        "label": scratch_array(scratch, "label", np.bool_, rows),
        "weight": scratch_array(scratch, "weight", np.float64, rows),
    }
    ids = {name: scratch_array(scratch, f"slice-{number}", np.int64, rows) for number, name in enumerate(slices)}
    truth = scratch_array(scratch, "true_probability", np.float32, rows) if schema.has_true_probability else None
    names = ["example_id", "label", *slices]
    names += ["weight"] * schema.has_weight + ["true_probability"] * schema.has_true_probability
    start = 0
    for part in parts:
        table = read_part(part, names)
        at = slice(start, start + table.num_rows)
        label = _checked(table["label"].to_numpy(), part.path, "label", binary=True)
        weight = _checked(table["weight"].to_numpy(), part.path, "weight") if schema.has_weight else None
        found["example_id"][at] = table["example_id"].to_numpy()
        found["label"][at] = label > 0.5
        found["weight"][at] = population_weight(label, weight, schema.negative_keep_rate)
        for name, array in ids.items():
            array[at] = table[name].combine_chunks().fill_null(-1).to_numpy()
        if truth is not None:
            truth[at] = table["true_probability"].to_numpy()
        unmap(*found.values(), *ids.values(), *([] if truth is None else [truth]))
        start = at.stop
    return Rows(
        **found,
        slices=ids,
        true_probability=truth,
        weighted=schema.has_weight,
        negative_keep_rate=schema.negative_keep_rate,
    )


def _check_slices(dataset: Dataset, slices: list[str]) -> None:
    single = [sparse.name for sparse in dataset.schema.sparse if sparse.kind == "single"]
    for name in slices:
        if name not in single:
            known = ", ".join(single)
            raise UserError(
                f"evaluate.slices: {name!r} is not a single feature of {dataset.root}; expected one of {known}"
            )


def _checked(values: Array, path: Path, column: str, binary: bool = False) -> Array:
    fine = np.isin(values, (0, 1)) if binary else np.isfinite(values) & (values >= 0)
    if not fine.all():
        row = int(np.argmin(fine))
        expected = "0 or 1" if binary else "a finite number that is not negative"
        raise UserError(
            f"{path}: {column} of row {row + 1} is {values[row]}; expected {expected}: ingest the log again"
        )
    return values


def read_logits(path: Path, rows: Rows, out: Array) -> None:
    """Reads a model's logits into `out` (float32 [rows]; NaN where the file has null: the model does not answer there).

    Raises:
        UserError: the file is not there, lacks a column, holds other rows than the test rows in their order, or a logit
            that is not finite.
    """
    for at, batch in stream(path, rows, ["logit"]):
        column = batch.column("logit")
        values = column.to_numpy(zero_copy_only=False)
        wrong = ~np.isfinite(values)
        if wrong.sum() > column.null_count:
            wrong &= column.is_valid().to_numpy(zero_copy_only=False)
            row = int(np.argmax(wrong))
            raise UserError(
                f"{path}: logit of row {at.start + row + 1} is {values[row]}; expected a finite number, or null where "
                "the model does not answer"
            )
        out[at] = values
        unmap(out)


def stream(path: Path, rows: Rows, columns: list[str]) -> Iterator[tuple[slice, pa.RecordBatch]]:
    """Yields a predictions file in batches, each with the range of test rows that it is verified to hold."""
    file = _open(path, columns)
    start = 0
    for batch in file.iter_batches(BATCH_ROWS, columns=["example_id", *columns]):
        at = slice(start, start + batch.num_rows)
        _same_rows(path, at, batch.column("example_id"), rows)
        yield at, batch
        unmap(rows.example_id)
        start = at.stop
    if start < len(rows):
        raise UserError(f"{path}: ends after row {start}, but the dataset has {len(rows)} test rows; score them again")


def importance_columns(path: Path) -> list[str]:
    """The teachers whose importance a predictions file records."""
    names = _open(path, []).schema_arrow.names
    return [name.removeprefix(IMPORTANCE) for name in names if name.startswith(IMPORTANCE)]


def _open(path: Path, columns: list[str]) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path)
    except FileNotFoundError:
        raise UserError(f"{path}: the predictions are not there; run the stage that writes them") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: not readable as Parquet ({error}); remove it and run its stage again") from None
    schema = file.schema_arrow
    checks: list[tuple[str, Any, str]] = [("example_id", pa.types.is_int64, "int64")]
    checks += [(name, pa.types.is_floating, "float32") for name in columns]
    for name, fits, expected in checks:
        if name not in schema.names or not fits(schema.field(name).type):
            found = schema.field(name).type if name in schema.names else "not there"
            raise UserError(f"{path}: column {name!r} is {found}; expected {expected}: score the test rows again")
    return file


def _same_rows(path: Path, at: slice, found: pa.Array, rows: Rows) -> None:
    if at.stop > len(rows):
        raise UserError(
            f"{path}: row {len(rows) + 1} is one too many, the dataset has {len(rows)} test rows; score them again"
        )
    expected = rows.example_id[at]
    ids = found.to_numpy(zero_copy_only=False)
    if not np.array_equal(ids, expected):
        row = int(np.argmax(ids != expected))
        raise UserError(
            f"{path}: example_id of row {at.start + row + 1} is {ids[row]}, but the dataset's test row there is "
            f"{expected[row]}; expected the test rows in the dataset's order: score them again"
        )
