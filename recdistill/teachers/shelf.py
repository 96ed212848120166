"""Answers that teachers gave on earlier nights, so that a row is scored once by a version and never again.

`<version's fingerprint>/<what it saw>-<checksum>.parquet`: a shard of the cache. What a teacher saw is its own view of
a part's rows, their ids translated into those of the dataset that it was taught on: while that stays the same, so do
its answers, whatever the night's vocabulary and whatever the part is called.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from recdistill import ranks
from recdistill.clicklog.batches import Block, Columns
from recdistill.clicklog.ids import earlier_ids
from recdistill.clicklog.schema import Dataset, Part
from recdistill.errors import UserError
from recdistill.files import file_sha256, read_json, write_json


@dataclass(frozen=True)
class Shelf:
    """The shelf in `folder`, for teachers that know the ids of the dataset `taught_on`; `night` names what is new."""

    folder: Path
    taught_on: Path
    night: str

    def view(self, dataset: Dataset) -> Columns | None:
        """Turns a part's columns into what these teachers know; None where that is what they are already.

        Raises:
            UserError: a number is not standardised, or an id not made, as the teachers know it.
        """
        known = Dataset(self.taught_on)
        if known.root.resolve() == dataset.root.resolve():
            return None
        tables = {sparse.name: sparse.table for sparse in dataset.schema.sparse}
        ids = {name: earlier_ids(dataset, known, name) for name in sorted(set(tables.values()))}
        if dataset.schema.dense != known.schema.dense or any(found is None for found in ids.values()):
            raise UserError(
                f"{dataset.root}: its features are not made as the teachers of {known.root} know them; teach again"
            )
        lookup = {name: pa.array(ids[table]) for name, table in tables.items()}

        def look(part: Part, table: pa.Table) -> pa.Table:
            for at, name in enumerate(table.column_names):
                if name in lookup:
                    column = table[name].combine_chunks()
                    table = table.set_column(at, name, _translated(column, lookup[name]))
            return table

        return look

    def kept(self, version: str, block: Block, keep: float) -> Kept:
        """The place of a version's answers (its fingerprint) to a block.

        `keep` is the share of pairs that a router keeps. Which rows it keeps is decided on the night that asks first.
        """
        return Kept(self.folder / version, _key(block, keep))

    def calibration(self, version: str, fit: Callable[[], tuple[float, float]]) -> tuple[float, float]:
        """What `fit` said for a version when it was first asked."""
        path = self.folder / version / "calibration.json"
        if path.exists():
            slope, intercept = read_json(path)
            return slope, intercept
        found = fit()
        if ranks.leads():
            write_json(path, found)
        return found


@dataclass(frozen=True)
class Kept:
    """A shard's place on the shelf: files `<key>-<checksum>.parquet` in a version's folder."""

    folder: Path
    key: str

    def fetch(self, path: Path) -> bool:
        """Puts the shard at `path`, if it is there and whole."""
        for kept in self.folder.glob(f"{self.key}-*.parquet"):
            if kept.stem == f"{self.key}-{file_sha256(kept)[:16]}":
                _link(kept, path)
                return True
            kept.unlink()
        return False

    def put(self, path: Path) -> None:
        """Keeps the shard at `path`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        _link(path, self.folder / f"{self.key}-{file_sha256(path)[:16]}.parquet")


def _translated(column: pa.Array, lookup: pa.Array) -> pa.Array:
    if not pa.types.is_list(column.type):
        return pc.take(lookup, column)
    sizes = np.asarray(pc.fill_null(pc.list_value_length(column), 0))
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pc.take(lookup, pc.list_flatten(column)))


def _key(block: Block, keep: float) -> str:
    """XXH3-128 of the rows' ids and all of their features."""
    digest = xxhash.xxh3_128(repr((block.keys, keep)).encode())
    sparse = block.cut(0, block.rows).sparse
    for tensor in (block.example_id, block.dense, sparse.values(), sparse.lengths()):
        digest.update(repr(tuple(tensor.shape)).encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def _link(source: Path, target: Path) -> None:
    """Another name for the same bytes where the file system has such, else a copy; whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        os.link(source, partial)
    except OSError:
        shutil.copyfile(source, partial)
    partial.replace(target)
