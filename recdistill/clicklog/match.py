"""How many ids of a user's history are a row's own: what a model would need a wide table to see."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from recdistill.clicklog.history import alone, flat
from recdistill.clicklog.schema import Schema


def matches(histories: pa.Array, own: pa.Array) -> pa.Array:
    """log(1 + how many ids of a row's history are its own), float32; id 0, a value nobody knows, is like none.

    Args:
        histories: list of int64, ids of at least 0, and none of them null.
        own: int64, null where missing, or lists as above.
    """
    (sizes, past), (own_sizes, present) = flat(histories), flat(own if pa.types.is_list(own.type) else alone(own))
    begins, row = np.cumsum(own_sizes) - own_sizes, np.repeat(np.arange(len(own)), sizes)
    same, left, at = np.zeros(len(past), bool), np.flatnonzero(past > 0), 0
    while len(left := left[own_sizes[row[left]] > at]):  # those not yet found, against the next of each row's own
        found = present[begins[row[left]] + at] == past[left]
        same[left[found]] = True
        left, at = left[~found], at + 1
    return pa.array(np.log1p(np.bincount(row[same], minlength=len(own))).astype(np.float32))


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
