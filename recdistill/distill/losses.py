"""Losses between a student and its teachers. All are means over rows, weighted, in nats unless said otherwise."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from recdistill.models.task import weight_of_all


def soft_click_loss(logit: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy of logits [B] against probabilities [B], weighted mean, a scalar; of logits [k, B] the k's sum.

    Cross-entropy and not squared error, as in Rec-Distill (arXiv 2605.29755). Rows of weight 0 do not count.
    """
    loss = F.binary_cross_entropy_with_logits(logit, target.expand_as(logit), weight=weight, reduction="sum")
    return loss / weight_of_all(weight)


def direction_distance(a: Tensor, b: Tensor) -> Tensor:
    """Squared distance of the directions of vectors [..., d]: |a/|a| - b/|b||^2, in [0, 4], shape [...]."""
    return (F.normalize(a, dim=-1) - F.normalize(b, dim=-1)).square().sum(-1)


def masked_softmax(score: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last axis among what is present; zeros on rows where nothing is."""
    score = score.masked_fill(~mask, torch.finfo(score.dtype).min)
    return score.softmax(-1) * mask
