"""A model with the click as its only task, and what every model is judged by while it trains."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recdistill.clicklog.batches import Batch
from recdistill.models.dlrm import DLRM


class ClickModel(nn.Module):
    """A DLRM whose `forward` is its loss."""

    model: DLRM

    def __init__(self, model: DLRM) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Tensor:
        """Weighted mean log loss of the batch, a scalar in nats."""
        return click_loss(self.model(batch)[0], batch)


def click_loss(logit: Tensor, batch: Batch) -> Tensor:
    """Weighted mean log loss of logits [B], a scalar in nats."""
    loss = F.binary_cross_entropy_with_logits(logit, batch.label, weight=batch.weight, reduction="sum")
    return loss / batch.weight.sum().clamp_min(1e-12)


def normalised_entropy(logits: Iterable[tuple[Tensor, Batch]]) -> float:
    """NE over batches: mean log loss over the entropy of the base rate (He et al. 2014); lower is better.

    Sums in float64. Infinity where all labels are equal and NE is not defined.
    """
    loss = positive = weight = 0.0
    for logit, batch in logits:
        z, y, w = logit.double().cpu(), batch.label.double().cpu(), batch.weight.double().cpu()
        loss += float((w * F.binary_cross_entropy_with_logits(z, y, reduction="none")).sum())
        positive += float((w * y).sum())
        weight += float(w.sum())
    rate = positive / weight if weight else 0.0
    if not 0 < rate < 1:
        return math.inf
    return loss / weight / -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))


@torch.no_grad()
def score(model: DLRM, stream: Iterable[Batch]) -> Iterable[tuple[Tensor, Batch]]:
    """The model's logits beside each batch."""
    for batch in stream:
        yield model(batch)[0], batch
