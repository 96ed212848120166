from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from recdistill.clicklog.batches import Rows, batches
from recdistill.clicklog.schema import Dataset
from recdistill.config.job import METHODS, Distill, Method
from recdistill.distill.combine import Average, Heard
from recdistill.distill.committee import Member, answers
from recdistill.distill.methods import Distiller
from recdistill.distill.train import Materials, calibrate_student, distill_one, make_method, train_student
from recdistill.export import export_student
from recdistill.files import file_sha256, read_json
from recdistill.models.dlrm import DLRM
from recdistill.models.frozen import load_model, load_shape
from recdistill.models.sharding import device
from recdistill.models.task import ClickModel, normalised_entropy, score
from recdistill.models.trainer import fit, load_best
from recdistill.teachers import windows
from recdistill.teachers.protocol import Upper

pytestmark = pytest.mark.usefixtures("one_thread")


def train(
    materials: Materials, name: Method, settings: Distill, out: Path, members: list[Member] | None = None
) -> Distiller:
    opened = materials.open()
    opened = opened if members is None else replace(opened, members=members)
    return train_student(opened, materials.student, name, 3, settings, "distill", out)[0]


SETTINGS = Distill.model_validate(
    {
        "train": {"batch_size": 256, "epochs": 2, "embedding_rate": 0.1, "dense_rate": 0.01},
        "diverse": {"question_width": 8},
    }
)


@pytest.mark.parametrize(("name", "share"), [("diverse", 0.0625), ("diverse", 0.3), ("hint", 1.0)])
def test_no_more_embeddings_are_read_than_a_method_looks_at(
    materials: Materials, monkeypatch: pytest.MonkeyPatch, name: Method, share: float
) -> None:
    monkeypatch.setattr(windows, "GROUP_ROWS", 8)
    opened = replace(materials, routed=None).open()  # everybody who answered is heard
    settings = Distill.model_validate({"diverse": {"questions": min(share, 0.5)}})
    method = make_method(name, opened.members, materials.student.shape.top[-1], settings)
    read, rows, given = 0, 0, set()
    for epoch in range(3):
        for batch in opened.shown.stream(method, materials.student.shape, 200, np.random.default_rng(epoch)):
            said = answers(batch, opened.members)
            read, rows = read + int(said.read.sum()), rows + len(batch)
            for at, vectors in enumerate(said.embedding):
                if vectors is not None:
                    given.add(at)
                    assert torch.equal(vectors.index >= 0, said.read & batch.extra[f"logit.{opened.members[at].name}?"])
            said.embedded(0, torch.arange(len(batch)))
    assert given == {at for at, member in enumerate(opened.members) if member.dim}
    parts = len(opened.shown.dataset.parts("train"))
    assert share <= read / rows <= share + 3 * parts * 8 / rows


