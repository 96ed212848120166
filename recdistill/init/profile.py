"""What a sampled column holds: numbers, texts, lists or times, how many values, how many gaps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recdistill.clicklog.values import Column, as_floats, lists, text

Family = Literal["number", "text", "flag", "list", "time", "other"]
_BOOLEANS = pa.array(["true", "false", "True", "False", "TRUE", "FALSE"])


@dataclass(frozen=True)
class Profile:
    """One column of a sample.

    Attributes:
        name: the column's.
        family: what its cells are; `flag` is true and false, `other` is what no feature can be made of.
        cells: as sampled, missing ones null.
        codes: int32 [rows], the position of each cell's value in `values`; -1 where missing.
        values: distinct values as text, in order of appearance.
        numbers: float64 [rows], NaN where missing; None where the family is no number.
    """

    name: str
    family: Family
    cells: pa.Array
    codes: np.ndarray
    values: list[str]
    numbers: np.ndarray | None

    @property
    def missing(self) -> float:
        """The share of cells that are missing."""
        return float(np.mean(self.codes < 0))

    @property
    def distinct(self) -> int:
        """How many different values there are."""
        return len(self.values)

    @property
    def unique(self) -> bool:
        """Whether every row has a value of its own."""
        return self.distinct == len(self.codes)

    @property
    def known(self) -> np.ndarray:
        """The numbers that are there, float64."""
        return np.zeros(0) if self.numbers is None else self.numbers[~np.isnan(self.numbers)]

    def cut(self, delimiter: str | None) -> list[list[str]]:
        """The pieces of each of `values`: a list's, or a text's between delimiters."""
        at = "|" if self.family == "list" else delimiter
        cut = ((value.split(at) if at else [value]) for value in self.values)
        return [[piece.strip() for piece in pieces if piece.strip()] for pieces in cut]

    @property
    def is_whole(self) -> bool:
        """Whether it holds whole numbers only."""
        return self.numbers is not None and bool((self.known == np.floor(self.known)).all())


def profile(name: str, cells: pa.Array) -> Profile:
    """Looks at one column."""
    family = _family(cells)
    if family == "other":
        return Profile(name, family, cells, np.full(len(cells), -1, np.int32), [], None)
    words = _as_text(name, cells, family)
    encoded = pc.dictionary_encode(words)
    codes = np.asarray(encoded.indices.fill_null(-1), dtype=np.int32)
    numbers = None
    if family == "number":
        numbers = np.asarray(as_floats(_numbers(cells)).fill_null(np.nan))
        numbers = np.where(np.isfinite(numbers), numbers, np.nan)
    return Profile(name, family, cells, codes, encoded.dictionary.to_pylist(), numbers)


def _family(cells: pa.Array) -> Family:
    kind = cells.type
    if pa.types.is_boolean(kind):
        return "flag"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "number"
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "time"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return "other" if pa.types.is_nested(kind.value_type) else "list"
    if not pa.types.is_string(kind):
        return "text" if pa.types.is_null(kind) else "other"
    if len(cells) > cells.null_count:
        if pc.all(pc.is_in(cells.drop_null(), _BOOLEANS)).as_py():
            return "flag"
        # Leading zeros tell a code from a number.
        if not pc.any(pc.match_substring_regex(cells, r"^\s*-?0\d")).as_py() and _parses(cells):
            return "number"
    return "text"


def _parses(cells: pa.Array) -> bool:
    try:
        _numbers(cells)
    except pa.ArrowInvalid:
        return False
    return True


def _numbers(cells: pa.Array) -> pa.Array:
    return pc.utf8_trim_whitespace(cells).cast(pa.float64()) if pa.types.is_string(cells.type) else cells


def _as_text(name: str, cells: pa.Array, family: Family) -> pa.Array:
    column = Column(name, cells, "the log", 0)
    if family == "list":
        return pc.binary_join(lists(column, None)[0], "|")
    return text(column)
