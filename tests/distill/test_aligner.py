"""Properties of the question-and-answer aligner, whatever its numbers are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recdistill.clicklog.batches import Batch
from recdistill.clicklog.columns import Vectors, whole
from recdistill.config.job import Diverse
from recdistill.distill import aligner as asking
from recdistill.distill.aligner import QAAligner
from recdistill.distill.committee import Member, answers
from recdistill.distill.consensus import Mean
from recdistill.distill.losses import direction_distance, masked_softmax, soft_click_loss
from recdistill.distill.methods import Method
from recdistill.teachers.codes import encode
from recdistill.teachers.windows import EMBEDDED

pytestmark = pytest.mark.usefixtures("every_batch_asks")

HIDDEN = 7
Make = Callable[..., Batch]


def coded(embedding: Tensor) -> Vectors:
    return whole(torch.from_numpy(encode(embedding.numpy())))


def aligner(members: list[Member], questions: float = 1.0, **settings: Any) -> QAAligner:
    torch.manual_seed(2)
    return QAAligner(members, HIDDEN, Diverse(question_width=8, teacher_dim=4, questions=questions, **settings))


def loss_of(module: Method, batch: Batch, parts: tuple[Tensor, Tensor, nn.Linear] | None = None) -> Tensor:
    """What teachers add to the loss of a student (a new one if none is given), of a batch as training reads it."""
    module.hear(batch)
    return module(*(parts or student(len(batch))), batch)


def student(rows: int) -> tuple[Tensor, Tensor, nn.Linear]:
    torch.manual_seed(4)
    hidden, head = torch.randn(rows, HIDDEN).relu().requires_grad_(), nn.Linear(HIDDEN, 1)
    return hidden, head(hidden).squeeze(1), head


def present_in(batch: Batch, members: list[Member]) -> Tensor:
    return torch.stack([batch.extra[f"logit.{member.name}?"] for member in members], dim=1)


def test_the_word_is_of_those_who_answered_by_their_importance(members: list[Member], answered: Make) -> None:
    batch, module = answered(), aligner(members)
    present, raw = present_in(batch, members), torch.rand(len(batch), len(members))
    batch.extra |= {f"importance.{member.name}": raw[:, at] for at, member in enumerate(members)}
    said = answers(batch, members)
    word, p = module.combine(said.logit, said.present, said.importance)
    assert (p >= 0).all() and not p[~present].any()
    torch.testing.assert_close(p.sum(1), present.any(1).float())
    row = int(present.all(1).nonzero()[1])
    torch.testing.assert_close(p[row], raw[row] / raw[row].sum())
    expected = sum(float(w) * float(t) for w, t in zip(p[row], said.logit[row], strict=True))
    assert float(word[row]) == pytest.approx(expected, rel=1e-5)


def test_the_word_is_calibrated_on_rows_that_nobody_learned_from(members: list[Member], answered: Make) -> None:
    """Three who each know a third of what decides: their mean is right about the order, and far too careful."""
    torch.manual_seed(0)
    rows, trio = 20_000, [Member(name, 0) for name in "abc"]
    signal = torch.randn(rows, 3)
    batch = answered(rows=rows)
    batch.label = (torch.rand(rows) < (signal.sum(1) + 0.5).sigmoid()).float()
    batch.weight = torch.ones(rows)
    batch.extra = {f"logit.{name}": signal[:, at] for at, name in enumerate("abc")}
    batch.extra |= {f"logit.{name}?": torch.arange(rows) < rows - 5 for name in "abc"}
    module = Mean(trio, HIDDEN)
    module.calibrate([batch, answered(rows=3)])
    word = module.combine
    assert float(word.slope) == pytest.approx(3, rel=0.05) and float(word.intercept) == pytest.approx(0.5, abs=0.05)
    assert "combine.slope" in module.state_dict() and "combine.slope" not in dict(module.named_parameters())


def test_gradients_reach_student_and_module_and_no_teacher(members: list[Member], answered: Make) -> None:
    batch, module = answered(), aligner(members)
    frozen = [value.clone() for value in members[0].upper.state_dict().values()]  # type: ignore[union-attr]
    hidden, logit, head = student(len(batch))
    for _ in range(2 * len(members)):  # a batch asks one teacher
        loss_of(module, batch, (hidden, logit, head)).backward(retain_graph=True)
    assert hidden.grad is not None and hidden.grad.any()
    fixed = {name for name, _ in module.named_parameters() if ".upper." in name or name.startswith("combine.")}
    assert len(fixed) == 2 + 4
    for name, value in module.named_parameters():
        if name in fixed:
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
    loss_of(module, batch, (hidden, logit, head)).backward()
    assert hidden.grad is not None and hidden.grad.any()
    assert not any(value.grad is not None and value.grad.any() for value in module.parameters())


@pytest.mark.parametrize("term", ["align_weight", "answer_weight"])
def test_every_term_counts(members: list[Member], answered: Make, term: str) -> None:
    batch = answered()
    losses = [float(loss_of(aligner(members, **{term: weight}), batch).detach()) for weight in (0.0, 0.5, 1.0)]
    assert losses[0] < losses[1] < losses[2]
    assert losses[2] - losses[1] == pytest.approx(losses[1] - losses[0], rel=1e-3)


def test_a_batch_asks_one_teacher_on_a_share_of_the_rows_that_it_answered(deep: list[Member], answered: Make) -> None:
    batch = answered(rows=60)
    for member in deep:
        batch.vectors[f"embedding.{member.name}"] = coded(torch.randn(60, 5))
    module = aligner(deep, questions=0.25)
    rows = present_in(batch, deep)[:15].sum(0).tolist()
    for turn in range(1, 31):
        loss_of(module, batch)
        assert sum(len(member.upper.asked) for member in deep) == turn  # type: ignore[union-attr, attr-defined]
    for member, some in zip(deep, rows, strict=True):
        assert set(member.upper.asked) == {some}  # type: ignore[union-attr, attr-defined]


def test_questions_are_asked_about_rows_whose_embeddings_were_read(deep: list[Member], answered: Make) -> None:
    """As many as of any batch, if so many were; whatever lies in the other rows changes nothing."""
    losses = []
    for number, read in ((0.0, 40), (9.0, 40), (0.0, 3), (0.0, 0)):
        batch, module = answered(rows=60), aligner(deep, questions=0.25)
        rows = torch.zeros(60).index_fill(0, torch.arange(read) + 15, 1)
        for member in deep:
            batch.extra[f"logit.{member.name}?"] = torch.ones(60).bool()
            where = torch.where(rows[:, None].bool(), torch.ones(60, 5), number)
            batch.vectors[f"embedding.{member.name}"] = coded(where)
        batch.extra[EMBEDDED] = rows
        losses.append(float(loss_of(module, batch).detach()))
    assert [once for member in deep for once in member.upper.asked] == [15, 15, 3, 0]  # type: ignore[union-attr, attr-defined]
    assert losses[0] == losses[1] != losses[2]


def test_a_teacher_is_asked_as_often_as_it_counts(deep: list[Member], answered: Make) -> None:
    batch, module = answered(), aligner(deep)
    for member, counts in zip(deep, (0.5, 0.3, 0.2), strict=True):
        batch.vectors[f"embedding.{member.name}"] = coded(torch.randn(40, 5))
        batch.extra[f"logit.{member.name}?"] = torch.ones(40).bool()
        batch.extra[f"importance.{member.name}"] = torch.full((40,), counts)
    for _ in range(100):
        loss_of(module, batch)
    assert [len(member.upper.asked) for member in deep] == [50, 30, 20]  # type: ignore[union-attr, attr-defined]
    batch.extra["logit.deep?"] = torch.zeros(40).bool()
    batch.extra["logit.llm?"] = torch.arange(40) == 39
    for _ in range(100):
        loss_of(module, batch)
    assert len(deep[0].upper.asked) == 50  # type: ignore[union-attr, attr-defined]
    assert min(deep[1].upper.asked[30:]) == 1  # type: ignore[union-attr, attr-defined]


def test_one_batch_of_so_many_asks_and_every_batch_counts(
    deep: list[Member], answered: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "EVERY", 4)
    batch, module, asked = answered(), aligner(deep), []
    for member in deep:
        batch.vectors[f"embedding.{member.name}"] = coded(torch.randn(40, 5))
        batch.extra[f"logit.{member.name}?"] = torch.ones(40).bool()
    for turn in range(400):
        for number, member in enumerate(deep):  # the first one counts where nobody is asked
            batch.extra[f"importance.{member.name}"] = torch.full((40,), float((number == 0) == (turn % 4 < 3)))
        loss_of(module, batch)
        asked.append(sum(len(member.upper.asked) for member in deep))  # type: ignore[union-attr, attr-defined]
    assert asked == [(turn + 1) // 4 for turn in range(400)]
    assert float(module.owed.sum()) == pytest.approx(0, abs=1e-3)


def test_a_row_weighs_as_much_as_the_teacher_that_is_asked_counts_on_it(deep: list[Member], answered: Make) -> None:
    """Rows of no importance change nothing, whatever was said about them."""
    losses = []
    for label in (0.0, 1.0):
        batch, module = answered(), aligner(deep, align_weight=0)
        counts = torch.arange(40) % 2
        for member in deep:
            batch.vectors[f"embedding.{member.name}"] = coded(torch.ones(40, 5))
            batch.extra[f"logit.{member.name}?"] = torch.ones(40).bool()
            batch.extra[f"importance.{member.name}"] = counts.float()
        batch.weight = counts.float()
        batch.label = torch.where(counts == 1, batch.label, label)
        losses.append(float(loss_of(module, batch).detach()))
    assert losses[0] == losses[1] > 0


def test_on_rows_without_a_label_the_committees_logit_teaches_and_nothing_else(
    members: list[Member], answered: Make
) -> None:
    batch, module = answered(), aligner(members)
    batch.vectors = {}
    batch.labelled = False
    hidden, logit, head = student(len(batch))
    logit = logit.detach().requires_grad_()
    loss_of(module, batch, (hidden, logit, head)).backward()
    assert logit.grad is not None and logit.grad.any() and hidden.grad is None
    assert not any(value.grad is not None and value.grad.any() for value in module.parameters())


def test_what_the_others_say_decides_who_is_believed(answered: Make) -> None:
    """Two teachers, of which the first is right unless the second is sure: more than the row itself can tell."""
    torch.manual_seed(0)
    pair, rows = [Member("deep", 0), Member("rule", 0)], 4096
    label = (torch.rand(rows) < 0.5).float()
    sure = torch.rand(rows) < 0.5
    sign = 2 * label - 1
    said = torch.stack([torch.where(sure, -sign, sign) * 2, torch.where(sure, sign * 6, 0.1 * torch.randn(rows))], 1)
    batch = answered(rows=rows)
    batch.label, batch.weight = label, torch.ones(rows)
    batch.extra = {f"logit.{m.name}": said[:, i] for i, m in enumerate(pair)}
    batch.extra |= {f"logit.{m.name}?": torch.ones(rows).bool() for m in pair}
    module = aligner(pair)
    heard = said, torch.ones_like(said).bool(), torch.ones_like(said)
    before = module.combine(*heard)[0]
    module.calibrate([batch])
    word, p = module.combine(*heard)
    assert ((before > 0) == (label > 0))[sure].all() and ((word > 0) == (label > 0)).float().mean() > 0.99
    assert p[sure, 1].mean() > 0.7 and p[~sure, 0].mean() > 0.7
    assert not any(value.requires_grad for value in module.combine.parameters())


def test_losses_of_a_committee() -> None:
    score, mask = torch.tensor([[1.0, 2.0, 3.0], [5.0, 5.0, 0.0]]), torch.tensor([[True, False, True], [False] * 3])
    p = masked_softmax(score, mask)
    assert p[0].tolist() == pytest.approx([0.1192, 0, 0.8808], abs=1e-4) and p[1].tolist() == [0, 0, 0]
    a, b = torch.tensor([[3.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 2.0], [2.0, 2.0]])
    assert direction_distance(a, b).tolist() == pytest.approx([2, 0], abs=1e-6)
    assert direction_distance(a, -a).tolist() == pytest.approx([4, 4])
    assert float(soft_click_loss(torch.zeros(2), torch.tensor([0.3, 0.9]), torch.zeros(2))) == 0
