"""Parquet parts to training batches: Arrow tables are filtered, joined and shuffled, then become tensors.

A part (at most `PART_ROWS` rows) is the unit of reading; small parts are read together until they make that many
rows, so that a shuffle mixes days. Memory holds a few such blocks: the one in use, one ready, one being read.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torchrec import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

from recdistill.clicklog.hashing import mix
from recdistill.clicklog.schema import PART_ROWS, Dataset, Part, Schema, SplitName
from recdistill.clicklog.vectors import binary_to_vectors

Columns = Callable[[Part, pa.Table], pa.Table]
"""Adds columns to a part's table, row by row in the same order (a teacher cache does)."""


@dataclass(frozen=True)
class Rows:
    """Which rows of a dataset: a split, days of it, a fold or all but a fold, a domain."""

    split: SplitName
    days: tuple[str, ...] | None = None
    folds: int = 0
    inside: int | None = None
    """Only this fold of `folds`."""
    outside: int | None = None
    """All but this fold of `folds`."""
    domain: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """Single features and the ids that a row must have."""

    def parts(self, dataset: Dataset) -> list[Part]:
        """The parts that may hold such rows."""
        return dataset.parts(self.split, None if self.days is None else list(self.days))

    def columns(self) -> list[str]:
        """Columns that `select` looks at."""
        return ["example_id", *(name for name, _ in self.domain)]

    def select(self, table: pa.Table) -> pa.Table:
        """The rows of `table` that are meant, in their order."""
        if self.folds:
            fold = folds_of(table["example_id"].to_numpy(), self.folds)
            keep = fold == self.inside if self.inside is not None else fold != self.outside
            table = table.filter(pa.array(keep))
        for name, ids in self.domain:
            table = table.filter(pc.is_in(table[name], value_set=pa.array(ids, pa.int64())))
        return table


def folds_of(example_id: np.ndarray, folds: int) -> np.ndarray:
    """Fold of each row, uint64 in [0, folds): a splitmix64 of its id, so that it never depends on order."""
    return mix(example_id) % np.uint64(folds)


