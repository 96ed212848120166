"""Where a loss that is no number comes from: told before it is learned."""

from __future__ import annotations

import torch
from torch import Tensor

from recdistill import ranks
from recdistill.clicklog.batches import Batch
from recdistill.models.dlrm import DLRM

SHOWN = 5
"""Names and rows that a sentence holds at most."""


@torch.no_grad()
def find_fault(model: DLRM, batch: Batch) -> str:
    """A sentence about what is not finite of this rank's batch and the others', and what to do; all ranks must call it.

    Dense values, vectors of sparse features and teachers' answers are looked at, with their rows' `example_id`; then
    the model's own logits.
    """
    values = dict(zip(model.shape.dense, batch.dense.T, strict=True))
    values |= dict(zip(model.shape.sparse, model.vectors(batch).unbind(1), strict=False))
    values |= {name: value for name, value in batch.extra.items() if value.is_floating_point()}
    inputs = _merge(ranks.gather({name: _rows(value, batch) for name, value in values.items()}))
    if inputs:
        found = "; ".join(f"{name!r} on {_told(rows)}" for name, rows in list(inputs.items())[:SHOWN])
        more = f"; and {len(inputs) - SHOWN} more" if len(inputs) > SHOWN else ""
        return f"Not finite: {found}{more}. Correct or leave out these rows"
    logits = _merge(ranks.gather({"logit": _rows(model(batch)[0], batch)}))
    where = f" (its logit is not finite on {_told(logits['logit'])})" if logits else ""
    return f"Every input is finite, so the model has diverged{where}; lower train.embedding_rate or train.dense_rate"


def _rows(value: Tensor, batch: Batch) -> list[int]:
    """`example_id` of the rows [B] or [B, ...] that are not finite."""
    bad = ~torch.isfinite(value)
    return batch.example_id[bad.flatten(1).any(1) if bad.dim() > 1 else bad].tolist()


def _merge(found: list[dict[str, list[int]]]) -> dict[str, list[int]]:
    """What at least one rank found, by name."""
    merged = {name: [row for one in found for row in one[name]] for name in found[0]}
    return {name: rows for name, rows in merged.items() if rows}


def _told(rows: list[int]) -> str:
    shown = ", ".join(map(str, rows[:SHOWN]))
    return f"the rows with example_id {shown}{f' and {len(rows) - SHOWN} more' if len(rows) > SHOWN else ''}"
