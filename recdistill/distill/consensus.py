"""Methods that teach the committee's word (`combine`): `mean`, and, in `aligner.py`, `diverse`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recdistill.clicklog.batches import Batch, Block
from recdistill.distill.combine import Average, Heard
from recdistill.distill.committee import Answers, Member, answers
from recdistill.distill.losses import soft_click_loss
from recdistill.distill.methods import Method

HEARD_AT_ONCE = 1 << 14
"""Rows of a block whose word is made at once: what the gate holds on the way is a multiple of them."""


class Consensus(Method):
    """A method that teaches the committee's word, as `combine` makes it of answers."""

    def __init__(self, members: list[Member], hidden: int, combine: Average) -> None:
        super().__init__(members, hidden)
        self.combine = combine

    @torch.no_grad()
    def calibrate(self, rows: list[Batch]) -> None:
        """Learns how answers are combined from what was said about such rows."""
        said = [answers(batch, self.members) for batch in rows]
        logit, present, importance = (torch.cat(values) for values in zip(*map(_heard, said), strict=True))
        label, weight = (torch.cat([getattr(batch, name) for batch in rows]) for name in ("label", "weight"))
        self.combine.fit(Heard(logit, present, importance, label, weight))

    @torch.no_grad()
    def hear(self, rows: Batch | Block) -> None:
        """Puts the committee's word into what is `extra` about rows: it is known before a student learns from them.

        `word` float32 [B], the probability; `heard` bool [B], where anybody answered; `counts` float32 [B, n], how much
        each answer counted.
        """
        logit, rows.extra["counts"], rows.extra["heard"] = self._say(rows)
        rows.extra["word"] = logit.sigmoid()

    @torch.no_grad()
    def word(self, rows: Batch | Block) -> tuple[Tensor, Tensor]:
        """The committee's word as a logit, float32 [B], and where anybody answered, bool [B]."""
        logit, _, heard = self._say(rows)
        return logit, heard

    def _say(self, rows: Batch | Block) -> tuple[Tensor, Tensor, Tensor]:
        said, parts, place = answers(rows, self.members), [], self.combine.slope.device
        for some in torch.arange(len(said.logit)).split(HEARD_AT_ONCE):
            word = self.combine(*(value[some].to(place) for value in _heard(said)))
            parts.append([value.cpu() for value in word])
        logit, counts = (torch.cat(values) for values in zip(*parts, strict=True))
        return logit, counts, said.present.any(1)

    def teach(self, logit: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy of the student's logit against the committee's probability, where anybody answered."""
        return soft_click_loss(logit, batch.extra["word"], batch.weight * batch.extra["heard"])


def _heard(said: Answers) -> tuple[Tensor, Tensor, Tensor]:
    return said.logit, said.present, said.importance


class Mean(Consensus):
    """All teachers alike: the mean of the committee's logits as the one soft label."""

    def __init__(self, members: list[Member], hidden: int) -> None:
        super().__init__(members, hidden, Average(len(members)))

    def forward(self, hidden: Tensor, logit: Tensor, head: nn.Linear, batch: Batch) -> Tensor:
        """Cross-entropy against the committee's word."""
        return self.teach(logit, batch)