@pytest.fixture(scope="module")
def units(materials: Materials, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A trained student of every method."""
    torch.set_num_threads(1)
    folders = {}
    for name in METHODS:
        folders[name] = tmp_path_factory.mktemp(name)
        weighed = materials if name == "diverse" else replace(materials, routed=None)
        distill_one(weighed, name, 3, SETTINGS, f"distill {name}", folders[name])
    return folders


def best_of(materials: Materials, unit: Path, name: Method) -> DLRM:
    """The student at its best check, as training left it."""
    method = make_method(name, materials.open().members, materials.student.shape.top[-1], SETTINGS)
    return load_best(Distiller(materials.student.build(), method), unit / "training").student


@pytest.mark.parametrize("name", ["mean", "diverse"])
def test_how_answers_are_put_together_is_learned_of_training_rows_too_where_these_foretell(
    materials: Materials, monkeypatch: pytest.MonkeyPatch, quick: Distill, tmp_path: Path, name: Method
) -> None:
    heard: list[Heard] = []
    monkeypatch.setattr(Average, "fit", lambda self, rows: heard.append(rows))
    for at, foretell in enumerate((False, True)):
        train(replace(materials, foretell=foretell), name, quick, tmp_path / str(at))
    dataset = Dataset(materials.dataset)
    validation, both = (len(rows.label) for rows in heard)
    assert (validation, both - validation) == (dataset.rows("validation"), dataset.rows("train"))
    assert torch.equal(heard[1].logit[:validation], heard[0].logit)
    assert heard[1].present[validation:].any()
    positives = sum(part.positives for part in dataset.manifest.parts if part.split == "train")
    assert float(heard[1].label[validation:].sum()) == positives


def test_alone_is_plain_training_bit_for_bit(materials: Materials, quick: Distill, tmp_path: Path) -> None:
    distiller = train(materials, "alone", quick, tmp_path / "alone")
    dataset, shape, settings = Dataset(materials.dataset), materials.student.shape, quick.train
    torch.manual_seed(3)
    fit(
        ClickModel(DLRM(shape)),
        lambda generator: batches(dataset, Rows("train"), settings.batch_size, shuffle=generator),
        -(-dataset.rows("train") // settings.batch_size),
        lambda m: normalised_entropy(score(m.model, batches(dataset, Rows("validation"), 8192))),
        settings,
        tmp_path / "plain",
        3,
        "plain",
    )
    plain = load_best(ClickModel(DLRM(shape)), tmp_path / "plain").model.state_dict()
    alone = distiller.student.state_dict()
    assert alone.keys() == plain.keys()
    assert all(torch.equal(alone[name], plain[name]) for name in plain)


def test_every_method_gives_another_student_and_the_same_again(
    materials: Materials, units: dict[str, Path], quick: Distill, tmp_path: Path
) -> None:
    weights = {name: file_sha256(folder / "weights.safetensors") for name, folder in units.items()}
    assert len(set(weights.values())) == len(METHODS)
    settings = quick.model_copy(update={"diverse": quick.diverse.model_copy(update={"teacher_dim": 16})})
    distill_one(materials, "diverse", 3, settings, "distill", tmp_path)
    assert file_sha256(tmp_path / "weights.safetensors") == weights["diverse"]
    assert (tmp_path / "test.parquet").read_bytes() == (units["diverse"] / "test.parquet").read_bytes()


@pytest.mark.parametrize("name", METHODS)
def test_a_student_is_calibrated_on_validation_rows(
    materials: Materials, units: dict[str, Path], tiny_dataset: Dataset, name: Method
) -> None:
    (batch,) = batches(tiny_dataset, Rows("validation"), 1000)
    model, best = load_model(units[name]), best_of(materials, units[name], name)
    slope, intercept = read_json(units[name] / "training.json")["calibration"]
    with torch.no_grad():
        now, before = model(batch)[0], best(batch)[0]
    assert slope > 0
    torch.testing.assert_close(now, slope * before + intercept, atol=1e-5, rtol=1e-5)
    assert float(now.sigmoid().mean()) == pytest.approx(float(batch.label.mean()), abs=1e-4)
    assert float(before.sigmoid().mean()) != pytest.approx(float(batch.label.mean()), abs=1e-4)
    loss = torch.nn.functional.binary_cross_entropy_with_logits
    assert loss(now, batch.label) < loss(before, batch.label)


def test_a_student_that_orders_rows_no_better_than_chance_is_left_as_it_is(
    materials: Materials, units: dict[str, Path]
) -> None:
    model = load_model(units["alone"])
    with torch.no_grad():
        model.head.weight.neg_()
    before = model.head.weight.clone(), model.head.bias.clone()
    assert calibrate_student(model, Dataset(materials.dataset)) == (1.0, 0.0)
    assert torch.equal(model.head.weight, before[0]) and torch.equal(model.head.bias, before[1])


@pytest.mark.parametrize("name", METHODS)
def test_a_unit_tells_how_it_went_and_what_it_predicts(
    materials: Materials, units: dict[str, Path], tiny_dataset: Dataset, name: Method
) -> None:
    about, model = read_json(units[name] / "training.json"), load_model(units[name])
    assert (about["method"], about["seed"], len(about["checks"])) == (name, 3, len(about["losses"]))
    assert about["parameters"] == sum(value.numel() for value in model.parameters())
    assert about["validation_ne"] == min(about["checks"])
    stream = list(batches(tiny_dataset, Rows("validation"), 1000))
    rounding = 1e-9 if device().type == "cpu" else 1e-7
    best = best_of(materials, units[name], name)
    assert about["validation_ne"] == pytest.approx(normalised_entropy(score(best, stream)), abs=rounding)
    for split in ("validation", "test"):
        table = pq.read_table(units[name] / f"{split}.parquet")
        (batch,) = batches(tiny_dataset, Rows(split), 1000)  # type: ignore[arg-type]
        assert table["example_id"].to_pylist() == batch.example_id.tolist()
        np.testing.assert_allclose(table["logit"].to_numpy(), model(batch)[0].numpy(), atol=1e-5)
        importance = [column for column in table.column_names if column.startswith("importance.")]
        if name == "diverse":
            assert importance == [f"importance.{teacher}" for teacher in materials.foundation_first]
            total = sum(table[column].to_numpy() for column in importance)
            np.testing.assert_allclose(total, 1, atol=2e-3)  # float16, as they were routed
        else:
            assert not importance


def test_a_teacher_is_read_where_it_answers_questions(materials: Materials) -> None:
    opened = materials.open()
    assert [(member.name, member.dim, member.upper is None) for member in opened.members] == [
        ("foundation", 16, False),
        ("expert", 16, False),
        ("llm", 12, True),
        ("rule", 0, True),
    ]
    assert [cache.name for cache in opened.shown.caches] == list(materials.foundation_first)


def test_an_outside_teacher_has_no_layers_of_a_namesake(materials: Materials, tmp_path: Path) -> None:
    """A member that was trained here in an earlier job, and now comes as a file."""
    shutil.copytree(materials.teachers, tmp_path / "teach")
    shutil.copytree(tmp_path / "teach" / "foundation", tmp_path / "teach" / "llm")
    members = replace(materials, teachers=tmp_path / "teach").open().members
    assert [member.upper is None for member in members] == [False, False, True, True]


def test_no_teachers_number_changes(materials: Materials, quick: Distill, tmp_path: Path) -> None:
    files = sorted(path for path in [*materials.teachers.rglob("*"), *materials.caches.rglob("*")] if path.is_file())
    before = [file_sha256(path) for path in files]
    members = materials.open().members
    frozen = [value.clone() for member in members[:2] for value in member.upper.parameters()]  # type: ignore[union-attr]
    distiller = train(materials, "diverse", quick, tmp_path, members=members)
    after = [value for member in members[:2] for value in member.upper.parameters()]  # type: ignore[union-attr]
    assert all(torch.equal(one, other.cpu()) for one, other in zip(frozen, after, strict=True))
    assert not any(value.requires_grad or value.grad is not None for value in after)
    assert [file_sha256(path) for path in files] == before
    assert any(".upper." in name for name in distiller.state_dict())


class Learning(Upper):
    """A teacher that is not as frozen as it says."""

    def __init__(self) -> None:
        super().__init__()
        self.dim, self.answer_dim = 16, 16
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, z: Tensor) -> Tensor:
        self.calls += 1
        return z


def test_a_teacher_that_changes_is_caught(materials: Materials, quick: Distill, tmp_path: Path) -> None:
    members = materials.open().members
    members = [Member("foundation", 16, Learning()), *members[1:]]
    with pytest.raises(RuntimeError, match="a frozen teacher was changed"):
        train(materials, "diverse", quick, tmp_path, members=members)


class Operations(TorchDispatchMode):
    """Notes every operation and the shapes that it works on."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        shapes = [tuple(value.shape) for value in args if isinstance(value, Tensor)]
        self.seen.append(f"{func} {shapes}")
        return func(*args, **(kwargs or {}))


def test_an_exported_student_holds_no_trace_of_its_teachers(
    units: dict[str, Path], tiny_dataset: Dataset, tmp_path: Path
) -> None:
    """Same files, same keys, same parameter count and same operations as a student trained alone has."""
    found = {}
    for name in ("alone", "diverse"):
        (batch,) = batches(tiny_dataset, Rows("test"), 1000)
        folder = tmp_path / name
        folder.mkdir()
        export_student(units[name], tiny_dataset, folder)
        model = load_model(folder)
        with Operations() as operations:
            model(batch)
        found[name] = (
            sorted(str(path.relative_to(folder)) for path in folder.rglob("*")),
            {key: (value.shape, value.dtype) for key, value in model.state_dict().items()},
            [str(module) for module in model.modules()],
            sum(value.numel() for value in model.parameters()),
            load_shape(folder),
            (folder / "weights.safetensors").stat().st_size,
            operations.seen,
        )
        for path in (path for path in folder.rglob("*") if path.is_file()):
            assert not re.search(rb"teacher|foundation|expert|llm|aligner|question|importance", path.read_bytes())
    assert found["alone"] == found["diverse"]
    assert len(found["alone"][-1]) > 10
