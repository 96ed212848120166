from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recdistill.clicklog.batches import Batch, Rows, batches
from recdistill.clicklog.schema import Dataset
from recdistill.config.models import DlrmTeacher
from recdistill.errors import UserError
from recdistill.files import file_sha256, read_json
from recdistill.models.dlrm import DLRM
from recdistill.models.frozen import load_model
from recdistill.models.shape import shape_of
from recdistill.models.sharding import device
from recdistill.models.task import ClickModel, normalised_entropy
from recdistill.models.trainer import fit, load_best
from recdistill.teachers.dlrm import DlrmUpper, FrozenDlrm, train_dlrm
from recdistill.teachers.protocol import open_teacher, open_upper
from recdistill.teachers.versions import Version
from recdistill.teachers.work import domain_of, parameters_of

School = Any


@pytest.fixture
def batch(tiny_dataset: Dataset) -> Batch:
    return next(batches(tiny_dataset, Rows("test"), 100))


@pytest.fixture
def folder(school: School, tmp_path: Path) -> Path:
    """A copy of the foundation, to be spoilt."""
    shutil.copytree(school.folder("foundation"), tmp_path / "teacher")
    return tmp_path / "teacher"


def test_a_taught_teacher_opens_and_scores(school: School, tiny_dataset: Dataset) -> None:
    teacher = open_teacher(school.folder("foundation"))
    about = read_json(school.folder("foundation") / "teacher.json")
    assert isinstance(teacher, FrozenDlrm) and teacher.dim == 16
    assert about["parameters"] == parameters_of(school.folder("foundation"))
    assert about["parameters"] == sum(value.numel() for value in teacher.model.parameters())
    stream = batches(tiny_dataset, Rows("validation"), 100, features=teacher.features)
    scored = [(*teacher.score(batch), batch) for batch in stream]
    assert about["validation_ne"] == pytest.approx(normalised_entropy((logit, batch) for logit, _, batch in scored))
    assert about["validation_ne"] < 0.97
    for logit, embedding, batch in scored:
        assert (logit.shape, embedding.shape) == ((len(batch),), (len(batch), 16))
        assert not logit.requires_grad and not embedding.requires_grad
        torch.testing.assert_close(teacher.model(batch.to(device()))[0].cpu(), logit)


def test_only_final_weights_and_papers_are_kept(school: School) -> None:
    for version in ("fold-0", "fold-1", "final"):
        names = sorted(path.name for path in school.folder("foundation", version).iterdir())
        assert names == ["_SUCCESS", "model.json", "teacher.json", "weights.safetensors"]


