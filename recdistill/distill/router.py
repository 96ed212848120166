"""Routers: what can be said about teachers on a row before any of them is asked.

A router is a student of the job's own shape with a second head. There are two:

    importance  r = softmax(W h + b) over those who know the row's domain: who is right. It learns that
                slope * sum r_i t_i + intercept predicts clicks (t_i: calibrated logits).
    missed      m_i = exp(W h + b), in nats: how much further the committee's word c would move, as KL(c | c without),
                if teacher i were left out, too, after all that are missed less (`distill.left_out`). It learns by
                Poisson regression, as m is never negative and mostly small.

Importance weighs answers (`distill.combine`) and is what the report shows. Whether an answer is worth its cost is
another question: whoever counts little may still tell by his answer whom to believe, and where all agree nobody is
missed, however much he counts (tests/benchmarks/LEDGER.md).

Both learn on validation rows: every teacher answers these anyway, and none has learned from them, so they cost no
forward pass of their own and know teachers as they are on new rows. Training rows are answered by the versions that
have not seen them, which are weaker and not equally so: importances that are learned there teach worse. Who would be
missed is learned of recombined rows too, where there are such: no label is needed for it, and they are unlike those of
the log, which is why students learn from them. Some are answered by all teachers for that (`asked.RECOMBINED`), and
are heard whole. Every second row is kept back to tell when to stop, and whether a router is better than a constant for
each teacher; where it is not, it is that.

These rows are few, and tell little about any one user or item. Clicks of training rows do, and need no teacher. What
they tell may be the wrong thing, though: where teachers err is not where clicks are. So each router is trained twice,
from a student that has learned the clicks alone and from random numbers, and what does better on the rows that are
kept back is kept; after an earlier night it is trained once, from that night's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from recdistill import ranks
from recdistill.clicklog.batches import Batch
from recdistill.config.models import Train
from recdistill.distill.losses import masked_softmax, soft_click_loss
from recdistill.distill.mixture import Mixture
from recdistill.files import CHECKPOINTS
from recdistill.models.dlrm import DLRM
from recdistill.models.frozen import save_model
from recdistill.models.task import Task, click_loss, normalised_entropy, weight_of_all
from recdistill.models.trainer import fit, load_best
from recdistill.models.untrained import Untrained

BOUND = 12.0
"""Of predicted logarithms."""


class Router(Task):
    """A student and a head about n teachers; a batch's `extra` says who `knows` its rows, bool [B, n].

    The click loss is a part of every router's: it shapes the hidden layer.
    """

    student: DLRM
    measure: str
    """What `judge` gives, for people."""

    def __init__(self, student: Untrained, begin: Tensor) -> None:
        super().__init__()
        self.student = student.build()
        self.head = nn.Linear(student.shape.top[-1], len(begin))
        self.head.bias.data.copy_(begin)

    @torch.no_grad()
    def constant(self) -> Self:
        """Itself, saying the same of every row."""
        self.head.weight.zero_()
        return self

    def judge(self, rows: Iterable[Batch]) -> float:
        """How wrong it is about rows."""
        raise NotImplementedError


class Importance(Router):
    """Who is right; it begins at a mixture. `extra` has what was `said`, float32 [B, n]."""

    measure = "NE of the committee"

    def __init__(self, student: Untrained, begin: Mixture) -> None:
        super().__init__(student, begin.score)
        self.scale = nn.Parameter(torch.tensor([begin.slope, begin.intercept]))

    def forecast(self, batch: Batch, knows: Tensor) -> Tensor:
        """r, float32 [B, n]; rows sum to 1, or to 0 where nobody `knows` (bool [B, n])."""
        return masked_softmax(self.head(self.student(batch)[1]), knows)

    def loss(self, batch: Batch) -> Tensor:
        """The click losses of the student and of the committee as weighed, a scalar."""
        logit, hidden = self.student(batch)
        committee = self._word(masked_softmax(self.head(hidden), batch.extra["knows"]), batch)
        answered = batch.weight * batch.extra["knows"].any(1)
        return click_loss(logit, batch) + soft_click_loss(committee, batch.label, answered)

    @torch.no_grad()
    def judge(self, rows: Iterable[Batch]) -> float:
        """NE of the committee as weighed."""
        rows = (batch.to(self.scale.device) for batch in rows)
        return normalised_entropy((self._word(self.forecast(b, b.extra["knows"]), b), b) for b in rows)

    def _word(self, weights: Tensor, batch: Batch) -> Tensor:
        return self.scale[0] * (weights * batch.extra["said"]).sum(1) + self.scale[1]


class Missed(Router):
    """Who would be missed; it begins at the mean of each, `usual` float32 [n]. `extra` has `missed`, float32 [B, n]."""

    measure = "deviance"
    usual: Tensor
    """What the head gives are logarithms of multiples of it, so that all teachers are learned alike."""

    def __init__(self, student: Untrained, usual: Tensor) -> None:
        super().__init__(student, torch.zeros_like(usual))
        self.register_buffer("usual", usual)

    def forecast(self, batch: Batch, knows: Tensor) -> Tensor:
        """m, float32 [B, n], 0 where a teacher does not know the row."""
        return self.usual * self._log(self.student(batch)[1]).exp() * knows

    def loss(self, batch: Batch) -> Tensor:
        """The click loss and what Poisson regression minimises, a scalar."""
        logit, hidden = self.student(batch)
        log, weight = self._log(hidden), batch.weight[:, None] * batch.extra["knows"]
        wrong = weight * (log.exp() - batch.extra["missed"] / self.usual * log)
        clicks = click_loss(logit, batch) if batch.labelled else 0.0
        return clicks + wrong.sum() / weight_of_all(batch.weight)

    @torch.no_grad()
    def judge(self, rows: Iterable[Batch]) -> float:
        """Poisson deviance, weighted mean over rows and teachers, in what is `usual`; 0 is perfect."""
        total = of = 0.0
        for batch in (batch.to(self.usual.device) for batch in rows):
            found, weight = batch.extra["missed"] / self.usual, batch.weight[:, None] * batch.extra["knows"]
            log = self._log(self.student(batch)[1])
            wrong = 2 * (torch.xlogy(found, found) - found * log - found + log.exp())
            total, of = total + float((weight * wrong).sum()), of + float(weight.sum())
        return total / of if of else math.inf

    def _log(self, hidden: Tensor) -> Tensor:
        return self.head(hidden).clamp(-BOUND, BOUND)


R = TypeVar("R", Importance, Missed)


def train_router(
    name: str,
    build: Callable[[], R],
    begins: Mapping[str, Callable[[R], None]],
    rows: list[Batch],
    settings: Train,
    seed: int,
    out: Path,
) -> R:
    """The best of routers that begin at one of `begins` each; what `build` made, as a constant, where that is better.

    Each of `begins` fills a new one with what is known beforehand. Its training is in the folder of its name in `out`,
    and so is the student of the best, for a later night's router.
    """
    learn, judge = (every_second(rows, begin) for begin in (0, 1))
    steps = sum(-(-len(batch) // settings.batch_size) for batch in learn)

    def again() -> R:
        torch.manual_seed(seed)
        return build()

    def epoch(generator: np.random.Generator) -> Iterator[Batch]:
        for at in generator.permutation(len(learn)):
            order = torch.from_numpy(generator.permutation(len(learn[at])))
            yield from (learn[at].take(index) for index in order.split(settings.batch_size))

    def wrong(place: str) -> float:
        """How wrong its best check is about rows that are kept back."""
        router, work, label = again(), out / place / CHECKPOINTS, f"route {name} from {place}"
        begins[place](router)
        at = fit(router, epoch, steps, lambda it: it.judge(judge), settings, work, seed, label, measure=router.measure)
        return at.checks[at.best]

    least, best = min((wrong(place), place) for place in begins)
    found, constant = load_best(again(), out / best / CHECKPOINTS), again().constant()
    if ranks.leads():
        save_model(found.student, out / best)
    return found if least < constant.judge(judge) else constant


def every_second(rows: list[Batch], begin: int) -> list[Batch]:
    """Every second row of all of them from `begin` on, batch by batch, but for batches that have none."""
    starts = accumulate((len(batch) for batch in rows), initial=begin)
    index = [torch.arange(start % 2, len(batch), 2) for start, batch in zip(starts, rows, strict=False)]
    return [batch.take(at) for batch, at in zip(rows, index, strict=True) if len(at)]
