"""The items that a user had before a row, from a stream of rows in time order.

Memory: at most `last` ids for each user so far, eight bytes each, and as many again for users of the present moment.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from itertools import compress

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recdistill.clicklog.lookup import factorise

_NONE = array("q")


class ByUser:
    """A batch of rows in time order, each user's end to end: what several histories of the same users look at.

    Args:
        users: who each row is about; null has no history.
        times: int64.
    """

    def __init__(self, users: pa.StringArray, times: np.ndarray) -> None:
        self.names, codes = factorise(users)
        self.rows = np.argsort(codes, kind="stable")[(codes < 0).sum() :]
        """Their places in the batch."""
        self.who, self.when = codes[self.rows], times[self.rows]
        """Each one's user, a place in `names`, and its time."""
        new = np.ones(len(self.rows), bool)
        new[1:] = (self.who[1:] != self.who[:-1]) | (self.when[1:] != self.when[:-1])
        self.first = np.maximum.accumulate(np.where(new, np.arange(len(new)), 0))
        """The first one of the same user and time."""
        self.times = times


class History:
    """Histories of the rows of a stream; call `extend` for each batch, in time order.

    A row sees what its user had at strictly earlier times. Rows of one moment never see each other: impressions shown
    together have their outcome together.
    """

    def __init__(self, last: int) -> None:
        self._last = last
        self._past: dict[str, array] = {}
        """Ids of each user before the present moment, oldest first."""
        self._present: dict[str, array] = {}
        """Ids of each user in the present moment, oldest first."""
        self._now: int | None = None

    def extend(self, by_user: ByUser, items: pa.ListArray) -> pa.ListArray:
        """Histories of a batch of rows, newest id first.

        Args:
            by_user: the batch, whose times are never before those of the last one.
            items: the ids that each row adds to its user's history, int64; null or none where its outcome is not the
                one asked for.

        Returns:
            One list of int64 for each row.
        """
        names, who, rows, when = by_user.names, by_user.who, by_user.rows, by_user.when
        if not len(items):
            return items
        if int(by_user.times[0]) != self._now:
            self._turn_past()
        sizes, ids = flat(items.take(pa.array(rows)))
        past, present = ([of.get(name, _NONE) for name in names] for of in (self._past, self._present))
        before, waiting, added = _lengths(past), _lengths(present), _per_user(who, sizes, len(names))
        ends = np.cumsum(before + waiting + added)
        begins = ends - before - waiting - added

        every = np.empty(int(ends[-1]) if len(ends) else 0, np.int64)  # of each user end to end, oldest first
        for first, counts, values in (
            (begins, before, _ids(past)),
            (begins + before, waiting, _ids(present)),
            (ends - added, added, ids),
        ):
            every[_places(first, counts)] = values
        earlier = (np.cumsum(sizes) - sizes)[by_user.first] - (np.cumsum(added) - added)[who]
        seen = before[who] + np.where(when == self._now, 0, waiting[who]) + earlier

        newest, shown = np.zeros(len(items), np.int64), np.zeros(len(items), np.int64)
        newest[rows], shown[rows] = begins[who] + seen - 1, np.minimum(seen, self._last)
        offsets = np.concatenate([[0], np.cumsum(shown)])
        back = np.repeat(newest + offsets[:-1], shown) - np.arange(offsets[-1])
        histories = pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(every[back]))

        now = int(by_user.times[-1])
        late = _per_user(who, np.where(when == now, sizes, 0), len(names)) + (waiting if now == self._now else 0)
        if now != self._now:
            self._turn_past()
            self._now = now
        held, turns = array("q", every.tobytes()), ends - late  # where each one's present moment begins
        for of, first, end in ((self._past, begins, turns), (self._present, turns, ends)):
            first, some = np.maximum(first, end - self._last), (added > 0) & (first < end)
            places = map(slice, first[some].tolist(), end[some].tolist())
            of.update(zip(compress(names, some.tolist()), map(held.__getitem__, places), strict=True))
        return histories

    def _turn_past(self) -> None:
        for user, present in self._present.items():
            self._past[user] = (self._past.get(user, _NONE) + present)[-self._last :]
        self._present = {}


def alone(ids: pa.Array) -> pa.ListArray:
    """Lists of one id, of none where it is missing."""
    offsets = np.concatenate([np.zeros(1, np.int32), np.cumsum(np.asarray(ids.is_valid()), dtype=np.int32)])
    return pa.ListArray.from_arrays(pa.array(offsets), ids.drop_null())


def flat(lists: pa.ListArray) -> tuple[np.ndarray, np.ndarray]:
    """How many ids each list has, int64, and all of them end to end."""
    sizes = np.asarray(pc.fill_null(pc.list_value_length(lists), 0)).astype(np.int64)
    return sizes, np.asarray(pc.list_flatten(lists))


def _lengths(lists: Iterable[array]) -> np.ndarray:
    return np.fromiter(map(len, lists), np.int64)


def _ids(lists: Iterable[array]) -> np.ndarray:
    return np.frombuffer(b"".join(lists), np.int64)


def _per_user(who: np.ndarray, sizes: np.ndarray, users: int) -> np.ndarray:
    return np.bincount(who, sizes, users).astype(np.int64)


def _places(first: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """`counts[i]` places from `first[i]` on, for each i end to end."""
    return np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
