"""Routes: how important each teacher is on each row, as a router said before any was asked, and who is asked for it.

`day=D/part-<split>-NNNNN.parquet`, named as the dataset's own parts: `example_id` int64 and for each teacher two
columns, float16 in [0, 1], 0 where it does not know the row's domain: `importance.<teacher>`, and `missed.<teacher>`,
in nats, by which it is decided who is asked. `routes.json`, written last, counts the values of the latter for those
that can be asked; others said all that they have to say in files of their own, and are always heard.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recdistill.clicklog.batches import Columns
from recdistill.clicklog.schema import ROW_GROUP_ROWS, Part
from recdistill.errors import UserError
from recdistill.files import atomic, read_json, write_json

HELD_OUT = ("validation", "test")
"""Splits about whose rows every teacher is asked: they say how good it is."""
VERSION = 3
IMPORTANCE, MISSED = "importance.", "missed."
VALUES = 0x3C01
"""Float16 has so many values from 0 to 1, and their bits are in their order."""


def route_path(root: Path, part: str) -> Path:
    """Where the importances of a part's rows are."""
    return root / f"{part}.parquet"


def write_route(
    path: Path, names: list[str], example_id: np.ndarray, importance: np.ndarray, missed: np.ndarray
) -> None:
    """Writes importances and nats missed, float [N, teachers] each, whole or not at all."""
    columns = {"example_id": pa.array(example_id, pa.int64())}
    for kind, values in ((IMPORTANCE, importance), (MISSED, missed)):
        columns |= {kind + name: pa.array(v) for name, v in zip(names, values.astype(np.float16).T, strict=True)}
    table = pa.table(columns)
    with atomic(path) as partial:
        pq.write_table(table, partial, row_group_size=ROW_GROUP_ROWS, compression="zstd", write_page_checksum=True)


def count_route(path: Path, asked: list[str]) -> np.ndarray:
    """How often a file holds each value, and how often as the largest of a row: int64 [2, VALUES].

    Of the teachers that can be `asked`.
    """
    missed = _read(path, asked, MISSED)[1]
    best = missed.max(axis=1, initial=0)
    return np.stack([np.bincount(v.ravel().view(np.uint16), minlength=VALUES) for v in (missed, best)])


def finish_routes(root: Path, names: list[str], asked: list[str], counts: np.ndarray) -> None:
    """Writes `routes.json`: all `names`, those that can be `asked`, and what `count_route` said of all files."""
    there = np.flatnonzero(counts[0])
    values, pairs = there.tolist(), counts[:, there].tolist()
    write_json(
        root / "routes.json", {"version": VERSION, "teachers": names, "asked": asked, "values": values, "counts": pairs}
    )


