"""What a committee says without some of its teachers: who would be missed, and what each is worth.

Teachers are left out one after the other, whoever is missed least first: where two say the same, neither is missed
beside the other, and yet one of them is (asked of each alone, half of the answers cost four times as much on Frappe:
tests/benchmarks/LEDGER.md). One gate tells it of every part of a committee: it learns of each row whole, and of it
again with some of its answers gone.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from recdistill.distill.combine import Gate, Heard

NEAR = 0.01
"""Nats: who is missed by so little more goes first all the same if it usually does. Of twins it is always the same."""
COPIES = 4
"""Of a row that a gate learns of, one of them whole."""


def thinned(rows: Heard, seed: int) -> Heard:
    """Each row `COPIES` times: whole, and with some of its answers gone, but not all of them.

    Rows that a gate learns of, every second one, stay apart from those by which it is judged. The last of an odd number
    is left out.
    """
    source = torch.arange(len(rows.label) // 2 * 2).view(-1, 2).repeat(1, COPIES).flatten()
    copies, generator = rows.take(source), torch.Generator().manual_seed(seed)
    share = torch.rand(len(source), 1, generator=generator)
    stays = torch.rand(copies.present.shape, generator=generator) >= share
    stays[torch.arange(len(source)) % (2 * COPIES) < 2] = True
    some = copies.present & stays
    return copies.only(torch.where(some.any(1, keepdim=True), some, copies.present))


def missed(rows: Heard, gate: Gate, askable: int) -> Tensor:
    """How much further the word moves as each teacher is left out, after all that are missed less.

    In nats, float32 [N, n]; 0 where one is not present. `gate` has learned of `thinned` rows. Only the first `askable`
    teachers are left out, and told of. Whoever goes later is never missed less.
    """
    whole, left = gate.of(rows), rows.present.clone()
    out, moved, most = torch.zeros(left.shape), torch.zeros(len(left)), torch.zeros(len(left))
    turn: Tensor | None = None
    for _ in range(askable):
        further = torch.full((len(left), askable), math.inf)
        for teacher in range(askable):
            at = left[:, teacher].nonzero().squeeze(1)
            some = rows.only(left).take(at).without(teacher)
            further[at, teacher] = divergence(whole[at], gate.of(some))
        if turn is None:
            usual = torch.where(left[:, :askable], further, 0).sum(0) / left[:, :askable].sum(0).clamp_min(1)
            turn = usual.argsort(stable=True).argsort()
        at = left[:, :askable].any(1).nonzero().squeeze(1)
        near = further[at] <= further[at].min(1, keepdim=True).values + NEAR
        goes = torch.where(near, turn, askable).argmin(1)
        nats = further[at, goes]
        most[at] = torch.maximum(most[at], nats - moved[at])
        out[at, goes] = most[at]
        left[at, goes] = False
        moved[at] = nats
    return out


def worth(rows: Heard, fit: Callable[[Heard], Gate]) -> list[tuple[float, float]]:
    """By how much NE of the word is worse without each teacher, and the standard error of that.

    Without it the others are put together anew, by a gate that `fit` gives. On every second row, of which that has not
    learned its weights. Empty where all labels are equal.
    """
    judged, said = torch.arange(1, len(rows.label), 2), []
    for some in (rows, *(rows.without(teacher) for teacher in range(rows.logit.shape[1]))):
        said.append(fit(some).of(some.take(judged)))
    return worse(rows.take(judged), torch.stack(said, dim=1))


def worse(rows: Heard, said: Tensor) -> list[tuple[float, float]]:
    """By how much NE of each column of `said` but the first, [N, n + 1], is worse than of that one, and its error."""
    label, weight, said = rows.label.double(), rows.weight.double(), said.double()
    total = weight.sum()
    rate = (weight * label).sum() / total
    if not 0 < rate < 1:
        return []
    loss = nn.functional.binary_cross_entropy_with_logits(said, label[:, None].expand_as(said), reduction="none")
    lost = (loss[:, 1:] - loss[:, :1]) / -(torch.special.xlogy(rate, rate) + torch.special.xlogy(1 - rate, 1 - rate))
    mean = (weight[:, None] * lost).sum(0) / total
    error = (weight[:, None] * (lost - mean)).square().sum(0).sqrt() / total
    return list(zip(mean.tolist(), error.tolist(), strict=True))


def divergence(whole: Tensor, without: Tensor) -> Tensor:
    """KL(sigmoid(whole) | sigmoid(without)), float32 [N], never negative."""
    p = whole.sigmoid()
    yes, no = (nn.functional.logsigmoid(s * whole) - nn.functional.logsigmoid(s * without) for s in (1, -1))
    return (p * yes + (1 - p) * no).clamp_min(0)
