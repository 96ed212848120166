"""Writes encoded rows as the parts of a dataset, and reads them again."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recdistill.clicklog.schema import PART_ROWS, ROW_GROUP_ROWS, SPLITS, Part, PartRecord, SplitName, part_key
from recdistill.clicklog.split import day_name
from recdistill.errors import UserError
from recdistill.files import atomic, file_sha256


class PartWriter:
    """Sorts rows into parts of at most `PART_ROWS` rows of one day and one split. Days must come in order.

    Memory holds one part of each split of the current day.
    """

    def __init__(self, root: Path) -> None:
        self.records: list[PartRecord] = []
        self._root = root
        self._day = ""
        self._held: dict[int, list[pa.Table]] = defaultdict(list)
        self._written = [0] * len(SPLITS)

    def add(self, table: pa.Table, days: np.ndarray, splits: np.ndarray) -> None:
        """Takes encoded rows; `days` counts each row's day from 1970, `splits` is its place in `SPLITS`."""
        edges = [0, *(np.flatnonzero(np.diff(days)) + 1).tolist(), len(days)]
        for start, end in itertools.pairwise(edges):
            day = day_name(int(days[start]))
            if day != self._day:
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
                self._write(split, pa.concat_tables(held))
        self._held.clear()
        self._written = [0] * len(SPLITS)

    def _hold(self, split: int, table: pa.Table) -> None:
        held = self._held[split]
        held.append(table)
        if sum(piece.num_rows for piece in held) >= PART_ROWS:
            rows = pa.concat_tables(held)
            self._write(split, rows.slice(0, PART_ROWS))
            self._held[split] = [rows.slice(PART_ROWS)] if rows.num_rows > PART_ROWS else []

    def _write(self, split: int, table: pa.Table) -> None:
        index = self._written[split]
        self._written[split] += 1
        self.records.append(write_part(self._root, self._day, SPLITS[split], index, table))


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
