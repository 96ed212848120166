"""One calibrated logit of what several teachers say: the committee's word.

    c = slope_a * sum_i p_i t_i + intercept_a

over those who answered, and of nobody's answers the base rate; t_i are calibrated logits. A mean of calibrated logits
is not calibrated: each teacher shrinks its own for what it does not know, and together they know more (slopes of 1.1 to
1.4 were measured, and students of an uncalibrated mean are as careful as it is). Slope and intercept are Platt
scaling's, and linear in a, which says who is absent, and which two: what one teacher says is not to be made as bold as
what many do, and of two that say the same one may go.

All is learned from labelled rows that no teacher has learned from, before a student learns anything: validation rows,
and where teachers score days that came after those that they learned from, as many of these. Whom to believe differs
from one day to the next, and what one day tells is no better than the plain mean on the next one (Globo, in
tests/benchmarks/LEDGER.md).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor, nn

from recdistill.distill.losses import masked_softmax, soft_click_loss
from recdistill.teachers.calibration import calibrate, calibrate_among

LEARNED, PATIENCE, BATCH, RATE = 40, 4, 1024, 3e-3
"""Of the gate: epochs at most, epochs without a gain before it stops, rows a step, and Adam's rate."""
LEAST = 1e-4
"""Importances below it are taken for it."""
RARE = 1e-6
"""Base rates below it, and as near to 1, are taken for it."""


@dataclass(frozen=True)
class Heard:
    """What is known of N rows.

    `logit`, `present` and `importance` of n teachers, [N, n]; `label` and `weight`, [N].
    """

    logit: Tensor
    present: Tensor
    importance: Tensor
    label: Tensor
    weight: Tensor

    def only(self, present: Tensor) -> Heard:
        """As it were if only these were present."""
        return replace(self, present=present)

    def without(self, teacher: int) -> Heard:
        """As it were if one were not present."""
        others = self.present.clone()
        others[:, teacher] = False
        return self.only(others)

    def take(self, rows: Tensor) -> Heard:
        """Of some rows."""
        return Heard(*(getattr(self, field.name)[rows] for field in fields(self)))


class Average(nn.Module):
    """All teachers alike."""

    slope: Tensor
    intercept: Tensor
    absent: Tensor
    """By how much both are others for whom and for which two are absent, float32 [2, n (n + 1) / 2]."""
    base: Tensor
    """The logit of the base rate."""

    def __init__(self, teachers: int) -> None:
        super().__init__()
        self.register_buffer("slope", torch.ones(()))
        self.register_buffer("intercept", torch.zeros(()))
        self.register_buffer("absent", torch.zeros(2, teachers * (teachers + 1) // 2))
        self.register_buffer("base", torch.zeros(()))

    def weights(self, logit: Tensor, present: Tensor, importance: Tensor) -> Tensor:
        """p, float32 [B, n]; rows sum to 1, or to 0 where nobody answered."""
        heard = present.to(logit.dtype)
        return heard / heard.sum(1, keepdim=True).clamp_min(1)

    def forward(self, logit: Tensor, present: Tensor, importance: Tensor) -> tuple[Tensor, Tensor]:
        """The word, float32 [B], and p, of logits where `present`; `importance` is a router's; all [B, n]."""
        weights = self.weights(logit, present, importance)
        less, more = self.absent @ _absent(present).to(logit.dtype).T
        word = (self.slope + less) * (weights * logit).sum(1) + self.intercept + more
        return torch.where(present.any(1), word, self.base), weights

    @torch.no_grad()
    def fit(self, rows: Heard) -> None:
        """Learns all that there is to learn."""
        self._learn(rows)
        self.base.copy_(((rows.weight * rows.label).sum() / rows.weight.sum()).logit(RARE))
        heard = rows.take(rows.present.any(1).nonzero().squeeze(1))
        mean, label, weight = (value.numpy() for value in (self._mean(heard), heard.label, heard.weight))
        gone, absent = _absent(heard.present).numpy(), np.zeros(self.absent.shape)
        some = gone.any(0) & ~gone.all(0)
        if some.any():
            slope, intercept, absent[:, some] = calibrate_among(mean, gone[:, some], label, weight)
        else:
            slope, intercept = calibrate(mean, label, weight)
        self.slope.fill_(slope)
        self.intercept.fill_(intercept)
        self.absent.copy_(torch.from_numpy(absent))

    def of(self, rows: Heard) -> Tensor:
        """The word about rows, float32 [N]."""
        return self(rows.logit, rows.present, rows.importance)[0]

    def _learn(self, rows: Heard) -> None:
        """Whatever there is to learn about weights."""

    def _mean(self, rows: Heard) -> Tensor:
        return (self.weights(rows.logit, rows.present, rows.importance) * rows.logit).sum(1)


def _absent(present: Tensor) -> Tensor:
    """Which teachers are absent, and of which two both, bool [N, n (n + 1) / 2]."""
    gone, pairs = ~present, torch.combinations(torch.arange(present.shape[1], device=present.device))
    return torch.cat([gone, gone[:, pairs].all(2)], dim=1)


class Gate(Average):
    """Weights that hear what was said: p = softmax_i(log r_i + G(t)_i) among those who answered.

    r is the importance that comes with an answer, t all the logits. Who is right shows in what the others say. G begins
    at zero, learns on every second row, and stays at what was best on the others.
    """

    def __init__(self, teachers: int, width: int) -> None:
        super().__init__(teachers)
        last = nn.Linear(width, teachers)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.heard = nn.Sequential(nn.Linear(2 * teachers, width), nn.ReLU(), last)
        self.requires_grad_(False)  # learned once, before the student learns anything

    def weights(self, logit: Tensor, present: Tensor, importance: Tensor) -> Tensor:
        """p, float32 [B, n]."""
        heard = torch.cat([logit * present, present.to(logit.dtype)], dim=1)
        return masked_softmax(importance.clamp_min(LEAST).log() + self.heard(heard), present)

    @torch.enable_grad()
    def _learn(self, rows: Heard) -> None:
        """Fits G so that a * sum p_i t_i + b predicts clicks, a and b being learned beside it."""
        scale = torch.tensor([1.0, 0.0], requires_grad=True)
        trained = [*self.heard.parameters(), scale]
        self.heard.requires_grad_(True)
        optimizer = torch.optim.Adam(trained, RATE)
        generator = torch.Generator().manual_seed(0)

        def loss(at: Tensor) -> Tensor:
            some = rows.take(at)
            word = scale[0] * self._mean(some) + scale[1]
            return soft_click_loss(word, some.label, some.weight * some.present.any(1))

        every = torch.arange(len(rows.label))
        learn, judge = every[::2], every[1::2]
        best, bad = (float(loss(judge).detach()), [value.detach().clone() for value in trained]), 0
        for _ in range(LEARNED):
            for some in learn[torch.randperm(len(learn), generator=generator)].split(BATCH):
                optimizer.zero_grad()
                loss(some).backward()
                optimizer.step()
            found = float(loss(judge).detach())
            bad = 0 if found < best[0] else bad + 1
            if not bad:
                best = found, [value.detach().clone() for value in trained]
            if bad == PATIENCE:
                break
        self.requires_grad_(False)
        for value, kept in zip(trained, best[1], strict=True):
            value.detach().copy_(kept)


def fitted(width: int, seed: int, rows: Heard) -> Gate:
    """A gate, fitted on rows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        gate = Gate(rows.logit.shape[1], width)
    gate.fit(rows)
    return gate
