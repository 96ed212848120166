"""The committee's word: what several teachers say together, as one calibrated logit.

    c = slope * sum_i w_i t_i + intercept

A mean of calibrated logits is not calibrated: each teacher shrinks its own logit for what it does not know, and
together they know more (slopes of 1.1 to 1.4 were measured, and students of an uncalibrated mean are as careful as it
is). Slope and intercept are Platt scaling's, fitted on validation rows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recdistill.clicklog.batches import Batch, Block
from recdistill.distill.committee import Answers, Member, answers, together
from recdistill.distill.losses import masked_softmax, soft_click_loss
from recdistill.distill.methods import Method
from recdistill.teachers.cache import calibrate

LEARNED, PATIENCE, BATCH, RATE = 40, 4, 1024, 3e-3
"""Of the gate: epochs at most, epochs without a gain before it stops, rows a step, and Adam's rate."""
HEARD_AT_ONCE = 1 << 14
"""Rows of a block whose word is made at once: what the gate holds on the way is a multiple of them."""


class Consensus(Method):
    """A method that teaches the committee's word, each answer of a row by the `importance` that comes with it."""

    slope: Tensor
    intercept: Tensor

    def __init__(self, members: list[Member], hidden: int) -> None:
        super().__init__(members, hidden)
        self.register_buffer("slope", torch.ones(()))
        self.register_buffer("intercept", torch.zeros(()))

    def weights(self, said: Answers) -> Tensor:
        """How much each answer counts, float32 [B, n]; rows sum to 1, or to 0 where nobody answered."""
        heard = said.importance * said.present
        return heard / heard.sum(1, keepdim=True).clamp_min(1e-12)

    def learn(self, said: Answers, label: Tensor, weight: Tensor) -> None:
        """Whatever there is to learn about weights from labelled rows that no teacher has learned from."""

    @torch.no_grad()
    def calibrate(self, rows: list[Batch]) -> None:
        """Learns weights, slope and intercept from what was said about such rows."""
        said = together([answers(batch, self.members) for batch in rows])
        label, weight = (torch.cat([getattr(batch, name) for batch in rows]) for name in ("label", "weight"))
        self.learn(said, label, weight)
        heard = said.present.any(1)
        logit = (self.weights(said) * said.logit).sum(1)
        slope, intercept = calibrate(*(values[heard].numpy() for values in (logit, label, weight)))
        self.slope.fill_(slope)
        self.intercept.fill_(intercept)

    def word(self, said: Answers) -> tuple[Tensor, Tensor]:
        """The committee's logit, float32 [B], and how much each answer counted, float32 [B, n]."""
        weights = self.weights(said)
        return self.slope * (weights * said.logit).sum(1) + self.intercept, weights

    @torch.no_grad()
    def hear(self, rows: Batch | Block) -> None:
        """Puts the committee's word into what is `extra` about rows: it is known before a student learns from them.

        `word` float32 [B], the probability; `heard` bool [B], where anybody answered; `counts` float32 [B, n], how much
        each answer counted.
        """
        said, parts = answers(rows, self.members), []
        for some in torch.arange(len(said.logit)).split(HEARD_AT_ONCE):
            parts.append([value.cpu() for value in self.word(said.take(some).to(self.slope.device))])
        logit, rows.extra["counts"] = (torch.cat(values) for values in zip(*parts, strict=True))
        rows.extra["word"], rows.extra["heard"] = logit.sigmoid(), said.present.any(1)

    def teach(self, logit: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy of the student's logit against the committee's probability, where anybody answered."""
        return soft_click_loss(logit, batch.extra["word"], batch.weight * batch.extra["heard"])


class Mean(Consensus):
    """All teachers alike: the mean of the committee's logits as the one soft label."""

    def forward(self, hidden: Tensor, logit: Tensor, head: nn.Linear, batch: Batch) -> Tensor:
        """Cross-entropy against the committee's word."""
        return self.teach(logit, batch)


class Gate(nn.Module):
    """Weights that hear what was said: p = softmax_i(log r_i + G(t)_i) among those who answered.

    r is the importance that comes with an answer, t all the logits. Who is right shows in what the others say. It
    begins at p = r, learns on every second row, and stays at what was best on the others.
    """

    def __init__(self, teachers: int, width: int) -> None:
        super().__init__()
        last = nn.Linear(width, teachers)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.heard = nn.Sequential(nn.Linear(2 * teachers, width), nn.ReLU(), last)
        self.requires_grad_(False)  # learned once, before the student learns anything

    def forward(self, said: Answers) -> Tensor:
        """p, float32 [B, n]; rows sum to 1, or to 0 where nobody answered."""
        heard = torch.cat([said.logit * said.present, said.present.to(said.logit.dtype)], dim=1)
        return masked_softmax(said.importance.clamp_min(1e-4).log() + self.heard(heard), said.present)

    @torch.enable_grad()
    def learn(self, said: Answers, label: Tensor, weight: Tensor) -> None:
        """Fits G so that a * sum p_i t_i + b predicts clicks, a and b being learned beside it."""
        scale = torch.tensor([1.0, 0.0], requires_grad=True)
        trained = [*self.heard.parameters(), scale]
        self.heard.requires_grad_(True)
        optimizer = torch.optim.Adam(trained, RATE)
        generator = torch.Generator().manual_seed(0)

        def loss(rows: Tensor) -> Tensor:
            some = said.take(rows)
            logit = scale[0] * (self(some) * some.logit).sum(1) + scale[1]
            return soft_click_loss(logit, label[rows], weight[rows] * some.present.any(1))

        every = torch.arange(len(label))
        learn, judge = every[::2], every[1::2]
        best, bad = (float(loss(judge).detach()), [value.detach().clone() for value in trained]), 0
        for _ in range(LEARNED):
            for rows in learn[torch.randperm(len(learn), generator=generator)].split(BATCH):
                optimizer.zero_grad()
                loss(rows).backward()
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
