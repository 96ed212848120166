"""How far the committee's word moves without one of its members."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from recdistill.distill.combine import Heard, divergence, fitted, gates, missed, words, worth

ROWS, NAMES = 3000, ["one", "twin", "other"]
GATE = partial(fitted, 8, 0)


def heard(seed: int = 0) -> Heard:
    """Three teachers, of which the second says what the first does; each half of what decides is known."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(ROWS, 2, generator=generator) * 2
    label = (torch.rand(ROWS, generator=generator) < truth.sum(1).sigmoid()).float()
    logit = torch.stack([truth[:, 0], truth[:, 0], truth[:, 1]], dim=1)
    every = torch.ones_like(logit)
    return Heard(logit, every.bool(), every / 3, label, torch.ones(ROWS))


def test_a_twin_is_not_missed_and_who_knows_alone_is() -> None:
    rows = heard()
    found = missed(rows.present, *words(rows, gates(rows, GATE)))
    assert found.shape == (ROWS, 3) and (found >= 0).all()
    assert found[:, 2].mean() > 20 * found[:, :2].mean(0).max()


def test_what_is_learned_of_rows_is_said_of_others() -> None:
    rows, others = heard(), heard(seed=1)
    learned = gates(rows, GATE)
    word, without = words(others, learned)
    assert torch.equal(word, learned[0].of(others))
    for teacher in range(3):
        left = others.without(teacher)
        assert not left.present[:, teacher].any() and left.present.sum() == 2 * ROWS
        assert torch.equal(without[:, teacher], learned[1 + teacher].of(left))
    assert missed(others.present, word, without)[:, 2].mean() > 0.1


def test_who_is_not_present_is_not_missed() -> None:
    rows = heard()
    present = torch.rand(rows.logit.shape, generator=torch.Generator().manual_seed(1)) < 0.7
    assert (missed(present, *words(rows.only(present), gates(rows.only(present), GATE)))[~present] == 0).all()


def test_the_divergence_is_that_of_two_clicks_and_bears_logits_of_any_size() -> None:
    p, q = torch.tensor([0.2, 0.9]), torch.tensor([0.5, 0.9])
    by_hand = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    torch.testing.assert_close(divergence(p.logit(), q.logit()), by_hand, atol=1e-6, rtol=1e-5)
    assert divergence(torch.tensor([300.0]), torch.tensor([-300.0])).item() == pytest.approx(300)


def test_without_its_only_member_a_committee_says_the_base_rate() -> None:
    rows = heard()
    alone = Heard(rows.logit[:, :1], rows.present[:, :1], rows.importance[:, :1], rows.label, rows.weight)
    gate = partial(fitted, 8, 0)
    nobody = alone.only(torch.zeros_like(alone.present))
    said = gate(nobody).of(nobody)
    torch.testing.assert_close(said.sigmoid(), rows.label.mean().expand(ROWS), atol=1e-3, rtol=0)
    assert missed(alone.present, *words(alone, gates(alone, gate))).mean() > 0.1


def test_what_a_teacher_is_worth_is_what_the_word_loses_without_it() -> None:
    rows = heard()
    (one, _), (twin, error), (other, _) = worth(rows, *words(rows, gates(rows, GATE)))
    assert other > 0.2 and abs(one) < 0.01 and abs(twin) < max(0.01, 3 * error)


def test_what_a_teacher_is_worth_by_hand() -> None:
    """Four rows, of which the second and the fourth count; the last one twice."""
    label, weight = torch.tensor([0.0, 1.0, 1.0, 0.0]), torch.tensor([1.0, 1.0, 1.0, 2.0])
    none = torch.zeros(4, 1)
    word, without = torch.tensor([9.0, 2.0, 9.0, -1.0]), torch.tensor([[9.0], [0.0], [9.0], [0.0]])
    ((mean, error),) = worth(Heard(none, none.bool(), none, label, weight), word, without)
    losses = [math.log(2) - math.log1p(math.exp(-2)), math.log(2) - math.log1p(math.exp(-1))]
    entropy = -(math.log(1 / 3) / 3 + 2 * math.log(2 / 3) / 3)
    by_hand = (losses[0] + 2 * losses[1]) / 3 / entropy
    spread = math.hypot(losses[0] / entropy - by_hand, 2 * (losses[1] / entropy - by_hand)) / 3
    assert (mean, error) == (pytest.approx(by_hand), pytest.approx(spread))


def test_nobody_is_worth_anything_where_all_labels_are_equal() -> None:
    rows = heard()
    same = Heard(rows.logit, rows.present, rows.importance, torch.ones(ROWS), rows.weight)
    assert worth(same, torch.zeros(ROWS), torch.zeros(ROWS, 3)) == []
