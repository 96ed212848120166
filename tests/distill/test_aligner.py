"""Properties of the question-and-answer aligner, whatever its numbers are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recdistill.clicklog.batches import Batch
from recdistill.config.job import Diverse
from recdistill.distill.aligner import QAAligner
from recdistill.distill.committee import Member
from recdistill.distill.losses import direction_distance, masked_mean, masked_softmax, soft_click_loss
from recdistill.teachers.codes import encode

HIDDEN = 7
Make = Callable[..., Batch]


def aligner(members: list[Member], questions: float = 1.0, **settings: Any) -> QAAligner:
    torch.manual_seed(2)
    return QAAligner(members, HIDDEN, 1.0, Diverse(question_width=8, teacher_dim=4, questions=questions, **settings))


def student(rows: int) -> tuple[Tensor, Tensor, nn.Linear]:
    torch.manual_seed(4)
    hidden, head = torch.randn(rows, HIDDEN).relu().requires_grad_(), nn.Linear(HIDDEN, 1)
    return hidden, head(hidden).squeeze(1), head


def present_in(batch: Batch, members: list[Member]) -> Tensor:
    return torch.stack([batch.extra[f"logit.{member.name}?"] for member in members], dim=1)


def test_importance_is_shared_among_those_who_answered(members: list[Member], answered: Make) -> None:
    batch, module = answered(), aligner(members)
    hidden, present = student(len(batch))[0], present_in(batch, members)
    p = module.importance(hidden, present)
    assert p.shape == present.shape and (p >= 0).all() and not p[~present].any()
    torch.testing.assert_close(p.sum(1), present.any(1).float())
    assert len({round(x, 6) for x in p[present.all(1)][:, 0].tolist()}) > 1  # it depends on the row


def test_gradients_reach_student_and_module_and_no_teacher(members: list[Member], answered: Make) -> None:
    batch, module = answered(), aligner(members)
    frozen = [value.clone() for value in members[0].upper.state_dict().values()]  # type: ignore[union-attr]
    hidden, logit, head = student(len(batch))
    module(hidden, logit, head, batch).backward()
    assert hidden.grad is not None and hidden.grad.any()
    teachers = {name for name, _ in module.named_parameters() if ".upper." in name}
    assert len(teachers) == 2
    for name, value in module.named_parameters():
        if name in teachers:
            assert value.grad is None and not value.requires_grad
        else:
            assert value.grad is not None and value.grad.any(), name
    optimizer = torch.optim.AdamW([value for value in module.parameters() if value.requires_grad], lr=0.1)
    optimizer.step()
    after = list(members[0].upper.state_dict().values())  # type: ignore[union-attr]
    assert all(torch.equal(one, other) for one, other in zip(frozen, after, strict=True))


def test_teachers_do_not_move_towards_their_student(members: list[Member], answered: Make) -> None:
    """Without the grounding term, nothing but the student is trained."""
    batch, module = answered(), aligner(members, answer_weight=0)
    hidden, logit, head = student(len(batch))
    module(hidden, logit, head, batch).backward()
    assert hidden.grad is not None and hidden.grad.any()
    assert not any(value.grad is not None and value.grad.any() for value in module.parameters())


@pytest.mark.parametrize("term", ["align_weight", "answer_weight"])
def test_every_term_counts(members: list[Member], answered: Make, term: str) -> None:
    batch = answered()
    losses = [
        float(aligner(members, **{term: weight})(*student(len(batch)), batch).detach()) for weight in (0.0, 0.5, 1.0)
    ]
    assert losses[0] < losses[1] < losses[2]
    assert losses[2] - losses[1] == pytest.approx(losses[1] - losses[0], rel=1e-3)


def test_questions_are_asked_on_a_share_of_the_rows(deep: list[Member], answered: Make) -> None:
    batch = answered(rows=60)
    for member in deep:
        batch.extra[f"embedding.{member.name}"] = torch.from_numpy(encode(torch.randn(60, 5).numpy()))
    module = aligner(deep, questions=0.25)
    hidden, logit, head = student(len(batch))
    module(hidden, logit, head, batch)
    asked = [sum(member.upper.asked) for member in deep]  # type: ignore[union-attr, attr-defined]
    assert asked == present_in(batch, deep)[:15].sum(0).tolist()


def test_on_rows_without_a_label_the_committees_logit_teaches_and_nothing_else(
    members: list[Member], answered: Make
) -> None:
    batch, module = answered(), aligner(members)
    batch.extra = {name: value for name, value in batch.extra.items() if not name.startswith("embedding.")}
    batch.labelled = False
    hidden, logit, head = student(len(batch))
    logit = logit.detach().requires_grad_()
    module(hidden, logit, head, batch).backward()
    assert logit.grad is not None and logit.grad.any() and hidden.grad is None
    assert not any(value.grad is not None and value.grad.any() for value in module.parameters())


def test_what_the_others_say_decides_who_is_believed(members: list[Member], answered: Make) -> None:
    """Two teachers, of which the first is right unless the second is sure: more than the row itself can tell."""
    torch.manual_seed(0)
    pair, rows = [Member("deep", 0), Member("rule", 0)], 512
    label = (torch.rand(rows) < 0.5).float()
    sure = torch.rand(rows) < 0.5
    sign = 2 * label - 1
    said = torch.stack([torch.where(sure, -sign, sign) * 2, torch.where(sure, sign * 6, 0.1 * torch.randn(rows))], 1)
    batch = answered(rows=rows)
    batch.label = label
    batch.extra = {f"logit.{m.name}": said[:, i] for i, m in enumerate(pair)}
    batch.extra |= {f"logit.{m.name}?": torch.ones(rows).bool() for m in pair}
    module = aligner(pair)
    optimizer = torch.optim.Adam(module.parameters(), 0.05)
    for _ in range(100):
        hidden, logit, head = student(rows)
        optimizer.zero_grad()
        module(hidden.detach(), logit.detach(), head, batch).backward()
        optimizer.step()
    logit = torch.zeros(rows, requires_grad=True)
    batch.labelled = False
    module(hidden.detach(), logit, head, batch).backward()
    assert logit.grad is not None
    right = (logit.grad < 0) == (label > 0)
    assert right.float().mean() > 0.95


def test_losses_of_a_committee() -> None:
    score, mask = torch.tensor([[1.0, 2.0, 3.0], [5.0, 5.0, 0.0]]), torch.tensor([[True, False, True], [False] * 3])
    p = masked_softmax(score, mask)
    assert p[0].tolist() == pytest.approx([0.1192, 0, 0.8808], abs=1e-4) and p[1].tolist() == [0, 0, 0]
    mean, some = masked_mean(score, mask)
    assert (mean.tolist(), some.tolist()) == ([2, 0], [1, 0])
    a, b = torch.tensor([[3.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 2.0], [2.0, 2.0]])
    assert direction_distance(a, b).tolist() == pytest.approx([2, 0], abs=1e-6)
    assert direction_distance(a, -a).tolist() == pytest.approx([4, 4])
    assert float(soft_click_loss(torch.zeros(2), torch.tensor([0.3, 0.9]), torch.zeros(2))) == 0
