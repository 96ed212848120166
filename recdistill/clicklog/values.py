"""Cells of raw columns, whatever their Arrow type, as text, numbers, times or lists; a bad one is named with its place.

Values that become ids are compared as text. So that a log means the same in CSV and in Parquet, whole numbers have no
decimal point there (5.0 in a column that became floating because of gaps is "5"), and NaN is missing.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recdistill.clicklog.bounds import TEXT_BYTES
from recdistill.errors import UserError

_WHOLE = 2.0**53
"""Above it a float64 no longer tells neighbouring whole numbers apart."""
_MICROS = {"s": 1_000_000, "ms": 1_000, "us": 1}
_ZONE = r":.*(Z|[+-]\d\d(:?\d\d)?)$"
_LAST_TIME = 7_258_118_400 * 1_000_000
"""The year 2200 in microseconds; a later time was read in the wrong unit."""
_POSSIBLE_TIME = "a time between 1970 and 2200"


@dataclass(frozen=True)
class Column:
    """One batch of a raw column, and where it comes from: row `first` of `file` is its first, counted from 0."""

    name: str
    cells: pa.Array
    file: str
    first: int

    def place(self, index: int) -> str:
        """Where cell `index` is, for a message."""
        return f"{self.file}, row {self.first + index + 1}, column {self.name!r}"

    def refuse(self, bad: pa.Array | np.ndarray, expected: str) -> None:
        """Raises a `UserError` about the first cell where `bad` (bool, one a cell; null is false) holds, if any."""
        flags = np.asarray(pc.fill_null(bad, False)) if isinstance(bad, pa.Array) else bad
        if flags.any():
            index = int(flags.argmax())
            cell = self.cells[index]
            said = f"is {_shown(cell)}" if cell.is_valid else "is missing"
            raise UserError(f"{self.place(index)}: {said}; expected {expected}")


def _shown(cell: pa.Scalar) -> str:
    try:
        return reprlib.repr(cell.as_py())
    except (ValueError, OverflowError, LookupError):  # a time that Python has no number or no zone for
        return f"no {cell.type} that can be shown"


def drop_nulls(cells: pa.Array, nulls: list[str]) -> pa.Array:
    """`cells` decoded, with the texts that mean missing and NaN made null."""
    if pa.types.is_dictionary(cells.type):
        cells = cells.dictionary_decode()
    kind = cells.type
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        cells = cells.cast(pa.string())
    if pa.types.is_string(cells.type):
        missing = pc.is_in(cells, value_set=pa.array(nulls, pa.string()), skip_nulls=True)
    elif pa.types.is_floating(kind):
        cells = cells.cast(pa.float32()) if pa.types.is_float16(kind) else cells
        missing = pc.is_nan(cells)
    else:
        return cells
    return pc.if_else(missing, pa.scalar(None, cells.type), cells)


def text(column: Column) -> pa.StringArray:
    """Cells as text: whole floats without a decimal point, booleans as true and false; long ones are refused."""
    found = _text(column.cells, column)
    column.refuse(_long(found), f"at most {TEXT_BYTES:,} bytes of text")
    return found


def numbers(column: Column, expected: str = "a number") -> pa.DoubleArray:
    """Cells as float64; NaN is null, an infinite one stays. `expected` is for messages."""
    kind = column.cells.type
    if pa.types.is_temporal(kind) or pa.types.is_nested(kind) or _is_binary(kind):
        raise UserError(f"{column.file}, column {column.name!r}: holds {kind}; expected numbers")
    try:
        parsed = _parse(column, as_floats, expected)
    except pa.ArrowNotImplementedError:
        raise UserError(f"{column.file}, column {column.name!r}: holds {kind}; expected numbers") from None
    return pc.if_else(pc.is_nan(parsed), pa.scalar(None, pa.float64()), parsed)


def as_floats(cells: pa.Array) -> pa.DoubleArray:
    """Cells as float64, each the nearest there is: of decimals Arrow's own cast gives another one now and then."""
    exact = pc.cast(cells, pa.string()) if pa.types.is_decimal(cells.type) else cells
    return pc.cast(exact, pa.float64(), safe=False)


def micros(column: Column, unit: str) -> pa.Int64Array:
    """Cells as microseconds since 1970, UTC; times without a zone are taken as UTC. With `order`, the rank itself.

    Raises:
        UserError: a time is missing, cannot be read, or lies outside the years 1970 to 2200.
    """
    if unit == "order":
        return _ranks(column)
    if unit == "datetime":
        instants = _datetimes(column)
    elif pa.types.is_temporal(column.cells.type):
        raise UserError(f"{column.file}, column {column.name!r}: holds {column.cells.type}; expected `unit: datetime`")
    else:
        scale = _MICROS[unit]
        clock = numbers(column, f"a number; is `unit: {unit}` right, or is it `unit: datetime`?")
        column.refuse(pc.is_null(clock), "a time")
        limit = _LAST_TIME // scale
        inside = pc.and_(pc.greater_equal(clock, 0.0), pc.less_equal(clock, float(limit)))
        column.refuse(pc.invert(inside), f"{_POSSIBLE_TIME}; is `unit: {unit}` right?")
        exact = _exact(column.cells)
        instants = pc.round(pc.multiply(clock, float(scale))).cast(pa.int64())
        return instants if exact is None else pc.multiply(exact, scale)
    column.refuse(pc.is_null(instants), "a time")
    column.refuse(pc.or_(pc.less(instants, 0), pc.greater(instants, _LAST_TIME)), _POSSIBLE_TIME)
    return instants


