"""What can be said of a committee by a few numbers: how much each member counts, the same on every row.

    y ~ sigmoid(slope * sum_i softmax_i(score) t_i + intercept)

over the members that know a row; t_i are calibrated logits. n + 2 numbers are told well from a few hundred labelled
rows, where weights that depend on the row are not, so what learns such weights begins here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recdistill.distill.losses import masked_softmax, soft_click_loss

SPREAD = 2.0
"""Scores are taken to be drawn from a normal distribution that is so wide: few rows leave members alike."""
STEPS = 100


@dataclass(frozen=True)
class Mixture:
    """`score` float32 [n]; slope and intercept of the mean so weighed."""

    score: Tensor
    slope: float
    intercept: float


@torch.enable_grad()
def mixture(said: Tensor, knows: Tensor, label: Tensor, weight: Tensor) -> Mixture:
    """The best of them for logits float32 [N, n] where `knows`, bool [N, n]; rows that nobody knows do not count."""
    said, label, weight = said.double(), label.double(), weight.double()
    weight = weight / weight.mean().clamp_min(1e-300) * knows.any(1)  # what weights are measured in says nothing
    score = torch.zeros(said.shape[1], dtype=torch.float64, requires_grad=True)
    scale = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    shrinking = 1 / (2 * SPREAD**2 * max(1.0, float(weight.sum())))
    optimizer = torch.optim.LBFGS([score, scale], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        mean = (masked_softmax(score.expand_as(said), knows) * said).sum(1)
        total = soft_click_loss(scale[0] * mean + scale[1], label, weight) + shrinking * score.square().sum()
        total.backward()
        return total

    optimizer.step(loss)
    slope, intercept = scale.tolist()
    return Mixture(score.detach().float(), slope, intercept)
