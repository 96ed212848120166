from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from recdistill.clicklog.batches import Rows, batches
from recdistill.clicklog.schema import PART_ROWS, Dataset
from recdistill.models.epochs import Epochs


class Log:
    """Three batches an epoch, and who was told to read what, when."""

    def __init__(self, fault: int | None = None) -> None:
        self.read: list[int] = []
        self.threads: list[threading.Thread] = []
        self._fault = fault

    def __call__(self, generator: np.random.Generator) -> Iterator[Any]:
        epoch = int(generator.integers(1 << 30))
        for at in range(3):
            if at == 0:
                self.threads.append(threading.current_thread())
                if len(self.threads) - 1 == self._fault:
                    raise OSError("damaged")
            self.read.append(epoch + at)
            yield epoch + at


def test_epochs_are_those_of_their_seeds_and_begin_anywhere() -> None:
    orders = [list(Log()(np.random.default_rng([7, epoch]))) for epoch in range(4)]
    assert len({order[0] for order in orders}) == 4
    with Epochs(Log(), 7, 3, 1024, 4) as epochs:
        assert [list(epochs.read(epoch)) for epoch in range(4)] == orders
    with Epochs(Log(), 7, 3, 1024, 4) as epochs:
        assert list(epochs.read(1, step=2)) == orders[1][2:]
        assert list(epochs.read(2)) == orders[2]


def test_the_next_epoch_is_begun_by_another_thread_and_none_after_the_last() -> None:
    log = Log()
    with Epochs(log, 0, 3, 1024, 3) as epochs:
        for epoch in range(3):
            assert len(list(epochs.read(epoch))) == 3
    assert len(log.threads) == 3
    assert [thread is threading.current_thread() for thread in log.threads] == [True, False, False]


def test_of_a_long_epoch_the_last_block_is_awaited() -> None:
    steps, log = 2 * PART_ROWS // 1024, Log()

    def long(generator: np.random.Generator) -> Iterator[Any]:
        list(log(generator))
        yield from range(steps)

    with Epochs(long, 0, steps, 1024, 2) as epochs:
        stream = epochs.read(0)
        for _ in range(steps - PART_ROWS // 1024):
            next(stream)
        assert len(log.threads) == 1
        next(stream)
    assert len(log.threads) == 2


def test_who_stops_early_leaves_no_thread(tiny_dataset: Dataset) -> None:
    before = threading.active_count()

    def stream(generator: np.random.Generator) -> Iterator[Any]:
        return batches(tiny_dataset, Rows("train"), 100, shuffle=generator)

    with Epochs(stream, 0, 18, 100, 5) as epochs:
        first = epochs.read(0)
        next(first)
        assert threading.active_count() > before
    first.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_what_cannot_be_read_is_told_by_whoever_reads_it() -> None:
    with Epochs(Log(fault=1), 0, 3, 1024, 2) as epochs:
        assert len(list(epochs.read(0))) == 3
        with pytest.raises(OSError, match="damaged"):
            list(epochs.read(1))
    with Epochs(Log(fault=1), 0, 3, 1024, 2) as epochs:  # nobody needs it
        assert len(list(epochs.read(0))) == 3
