"""A student and what is trained beside it, under two real ranks: each sees half of every batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from recdistill.clicklog.batches import Batch
from recdistill.config.job import METHODS, Distill
from recdistill.distill.methods import Distiller
from recdistill.distill.train import Materials, distill_one, make_method
from recdistill.files import read_json
from recdistill.models.trainer import fit
from tests import in_ranks

LEARNED = [name for name in METHODS if name != "alone"]


def learn(materials: Materials, settings: Distill, out: Path) -> dict[str, list[float]]:
    """The losses of every method, where each second batch is without labels."""
    opened, found = materials.open(), {}
    for name in LEARNED:
        torch.manual_seed(3)
        method = make_method(name, opened.members, materials.student.shape.top[-1], settings)
        distiller = Distiller(materials.student.build(), method)

        def epoch(generator: np.random.Generator, distiller: Distiller = distiller) -> Iterator[Batch]:
            size, shape = settings.train.batch_size, materials.student.shape
            for number, batch in enumerate(opened.shown.stream(distiller.method, shape, size, generator)):
                yield replace(batch, labelled=number % 2 == 0)

        checks = iter(range(100))
        position = fit(
            distiller, epoch, 9, lambda module, checks=checks: next(checks), settings.train, out / name, 3, name
        )
        found[name] = position.losses
    return found


@pytest.fixture
def odd(quick: Distill) -> Distill:
    """Batches that two ranks cannot share out evenly, a check each. All rows are asked: a share is rounded by rank."""
    train = quick.train.model_copy(update={"batch_size": 255, "checks_per_epoch": 9, "epochs": 1, "patience": 99})
    diverse = quick.diverse.model_copy(update={"questions": 1.0})
    return quick.model_copy(update={"train": train, "diverse": diverse})


def test_every_method_learns_what_it_learns_alone(
    materials: Materials, odd: Distill, tmp_path: Path, one_thread: None
) -> None:
    """Each of a method's means is over the rows of both ranks, though they have different numbers of answers."""
    alone = learn(materials, odd, tmp_path / "one")
    first, second = in_ranks.call(2, learn, materials, odd, tmp_path / "two")
    assert first == second and first.keys() == alone.keys()
    for name in LEARNED:
        assert len(alone[name]) == 9
        assert first[name] == pytest.approx(alone[name], abs=2e-5), name


def test_the_leader_alone_writes_the_student(materials: Materials, odd: Distill, tmp_path: Path) -> None:
    arguments = ("diverse", 3, odd, "distill")
    distill_one(materials, *arguments, tmp_path / "one")  # type: ignore[arg-type]
    in_ranks.call(2, distill_one, materials, *arguments, tmp_path / "two")
    files = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("one", "two")]
    assert files[0] == files[1]
    one, two = (read_json(tmp_path / name / "training.json") for name in ("one", "two"))
    assert two["checks"] == pytest.approx(one["checks"], abs=1e-4)
