"""Writes encoded rows as the parts of a dataset, and reads them again."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow.feather import read_table, write_feather

from recdistill.clicklog.schema import PART_ROWS, ROW_GROUP_ROWS, SPLITS, Part, PartRecord, SplitName, part_key
from recdistill.clicklog.split import day_name
from recdistill.errors import UserError
from recdistill.files import atomic, file_sha256, naming

MIXED = 16
"""Parts at most among which rows are dealt out: some four million rows."""


class PartWriter:
    """Sorts rows into parts of at most `PART_ROWS` rows of one day and one split. Days must come in order.

    Where a day has several parts of a split, each row goes to one of up to `MIXED` of them at random. A part is what
    models learn from at a stretch, and logs lie in the order of time, of users, or of how much these had rated before:
    parts cut from them as they come are unlike each other, and who learned from one of them last has forgotten some of
    the others (MovieLens-1M, in tests/benchmarks/LEDGER.md).

    Memory holds one part of each split of the current day; shares of parts wait in the folder `scratch`. `rows` says
    how many each day, counted from 1970, has of each split, by its place in `SPLITS`.
    """

    def __init__(self, root: Path, scratch: Path, rows: Mapping[tuple[int, int], int]) -> None:
        self.records: list[PartRecord] = []
        self._root, self._scratch, self._rows = root, scratch, rows
        self._day = 0
        self._held: dict[int, list[pa.Table]] = defaultdict(list)
        self._blocks = [0] * len(SPLITS)

    def add(self, table: pa.Table, days: np.ndarray, splits: np.ndarray) -> None:
        """Takes encoded rows; `days` counts each row's day from 1970, `splits` is its place in `SPLITS`."""
        edges = [0, *(np.flatnonzero(np.diff(days)) + 1).tolist(), len(days)]
        for start, end in itertools.pairwise(edges):
            if self._day != (day := int(days[start])):
                self.close()
                self._day = day
            for split in range(len(SPLITS)):
                chosen = table.slice(start, end - start).filter(pa.array(splits[start:end] == split))
                if chosen.num_rows:
                    self._hold(split, chosen)

    def close(self) -> None:
        """Writes what is still held."""
        for split, held in self._held.items():
            if held:
                self._deal(split, pa.concat_tables(held))
        self._held.clear()
        self._blocks = [0] * len(SPLITS)

    def _hold(self, split: int, table: pa.Table) -> None:
        held = self._held[split]
        held.append(table)
        while sum(piece.num_rows for piece in held) >= PART_ROWS:
            rows = pa.concat_tables(held)
            held[:] = [rows.slice(PART_ROWS)] if rows.num_rows > PART_ROWS else []
            self._deal(split, rows.slice(0, PART_ROWS))

    def _deal(self, split: int, rows: pa.Table) -> None:
        """Deals out the next block of rows. There are as many blocks as parts: the last of some makes as many parts."""
        block = self._blocks[split]
        self._blocks[split] += 1
        together = self._together(split, block)
        if len(together) == 1:
            self._write(split, block, rows)
            return
        random = np.random.default_rng([self._day % 2**32, split, block])  # days before 1970 are negative
        # Whose share is larger by a row goes round, so that no part has more than a block.
        share = (random.permutation(rows.num_rows) + block) % len(together)
        for at, index in enumerate(together):
            path = self._share(split, index, block)
            with naming(path):
                write_feather(rows.filter(pa.array(share == at)), path, compression="lz4")
        if block == together[-1]:
            for index in together:
                shares = [self._share(split, index, block) for block in together]
                self._write(split, index, pa.concat_tables([read_table(path, memory_map=False) for path in shares]))
                for path in shares:
                    path.unlink()

    def _together(self, split: int, block: int) -> list[int]:
        """The parts, and blocks, of which this block is one."""
        parts = -(-self._rows[self._day, split] // PART_ROWS)
        rounds = np.array_split(np.arange(parts), -(-parts // MIXED))
        return next(some.tolist() for some in rounds if block in some)

    def _share(self, split: int, index: int, block: int) -> Path:
        return self._scratch / f"share-{self._day}-{split}-{index}-{block}.arrow"

    def _write(self, split: int, index: int, table: pa.Table) -> None:
        self.records.append(write_part(self._root, day_name(self._day), SPLITS[split], index, table))


def write_part(root: Path, day: str, split: SplitName, index: int, table: pa.Table) -> PartRecord:
    """Writes one part, whole or not at all and with a checksum on every page, and says what it holds."""
    path = root / (part_key(day, split, index) + ".parquet")
    with atomic(path) as partial:
        pq.write_table(
            table.combine_chunks(),
            partial,
            compression="zstd",
            row_group_size=ROW_GROUP_ROWS,
            write_page_checksum=True,
        )
    positives = int(pc.sum(table["label"]).as_py()) if "label" in table.column_names else 0
    return PartRecord(
        day=day, split=split, index=index, rows=table.num_rows, positives=positives, sha256=file_sha256(path)
    )


def read_part(part: Part, columns: Sequence[str]) -> pa.Table:
    """Columns of a part, in their order.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        table = pq.read_table(
            part.path, columns=list(columns), partitioning=None, use_threads=False, page_checksum_verification=True
        )
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{part.path}: {_lost(str(error) if part.path.exists() else 'no such file')}") from error
    if table.num_rows != part.rows:
        raise UserError(f"{part.path}: {_lost(f'{table.num_rows} rows, and the manifest says {part.rows}')}")
    return table


def _lost(why: str) -> str:
    said = why.splitlines()[0]
    return f"this part of the dataset is missing or damaged ({said}); remove the dataset's folder and ingest again"
