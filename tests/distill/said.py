"""What three teachers said, for tests of how that is put together."""

from __future__ import annotations

import torch

from recdistill.distill.combine import Heard

HALVES = 12_000
"""Rows."""


def halves(seed: int = 0) -> Heard:
    """Each knows half of what decides; the second says what the first does."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(HALVES, 2, generator=generator) * 2
    label = (torch.rand(HALVES, generator=generator) < truth.sum(1).sigmoid()).float()
    logit = torch.stack([truth[:, 0], truth[:, 0], truth[:, 1]], dim=1)
    every = torch.ones_like(logit)
    return Heard(logit, every.bool(), every / 3, label, torch.ones(HALVES))
