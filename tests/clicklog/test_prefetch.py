from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from recdistill.clicklog import batches as module
from recdistill.clicklog.batches import Rows, batches, prefetch
from recdistill.clicklog.schema import Dataset


def quiet_again(before: int) -> bool:
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    return threading.active_count() <= before


def test_prefetch_raises_the_readers_error_after_what_came_before() -> None:
    def items() -> Iterator[int]:
        yield from range(3)
        raise OSError("the disk is gone")

    before, found = threading.active_count(), []
    with pytest.raises(OSError, match="the disk is gone"):
        for item in prefetch(items()):
            found.append(item)
    assert found == [0, 1, 2] and quiet_again(before)


@pytest.mark.parametrize("taken", [1, 3])
def test_prefetch_ends_its_thread_when_nobody_reads_on(taken: int) -> None:
    read, before = [], threading.active_count()
    stream = prefetch(read.append(n) or n for n in range(10**9))  # type: ignore[func-returns-value]
    assert [next(stream) for _ in range(taken)] == list(range(taken))
    stream.close()
    assert quiet_again(before) and len(read) <= taken + 3


@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_left_early_leave_no_thread(
    tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch, shuffle: bool
) -> None:
    monkeypatch.setattr(module, "PART_ROWS", 1)
    before = threading.active_count()
    stream = batches(tiny_dataset, Rows("train"), 7, shuffle=np.random.default_rng(0) if shuffle else None)
    next(stream)
    assert before < threading.active_count() <= before + 2
    del stream
    assert quiet_again(before)