def _ranks(column: Column) -> pa.Int64Array:
    expected = "a whole number, the row's rank"
    exact = _exact(column.cells)
    if exact is None:
        floats = numbers(column)
        column.refuse(pc.or_(pc.not_equal(floats, pc.floor(floats)), pc.greater(pc.abs(floats), _WHOLE)), expected)
        exact = floats.cast(pa.int64())
    column.refuse(pc.is_null(exact), expected)
    return exact


def _exact(cells: pa.Array) -> pa.Int64Array | None:
    """Whole numbers as int64 without the detour over floating point; None where some cell is none."""
    if not (pa.types.is_integer(cells.type) or pa.types.is_string(cells.type)):
        return None
    try:
        return pc.cast(pc.utf8_trim_whitespace(cells) if pa.types.is_string(cells.type) else cells, pa.int64())
    except pa.ArrowInvalid:
        return None


def lists(column: Column, delimiter: str | None, most: int | None = None) -> tuple[pa.ListArray, int]:
    """Cells as lists of text, the first `most` elements that are neither empty nor null, and how many lists had more.

    A missing cell is an empty list. What is cut off is not turned into text: a row may have millions of elements.
    """
    cells = column.cells
    if _is_list(cells.type):
        elements = cells.cast(pa.list_(cells.type.value_type))
        values = pc.list_flatten(elements)
        values = drop_nulls(_text(values, column) if _is_binary(values.type) else values, [""])
    elif delimiter is not None:
        elements = pc.split_pattern(_text(cells, column), delimiter)
        values = drop_nulls(pc.utf8_trim_whitespace(pc.list_flatten(elements)), [""])
    else:
        raise UserError(
            f"{column.file}, column {column.name!r}: holds {cells.type}, not lists; say at what `delimiter` it is cut"
        )
    keep = np.asarray(values.is_valid())
    sizes = np.asarray(pc.fill_null(pc.list_value_length(elements), 0))
    ends = _offsets(sizes)
    before = np.concatenate([np.zeros(1, np.int32), np.cumsum(keep, dtype=np.int32)])
    full = np.diff(before[ends])
    kept = full if most is None else np.minimum(full, most)
    if kept is not full:
        keep = keep & (before[:-1] - np.repeat(before[ends[:-1]], sizes) < most)
    words = _text(values.filter(pa.array(keep)), column)
    starts = _offsets(kept)
    if (long := np.asarray(_long(words))).any():
        row = int(np.searchsorted(starts, long.argmax(), side="right")) - 1
        raise UserError(f"{column.place(row)}: has an element of more than {TEXT_BYTES:,} bytes; expected short texts")
    return pa.ListArray.from_arrays(pa.array(starts), words), int((full > kept).sum())


def _long(words: pa.StringArray) -> pa.BooleanArray:
    return pc.fill_null(pc.greater(pc.binary_length(words), TEXT_BYTES), False)


def _offsets(sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.int32), np.cumsum(sizes, dtype=np.int32)])


def _text(cells: pa.Array, column: Column) -> pa.StringArray:
    kind = cells.type
    if pa.types.is_floating(kind):
        whole = pc.and_(pc.equal(cells, pc.floor(cells)), pc.less(pc.abs(cells), _WHOLE))
        digits = pc.cast(pc.if_else(whole, cells, pa.scalar(None, kind)), pa.int64()).cast(pa.string())
        return pc.coalesce(digits, cells.cast(pa.string()))
    if pa.types.is_nested(kind):
        raise UserError(f"{column.file}, column {column.name!r}: holds {kind}; a list is a feature of `kind: bag`")
    try:
        return cells.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise UserError(f"{column.file}, column {column.name!r}: holds {kind} that is not text in UTF-8") from None


def _datetimes(column: Column) -> pa.Int64Array:
    kind = column.cells.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        micros = pc.CastOptions(pa.timestamp("us", getattr(kind, "tz", None)), allow_time_truncate=True)
        return _parse(column, lambda part: pc.cast(part, options=micros).cast(pa.int64()), _POSSIBLE_TIME)
    if not pa.types.is_string(kind):
        raise UserError(
            f"{column.file}, column {column.name!r}: holds {kind}; expected dates as in 2026-01-31 23:59:59, "
            "or say `unit: s`, `ms` or `us` in `time`"
        )
    return _parse(column, _read_datetimes, "a date as in 2026-01-31 23:59:59")


def _read_datetimes(cells: pa.StringArray) -> pa.Int64Array:
    zoned = pc.match_substring_regex(cells, _ZONE, ignore_case=True)
    nothing = pa.scalar(None, pa.string())
    local = pc.cast(pc.if_else(zoned, nothing, cells), pa.timestamp("ns"))
    moved = pc.cast(pc.if_else(zoned, cells, nothing), pa.timestamp("ns", "UTC"))
    instants = pc.coalesce(local, moved.cast(pa.timestamp("ns")))
    return pc.cast(instants, pa.timestamp("us"), safe=False).cast(pa.int64())


def _parse(column: Column, convert: Callable[[pa.Array], pa.Array], expected: str) -> pa.Array:
    """`convert` on all cells; where it fails, the first cell that it refuses is named."""
    cells = column.cells
    if pa.types.is_string(cells.type):
        cells = pc.utf8_trim_whitespace(cells)
    try:
        return convert(cells)
    except pa.ArrowInvalid:
        low, high = 0, len(cells)
        while high - low > 1:
            middle = (low + high) // 2
            try:
                convert(cells.slice(low, middle - low))
                low = middle
            except pa.ArrowInvalid:
                high = middle
        column.refuse(np.arange(len(cells)) == low, expected)
        raise


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _is_binary(kind: pa.DataType) -> bool:
    kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    return any(is_binary(kind) for is_binary in kinds)
