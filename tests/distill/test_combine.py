"""One calibrated logit of what several teachers say, whoever is absent."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recdistill.distill.combine import Average, Gate, Heard, fitted
from recdistill.distill.left_out import thinned, worse
from recdistill.teachers.calibration import calibrate
from tests.distill.said import HALVES, halves


def noisy(rows: int, teachers: int, seed: int = 0) -> Heard:
    """Each teacher has noise of its own."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(rows, 1, generator=generator) * 2
    label = (torch.rand(rows, generator=generator) < truth[:, 0].sigmoid()).float()
    logit = (truth + 2 * torch.randn(rows, teachers, generator=generator)) / 2
    every = torch.ones_like(logit)
    return Heard(logit, every.bool(), every / teachers, label, torch.ones(rows))


def test_what_everybody_says_is_calibrated_by_platt_scaling() -> None:
    rows = noisy(5000, 3)
    combine = Average(3)
    combine.fit(rows)
    slope, intercept = calibrate(rows.logit.mean(1).numpy(), rows.label.numpy(), rows.weight.numpy())
    torch.testing.assert_close(combine.of(rows), slope * rows.logit.mean(1) + intercept)
    assert not combine.absent.any()


def test_a_gate_puts_any_part_together_as_one_that_has_learned_of_nothing_else() -> None:
    rows, gate = halves(seed=1), fitted(64, 0, thinned(halves(), 0))
    for without in ([], [0], [0, 1], [2]):
        part = rows.present.clone()
        part[:, without] = False
        own = fitted(64, 0, halves().only(part))
        ((lost, _),) = worse(rows, torch.stack([own.of(rows.only(part)), gate.of(rows.only(part))], dim=1))
        assert lost < 0.03


def test_what_fewer_say_is_made_less_bold() -> None:
    """As calibration of rows of one part alone makes it: any part of three teachers, with noise of their own."""
    rows = noisy(60_000, 3)
    generator = torch.Generator().manual_seed(1)
    some = rows.only(torch.rand(rows.logit.shape, generator=generator) < 0.6)
    combine = Average(3)
    combine.fit(some)
    bold = {}
    for part in ((0, 1, 2), (0, 1), (0,)):
        said = torch.zeros(1, 3)
        said[0, list(part)] = 1.0
        one = Heard(said, said.bool(), said / 3, torch.ones(1), torch.ones(1))
        here = (some.present == said.bool()).all(1)
        mean = rows.logit[here][:, list(part)].mean(1)
        slope, intercept = calibrate(mean.numpy(), rows.label[here].numpy(), np.ones(int(here.sum())))
        bold[len(part)] = float(combine.of(one))
        assert bold[len(part)] == pytest.approx(slope + intercept, abs=0.08)
    assert bold[3] > 1.1 * bold[2] > 1.1 * 1.1 * bold[1] > 0.5


def test_of_nobodys_answers_the_base_rate_is_left() -> None:
    rows = halves()
    for combine in (Average(3), Gate(3, 8)):
        combine.fit(rows)
        nobody = rows.only(torch.zeros_like(rows.present))
        torch.testing.assert_close(combine.of(nobody).sigmoid(), rows.label.mean().expand(HALVES))
        combine.fit(nobody)
        torch.testing.assert_close(combine.of(nobody).sigmoid(), rows.label.mean().expand(HALVES))
        combine.fit(Heard(rows.logit, rows.present, rows.importance, torch.zeros(HALVES), rows.weight))
        assert combine.of(nobody).isfinite().all() and (combine.of(nobody).sigmoid() < 1e-3).all()
