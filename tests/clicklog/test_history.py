from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from recdistill.clicklog.history import ByUser, History

ROWS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", None]),
        st.integers(0, 8),
        st.lists(st.integers(1, 99), max_size=2),
    ),
    max_size=40,
)


def extend(history, users, times, items):
    """Its lists for a batch of rows."""
    ids = pa.array([list(ids) for ids in items], pa.list_(pa.int64()))
    return history.extend(ByUser(pa.array(users, pa.string()), np.array(times, np.int64)), ids).to_pylist()


def slow(rows, last):
    """What a user had at strictly earlier times, newest first, by looking at all pairs of rows."""
    out = []
    for user, time, _ in rows:
        earlier = [
            item for who, when, items in rows if user is not None and who == user and when < time for item in items
        ]
        out.append(earlier[::-1][:last])
    return out


@given(ROWS, st.integers(1, 5), st.integers(1, 9))
def test_equals_looking_at_all_pairs_however_rows_are_batched(rows, last, batch):
    rows = sorted(rows, key=lambda row: row[1])
    history, got = History(last), []
    for start in range(0, len(rows), batch):
        users, times, items = zip(*rows[start : start + batch], strict=True)
        got += extend(history, users, times, items)
    assert got == slow(rows, last)


def test_rows_of_one_moment_never_see_each_other():
    history = History(9)
    first = extend(history, ["a", "a"], [5, 5], [(1,), (2,)])
    second = extend(history, ["a", "a"], [5, 6], [(3,), ()])
    assert extend(history, [], [], []) == []
    third = extend(history, ["a", "a"], [6, 7], [(), ()])
    assert first + second + third == [[], [], [], [3, 2, 1], [3, 2, 1], [3, 2, 1]]


def test_memory_is_bounded_by_the_last_ids_of_each_user():
    history = History(4)
    for moment in range(100):
        extend(history, ["a"] * 100, [moment] * 100, [(1,)] * 100)
    assert {len(ids) for ids in (*history._past.values(), *history._present.values())} == {4}