def test_an_expert_sees_its_features_and_learns_from_its_rows(school: School, tiny_dataset: Dataset) -> None:
    teacher = open_teacher(school.folder("expert"))
    assert teacher.features == ["user", "item"]
    assert domain_of(school.teachers.members["expert"], tiny_dataset) == (("item", (1, 2, 3)),)
    final, fold = (
        load_model(school.folder("expert", version)).embeddings.embedding_bags["item"].weight
        for version in ("final", "fold-0")
    )
    # An item that nobody learned from is as it was drawn, the same in every version.
    learned = (final != fold).any(1).nonzero().squeeze(1)
    assert learned.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"tags": ["t1"]}, "rows are selected by 'tags', which is no single feature.*: user, item$"),
        ({"item": ["i1", "bicycle"]}, "rows ask for item = 'bicycle', which no training row has"),
    ],
)
def test_a_domain_that_does_not_exist_is_refused(tiny_dataset: Dataset, rows: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        domain_of(DlrmTeacher(kind="dlrm", rows=rows), tiny_dataset)


@pytest.mark.parametrize("top", [[16, 8], [8], [16, 12, 8]])
def test_the_upper_layers_are_the_models_own(
    tiny_dataset: Dataset, batch: Batch, tmp_path: Path, top: list[int], one_thread: None
) -> None:
    train = {"batch_size": 512, "epochs": 1}
    spec = DlrmTeacher(kind="dlrm", dim=4, bottom=[4], top=top, dropout=0.5, train=train)  # type: ignore[arg-type]
    train_dlrm(spec, tiny_dataset, Version("final", Rows("train"), ()), None, tmp_path, "teach")
    upper, model = open_upper(tmp_path), load_model(tmp_path)
    assert isinstance(upper, DlrmUpper) and not any(value.requires_grad for value in upper.parameters())
    z = model.lower(batch)
    logit, hidden = model.upper(z)
    assert (upper.dim, upper.answer_dim) == (z.shape[1], top[-1] + 1)
    upper.train()  # as it is inside a student's distillation module
    assert torch.equal(upper(z), torch.cat([hidden, logit[:, None]], dim=1))


def test_scoring_changes_nothing(school: School, batch: Batch) -> None:
    path = school.folder("foundation") / "weights.safetensors"
    about = read_json(school.folder("foundation") / "teacher.json")
    teacher = open_teacher(school.folder("foundation"))
    one, other = teacher.score(batch), teacher.score(batch)
    assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
    assert file_sha256(path) == about["fingerprint"]


@pytest.mark.parametrize("opened", [open_teacher, open_upper])
def test_changed_weights_are_refused(folder: Path, opened: Callable[[Path], Any]) -> None:
    path = folder / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"weights.safetensors: damaged, or not the weights of"):
        opened(folder)
    path.unlink()
    with pytest.raises(UserError, match=r"weights.safetensors: not there"):
        opened(folder)


def test_an_unknown_kind_is_refused(folder: Path) -> None:
    (folder / "teacher.json").write_text('{"kind": "oracle"}')
    with pytest.raises(UserError, match="unknown kind of teacher 'oracle'; expected dlrm, sklearn"):
        open_teacher(folder)


def test_a_chain_keeps_what_its_next_link_needs(make_school: Callable[..., School]) -> None:
    school = make_school("prequential", "foundation")
    chain = [version for version in school.versions("foundation") if version.name.startswith("until-")]
    kept = [version.name for version in chain if (school.folder("foundation", version.name) / "training").exists()]
    assert len(kept) <= 1 and chain[0].name not in kept
    for version in chain[1:]:
        about = read_json(school.folder("foundation", version.name) / "teacher.json")
        assert len(about["checks"]) == 1  # each new day is read once


def test_a_version_goes_on_with_the_weights_and_optimizers_of_the_one_before(
    tiny_dataset: Dataset, tmp_path: Path, one_thread: None
) -> None:
    train = {"batch_size": 64, "epochs": 1, "embedding_rate": 0.1, "dense_rate": 0.01}
    spec = DlrmTeacher.model_validate({"kind": "dlrm", "dim": 4, "bottom": [4], "top": [8, 4], "train": train})
    days = [Rows("train", (f"2026-01-0{day}",)) for day in (1, 2, 3)]
    before = None
    for number, rows in enumerate(days):
        out = tmp_path / str(number)
        out.mkdir()
        train_dlrm(spec, tiny_dataset, Version(str(number), rows, ()), before, out, "teach")
        before = out
    # The same as one training whose epochs are the days.
    left = iter(days)
    torch.manual_seed(spec.seed)
    module = ClickModel(DLRM(shape_of(spec, spec.dim, tiny_dataset.schema, None)))
    checks = iter([0.9, 0.8, 0.7])
    fit(
        module,
        lambda generator: batches(tiny_dataset, next(left), 64, shuffle=np.random.default_rng([spec.seed, 0])),
        6,
        lambda m: next(checks),
        spec.train.model_copy(update={"epochs": 3}),
        tmp_path / "whole",
        spec.seed,
        "teach",
    )
    whole = load_best(ClickModel(DLRM(module.model.shape)), tmp_path / "whole").model
    chained = load_model(tmp_path / "2")
    assert all(torch.equal(value, chained.state_dict()[name]) for name, value in whole.state_dict().items())
