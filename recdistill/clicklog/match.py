"""How many ids of a user's history are a row's own: what a model would need a wide table to see."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recdistill.clicklog.schema import Schema


def matches(histories: pa.Array, own: pa.Array) -> pa.Array:
    """log(1 + how many ids of a row's history are its own), float32; id 0, a value nobody knows, is like none.

    Args:
        histories: list of int64, ids of at least 0, and none of them null.
        own: int64, null where missing, or lists as above.
    """
    rows = len(own)
    ids = [_flat(histories), _flat(own if pa.types.is_list(own.type) else _alone(own))]
    most = max((int(found.max()) for _, found in ids if len(found)), default=0) + 1
    past, present = (row * most + found for row, found in ids)
    same = np.isin(past, present) & (ids[0][1] > 0)
    return pa.array(np.log1p(np.bincount(ids[0][0][same], minlength=rows)).astype(np.float32))


def with_matches(table: pa.Table, schema: Schema) -> pa.Table:
    """The table, of all features of a dataset, with each column of matches made anew of its own history and ids."""
    of = {sparse.name: sparse.source["of"] for sparse in schema.sparse if "of" in sparse.source}
    for column in schema.dense:
        if column.history:
            made = matches(*(table[name].combine_chunks() for name in (column.history, of[column.history])))
            table = table.set_column(table.column_names.index(column.name), column.name, made)
    return table


def with_sources(schema: Schema, features: list[str]) -> list[str]:
    """The features, and after them those that their matches are counted of, each once."""
    of = {sparse.name: sparse.source["of"] for sparse in schema.sparse if "of" in sparse.source}
    histories = [column.history for column in schema.dense if column.name in features and column.history]
    return list(dict.fromkeys([*features, *histories, *(of[name] for name in histories)]))


def _alone(own: pa.Array) -> pa.Array:
    """Lists of one id, of none where it is missing."""
    offsets = np.concatenate([np.zeros(1, np.int32), np.cumsum(np.asarray(own.is_valid()), dtype=np.int32)])
    return pa.ListArray.from_arrays(pa.array(offsets), own.drop_null())


def _flat(lists: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """The row and the id of each element."""
    rows = np.repeat(np.arange(len(lists)), np.asarray(pc.fill_null(pc.list_value_length(lists), 0)))
    return rows, np.asarray(pc.list_flatten(lists))
