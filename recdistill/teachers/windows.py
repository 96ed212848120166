"""Which rows' embeddings a student's training reads.

A method asks questions about a few rows of every batch, and embeddings are nearly all bytes of a cache. So each part is
looked at through a window as long as the share that is asked about, of whole row groups of a shard; rows are shuffled
after that, so that every batch has some of it. Every epoch has windows of its own. One long window and not many short
ones: what versions of a teacher said of one stretch of rows, each of its own fold, lies in few row groups.
"""

from __future__ import annotations

import math

import numpy as np

from recdistill.teachers.shard_file import GROUP_ROWS

EMBEDDED = "embedded?"
"""The column that says of which rows embeddings were read. No feature and no teacher has such a name."""


class Windows:
    """A `share` in (0, 1] of each part's rows, rounded up to row groups; the generator says where."""

    def __init__(self, share: float, generator: np.random.Generator) -> None:
        self._share, self._generator = share, generator

    def of(self, rows: int) -> np.ndarray:
        """Which rows of the next part, bool [rows]. A window that goes beyond the end goes on at the beginning."""
        groups = max(1, math.ceil(rows / GROUP_ROWS))
        begin = self._generator.integers(groups)
        inside = np.arange(groups) < math.ceil(self._share * groups)
        return np.roll(inside, begin).repeat(GROUP_ROWS)[:rows]
