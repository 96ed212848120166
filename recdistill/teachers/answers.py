"""The Parquet files of an outside teacher, read and checked row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recdistill.clicklog.sources import Source, column_names, find, open_parquet, read
from recdistill.clicklog.vectors import binary_field, binary_to_vectors, vectors_to_binary
from recdistill.config.dataset import Files
from recdistill.errors import UserError

_FLOAT16_MAX = 65504
_FLOATS = ("float16", "float32", "float64")


class Answers:
    """What an outside teacher said, in files of its own.

    Attributes:
        sources: the files.
        dim: width of the embedding, 0 where there is none.
        schema: of the batches that `read` gives.

    Raises:
        UserError: a glob finds nothing, a file is damaged, a column is missing or of a wrong type, or embeddings of
            two files differ in width.
    """

    def __init__(self, paths: list[str]) -> None:
        self._files = Files(paths=paths, format="parquet")
        self.sources = find(self._files)
        widths = {source: self._width(source) for source in self.sources}
        known = {source: dim for source, dim in widths.items() if dim is not None}
        first = next(iter(known), None)
        self.dim = 0 if first is None else known[first]
        for source, dim in known.items():
            if first is not None and dim != self.dim:
                raise UserError(
                    f"{source.path}: its embedding has {dim} numbers, and that of {first.path} has {self.dim} (0: no "
                    "such column); expected the same in every file of a teacher"
                )
        fields = [pa.field("example_id", pa.int64()), pa.field("logit", pa.float32())]
        self.schema = pa.schema([*fields, *([binary_field("embedding", "float16", self.dim)] if self.dim else [])])

    def read(self, shift: float) -> Iterator[pa.RecordBatch]:
        """Batches of `example_id` int64, `logit` float32 with `shift` added, and `embedding` float16 as binary.

        Rows whose logit is null are left out.

        Raises:
            UserError: an id is null, a logit or an embedding is not finite, or an embedding has another width.
        """
        for source in self.sources:
            row = 1
            for batch in read(source, self._files, self._columns):
                yield self._checked(batch, shift, source, row)
                row += batch.num_rows

    @property
    def _columns(self) -> list[str]:
        return ["example_id", "logit", *(["embedding"] if self.dim else [])]

    def _checked(self, batch: pa.RecordBatch, shift: float, source: Source, row: int) -> pa.RecordBatch:
        """`row` is the file's number of the first row of `batch`, from 1."""
        answered = np.asarray(batch["logit"].is_valid())
        numbers = row + np.flatnonzero(answered)
        batch = batch.filter(pa.array(answered))
        _refuse(np.asarray(batch["example_id"].is_null()), numbers, source, "example_id is null; expected an integer")
        with np.errstate(over="ignore"):
            logit = (batch["logit"].to_numpy(zero_copy_only=False) + np.float64(shift)).astype(np.float32)
        _refuse(
            np.logical_not(np.isfinite(logit)),
            numbers,
            source,
            "logit is not a finite number; write null for no answer",
        )
        arrays = [batch["example_id"].cast(pa.int64()), pa.array(logit)]
        if self.dim:
            vectors = self._vectors(batch, numbers, source)
            _refuse(np.logical_not(np.isfinite(vectors)).any(axis=1), numbers, source, "embedding is not finite")
            arrays.append(vectors_to_binary(np.clip(vectors, -_FLOAT16_MAX, _FLOAT16_MAX).astype(np.float16)))
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def _vectors(self, batch: pa.RecordBatch, numbers: np.ndarray, source: Source) -> np.ndarray:
        """The embeddings [N, dim], in the file's own precision."""
        column = batch["embedding"]
        _refuse(np.asarray(column.is_null()), numbers, source, "embedding is null; leave out the row, or give it one")
        if pa.types.is_fixed_size_binary(column.type):
            return binary_to_vectors(column, batch.schema.field("embedding"))
        lengths = pc.list_value_length(column).to_numpy()
        ragged = np.not_equal(lengths, self.dim)
        _refuse(ragged, numbers, source, f"embedding has not {self.dim} numbers, as in the first row")
        values = pc.list_flatten(column)
        missing = np.logical_or.reduce(np.asarray(values.is_null()).reshape(-1, self.dim), axis=1)
        _refuse(missing, numbers, source, "embedding holds a null; expected numbers")
        return values.to_numpy().reshape(-1, self.dim)

    def _width(self, source: Source) -> int | None:
        """Numbers in the file's embedding, 0 where it has none; None where lists would tell and there are no rows."""
        names = column_names(source, self._files)
        for name in ("example_id", "logit"):
            if name not in names:
                raise UserError(f"{source.path}: there is no column {name!r}; it has {', '.join(names)}")
        with open_parquet(source) as file:
            schema = file.schema_arrow
        for name, fits, expected in _COLUMNS:
            if name in names and not fits(schema.field(name)):
                raise UserError(f"{source.path}: column {name!r} is {schema.field(name).type}; expected {expected}")
        if "embedding" not in names:
            return 0
        if pa.types.is_fixed_size_binary(schema.field("embedding").type):
            return int(schema.field("embedding").metadata[b"dim"])
        rows = (batch["embedding"] for batch in read(source, self._files, ["embedding"]) if batch.num_rows)
        first = next(rows, None)
        if first is None:
            return None
        if not (dim := pc.list_value_length(first)[0].as_py()):
            raise UserError(f"{source.path}, row 1: embedding is empty; fill it, or leave the column out")
        return dim


def _is_vector(field: pa.Field) -> bool:
    kind = field.type
    if pa.types.is_fixed_size_binary(kind):
        about = field.metadata or {}
        dtype, dim = (about.get(key, b"").decode(errors="replace") for key in (b"dtype", b"dim"))
        if dtype not in _FLOATS:
            return False
        numbers, rest = divmod(kind.byte_width, np.dtype(dtype).itemsize)
        return not rest and dim == str(numbers)
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_list(kind) for is_list in lists) and pa.types.is_floating(kind.value_type)


def _refuse(bad: np.ndarray, rows: np.ndarray, source: Source, what: str) -> None:
    """`rows` are the numbers of the rows that `bad` is about."""
    if bad.any():
        raise UserError(f"{source.path}, row {rows[np.argmax(bad)]}: {what}")


_COLUMNS: list[tuple[str, Callable[[pa.Field], bool], str]] = [
    ("example_id", lambda field: pa.types.is_signed_integer(field.type), "int64"),
    ("logit", lambda field: pa.types.is_floating(field.type), "float32"),
    (
        "embedding",
        _is_vector,
        "lists of floats of one length, or fixed-size binary with `dtype` and `dim` in its field's metadata",
    ),
]