class Routes:
    """Finished routes of a dataset's rows."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._record = read_json(root / "routes.json")
        if self._record.get("version") != VERSION:
            raise UserError(
                f"{root}: these routes were written by another version of recdistill; remove their stage's folder, and "
                "run again"
            )
        self.teachers: list[str] = self._record["teachers"]
        self.askable: list[str] = self._record["asked"]

    @cached_property
    def _counts(self) -> np.ndarray:
        """Pairs and rows by value, int64 [2, VALUES]; a teacher that does not know a row's domain makes no pair."""
        counts = np.zeros((2, VALUES), np.int64)
        counts[:, self._record["values"]] = self._record["counts"]
        counts[:, 0] = 0
        return counts

    @cached_property
    def _kept(self) -> np.ndarray:
        """How many pairs a threshold keeps: those of its value and above, and the best of each row below it."""
        pairs, best = self._counts
        return np.cumsum(pairs[::-1])[::-1] + np.cumsum(best) - best

    def threshold(self, keep: float) -> float:
        """The nats missed from which a pair is kept, so that with the best of each other row they are `keep` of all."""
        return float(np.array(self._first(keep), np.uint16).view(np.float16))

    def pairs(self, keep: float) -> tuple[int, int]:
        """How many pairs there are, and how many of them are kept: at most that share, but the best of each row."""
        return int(self._counts[0].sum()), int(self._kept[self._first(keep)])

    def _first(self, keep: float) -> int:
        fitting = np.flatnonzero(self._kept <= round(keep * int(self._counts[0].sum())))
        return int(fitting[0]) if len(fitting) else VALUES - 1

    def forecasts(self, part: Part, example_id: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How important each teacher is on rows of a part, and how missed it would be, float16 [N, teachers] each.

        Raises:
            UserError: the file lacks a row, or cannot be read.
        """
        path = route_path(self.root, part.key)
        ids, importance, missed = _read(path, self.teachers, IMPORTANCE, MISSED)
        if not np.array_equal(ids, example_id):
            order = np.argsort(ids, kind="stable")
            at = order[np.minimum(np.searchsorted(ids, example_id, sorter=order), len(ids) - 1)]
            if not np.array_equal(ids[at], example_id):
                raise UserError(f"{path}: lacks rows of {part.path}; remove {self.root} and route again")
            importance, missed = importance[at], missed[at]
        return importance, missed

    def kept(self, missed: np.ndarray, keep: float) -> np.ndarray:
        """Who is asked where teachers would be so missed, bool [N, teachers]; those who cannot be asked are."""
        at = [self.teachers.index(name) for name in self.askable]
        out = np.ones(missed.shape, bool)
        if at:
            value = missed[:, at]
            best = np.arange(len(at)) == value.argmax(axis=1)[:, None]
            out[:, at] = (value > 0) & ((value >= self.threshold(keep)) | best)
        return out


@dataclass(frozen=True)
class Routed:
    """How important teachers are, by split, and the share of pairs that is kept.

    `sparse` says that caches hold no more than that of rows to learn from: all that is there is heard then, for it may
    be there because an earlier night's router asked for it.
    """

    splits: dict[str, Path]
    keep: float
    sparse: bool = False

    @cached_property
    def _routes(self) -> dict[str, Routes]:
        return {split: Routes(root) for split, root in self.splits.items()}

    def asked(self, teacher: str, part: Part, example_id: np.ndarray) -> np.ndarray:
        """Whether a teacher is asked about rows of a part, bool [N]; about validation and test rows each one is."""
        if part.split in HELD_OUT:
            return np.ones(len(example_id), bool)
        routes = self._routes[part.split]
        missed = routes.forecasts(part, example_id)[1]
        return routes.kept(missed, self.keep)[:, routes.teachers.index(teacher)]

    def weigh(self, join: Columns) -> Columns:
        """What `join` adds, and `importance.<teacher>`, without the answers of those who would not have been asked."""
        return lambda part, table: self._weigh(part, join(part, table))

    def importance(self, part: Part, table: pa.Table) -> pa.Table:
        """Adds `importance.<teacher>`, float32."""
        routes = self._routes[part.split]
        return _with_importance(table, routes, routes.forecasts(part, table["example_id"].to_numpy())[0])

    def _weigh(self, part: Part, table: pa.Table) -> pa.Table:
        routes = self._routes[part.split]
        importance, missed = routes.forecasts(part, table["example_id"].to_numpy())
        if self.keep < 1 and (part.split in HELD_OUT or not self.sparse):
            for name, mask in zip(routes.teachers, routes.kept(missed, self.keep).T, strict=True):
                table = _only(table, f"logit.{name}", mask)
        return _with_importance(table, routes, importance)

    def pairs(self) -> tuple[int, int]:
        """All pairs of rows to learn from and teachers that can be asked about them, and those that are kept."""
        counts = [routes.pairs(self.keep) for split, routes in self._routes.items() if split not in HELD_OUT]
        return sum(every for every, _ in counts), sum(kept for _, kept in counts)


def _with_importance(table: pa.Table, routes: Routes, importance: np.ndarray) -> pa.Table:
    for name, column in zip(routes.teachers, importance.T, strict=True):
        table = table.append_column(f"importance.{name}", pa.array(column.astype(np.float32)))
    return table


def _only(table: pa.Table, name: str, mask: np.ndarray) -> pa.Table:
    """The table with null for a logit where `mask` does not hold; a teacher without a cache has no column."""
    if name not in table.column_names:
        return table
    at = table.column_names.index(name)
    column = table.column(at).combine_chunks()
    there = mask & np.asarray(column.is_valid())
    return table.set_column(at, name, pa.array(column.fill_null(0).to_numpy(), pa.float32(), mask=~there))


def _read(path: Path, names: list[str], *kinds: str) -> list[np.ndarray]:
    """`example_id` [N], and of each kind the teachers' columns, float16 [N, teachers], of a file."""
    columns = ["example_id", *(kind + name for kind in kinds for name in names)]
    try:
        table = pq.read_table(
            path, columns=columns, partitioning=None, use_threads=False, page_checksum_verification=True
        )
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(
            f"{path}: these routes are damaged ({error}); remove their stage's folder, and run again"
        ) from None
    found = [np.zeros((len(table), len(names)), np.float16) for _ in kinds]
    for values, kind in zip(found, kinds, strict=True):
        for at, name in enumerate(names):
            values[:, at] = table[kind + name].to_numpy()
    return [table["example_id"].to_numpy(), *found]
