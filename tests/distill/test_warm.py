from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from recdistill.config.job import Distill, Method
from recdistill.distill.methods import Distiller
from recdistill.distill.train import Materials, distill_one, make_method
from recdistill.distill.warm import Start, begin_at
from recdistill.files import read_json
from recdistill.models.frozen import load_model
from recdistill.models.trainer import load_best


@pytest.fixture
def before(materials: Materials, quick: Distill, tmp_path: Path) -> Path:
    """A student that the aligner taught."""
    out = tmp_path / "before"
    out.mkdir()
    distill_one(materials, "diverse", 0, quick, "before", out)
    return out


def fresh(materials: Materials, quick: Distill, method: Method = "diverse") -> Distiller:
    torch.manual_seed(99)
    members = materials.open().members
    student = materials.student.build()
    return Distiller(student, make_method(method, members, materials.student.shape.top[-1], quick))


def test_student_and_aligner_are_taken_over(materials: Materials, quick: Distill, before: Path) -> None:
    distiller, trained = fresh(materials, quick), load_best(fresh(materials, quick), before / "training")
    trained.student.load_state_dict(load_model(before).state_dict())  # calibrated, as it serves
    dataset = materials.open().shown.dataset
    assert not _same(distiller, trained)
    begin_at(distiller, distiller.student, Start(before, materials.dataset, method=True), dataset)
    assert _same(distiller, trained)


def test_under_new_teachers_the_aligner_begins_anew(materials: Materials, quick: Distill, before: Path) -> None:
    distiller = fresh(materials, quick)
    method = {name: value.clone() for name, value in distiller.method.state_dict().items()}
    begin_at(
        distiller, distiller.student, Start(before, materials.dataset, method=False), materials.open().shown.dataset
    )
    assert all(torch.equal(method[name], value) for name, value in distiller.method.state_dict().items())
    weights = load_model(before).state_dict()
    assert all(torch.equal(weights[name], value) for name, value in distiller.student.state_dict().items())


def test_a_training_that_begins_at_another_begins_better(
    materials: Materials, quick: Distill, before: Path, tmp_path: Path
) -> None:
    (tmp_path / "after").mkdir()
    start = Start(before, materials.dataset, method=True)
    distill_one(replace(materials, start=start), "diverse", 0, quick, "after", tmp_path / "after")
    cold, warm = (read_json(folder / "training.json") for folder in (before, tmp_path / "after"))
    assert warm["losses"][0] < cold["losses"][0]


def test_the_fingerprint_names_weights_ids_and_method(materials: Materials, before: Path) -> None:
    one, two = (Start(before, materials.dataset, method).fingerprint() for method in (True, False))
    assert one[:2] == two[:2] and one != two


def _same(one: Distiller, two: Distiller) -> bool:
    values = dict(two.named_parameters())
    return all(torch.equal(value, values[name]) for name, value in one.named_parameters() if value.requires_grad)
