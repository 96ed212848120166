"""What a committee says without some of its members."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from recdistill.distill.combine import Gate, Heard, fitted
from recdistill.distill.left_out import COPIES, NEAR, divergence, missed, thinned, worse, worth
from tests.distill.said import HALVES, halves


@pytest.fixture(scope="module")
def gate() -> Gate:
    """Knows every part of a committee."""
    return fitted(64, 0, thinned(halves(), 0))


def test_of_twins_one_is_not_missed_and_the_other_is(gate: Gate) -> None:
    """Asked of each alone, neither would be."""
    found = missed(halves(seed=1), gate, 3)
    assert found.shape == (HALVES, 3) and (found >= 0).all()
    twins, other = found[:, :2].sort(1).values.unbind(1), found[:, 2]
    assert 5 * twins[0].mean() < min(twins[1].mean(), other.mean())


def test_who_moves_the_word_least_goes_and_is_never_missed_more_than_those_who_stay(gate: Gate) -> None:
    """By hand, row by row; of those who are near each other it is who is missed least over all rows."""
    rows = halves(seed=2).take(torch.arange(60))
    rows = rows.only(torch.rand(60, 3, generator=torch.Generator().manual_seed(0)) < 0.7)
    found = missed(rows, gate, 3)
    assert (found[~rows.present] == 0).all()

    def moves(at: int, left: list[bool], teacher: int) -> float:
        one = rows.take(torch.tensor([at]))
        part = one.only(torch.tensor([left])).without(teacher)
        return float(divergence(gate.of(one), gate.of(part)))

    present = rows.present.tolist()
    alone = [[moves(at, here, teacher) for at, here in enumerate(present) if here[teacher]] for teacher in range(3)]
    usual = [sum(nats) / len(nats) for nats in alone]
    near = 0
    for at, here in enumerate(present):
        left, moved, most, by_hand = list(here), 0.0, 0.0, [0.0, 0.0, 0.0]
        while any(left):
            nats = {teacher: moves(at, left, teacher) for teacher in range(3) if left[teacher]}
            close = [teacher for teacher in nats if nats[teacher] <= min(nats.values()) + NEAR]
            near += len(close) > 1
            goes = min(close, key=lambda teacher: usual[teacher])
            most, moved = max(most, nats[goes] - moved), nats[goes]
            by_hand[goes], left[goes] = most, False
        torch.testing.assert_close(found[at], torch.tensor(by_hand), atol=1e-5, rtol=1e-4)
    assert near > 10


def test_who_cannot_be_asked_stays(gate: Gate) -> None:
    found, all_three = missed(halves(), gate, 2), missed(halves(), gate, 3)
    assert (found[:, 2] == 0).all() and found[:, :2].sum(1).mean() < all_three.sum(1).mean()


def test_a_row_comes_whole_and_again_with_less() -> None:
    rows = halves().take(torch.arange(101))
    found = thinned(rows, 0)
    assert len(found.label) == 100 * COPIES
    position = torch.arange(100 * COPIES)
    source = position // (2 * COPIES) * 2 + position % 2
    torch.testing.assert_close(found.logit, rows.logit[source])
    assert (source % 2 == position % 2).all()  # who learns of a row whole learns of it with less, and nobody else
    whole = position % (2 * COPIES) < 2
    assert found.present[whole].all() and 0.3 < found.present[~whole].float().mean() < 0.8
    assert found.present.any(1).all()
    nobody = rows.only(torch.zeros_like(rows.present))
    assert not thinned(nobody, 0).present.any()


def test_what_a_teacher_is_worth_is_what_the_word_loses_without_it() -> None:
    (one, _), (twin, error), (other, _) = worth(halves(), partial(fitted, 8, 0))
    assert other > 0.2 and abs(one) < 0.01 and abs(twin) < max(0.01, 3 * error)


def test_what_a_word_loses_by_hand() -> None:
    """The last row counts twice."""
    label, weight = torch.tensor([1.0, 0.0]), torch.tensor([1.0, 2.0])
    none = torch.zeros(2, 1)
    said = torch.tensor([[2.0, 0.0], [-1.0, 0.0]])
    ((mean, error),) = worse(Heard(none, none.bool(), none, label, weight), said)
    losses = [math.log(2) - math.log1p(math.exp(-2)), math.log(2) - math.log1p(math.exp(-1))]
    entropy = -(math.log(1 / 3) / 3 + 2 * math.log(2 / 3) / 3)
    by_hand = (losses[0] + 2 * losses[1]) / 3 / entropy
    spread = math.hypot(losses[0] / entropy - by_hand, 2 * (losses[1] / entropy - by_hand)) / 3
    assert (mean, error) == (pytest.approx(by_hand), pytest.approx(spread))


def test_nobody_is_worth_anything_where_all_labels_are_equal() -> None:
    rows = halves()
    same = Heard(rows.logit, rows.present, rows.importance, torch.ones(HALVES), rows.weight)
    assert worth(same, partial(fitted, 8, 0)) == []


def test_the_divergence_is_that_of_two_clicks_and_bears_logits_of_any_size() -> None:
    p, q = torch.tensor([0.2, 0.9]), torch.tensor([0.5, 0.9])
    by_hand = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    torch.testing.assert_close(divergence(p.logit(), q.logit()), by_hand, atol=1e-6, rtol=1e-5)
    assert divergence(torch.tensor([300.0]), torch.tensor([-300.0])).item() == pytest.approx(300)
