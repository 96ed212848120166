"""Parquet parts to training batches: Arrow tables are filtered, joined and shuffled, then become tensors.

A part (at most `PART_ROWS` rows) is the unit of reading; small parts are read together until they make that many
rows. Where they make several blocks, days stay in order even if rows are shuffled: what was clicked changes, and who
learns the newest days last is better on the days that follow (Globo, in tests/benchmarks/LEDGER.md). Memory holds a few
such blocks: the one in use, one ready, one being made, and the parts that are read for the next.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor
from torchrec import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

from recdistill.clicklog.columns import Vectors, joined, sparse, tensor, vectors
from recdistill.clicklog.hashing import mix
from recdistill.clicklog.parts import read_part
from recdistill.clicklog.schema import PART_ROWS, Dataset, Part, Schema, SplitName

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
    [B]; `example_id` int64 [B]; `extra` whatever numbers were joined, float32 [B], with a bool [B] under `<name>?` that
    says which rows have one, and what was added to them; `vectors` whatever vectors were joined. Labels are zeros where
    `labelled` is false. `rows` are the same bags as rows of a model's tables, once it has located them, and `places`
    where in these rows single ids lie.
    """

    dense: Tensor
    sparse: KeyedJaggedTensor
    label: Tensor
    weight: Tensor
    example_id: Tensor
    extra: dict[str, Tensor] = field(default_factory=dict)
    vectors: dict[str, Vectors] = field(default_factory=dict)
    labelled: bool = True
    rows: KeyedJaggedTensor | None = None
    places: Tensor | None = None

    def __len__(self) -> int:
        return self.label.numel()

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        """The same batch on another device."""
        return self._map(lambda value: value.to(device=device, non_blocking=non_blocking))

    def take(self, index: Tensor) -> Batch:
        """The batch of its rows `index` (int64)."""
        return self._map(lambda value: _rows_of(value, index))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory."""
        return self._map(lambda value: value.pin_memory())

    def record_stream(self, stream: torch.Stream) -> None:
        """Tells the allocator that `stream` uses this batch (TorchRec pipelines call it)."""
        self._map(lambda value: value.record_stream(stream) or value)

    def _map(self, function: Callable) -> Batch:
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        mapped = {name: function(value) for name, value in own.items() if isinstance(value, Tensor | KeyedJaggedTensor)}
        extra = {name: function(value) for name, value in self.extra.items()}
        vectors = {name: function(value) for name, value in self.vectors.items()}
        return replace(self, **mapped, extra=extra, vectors=vectors)


class Block:
    """Rows in memory as tensors, from which batches are cut. They lie where Arrow put them, and are not written to."""

    def __init__(self, table: pa.Table, schema: Schema) -> None:
        wide = [field for field in table.schema if pa.types.is_dictionary(field.type)]
        self.vectors = {field.name: vectors(table[field.name], field) for field in wide}
        table = table.drop_columns([*self.vectors]).combine_chunks()
        self.rows = table.num_rows
        self.keys = [feature.name for feature in schema.sparse if feature.name in table.column_names]
        self.bags = [sparse(table[name]) for name in self.keys]
        dense = [column.name for column in schema.dense if column.name in table.column_names]
        self.dense = torch.stack([tensor(table[name]) for name in dense], 1) if dense else torch.zeros(self.rows, 0)
        self.labelled = "label" in table.column_names
        self.label = tensor(table["label"]) if self.labelled else torch.zeros(self.rows)
        self.weight = tensor(table["weight"]) if "weight" in table.column_names else torch.ones(self.rows)
        self.example_id = tensor(table["example_id"])
        known = {*self.keys, *dense, "label", "weight", "example_id"}
        self.extra: dict[str, Tensor] = {}
        for name in table.column_names:
            if name not in known:
                self.extra[name], self.extra[name + "?"] = joined(table[name])

    def cut(self, start: int, stop: int) -> Batch:
        """The batch of the rows from `start` to before `stop`; only its ids are copied."""
        return self._batch(
            lambda value: value[start:stop],
            [bags.cut(start, stop) for bags in self.bags],
            {name: value.cut(start, stop) for name, value in self.vectors.items()},
        )

    def take(self, index: Tensor) -> Batch:
        """The batch of rows `index` (int64 [B])."""
        return self._batch(
            lambda value: value.index_select(0, index),
            [bags.take(index).cut(0, len(index)) for bags in self.bags],
            {name: value.take(index) for name, value in self.vectors.items()},
        )

    def reorder(self, order: Tensor) -> None:
        """Puts the rows into the order of a permutation (int64 [rows])."""
        self.bags = [bags.take(order) for bags in self.bags]
        # numpy takes a seventh of torch's time for rows of a few numbers.
        self.dense = torch.from_numpy(self.dense.numpy().take(order.numpy(), axis=0))
        self.label = self.label.index_select(0, order)
        self.weight = self.weight.index_select(0, order)
        self.example_id = self.example_id.index_select(0, order)
        self.extra = {name: value.index_select(0, order) for name, value in self.extra.items()}
        self.vectors = {name: value.take(order) for name, value in self.vectors.items()}

    def _batch(
        self, of: Callable[[Tensor], Tensor], bags: list[tuple[np.ndarray, np.ndarray]], vectors: dict[str, Vectors]
    ) -> Batch:
        ids = np.concatenate([np.zeros(0, np.int64), *(ids for ids, _ in bags)])
        lengths = np.concatenate([np.zeros(0, np.int32), *(lengths for _, lengths in bags)])
        return Batch(
            dense=of(self.dense),
            sparse=KeyedJaggedTensor(keys=self.keys, values=torch.from_numpy(ids), lengths=torch.from_numpy(lengths)),
            label=of(self.label),
            weight=of(self.weight),
            example_id=of(self.example_id),
            extra={name: of(value) for name, value in self.extra.items()},
            vectors=vectors,
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
    add: Callable[[Block], None] | None = None,
) -> Iterator[Block]:
    """Blocks of the rows meant, in dataset order, or with each day's parts in random order and each block's rows too.

    Days that make one block all together are mixed in it.

    Only the columns of `features` (all when None) are read, and only `parts` where they are given. `add` may put more
    into the `extra` of a block. Meanwhile a thread makes the next block, and another one reads what comes after it.
    """
    parts = rows.parts(dataset) if parts is None else parts
    if shuffle is not None:
        parts = [parts[at] for at in shuffle.permutation(len(parts))]
        if sum(part.rows for part in parts) > PART_ROWS:  # else they are one block, and its rows are mixed
            parts.sort(key=lambda part: part.day)
    wanted = _columns(dataset.schema, features, rows.split)

    def tables() -> Iterator[pa.Table]:
        need = [*wanted, *(name for name in rows.columns() if name not in wanted)]
        for part in parts:
            table = rows.select(read_part(part, need)).select(wanted)
            yield table if join is None else join(part, table)

    def blocks() -> Iterator[Block]:
        held: list[pa.Table] = []
        for table in prefetch(tables()):
            held.append(table)
            if sum(table.num_rows for table in held) >= PART_ROWS:
                yield _block(held, dataset.schema, shuffle, add)
                held = []
        if any(table.num_rows for table in held):
            yield _block(held, dataset.schema, shuffle, add)

    return prefetch(blocks())


def _block(
    tables: list[pa.Table], schema: Schema, shuffle: np.random.Generator | None, add: Callable[[Block], None] | None
) -> Block:
    block = Block(pa.concat_tables(tables), schema)
    if add is not None:
        add(block)
    if shuffle is not None:
        block.reorder(torch.from_numpy(shuffle.permutation(block.rows)))
    return block


def batches(
    dataset: Dataset,
    rows: Rows,
    batch_size: int,
    *,
    shuffle: np.random.Generator | None = None,
    join: Columns | None = None,
    features: Sequence[str] | None = None,
    add: Callable[[Block], None] | None = None,
) -> Iterator[Batch]:
    """Batches of `batch_size` rows; the last one of a block may be smaller, and is dropped nowhere."""
    for block in read_blocks(dataset, rows, shuffle=shuffle, join=join, features=features, add=add):
        for start in range(0, block.rows, batch_size):
            yield block.cut(start, min(start + batch_size, block.rows))


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


def _rows_of(value: Any, index: Tensor) -> Any:
    """Rows `index` (int64) of a tensor, of bags or of vectors."""
    if isinstance(value, KeyedJaggedTensor):
        return _bags_of(value, index)
    return value.take(index) if isinstance(value, Vectors) else value.index_select(0, index)


def _bags_of(sparse: KeyedJaggedTensor, index: Tensor) -> KeyedJaggedTensor:
    """The bags of rows `index` (int64)."""
    keys, rows = sparse.keys(), sparse.stride()
    at = (torch.arange(len(keys))[:, None] * rows + index).reshape(-1).int()
    lengths, ids, _ = torch.ops.fbgemm.permute_1D_sparse_data(at, sparse.lengths(), sparse.values(), None)
    return KeyedJaggedTensor(keys=keys, values=ids, lengths=lengths)
