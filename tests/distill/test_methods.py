from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recdistill.clicklog.batches import Batch
from recdistill.clicklog.columns import whole
from recdistill.config.job import METHODS, Distill
from recdistill.distill.committee import Member
from recdistill.distill.methods import Distiller, Method
from recdistill.distill.train import make_method
from recdistill.models.task import click_loss
from recdistill.teachers.codes import decode, encode

pytestmark = pytest.mark.usefixtures("every_batch_asks")

HIDDEN = 7
Make = Callable[..., Batch]


def make(name: str, members: list[Member], **diverse: float) -> Method:
    torch.manual_seed(2)
    settings = Distill.model_validate({"diverse": {"question_width": 8, **diverse}})
    return make_method(name, members, HIDDEN, settings)  # type: ignore[arg-type]


def student(rows: int) -> tuple[Tensor, Tensor, nn.Linear]:
    """Hidden activation, logit and head of a student."""
    torch.manual_seed(4)
    hidden, head = torch.randn(rows, HIDDEN).relu().requires_grad_(), nn.Linear(HIDDEN, 1)
    return hidden, head(hidden).squeeze(1), head


def loss_of(method: Method, batch: Batch) -> float:
    hidden, logit, head = student(len(batch))
    method.hear(batch)
    return float(method(hidden, logit, head, batch).detach())


def numbers(batch: Batch, members: list[Member]) -> tuple[np.ndarray, ...]:
    """The student's logit [B], teachers' logits and presence [B, n], label and weight [B], as float64."""
    logit = student(len(batch))[1].detach().double().numpy()
    said = np.stack([batch.extra[f"logit.{member.name}"].double().numpy() for member in members], axis=1)
    present = np.stack([batch.extra[f"logit.{member.name}?"].numpy() for member in members], axis=1)
    return logit, said, present, batch.label.double().numpy(), batch.weight.double().numpy()


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def cross_entropy(logit: float, target: float) -> float:
    p = sigmoid(np.float64(logit))
    return float(-target * np.log(p) - (1 - target) * np.log(1 - p))


def soft_loss(batch: Batch, members: list[Member], target_of: Callable[..., float | None]) -> float:
    """Weighted mean, over the rows that have a target, of the cross-entropy against it."""
    logit, said, present, label, weight = numbers(batch, members)
    total = norm = 0.0
    for row in range(len(batch)):
        target = target_of(said[row], present[row], label[row])
        if target is not None:
            total += weight[row] * cross_entropy(logit[row], target)
            norm += weight[row]
    return total / norm


class Student(nn.Module):
    """Knows one batch."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.hidden, self.logit, self.head = student(rows)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.logit, self.hidden


def test_what_teachers_say_weighs_by_where_they_say_it(members: list[Member], answered: Make) -> None:
    batch = answered()
    distiller = Distiller(Student(len(batch)), make("single", members), 0.3, 2.0)  # type: ignore[arg-type]
    taught = loss_of(distiller.method, batch)
    clicks = click_loss(distiller.student(batch)[0], batch)
    assert float(distiller(batch).detach()) == pytest.approx(float(clicks.detach()) + 0.3 * taught)
    batch.labelled = False
    assert float(distiller(batch).detach()) == pytest.approx(2.0 * taught)


def test_alone_adds_nothing(members: list[Member], answered: Make) -> None:
    method = make("alone", members)
    assert loss_of(method, answered()) == 0
    assert not list(method.parameters()) and method.reads == "nothing"


def test_single_is_the_first_members_soft_label(members: list[Member], answered: Make) -> None:
    batch = answered()
    expected = soft_loss(batch, members, lambda said, present, label: sigmoid(said[0]) if present[0] else None)
    assert loss_of(make("single", members), batch) == pytest.approx(expected, rel=1e-5)


def test_mean_is_the_mean_logit_of_those_who_answered(members: list[Member], answered: Make) -> None:
    batch = answered()

    def target(said: np.ndarray, present: np.ndarray, label: float) -> float | None:
        return sigmoid(said[present].mean()) if present.any() else None

    assert loss_of(make("mean", members), batch) == pytest.approx(soft_loss(batch, members, target), rel=1e-5)


def test_confidence_weighs_by_each_teachers_own_loss(members: list[Member], answered: Make) -> None:
    """CA-MKD's formula 3, among those who answered."""
    batch = answered()

    def target(said: np.ndarray, present: np.ndarray, label: float) -> float | None:
        said = said[present]
        if len(said) < 2:
            return float(sigmoid(said[0])) if len(said) else None
        losses = np.array([cross_entropy(logit, label) for logit in said])
        weights = (1 - np.exp(losses) / np.exp(losses).sum()) / (len(said) - 1)
        assert weights.sum() == pytest.approx(1)
        return float(weights @ sigmoid(said))

    assert loss_of(make("confidence", members), batch) == pytest.approx(soft_loss(batch, members, target), rel=1e-5)


