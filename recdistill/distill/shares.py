"""How many pairs of a row and a teacher have to be kept: as few as leave the committee's word as good as it was.

Judged on validation rows, which every teacher answers anyway: for each share the word is put together anew from the
answers that it leaves, and its log loss is compared with that of the word of all answers, row by row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recdistill.distill.combine import Gate, Heard, halves

SHARES = (0.3, 0.5, 0.7, 0.85)
"""Shares of pairs that are tried."""


def try_shares(missed: Tensor, asked: int, rows: Heard, gate: Callable[[Heard], Gate]) -> dict[str, Any]:
    """The share to `keep`, and for each that was `tried` how much worse the word is, and how sure.

    That is the least share whose word is not worse than that of all answers by more than one standard error of the
    difference, in nats a row; 1 where none is. `missed` float32 [N, n] says how much n teachers would be missed on N
    rows; the first `asked` of them can be asked, the others are heard anyway. `gate` fits a new one.
    """
    judge = halves(len(rows.label))[1]

    def loss(present: Tensor) -> Tensor:
        heard = rows.only(present)
        return F.binary_cross_entropy_with_logits(gate(heard).of(heard), rows.label, reduction="none")[judge]

    everything, tried, keep = loss(rows.present), [], 1.0
    share_of = rows.weight[judge] / rows.weight[judge].sum()
    for share in SHARES if asked else ():
        worse = loss(rows.present & kept(missed, asked, share)) - everything
        mean = float((share_of * worse).sum())
        error = float((share_of.square() * (worse - mean).square()).sum().sqrt())
        tried.append({"keep": share, "worse": mean, "standard_error": error})
        if mean <= error and keep == 1:
            keep = share
    return {"keep": keep, "tried": tried}


def kept(missed: Tensor, asked: int, share: float) -> Tensor:
    """Who is heard, bool [N, n]: the pairs most missed, up to a share, one of each row, and who need not be asked."""
    value = missed[:, :asked]
    there = value[value > 0].sort(descending=True).values
    allowed = there[: round(share * len(there))]
    least = allowed[-1] if len(allowed) else value.new_tensor(float("inf"))
    best = F.one_hot(value.argmax(1), asked).bool()
    return torch.cat([(value >= least) | best, torch.ones_like(missed[:, asked:]).bool()], dim=1)
