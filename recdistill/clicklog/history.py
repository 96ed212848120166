"""The items that a user had before a row, from a stream of rows in time order.

Memory: at most `last` ids for each user so far, eight bytes each, and as many again for users of the present moment.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

_NONE: array = array("q")


class History:
    """Histories of the rows of a stream; call `extend` for each batch, in time order.

    A row sees what its user had at strictly earlier times. Rows of one moment never see each other: impressions shown
    together have their outcome together.
    """

    def __init__(self, last: int) -> None:
        self._last = last
        self._past: dict[str, array] = {}
        """Ids of each user before the present moment, newest first."""
        self._present: dict[str, array] = {}
        """Ids of each user in the present moment, oldest first."""
        self._now: int | None = None

    def extend(self, users: Iterable[str | None], times: Sequence[int], items: Iterable[Sequence[int]]) -> pa.ListArray:
        """Histories of a batch of rows, newest id first.

        Args:
            users: who each row is about; None has no history.
            times: never before those of the last batch.
            items: the ids that each row adds to its user's history; empty where its outcome is not the one asked for.

        Returns:
            One list of int64 for each row.
        """
        past, last = self._past, self._last
        values, sizes = array("q"), array("i")
        for user, time, ids in zip(users, times, items, strict=True):
            if time != self._now:
                self._turn_past()
                self._now = time
            before = _NONE if user is None else past.get(user, _NONE)
            values.extend(before)
            sizes.append(len(before))
            if ids and user is not None:
                present = self._present.setdefault(user, array("q"))
                present.extend(ids)
                del present[:-last]
        offsets = np.concatenate([np.zeros(1, np.int32), np.cumsum(np.frombuffer(sizes, np.int32), dtype=np.int32)])
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.frombuffer(values, np.int64)))

    def _turn_past(self) -> None:
        for user, present in self._present.items():
            present.reverse()
            present.extend(self._past.get(user, _NONE)[: self._last - len(present)])
            self._past[user] = present
        self._present = {}
