from __future__ import annotations

import numpy as np
import pytest

from recdistill.teachers.shard_file import GROUP_ROWS
from recdistill.teachers.windows import Windows


@pytest.mark.parametrize(
    ("share", "rows", "groups"),
    [
        (1.0, 3 * GROUP_ROWS, 3),
        (0.0625, 64 * GROUP_ROWS, 4),
        (0.0625, 17 * GROUP_ROWS, 2),
        (0.0625, 2 * GROUP_ROWS, 1),
        (0.5, 3 * GROUP_ROWS, 2),
    ],
)
def test_so_many_row_groups_are_read_side_by_side(share: float, rows: int, groups: int) -> None:
    windows = Windows(share, np.random.default_rng(0))
    for _ in range(20):
        by_group = windows.of(rows).reshape(-1, GROUP_ROWS)
        assert by_group.sum() == groups * GROUP_ROWS and np.array_equal(by_group.any(1), by_group.all(1))
        assert np.sum(by_group[:, 0] != np.roll(by_group[:, 0], 1)) == (0 if groups * GROUP_ROWS == rows else 2)


def test_every_part_and_epoch_has_its_own_and_a_generator_repeats_them() -> None:
    def read(seed: int) -> list[bytes]:
        windows = Windows(0.0625, np.random.default_rng(seed))
        return [windows.of(64 * GROUP_ROWS - 5).tobytes() for _ in range(4)]

    assert len({*read(0), *read(1)}) > 6 and read(0) == read(0) != read(1)


@pytest.mark.parametrize("rows", [0, 1, GROUP_ROWS - 1])
def test_a_short_part_is_read_whole(rows: int) -> None:
    read = Windows(0.01, np.random.default_rng(0)).of(rows)
    assert read.shape == (rows,) and read.all()


def test_windows_reach_everything_in_time() -> None:
    windows = Windows(0.25, np.random.default_rng(0))
    seen = sum(windows.of(16 * GROUP_ROWS).astype(int) for _ in range(200))
    assert np.all(seen > 25) and np.all(seen < 75)
