"""The question-and-answer aligner: a committee's answers, translated into the student's own representation.

After DiverseDistill (Liu et al., arXiv 2402.14035), restated for click models. Per row, with h the student's last
hidden activation, E_i a learned embedding of teacher i, z_i its cached embedding, t_i its calibrated logit:

    importance   r_i, before anybody is asked; who is, is decided by how much each would be missed (`distill.router`)
                 p   = softmax_i(log r_i + G(t)_i) over those who answered, when what they said is known
    word         c   = slope * sum p_i t_i + intercept, calibrated (`distill.combine`)
    question     q_i = Q([h; E_i]), in teacher i's own space
    answer       a_i = U_i(z_i + q_i) through its frozen upper layers, or attention of q_i over z_i where it has none
    translation  b_i = A([a_i; t_i; E_i]), in the student's space
    loss         soft(s, c) + sum p_i (align * |dir(h) - dir(b_i)|^2 + answer * task(head(b_i)))

In the second term b_i is a constant: a teacher teaches, it does not move towards its student. In the last one h and the
head are: measured, a student that its translators may move learns worse (tests/benchmarks/LEDGER.md). It grounds the
translations, which must be useful to the student's own head. It can be trusted because teachers have not seen these
rows' labels.

The paper learns one importance beside the student, from the rows that the student learns from; it weighs answers and
decides who is asked. Measured, both are better learned on validation rows, by the final teachers, before the student
learns anything: on training rows each answer is by a version that knows less, and what is learned of those does not
hold for recombined rows or later days. (How answers are put together is learned of training days too, where teachers go
from day to day: see `distill.combine`.) And they are better apart: whoever counts little may still tell by his answer
whom to believe, and whoever counts much is not missed where all agree (tests/benchmarks/LEDGER.md).

One batch in four asks one teacher, on a share of its rows: each as often as it counts, and a row weighs as much as the
teacher counts on it, so that over the batches this is the sum above, but for its weight. (The paper grounds the sum of
the translations, not each; as the loss is convex, what is here is an upper bound of that.) All teachers in every batch
teach the same and take far longer (tests/benchmarks/LEDGER.md). None is asked on recombined rows: there the committee's
word teaches.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recdistill import ranks
from recdistill.clicklog.batches import Batch
from recdistill.config.job import Diverse
from recdistill.distill.combine import Gate
from recdistill.distill.committee import Member, answers
from recdistill.distill.consensus import Consensus
from recdistill.distill.losses import direction_distance, soft_click_loss
from recdistill.models.task import weight_of_all

EVERY = 4
"""One batch of so many asks."""
TOKEN = 8
"""A cached embedding without upper layers is attended to in pieces of this width."""


class QAAligner(Consensus):
    """The `diverse` method."""

    reads = "embeddings"

    owed: Tensor
    """How many batches each teacher counted for without a question, float32 [n]."""

    def __init__(self, members: list[Member], hidden: int, settings: Diverse) -> None:
        super().__init__(members, hidden, Gate(len(members), settings.question_width))
        self.settings, self.looks_at = settings, settings.questions
        width, de = settings.question_width, settings.teacher_dim
        self.teachers = nn.Parameter(torch.randn(len(members), de) * 0.1)
        self.question_row = nn.Linear(hidden, width)
        self.question_teacher = nn.Linear(de, width, bias=False)
        self.questions = nn.ModuleList(
            nn.Linear(width, member.dim) if member.dim else nn.Identity() for member in members
        )
        answerers = [_answerer(member) for member in members]
        self.answerers = nn.ModuleList(answerers)
        self.answer_rows = nn.ModuleList(nn.Linear(part.answer_dim + 1, width) for part in answerers)
        self.answer_teacher = nn.Linear(de, width, bias=False)
        self.translate = nn.Linear(width, hidden)
        self.register_buffer("owed", torch.zeros(len(members)))

    def forward(self, hidden: Tensor, logit: Tensor, head: nn.Linear, batch: Batch) -> Tensor:
        """The loss above, a scalar."""
        loss = self.teach(logit, batch)
        if not batch.labelled:
            return loss
        counts = batch.weight[:, None] * batch.extra["counts"]
        asked = self._next(ranks.mean(counts.sum(0)))
        return loss if asked is None else loss + self._question(asked, counts[:, asked], hidden, head, batch)

    def _question(self, asked: int, counts: Tensor, hidden: Tensor, head: nn.Linear, batch: Batch) -> Tensor:
        """The losses of questions to one teacher and its answers, a scalar; `counts` float32 [B], how much it does."""
        said = answers(batch, self.members)
        rows = said.read.nonzero().squeeze(1)[: math.ceil(len(batch) * self.settings.questions)]
        rows = rows[said.present[rows, asked]]
        weight, hidden = counts[rows], hidden[rows]
        translated = self._translation(asked, hidden.detach(), said.embedded(asked, rows), said.logit[rows, asked])
        align = (weight * direction_distance(hidden, translated.detach())).sum() / weight_of_all(weight)
        grounded = F.linear(translated, head.weight.detach(), head.bias.detach()).squeeze(1)
        useful = soft_click_loss(grounded, batch.label[rows], weight)
        return self.settings.align_weight * align + self.settings.answer_weight * useful

    def _next(self, counts: Tensor) -> int | None:
        """Whom to ask, given how much each teacher counts here, float32 [n]; None where it is nobody's turn."""
        self.owed += counts / counts.sum().clamp_min(1e-12)
        if self.owed.sum() < EVERY - 0.5 or not counts.any():  # it is whole but for rounding
            return None
        asked = int(self.owed.masked_fill(counts == 0, -math.inf).argmax())
        self.owed[asked] -= EVERY
        return asked

    def _translation(self, asked: int, hidden: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """A teacher's answers in the student's space, [K, ds]."""
        me = self.teachers[asked]
        question = self.questions[asked]((self.question_row(hidden) + self.question_teacher(me)).relu())
        answer = torch.cat([self.answerers[asked](z, question), t[:, None]], dim=1)
        return self.translate((self.answer_rows[asked](answer) + self.answer_teacher(me)).relu())


class _Interactive(nn.Module):
    """Answers through the teacher's frozen upper layers."""

    def __init__(self, member: Member) -> None:
        super().__init__()
        assert member.upper is not None
        self.upper, self.answer_dim = member.upper, member.upper.answer_dim

    def forward(self, z: Tensor, question: Tensor) -> Tensor:
        """[K, dim] and [K, dim] to [K, answer_dim]."""
        return self.upper(z + question)


class _Attending(nn.Module):
    """The question attends over pieces of the cached embedding, each with a learned place."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.tokens = -(-dim // TOKEN)
        self.pad = self.tokens * TOKEN - dim
        self.place = nn.Parameter(torch.randn(self.tokens, TOKEN) * 0.1)
        self.key, self.value = nn.Linear(TOKEN, TOKEN), nn.Linear(TOKEN, TOKEN)
        self.query = nn.Linear(dim, TOKEN)
        self.answer_dim = TOKEN + dim

    def forward(self, z: Tensor, question: Tensor) -> Tensor:
        """[K, dim] and [K, dim] to [K, answer_dim]: what was attended to, beside the embedding itself."""
        pieces = F.pad(z, (0, self.pad)).view(len(z), self.tokens, TOKEN) + self.place
        score = (self.key(pieces) @ self.query(question)[:, :, None]).squeeze(2) / math.sqrt(TOKEN)
        return torch.cat([(score.softmax(1)[:, :, None] * self.value(pieces)).sum(1), z], dim=1)


class _Silent(nn.Module):
    """A teacher with a logit and nothing else."""

    answer_dim = 0

    def forward(self, z: Tensor, question: Tensor) -> Tensor:
        """[K, 0]."""
        return z


def _answerer(member: Member) -> _Interactive | _Attending | _Silent:
    if member.upper is not None:
        return _Interactive(member)
    return _Attending(member.dim) if member.dim else _Silent()