@dataclass
class Batch(Pipelineable):
    """B impressions.

    `dense` float32 [B, D] in schema order; `sparse` int64 ids keyed by feature, stride B; `label`, `weight` float32
    [B]; `example_id` int64 [B]; `extra` whatever columns were joined: float32 [B] or float16 [B, d], with a bool
    [B] under `<name>?` that says which rows have one. Labels are zeros where `labelled` is false.
    """

    dense: Tensor
    sparse: KeyedJaggedTensor
    label: Tensor
    weight: Tensor
    example_id: Tensor
    extra: dict[str, Tensor] = field(default_factory=dict)
    labelled: bool = True

    def __len__(self) -> int:
        return self.label.numel()

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        """The same batch on another device."""
        return self._map(lambda value: value.to(device=device, non_blocking=non_blocking))

    def take(self, index: Tensor) -> Batch:
        """The batch of its rows `index` (int64)."""
        return self._map(lambda value: _bags_of(value, index) if value is self.sparse else value[index])

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory."""
        return self._map(lambda value: value.pin_memory())

    def record_stream(self, stream: torch.Stream) -> None:
        """Tells the allocator that `stream` uses this batch (TorchRec pipelines call it)."""
        self._map(lambda value: value.record_stream(stream) or value)

    def _map(self, function: Callable) -> Batch:
        mapped = {f.name: function(getattr(self, f.name)) for f in fields(self) if f.name not in ("extra", "labelled")}
        return replace(self, **mapped, extra={name: function(value) for name, value in self.extra.items()})


class Block:
    """Rows in memory as tensors, from which batches are cut in any order."""

    def __init__(self, table: pa.Table, schema: Schema) -> None:
        table = table.combine_chunks()
        self.rows = table.num_rows
        self.keys = [feature.name for feature in schema.sparse if feature.name in table.column_names]
        dense = [column.name for column in schema.dense if column.name in table.column_names]
        self.dense = (
            torch.from_numpy(np.stack([_floats(table[name]) for name in dense], axis=1))
            if dense
            else torch.zeros(self.rows, 0)
        )
        self.values, self.lengths = _jagged([table[name] for name in self.keys])
        self.offsets = torch.cumsum(self.lengths, 0) - self.lengths
        absent = torch.ones(self.rows)
        self.labelled = "label" in table.column_names
        self.label = _tensor(table["label"]) if self.labelled else torch.zeros(self.rows)
        self.weight = _tensor(table["weight"]) if "weight" in table.column_names else absent
        self.example_id = torch.from_numpy(table["example_id"].to_numpy().copy())
        known = {*self.keys, *dense, "label", "weight", "example_id"}
        self.extra: dict[str, Tensor] = {}
        for name in table.column_names:
            if name not in known:
                self.extra[name], self.extra[name + "?"] = _extra(table[name], table.schema.field(name))

    def take(self, index: Tensor) -> Batch:
        """The batch of rows `index` (int64 [B])."""
        return Batch(
            dense=self.dense[index],
            sparse=_bags(self.keys, self.values, self.lengths, self.offsets, index),
            label=self.label[index],
            weight=self.weight[index],
            example_id=self.example_id[index],
            extra={name: value[index] for name, value in self.extra.items()},
            labelled=self.labelled,
        )


def read_blocks(
    dataset: Dataset,
    rows: Rows,
    *,
    shuffle: np.random.Generator | None = None,
    join: Columns | None = None,
    features: Sequence[str] | None = None,
    parts: Sequence[Part] | None = None,
) -> Iterator[Block]:
    """Blocks of the rows meant, in dataset order, or with parts and rows in random order.

    Only the columns of `features` (all when None) are read, and only `parts` where they are given. The next block
    is read by a thread meanwhile.
    """
    parts = rows.parts(dataset) if parts is None else parts
    if shuffle is not None:
        parts = [parts[at] for at in shuffle.permutation(len(parts))]
    wanted = _columns(dataset.schema, features, rows.split)

    def tables() -> Iterator[pa.Table]:
        held: list[pa.Table] = []
        for part in parts:
            need = [*wanted, *(name for name in rows.columns() if name not in wanted)]
            table = rows.select(pq.read_table(part.path, columns=need, partitioning=None, use_threads=False))
            table = table.select(wanted)
            if join is not None:
                table = join(part, table)
            held.append(table)
            if sum(table.num_rows for table in held) >= PART_ROWS:
                yield pa.concat_tables(held)
                held = []
        if any(table.num_rows for table in held):
            yield pa.concat_tables(held)

    return prefetch(Block(table, dataset.schema) for table in tables())


def batches(
    dataset: Dataset,
    rows: Rows,
    batch_size: int,
    *,
    shuffle: np.random.Generator | None = None,
    join: Columns | None = None,
    features: Sequence[str] | None = None,
) -> Iterator[Batch]:
    """Batches of `batch_size` rows; the last one of a block may be smaller, and is dropped nowhere."""
    for block in read_blocks(dataset, rows, shuffle=shuffle, join=join, features=features):
        order = torch.arange(block.rows) if shuffle is None else torch.from_numpy(shuffle.permutation(block.rows))
        for start in range(0, block.rows, batch_size):
            yield block.take(order[start : start + batch_size])


def in_turn(first: Iterator[Batch], second: Iterator[Batch], ratio: float) -> Iterator[Batch]:
    """Batches of two streams: after each of `first` so many of `second` that their counts stay at 1 : `ratio`.

    Both are read to their end.
    """
    owed = 0.0
    for batch in first:
        yield batch
        owed += ratio
        yield from itertools.islice(second, int(owed))
        owed -= int(owed)
    yield from second


def prefetch(items: Iterator, depth: int = 1) -> Iterator:
    """Runs an iterator in a thread, `depth` items ahead; its errors are raised here."""
    ready: queue.Queue = queue.Queue(maxsize=depth)
    end, stop = object(), threading.Event()

    def run() -> None:
        try:
            for item in items:
                while not stop.is_set():
                    try:
                        ready.put(item, timeout=0.1)
                        break
                    except queue.Full:
                        continue
                if stop.is_set():
                    return
            last: object = end
        except BaseException as error:
            last = error
        while not stop.is_set():
            try:
                ready.put(last, timeout=0.1)
                return
            except queue.Full:
                continue

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not end:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()


def _columns(schema: Schema, features: Sequence[str] | None, split: SplitName) -> list[str]:
    names = [*(column.name for column in schema.dense), *(feature.name for feature in schema.sparse)]
    chosen = names if features is None else [name for name in names if name in set(features)]
    if split == "unlabelled":
        return ["example_id", *chosen]
    return ["example_id", "label", *(["weight"] if schema.has_weight else []), *chosen]


def _bags_of(sparse: KeyedJaggedTensor, index: Tensor) -> KeyedJaggedTensor:
    return _bags(sparse.keys(), sparse.values(), sparse.lengths().long(), sparse.offsets()[:-1].long(), index)


def _bags(keys: list[str], values: Tensor, lengths: Tensor, offsets: Tensor, index: Tensor) -> KeyedJaggedTensor:
    """The bags of rows `index`, from all keys' bags end to end: each one's length and where it begins, int64."""
    rows = len(lengths) // max(1, len(keys))
    at = (torch.arange(len(keys))[:, None] * rows + index[None]).reshape(-1)
    lengths, starts = lengths[at], offsets[at]
    ends = torch.cumsum(lengths, 0)
    shift = torch.repeat_interleave(starts - (ends - lengths), lengths)
    return KeyedJaggedTensor(keys=keys, values=values[shift + torch.arange(shift.numel())], lengths=lengths.int())


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def _floats(column: pa.ChunkedArray) -> np.ndarray:
    return column.to_numpy().astype(np.float32, copy=False)


def _tensor(column: pa.ChunkedArray) -> Tensor:
    return torch.from_numpy(_floats(column).copy())


def _jagged(columns: list[pa.ChunkedArray]) -> tuple[Tensor, Tensor]:
    """Ids of all columns end to end, and the length of each (column, row), both int64."""
    values, lengths = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for chunked in columns:
        column = _one(chunked) if chunked.num_chunks else pa.array([], chunked.type)
        if pa.types.is_integer(column.type):
            lengths.append(np.asarray(column.is_valid()).astype(np.int64))
            values.append(column.drop_null().to_numpy())
        else:
            lengths.append(pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int64))
            values.append(pc.list_flatten(column).to_numpy())
    return torch.from_numpy(np.concatenate(values)), torch.from_numpy(np.concatenate(lengths))


def _extra(chunked: pa.ChunkedArray, field: pa.Field) -> tuple[Tensor, Tensor]:
    column = _one(chunked)
    present = torch.from_numpy(np.asarray(column.is_valid()))
    if pa.types.is_fixed_size_binary(column.type):
        return torch.from_numpy(binary_to_vectors(column, field).copy()), present
    values = pc.fill_null(column, 0).to_numpy(zero_copy_only=False)
    return torch.from_numpy(values.astype(np.float32)), present
