"""Numbers made from texts and from other numbers, the same on every machine and in every version.

`tests/clicklog/test_hashing.py` holds golden values: student tables and splits hang on them.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from recdistill.clicklog.values import Column, text

_POSITIVE = 2**63 - 1
_PLAIN_NUMBER = r"^(0|-?[1-9][0-9]{0,18})$"
_DRAW_STREAM = 0xD1B54A32D192ED03
"""Keeps the draws of `split` apart from the folds, which mix the same ids."""


def text_hashes(values: Iterable[str], salt: int) -> np.ndarray:
    """XXH3-64 of each text in UTF-8, seeded with `salt` modulo 2**64; uint64."""
    seed = salt % 2**64
    digest = xxhash.xxh3_64_intdigest
    return np.array([digest(value.encode(), seed) for value in values], dtype=np.uint64)


def hashed_ids(values: Iterable[str], salt: int, size: int) -> np.ndarray:
    """Ids of a hashed feature: 1 + XXH3-64(value, salt) % size; int64 in [1, size]."""
    return (text_hashes(values, salt) % np.uint64(size)).astype(np.int64) + 1


def mix(numbers: np.ndarray) -> np.ndarray:
    """SplitMix64's output function (Steele, Lea, Flood 2014): integers to well-mixed uint64, one to one."""
    with np.errstate(over="ignore"):
        mixed = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))


def draws(example_ids: np.ndarray, seed: int) -> np.ndarray:
    """A number in [0, 1) for each row, float64, from its id and `seed` alone."""
    stream = mix(np.array([(_DRAW_STREAM + seed) % 2**64], dtype=np.uint64))
    return (mix(example_ids.astype(np.uint64) ^ stream) >> np.uint64(11)) * 2.0**-53


def derived_ids(file: str, first: int, rows: int) -> np.ndarray:
    """Ids of rows that have none: XXH3-64 of the file's name, plus the row's number, modulo 2**63; int64."""
    start = xxhash.xxh3_64_intdigest(file.encode()) & _POSITIVE
    at = np.uint64(start) + np.arange(first, first + rows, dtype=np.uint64)
    return (at & np.uint64(_POSITIVE)).astype(np.int64)


def example_ids(column: Column) -> pa.Int64Array:
    """Ids from the log's own column: plain decimal numbers of 64 bits stay, other texts become a positive XXH3-64.

    Raises:
        UserError: an id is missing.
    """
    column.refuse(pc.is_null(column.cells), "the row's id")
    if pa.types.is_integer(column.cells.type) and column.cells.type != pa.uint64():
        return column.cells.cast(pa.int64())
    values = text(column)
    digits = pc.utf8_ltrim(values, characters="-")
    fits = pc.or_(pc.less(pc.utf8_length(digits), 19), pc.less_equal(digits, str(_POSITIVE)))
    plain = pc.and_(pc.match_substring_regex(values, _PLAIN_NUMBER), fits)
    numbers = pc.cast(pc.if_else(plain, values, pa.scalar(None, pa.string())), pa.int64())
    if not numbers.null_count:
        return numbers
    others = values.filter(pc.invert(plain))
    hashed = (text_hashes(others.to_pylist(), 0) & np.uint64(_POSITIVE)).astype(np.int64)
    return pc.replace_with_mask(numbers, pc.is_null(numbers), pa.array(hashed))
