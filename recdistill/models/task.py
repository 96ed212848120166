"""A model with the click as its only task, and what every model is judged by while it trains."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Proxy

from recdistill import ranks
from recdistill.clicklog.batches import Batch
from recdistill.models.dlrm import DLRM
from recdistill.models.tables import Alone


class Task(nn.Module):
    """A DLRM, whatever is trained beside it, and the loss that they learn from."""

    @property
    def dlrm(self) -> DLRM:
        """The one that is in here."""
        return next(part for part in self.modules() if isinstance(part, DLRM))

    def loss(self, batch: Batch) -> Tensor:
        """Of a batch whose ids `dlrm` has located, a scalar."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> Tensor:
        """The loss; where TorchRec's pipeline traces it, what the tables are given, which ranks then exchange early.

        A process that is alone has nothing to exchange.
        """
        if not isinstance(batch, Proxy):
            return self.loss(batch)
        tables = self.dlrm.embeddings
        return batch.label if isinstance(tables.forward, Alone) else tables(batch.rows)


class ClickModel(Task):
    """A DLRM that learns from clicks alone."""

    model: DLRM

    def __init__(self, model: DLRM) -> None:
        super().__init__()
        self.model = model

    def loss(self, batch: Batch) -> Tensor:
        """Weighted mean log loss of the batch, a scalar in nats."""
        return click_loss(self.model(batch)[0], batch)


def click_loss(logit: Tensor, batch: Batch) -> Tensor:
    """Weighted mean log loss of logits [B], a scalar in nats; see `weight_of_all`."""
    loss = F.binary_cross_entropy_with_logits(logit, batch.label, weight=batch.weight, reduction="sum")
    return loss / weight_of_all(batch.weight)


def weight_of_all(weight: Tensor) -> Tensor:
    """What a weighted sum over this rank's rows [B] is divided by: the mean over ranks of their sums of weights.

    The mean over ranks of what is divided by it is then the weighted mean over all of their rows, and so is what
    DistributedDataParallel makes of the gradients. Every rank must call it alike.
    """
    return ranks.mean(weight.sum()).clamp_min(1e-12)


def own_rows(batch: Batch) -> Batch:
    """This rank's rows of a batch that all ranks have read, dealt out in turn: the first quarter of each rank's rows is
    of the batch's first quarter.

    All get as many, as some collectives want it: where rows do not suffice, the last one again with weight 0.
    """
    if ranks.count() == 1:
        return batch
    index = torch.arange(ranks.rank(), len(batch) + ranks.rank(), ranks.count())
    own = batch.take(index.clamp_max(len(batch) - 1))
    return replace(own, weight=own.weight * (index < len(batch)))


def normalised_entropy(logits: Iterable[tuple[Tensor, Batch]]) -> float:
    """NE over batches: mean log loss over the entropy of the base rate (He et al. 2014); lower is better.

    Sums in float64. Infinity where all labels are equal and NE is not defined.
    """
    return _entropy(*_sums(logits))


def validation_ne(model: DLRM, stream: Iterable[Batch]) -> float:
    """The model's NE over batches that every rank reads: each scores its own rows, all get the NE of all rows."""
    return _entropy(*ranks.total(_sums(score(model, map(own_rows, stream)))))


def _sums(logits: Iterable[tuple[Tensor, Batch]]) -> tuple[float, float, float]:
    """Log loss, positives and weight."""
    loss = positive = weight = 0.0
    for logit, batch in logits:
        z, y, w = logit.double().cpu(), batch.label.double().cpu(), batch.weight.double().cpu()
        loss += float((w * F.binary_cross_entropy_with_logits(z, y, reduction="none")).sum())
        positive += float((w * y).sum())
        weight += float(w.sum())
    return loss, positive, weight


def _entropy(loss: float, positive: float, weight: float) -> float:
    rate = positive / weight if weight else 0.0
    if not 0 < rate < 1:
        return math.inf
    return loss / weight / -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))


@torch.no_grad()
def score(model: DLRM, stream: Iterable[Batch]) -> Iterable[tuple[Tensor, Batch]]:
    """The model's logits beside each batch."""
    for batch in stream:
        yield model(batch.to(model.head.weight.device))[0], batch
