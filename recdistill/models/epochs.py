"""One epoch after the other: while the last block of one is learned from, the next one's first block is read.

Nothing is learned while the first block of an epoch is read. Of a log of a few blocks that is a tenth of a student's
time, and more where it reads what teachers said.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from recdistill.clicklog.batches import Batch
from recdistill.clicklog.schema import PART_ROWS

Stream = Callable[[np.random.Generator], Iterator[Batch]]
"""One epoch, in an order that the generator decides."""


class Epochs(contextlib.AbstractContextManager["Epochs"]):
    """The epochs of a training; whoever leaves the context reads no more of them.

    The order of each follows from `seed` and its number alone. `steps` is how many batches of `batch_size` one has,
    more or less, and `count` how many epochs there can be.
    """

    def __init__(self, stream: Stream, seed: int, steps: int, batch_size: int, count: int) -> None:
        self._stream, self._seed, self._count = stream, seed, count
        self._due = max(0, steps - PART_ROWS // batch_size)
        self._pool = ThreadPoolExecutor(1)
        self._begun: tuple[Iterator[Batch], Future[Batch | None]] | None = None

    def read(self, epoch: int, step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from `step` on. Epochs are read in order, each to its end."""
        for at, batch in enumerate(self._opened(epoch)):
            if at == self._due and epoch + 1 < self._count:
                following = self._open(epoch + 1)
                self._begun = following, self._pool.submit(next, following, None)
            if at >= step:
                yield batch

    def _open(self, epoch: int) -> Iterator[Batch]:
        return self._stream(np.random.default_rng([self._seed, epoch]))

    def _opened(self, epoch: int) -> Iterator[Batch]:
        if self._begun is None:
            return self._open(epoch)
        (stream, first), self._begun = self._begun, None
        batch = first.result()
        return stream if batch is None else itertools.chain([batch], stream)

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown()  # what is being read is read, whether or not it can be
        self._begun = None  # and the thread that reads on ends with its generator
