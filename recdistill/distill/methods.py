"""The baselines: what each adds to the student's click loss. `mean`, in `consensus.py`, and `diverse`, in `aligner.py`,
are two more of the kind.

Every method is a module whose `forward(hidden, logit, head, batch)` returns the loss that teachers add. It is trained
beside the student and thrown away after it.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from recdistill.clicklog.batches import Batch, Block
from recdistill.distill.committee import Member, answers
from recdistill.distill.losses import direction_distance, masked_softmax, soft_click_loss
from recdistill.models.dlrm import DLRM
from recdistill.models.task import Task, click_loss, weight_of_all

Reads = Literal["nothing", "logits", "embeddings"]


class Method(nn.Module):
    """A way to learn from teachers.

    `reads` says what of the cache is read, `reads_recombined` what of the answers on recombined rows; where embeddings
    are, they are of the share of rows that it `looks_at`.
    """

    reads: ClassVar[Reads] = "logits"
    reads_recombined: ClassVar[Reads] = "logits"
    looks_at: float = 1.0

    def __init__(self, members: list[Member], hidden: int) -> None:
        super().__init__()
        self.members = members

    def hear(self, rows: Batch | Block) -> None:
        """Adds to what is `extra` about rows what the method makes of what was said, before it learns from them."""

    def forward(self, hidden: Tensor, logit: Tensor, head: nn.Linear, batch: Batch) -> Tensor:
        """The teachers' loss, a scalar.

        `hidden` [B, ds] and `logit` [B] are the student's, `head` its last layer (hidden to logit).
        """
        raise NotImplementedError


class Alone(Method):
    """No teacher."""

    reads = "nothing"
    reads_recombined = "nothing"

    def forward(self, hidden: Tensor, logit: Tensor, head: nn.Linear, batch: Batch) -> Tensor:
        """Zero."""
        return logit.new_zeros(())


class Single(Method):
    """The foundation's soft labels (Hinton et al. 2015); the foundation is the first member."""

    def forward(self, hidden: Tensor, logit: Tensor, head: nn.Linear, batch: Batch) -> Tensor:
        """Cross-entropy against the foundation's probability, where it answered."""
        said = answers(batch, self.members[:1])
        weight = batch.weight * said.present[:, 0]
        return soft_click_loss(logit, said.logit[:, 0].sigmoid(), weight)


class Confidence(Method):
    """Per-row weights from each teacher's own loss (CA-MKD, Zhang et al. 2022).

    w_i = (1 - exp(l_i) / sum_j exp(l_j)) / (n - 1) with l_i the log loss of teacher i on the row, over those present.
    Where there is no label all weights are alike.
    """

    def forward(self, hidden: Tensor, logit: Tensor, head: nn.Linear, batch: Batch) -> Tensor:
        """Sum over teachers of w_i times the cross-entropy against teacher i."""
        said = answers(batch, self.members)
        label = batch.label[:, None].expand_as(said.logit)
        own = nn.functional.binary_cross_entropy_with_logits(said.logit, label, reduction="none")
        trust = (1 - masked_softmax(own * batch.labelled, said.present)) * said.present
        trust = torch.where(said.present.sum(1, keepdim=True) > 1, trust, said.present.to(trust.dtype))
        trust = trust / trust.sum(1, keepdim=True).clamp_min(1e-12)
        target = (trust * said.logit.sigmoid()).sum(1)
        # Cross-entropy is linear in the target, so the weighted sum of losses is the loss against the weighted sum.
        return soft_click_loss(logit, target, batch.weight * said.present.any(1))


class Hint(Method):
    """Feature regression from the student's hidden activation by one linear projector a teacher (FitNets, 2015)."""

    reads = "embeddings"
    reads_recombined = "embeddings"

    def __init__(self, members: list[Member], hidden: int) -> None:
        super().__init__(members, hidden)
        embedded = ((str(i), member.dim) for i, member in enumerate(members) if member.dim)
        self.projectors = nn.ModuleDict({i: nn.Linear(hidden, dim) for i, dim in embedded})

    def forward(self, hidden: Tensor, logit: Tensor, head: nn.Linear, batch: Batch) -> Tensor:
        """Mean over teachers of the squared distance of directions between projection and embedding."""
        said, every = answers(batch, self.members), torch.arange(len(batch), device=logit.device)
        total = 0 * hidden.sum()  # of rows that nobody has an embedding for, nothing is learned
        seen = [i for i, codes in enumerate(said.embedding) if codes is not None]
        for i in seen:
            weight = batch.weight * said.present[:, i]
            distance = direction_distance(self.projectors[str(i)](hidden), said.embedded(i, every))
            total = total + (weight * distance).sum() / weight_of_all(weight)
        return total / max(1, len(seen))


class Distiller(Task):
    """A student and the method it learns by.

    The teachers' loss weighs `shown` on rows of the log, beside a click loss of 1, and `recombined` on rows without
    labels. There the final teachers speak, and nobody contradicts them; of the log's rows, whose labels say more than
    the versions that have not seen them, a student may be better off with less of it.
    """

    student: DLRM
    method: Method

    def __init__(self, student: DLRM, method: Method, shown: float = 1.0, recombined: float = 1.0) -> None:
        super().__init__()
        self.student, self.method, self.shown, self.recombined = student, method, shown, recombined

    def loss(self, batch: Batch) -> Tensor:
        """A scalar."""
        logit, hidden = self.student(batch)
        taught = self.method(hidden, logit, self.student.head, batch)
        return click_loss(logit, batch) + self.shown * taught if batch.labelled else self.recombined * taught
