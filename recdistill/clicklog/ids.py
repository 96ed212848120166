"""Which id a value had in another dataset: vocabularies move from one ingest to the next, values do not."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq

from recdistill.clicklog.lookup import Lookup
from recdistill.clicklog.schema import Dataset, Table


def earlier_ids(dataset: Dataset, earlier: Dataset, table: str) -> np.ndarray | None:
    """For each id of a table, the id that its value had in an earlier dataset (0: none), int64 [rows].

    None where ids do not stand for values that can be compared: another salt, other boundaries, another encoding.
    """
    now, then = _table(dataset, table), _table(earlier, table)
    if now is None or then is None or now.encoding != then.encoding:
        return None
    if now.encoding != "vocabulary":
        return np.arange(now.rows) if now == then else None
    values, known = (
        pq.read_table(d.vocabulary_path(table), columns=["value"], partitioning=None)["value"].combine_chunks()
        for d in (dataset, earlier)
    )
    return np.concatenate([[0], Lookup(known).find(values) + 1]).astype(np.int64)


def _table(dataset: Dataset, name: str) -> Table | None:
    return next((table for table in dataset.schema.tables if table.name == name), None)
