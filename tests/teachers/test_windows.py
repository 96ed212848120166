from __future__ import annotations

import numpy as np
import pytest

from recdistill.teachers.shard_file import GROUP_ROWS
from recdistill.teachers.windows import Windows


@pytest.mark.parametrize(
    ("share", "rows", "windows"),
    [
        (1.0, 3 * GROUP_ROWS, 3),
        (0.0625, 64 * GROUP_ROWS, 4),
        (0.0625, 17 * GROUP_ROWS, 2),
        (0.0625, 2 * GROUP_ROWS, 1),
        (0.5, 3 * GROUP_ROWS, 2),
    ],
)
def test_so_many_whole_windows_are_read(share: float, rows: int, windows: int) -> None:
    read = Windows(share, np.random.default_rng(0)).of(rows)
    by_window = read.reshape(-1, GROUP_ROWS)
    assert by_window.sum() == windows * GROUP_ROWS and np.array_equal(by_window.any(1), by_window.all(1))


def test_every_part_and_epoch_has_its_own_and_a_generator_repeats_them() -> None:
    def read(seed: int) -> list[bytes]:
        windows = Windows(0.0625, np.random.default_rng(seed))
        return [windows.of(64 * GROUP_ROWS - 5).tobytes() for _ in range(4)]

    assert len({*read(0), *read(1)}) == 8 and read(0) == read(0)


@pytest.mark.parametrize("rows", [0, 1, GROUP_ROWS - 1])
def test_a_short_part_is_read_whole(rows: int) -> None:
    read = Windows(0.01, np.random.default_rng(0)).of(rows)
    assert read.shape == (rows,) and read.all()


def test_windows_reach_everything_in_time() -> None:
    windows = Windows(0.25, np.random.default_rng(0))
    seen = sum(windows.of(16 * GROUP_ROWS).astype(int) for _ in range(200))
    assert np.all(seen > 25) and np.all(seen < 75)
