"""Where a text stands in a list of distinct texts: the way from a vocabulary's or a side table's value to its row."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class Lookup:
    """Positions in `values`, a list of distinct texts that is held in memory.

    A dictionary made once: Arrow's `index_in` makes its hash table anew for every batch, which takes a quarter of a
    second for a million values.
    """

    def __init__(self, values: pa.StringArray) -> None:
        self._position = {value: position for position, value in enumerate(values.to_pylist())}

    def __len__(self) -> int:
        return len(self._position)

    def find(self, values: pa.StringArray) -> np.ndarray:
        """The position of each value, int64; -1 for one that is missing or not in the list."""
        distinct, codes = factorise(values)
        get = self._position.get
        positions = np.fromiter((get(value, -1) for value in distinct), np.int64, len(distinct))
        return np.append(positions, -1)[codes]


def factorise(values: pa.StringArray) -> tuple[list[str], np.ndarray]:
    """The distinct values, and the index of each row's value among them (int64, -1 where missing)."""
    coded = values.dictionary_encode()
    codes = np.asarray(pc.fill_null(coded.indices, -1)).astype(np.int64)
    return coded.dictionary.to_pylist(), codes
