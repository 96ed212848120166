"""Where a model begins: at an earlier one, though its vocabulary has moved since.

A row of a table begins at the row that the same value had; a value that is new begins at the row of unseen ones.
Dense layers of the same shape are taken as they are. The optimizer begins anew.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from recdistill.clicklog.ids import earlier_ids
from recdistill.clicklog.schema import Dataset
from recdistill.models.dlrm import DLRM
from recdistill.models.frozen import load_model


@torch.no_grad()
def carry(model: DLRM, dataset: Dataset, folder: Path, earlier: Dataset) -> None:
    """Fills `model`, whose ids are `dataset`'s, with what fits of the one in `folder`, whose ids are `earlier`'s."""
    before = load_model(folder)
    found = dict(before.named_parameters())
    for name, value in model.named_parameters():
        if not name.startswith("embeddings.") and name in found and found[name].shape == value.shape:
            value.copy_(found[name])
    if model.shape.dim != before.shape.dim:
        return
    old = {table.name: at for at, table in enumerate(before.shape.tables)}
    bags, bags_before = model.embeddings.embedding_bags, before.embeddings.embedding_bags
    sharing, sharing_before = model.row_map.sharing, before.row_map.sharing
    for at, table in enumerate(model.shape.tables):
        if table.name in old and (ids := earlier_ids(dataset, earlier, table.name)) is not None:
            every = np.arange(table.source_rows)
            of_each, of_each_before = sharing.of(at, every), sharing_before.of(old[table.name], ids)
            rows = torch.from_numpy(earlier_rows(table.rows, of_each, of_each_before))
            vectors, before_them = (each[table.module].weight.view(-1, model.shape.dim) for each in (bags, bags_before))
            vectors[: table.rows] = before_them[rows]


def earlier_rows(rows: int, of_each: np.ndarray, of_each_before: np.ndarray) -> np.ndarray:
    """For each of a table's `rows`, the row of the earlier model that it begins at, int64 [rows].

    `of_each` says which row each id has, `of_each_before` which it had, int64 [ids]. Where several ids share a row, the
    first of them decides: it is the most frequent.
    """
    found = np.zeros(rows, np.int64)
    found[of_each[::-1]] = of_each_before[::-1]
    return found
