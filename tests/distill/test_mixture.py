"""A committee's weights, the same on every row, are those that predict clicks best."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from recdistill.distill.mixture import mixture

ROWS = 4000


def simulated(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of three teachers that see a click's logit through more and more noise, float32 [N, 3], and labels."""
    generator = torch.Generator().manual_seed(seed)
    truth = 2 * torch.randn(ROWS, generator=generator)
    said = torch.stack([truth + noise * torch.randn(ROWS, generator=generator) for noise in (0.5, 1.0, 3.0)], dim=1)
    return said, (torch.rand(ROWS, generator=generator) < truth.sigmoid()).float()


def test_it_finds_what_logistic_regression_finds_where_that_needs_no_negative_weight() -> None:
    said, label = simulated()
    found = mixture(said, torch.ones_like(said).bool(), label, torch.ones(ROWS))
    theirs = LogisticRegression(C=np.inf, tol=1e-10).fit(said.numpy(), label.numpy())
    assert (theirs.coef_ > 0).all()
    torch.testing.assert_close(
        found.slope * found.score.softmax(0), torch.tensor(theirs.coef_[0], dtype=torch.float32), atol=0.02, rtol=0
    )
    assert found.intercept == pytest.approx(float(theirs.intercept_[0]), abs=0.01)


def test_who_knows_nothing_counts_for_next_to_nothing_and_stays_finite() -> None:
    said, label = simulated()
    said = torch.cat([said, 3 * torch.randn(ROWS, 1, generator=torch.Generator().manual_seed(2))], dim=1)
    weights = mixture(said, torch.ones_like(said).bool(), label, torch.ones(ROWS)).score.softmax(0)
    assert weights.isfinite().all() and weights[3] < 0.02 and weights[0] > 0.7


def test_a_member_is_judged_by_the_rows_that_it_knows() -> None:
    said, label = simulated()
    knows = torch.rand(said.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    found = mixture(said * knows, knows, label, torch.ones(ROWS))
    assert found.score.argsort(descending=True).tolist() == [0, 1, 2]
    filled = torch.where(knows, said, torch.tensor(50.0))  # what is said where nobody knows does not matter
    torch.testing.assert_close(mixture(filled, knows, label, torch.ones(ROWS)).score, found.score)


def test_rows_count_by_their_weight() -> None:
    said, label = simulated()
    weight = torch.cat([torch.full((ROWS // 2,), 3.0), torch.ones(ROWS // 2)])
    often = torch.cat([torch.arange(ROWS // 2).repeat(3), torch.arange(ROWS // 2, ROWS)])
    every = torch.ones_like(said).bool()
    one = mixture(said.repeat(2, 1), every.repeat(2, 1), label.repeat(2), weight.repeat(2))  # as many rows as two has
    two = mixture(said[often], every[often], label[often], torch.ones(len(often)))
    torch.testing.assert_close(one.score, two.score, atol=1e-4, rtol=1e-3)
    assert one.slope == pytest.approx(two.slope, abs=1e-4)


def test_it_does_not_matter_what_weights_are_measured_in() -> None:
    said, label = simulated()
    every, weight = torch.ones_like(said).bool(), 1 + torch.rand(ROWS, generator=torch.Generator().manual_seed(4))
    one, two = (mixture(said, every, label, scale * weight) for scale in (1, 1e-7))
    torch.testing.assert_close(one.score, two.score, atol=1e-3, rtol=1e-3)
    assert one.slope == pytest.approx(two.slope, abs=1e-4)
