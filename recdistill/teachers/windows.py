"""Which rows' embeddings a student's training reads.

A method asks questions about a few rows of every batch, and embeddings are nearly all bytes of a cache. So a part is
looked at through windows, as many as make the share that is asked about, each as long as a shard's row group; rows are
shuffled after that, so that every batch has some of them. Every epoch has windows of its own.
"""

from __future__ import annotations

import math

import numpy as np

from recdistill.teachers.shard_file import GROUP_ROWS

EMBEDDED = "embedded?"
"""The column that says of which rows embeddings were read. No feature and no teacher has such a name."""


class Windows:
    """A `share` in (0, 1] of each part's rows, and no less than one window; the generator says which."""

    def __init__(self, share: float, generator: np.random.Generator) -> None:
        self._share, self._generator = share, generator

    def of(self, rows: int) -> np.ndarray:
        """Which rows of the next part, bool [rows]."""
        windows = -(-rows // GROUP_ROWS)
        some = np.zeros(windows, bool)
        some[self._generator.permutation(windows)[: math.ceil(self._share * windows)]] = True
        return some.repeat(GROUP_ROWS)[:rows]
