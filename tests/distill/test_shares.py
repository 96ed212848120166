"""As few pairs are kept as leave the committee's word as good as it was."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from recdistill.distill.combine import Heard, divergence, fitted, missed
from recdistill.distill.shares import SHARES, kept, try_shares
from recdistill.teachers.routes import Routes, count_route, finish_routes, route_path, write_route

ROWS, NAMES = 3000, ["one", "twin", "other"]
GATE = partial(fitted, len(NAMES), 8, 0)


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
    found = missed(rows, GATE)
    assert found.shape == (ROWS, 3) and (found >= 0).all()
    assert found[:, 2].mean() > 20 * found[:, :2].mean(0).max()


def test_who_is_not_present_is_not_missed() -> None:
    rows = heard()
    present = torch.rand(rows.logit.shape, generator=torch.Generator().manual_seed(1)) < 0.7
    assert (missed(rows.only(present), GATE)[~present] == 0).all()


def test_the_divergence_is_that_of_two_clicks_and_bears_logits_of_any_size() -> None:
    p, q = torch.tensor([0.2, 0.9]), torch.tensor([0.5, 0.9])
    by_hand = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    torch.testing.assert_close(divergence(p.logit(), q.logit()), by_hand, atol=1e-6, rtol=1e-5)
    assert divergence(torch.tensor([300.0]), torch.tensor([-300.0])).item() == pytest.approx(300)


def test_the_least_share_without_a_loss_is_kept() -> None:
    """On each row one teacher says what decides, and the others nothing: a third of the pairs is all that there is."""
    generator = torch.Generator().manual_seed(5)
    truth, knows = 3 * torch.randn(ROWS, generator=generator), torch.randint(3, (ROWS,), generator=generator)
    logit = torch.zeros(ROWS, 3).scatter(1, knows[:, None], truth[:, None])
    rows = heard()
    label = (torch.rand(ROWS, generator=generator) < truth.sigmoid()).float()
    rows = Heard(logit, rows.present, rows.importance, label, rows.weight)
    wanted = torch.full((ROWS, 3), 1e-6).scatter(1, knows[:, None], 0.5)
    found = try_shares(wanted, len(NAMES), rows, GATE)
    assert found["keep"] == 0.3 and [one["keep"] for one in found["tried"]] == list(SHARES)
    wrong = try_shares(1 - wanted, len(NAMES), rows, GATE)
    by_share = {one["keep"]: one for one in wrong["tried"]}
    assert wrong["keep"] > 0.5 and by_share[0.5]["worse"] > 20 * by_share[0.5]["standard_error"] > 0


def test_twins_that_are_both_left_out_are_seen_to_be_missed() -> None:
    """Neither is missed while the other is there, so their pairs go first: the share that is kept has to see it."""
    rows = heard()
    found = try_shares(missed(rows, GATE), len(NAMES), rows, GATE)
    by_share = {one["keep"]: one for one in found["tried"]}
    assert by_share[0.3]["worse"] > 5 * by_share[0.3]["standard_error"] and found["keep"] > 0.5


def test_everything_is_kept_where_all_know_something_of_their_own() -> None:
    rows = heard()
    truth = torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(3)) * 2
    label = (torch.rand(ROWS, generator=torch.Generator().manual_seed(4)) < truth.sum(1).sigmoid()).float()
    rows = Heard(truth, rows.present, rows.importance, label, rows.weight)
    assert try_shares(missed(rows, GATE), 3, rows, GATE)["keep"] == 1.0


def test_nobody_to_ask_leaves_nothing_to_save() -> None:
    rows = heard()
    assert try_shares(missed(rows, GATE), 0, rows, GATE) == {"keep": 1.0, "tried": []}


@pytest.mark.parametrize("share", [0.3, 0.5, 0.85, 1.0])
def test_who_is_kept_here_is_who_is_asked_by_routes(tmp_path: Path, share: float) -> None:
    wanted = np.random.default_rng(0).random((500, 3)).astype(np.float16)
    path = route_path(tmp_path, "day=2026-01-01/part-train-00000")
    path.parent.mkdir()
    write_route(path, NAMES, np.arange(500), wanted, wanted)
    finish_routes(tmp_path, NAMES, NAMES[:2], count_route(path, NAMES[:2]))
    here = kept(torch.from_numpy(wanted.astype(np.float32)), 2, share).numpy()
    there = Routes(tmp_path).kept(wanted, share)
    assert (here != there).mean() < 0.01 and here[:, 2].all() and here[:, :2].any(1).all()  # but for equal values