def test_hint_is_the_distance_of_directions_after_a_projection(members: list[Member], answered: Make) -> None:
    batch, method = answered(), make("hint", members)
    hidden = student(len(batch))[0].detach()
    total = 0.0
    for member, projector in zip(members[:2], method.projectors.values(), strict=True):
        weight = batch.weight * batch.extra[f"logit.{member.name}?"]
        distance = 0.0
        for row in range(len(batch)):
            a, b = projector(hidden[row]), decode(batch.vectors[f"embedding.{member.name}"].of(torch.tensor([row])))[0]
            if weight[row]:
                distance += float(weight[row] * (a / a.norm() - b / b.norm()).square().sum().detach())
        total += distance / float(weight.sum())
    assert loss_of(method, batch) == pytest.approx(total / 2, rel=1e-4)


def test_hint_learns_of_embeddings_that_are_there(members: list[Member], answered: Make) -> None:
    """Of recombined rows a teacher that is known by a file has none, though it has of the log's."""
    batch, method = answered(), make("hint", members)
    whole = loss_of(method, batch)
    batch.vectors = {name: codes for name, codes in batch.vectors.items() if not name.endswith(members[0].name)}
    second = loss_of(method, batch)
    assert 0 < second != whole
    batch.vectors = {}
    hidden, logit, head = student(len(batch))
    method(hidden, logit, head, batch).backward()
    assert not hidden.grad.any()


def test_a_teacher_that_is_far_off_is_not_trusted(members: list[Member], answered: Make) -> None:
    batch = answered()
    first = batch.extra[f"logit.{members[0].name}"]
    batch.extra[f"logit.{members[0].name}"] = torch.where(batch.label > 0, torch.full_like(first, -95.0), 95.0)
    assert np.isfinite(loss_of(make("confidence", members), batch))


def test_nobody_with_an_embedding_leaves_hint_with_nothing(answered: Make) -> None:
    assert loss_of(make("hint", [Member("rule", 0)]), answered()) == 0


@pytest.mark.parametrize("name", METHODS)
def test_what_an_absent_teacher_holds_does_not_matter(members: list[Member], answered: Make, name: str) -> None:
    batch, method = answered(), make(name, members)
    extra, vectors = dict(batch.extra), dict(batch.vectors)
    for member in members:
        absent = ~batch.extra[f"logit.{member.name}?"]
        noise = torch.randn(int(absent.sum()), member.dim + 1) * 5
        extra[f"logit.{member.name}"] = extra[f"logit.{member.name}"].masked_scatter(absent, noise[:, 0])
        if member.dim:
            codes = vectors[f"embedding.{member.name}"].source.clone()
            codes[absent] = torch.from_numpy(encode(noise[:, 1:].numpy()))
            vectors[f"embedding.{member.name}"] = whole(codes)
    again = copy.deepcopy(method)  # whom `diverse` asks depends on whom it asked before
    assert loss_of(again, replace(batch, extra=extra, vectors=vectors)) == loss_of(method, batch)


@pytest.mark.parametrize("name", METHODS)
def test_rows_that_nobody_answered_get_the_click_loss_alone(members: list[Member], answered: Make, name: str) -> None:
    batch, method = answered(), make(name, members)
    nobody = ~torch.stack([batch.extra[f"logit.{member.name}?"] for member in members]).any(0)
    hidden, logit, head = student(len(batch))
    method.hear(batch)
    loss = method(hidden, logit, head, batch)
    if name != "alone":
        for gradient in torch.autograd.grad(loss, [hidden, logit], allow_unused=True):
            assert gradient is None or (not gradient[nobody].any() and gradient[~nobody].any())
    assert nobody.any() and torch.isfinite(loss)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "alone"])
def test_a_batch_that_nobody_answered_teaches_nothing(members: list[Member], answered: Make, name: str) -> None:
    batch, method = answered(), make(name, members)
    batch.extra = {key: torch.zeros_like(value) for key, value in batch.extra.items()}
    hidden, logit, head = student(len(batch))
    method.hear(batch)
    loss = method(hidden, logit, head, batch)
    assert torch.isfinite(loss)
    for gradient in torch.autograd.grad(loss, [hidden, logit], allow_unused=True):
        assert gradient is None or not gradient.any()


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("alone", "hint")])
def test_a_student_that_says_what_its_teachers_say_is_not_pulled(
    members: list[Member], answered: Make, name: str
) -> None:
    """The soft loss of one row is least where the student's logit is the teachers'."""
    batch, method = answered(), make(name, members, align_weight=0, answer_weight=0)
    extra = dict(batch.extra)
    for member in members:
        extra[f"logit.{member.name}"] = torch.full((len(batch),), 0.3) * extra[f"logit.{member.name}?"]
    batch = replace(batch, extra=extra)
    method.hear(batch)
    hidden, _, head = student(len(batch))
    for value, pull in ((0.3, 0), (0.5, 1), (0.1, -1)):
        logit = torch.full((len(batch),), value, requires_grad=True)
        (gradient,) = torch.autograd.grad(method(hidden, logit, head, batch), [logit])
        present = gradient.abs() > 1e-7
        assert bool(present.any()) == bool(pull) and bool((gradient[present].sign() == pull).all())
