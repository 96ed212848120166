"""How many rows are held at once, so that memory is bounded whatever is in a row.

Files are small where values repeat: 46 KiB of Parquet may hold a text of a megabyte in each of 100,000 rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recdistill.errors import UserError

BYTES = 1 << 28
"""What the rows that are held may take."""
VALUES = 1 << 22
"""How many elements their lists may have together; a single row may have more."""
GROUP_VALUES = 1 << 27
"""The most elements of a list column in a row group: all may be in one row, which cannot be read in pieces."""
TEXT_BYTES = 1 << 12
"""The longest text that stands for something: an id, a user, an element of a bag."""
COLUMNS = 20_000
"""The most columns of a text file; each costs some kilobytes, whether it is read or not."""


def batch_rows(file: pq.ParquetFile, columns: Sequence[str], groups: Sequence[int], most: int, name: str) -> int:
    """How many rows of some columns to read at once: `most`, or fewer where texts or lists are long.

    Args:
        file: a Parquet file.
        columns: the columns that will be read.
        groups: the row groups that will be read.
        most: the answer for rows of a usual size.
        name: what messages call the file.

    Raises:
        UserError: a row group has more than `GROUP_VALUES` elements of a list.
    """
    leaves = _leaves(file, columns)
    for group in groups:
        about = file.metadata.row_group(group)
        rows = max(1, about.num_rows)
        for chunk in map(about.column, leaves):
            if chunk.num_values > max(GROUP_VALUES, rows):
                raise UserError(
                    f"{name}: row group {group} holds {chunk.num_values:,} elements of {chunk.path_in_schema!r} in "
                    f"{rows:,} rows; expected at most {GROUP_VALUES:,}: write shorter lists, or fewer rows a group"
                )
            most = min(most, VALUES * rows // max(1, chunk.num_values))
            most = min(most, BYTES * rows // max(1, chunk.total_uncompressed_size))
    return max(1, most)


def dictionary_rows(path: Path, columns: Sequence[str], groups: Sequence[int], most: int) -> int:
    """The same by the longest text in the file's dictionaries, since nothing else tells how large they unpack."""
    with pq.ParquetFile(path) as file:
        stored = [file.schema.column(leaf) for leaf in _leaves(file, columns)]
    texts = [column.path for column in stored if column.physical_type == "BYTE_ARRAY"]
    if not texts:
        return most
    longest = 1
    with pq.ParquetFile(path, read_dictionary=texts, pre_buffer=False, buffer_size=1 << 16) as file:
        for group in groups:
            one = next(file.iter_batches(1, row_groups=[group], columns=texts, use_threads=False), None)
            for column in one.columns if one else []:
                longest = max(longest, _longest(column))
    return max(1, min(most, BYTES // longest))


def _leaves(file: pq.ParquetFile, columns: Sequence[str]) -> list[int]:
    """Where what is stored of some columns stands; a list's elements have a longer path than the list."""
    paths = [file.schema.column(leaf).path for leaf in range(file.metadata.num_columns)]
    return [leaf for leaf, path in enumerate(paths) if any(f"{path}.".startswith(f"{name}.") for name in columns)]


def _longest(column: pa.Array) -> int:
    """Bytes of the longest text in a column's dictionary, if it has one."""
    while pa.types.is_list(column.type):
        column = column.values
    return pc.max(pc.binary_length(column.dictionary)).as_py() or 0 if pa.types.is_dictionary(column.type) else 0
