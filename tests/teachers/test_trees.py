from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
import torch
from sklearn.metrics import roc_auc_score

from recdistill.clicklog.batches import Rows, batches
from recdistill.clicklog.schema import Dataset
from recdistill.config.models import SklearnTeacher, Teachers
from recdistill.errors import UserError
from recdistill.files import file_sha256, read_json, write_json
from recdistill.models.task import normalised_entropy
from recdistill.teachers.cache import cache_version
from recdistill.teachers.protocol import open_teacher
from recdistill.teachers.trees import MAX_DIM, FrozenSklearn, open_sklearn, train_sklearn
from recdistill.teachers.versions import Version, versions

WHOLE = Version("final", Rows("train"), (Rows("validation"), Rows("test")))
QUICK = {"max_iter": 40, "max_leaf_nodes": 8}


def trained(
    dataset: Dataset, out: Path, version: Version = WHOLE, params: dict[str, Any] = QUICK, **spec: Any
) -> FrozenSklearn:
    out.mkdir(parents=True, exist_ok=True)
    train_sklearn(SklearnTeacher(kind="sklearn", params=params, **spec), dataset, version, out, "teach trees/final")
    return open_sklearn(out)


def scores(teacher: FrozenSklearn, dataset: Dataset, split: Any = "test") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logit, embedding and label of a split's rows."""
    found = [
        (*teacher.score(batch), batch.label) for batch in batches(dataset, Rows(split), 500, features=teacher.features)
    ]
    logit, embedding, label = (torch.cat(part).numpy() for part in zip(*found, strict=True))
    return logit, embedding, label


@pytest.fixture(scope="module")
def folder(tiny_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trees")
    trained(tiny_dataset, out)
    return out


def test_boosted_trees_learn_what_the_rows_say(tiny_dataset: Dataset, folder: Path) -> None:
    teacher = open_teacher(folder)
    logit, embedding, label = scores(teacher, tiny_dataset)
    assert roc_auc_score(label, logit) > 0.75
    assert logit.dtype == embedding.dtype == np.float32
    assert embedding.shape == (len(logit), teacher.dim)
    assert np.isfinite(embedding).all()
    np.testing.assert_array_equal(embedding[:, -1], logit)


def test_teacher_json_tells_the_validation_ne_and_the_size(tiny_dataset: Dataset, folder: Path) -> None:
    about = json.loads((folder / "teacher.json").read_text())
    teacher = open_sklearn(folder)
    stream = batches(tiny_dataset, Rows("validation"), 100, features=teacher.features)
    assert about["validation_ne"] == pytest.approx(normalised_entropy((teacher.score(b)[0], b) for b in stream))
    assert about["validation_ne"] < 0.95
    nodes = sum(len(tree.nodes) for trees in teacher.classifier._predictors for tree in trees)
    assert about["parameters"] > nodes + sum(len(teacher.encoding.arrays[f"ids/{name}"]) for name in ("user", "item"))
    assert about["features"] == teacher.features == ["price", "age", "user", "item", "tags"]


def test_training_again_gives_the_same_teacher(tiny_dataset: Dataset, folder: Path, tmp_path: Path) -> None:
    again = trained(tiny_dataset, tmp_path)
    first = json.loads((folder / "teacher.json").read_text())
    assert json.loads((tmp_path / "teacher.json").read_text()) == first
    for one, other in zip(scores(again, tiny_dataset), scores(open_sklearn(folder), tiny_dataset), strict=True):
        np.testing.assert_array_equal(one, other)


def test_another_seed_or_parameter_is_another_fingerprint(tiny_dataset: Dataset, folder: Path, tmp_path: Path) -> None:
    marks = {json.loads((folder / "teacher.json").read_text())["fingerprint"]}
    for number, change in enumerate([{"params": {**QUICK, "learning_rate": 0.2}}, {"max_rows": 1000}]):
        trained(tiny_dataset, tmp_path / str(number), **change)
        marks.add(json.loads((tmp_path / str(number) / "teacher.json").read_text())["fingerprint"])
    assert len(marks) == 3


@pytest.mark.parametrize(
    "model",
    [
        "sklearn.ensemble.HistGradientBoostingClassifier",
        "sklearn.ensemble.GradientBoostingClassifier",
        "sklearn.ensemble.RandomForestClassifier",
        "sklearn.linear_model.LogisticRegression",
        "sklearn.neural_network.MLPClassifier",
    ],
)
def test_a_reopened_teacher_says_the_same_to_the_bit(tiny_dataset: Dataset, tmp_path: Path, model: str) -> None:
    before: list[np.ndarray] = []

    class Watched(FrozenSklearn):
        """Keeps what the teacher says before it is written."""

        def score(self, batch: Any) -> Any:
            said = super().score(batch)
            before.append(said[1].numpy())
            return said

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recdistill.teachers.trees.FrozenSklearn", Watched)
        params = {"max_iter": 20} if "MLP" in model or "Hist" in model else {}
        teacher = trained(tiny_dataset, tmp_path, model=model, params=params)
    validation = batches(tiny_dataset, Rows("validation"), 8192, features=teacher.features)
    after = [FrozenSklearn.score(teacher, batch)[1].numpy() for batch in validation]
    np.testing.assert_array_equal(np.concatenate(before), np.concatenate(after))
    logit, _, label = scores(teacher, tiny_dataset)
    assert roc_auc_score(label, logit) > 0.7


def test_stages_show_how_the_logit_grew(tiny_dataset: Dataset, folder: Path) -> None:
    teacher = open_sklearn(folder)
    assert teacher.stages == [1, 2, 3, 5, 10, 20, 40]
    _, embedding, _ = scores(teacher, tiny_dataset)
    grown = embedding[:, -len(teacher.stages) :].std(axis=0)
    assert (np.diff(grown) > 0).all()


def test_the_embedding_stays_narrow_and_shows_what_matters(
    tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recdistill.teachers.trees.MAX_DIM", 10)
    teacher = trained(tiny_dataset, tmp_path)
    assert teacher.dim == 10 <= MAX_DIM
    names = ["price", "age", *(f"{name} {what}" for name in ("user", "item", "tags") for what in ("rate", "count"))]
    shown = {[*names, "tags length"][at] for at in teacher.encoding.arrays["shown"]}
    assert shown >= {"user rate", "item rate"}
    assert "age" not in shown


def test_only_the_features_asked_for_are_read(tiny_dataset: Dataset, tmp_path: Path) -> None:
    teacher = trained(tiny_dataset, tmp_path, features=["item", "price"])
    assert teacher.features == ["price", "item"]
    assert teacher.classifier.n_features_in_ == 3


def test_a_domain_expert_learns_its_rows_alone(tiny_dataset: Dataset, tmp_path: Path) -> None:
    teacher = trained(tiny_dataset, tmp_path, WHOLE.within((("item", (1, 2)),)))
    assert set(teacher.encoding.arrays["ids/item"]) <= {-1, 1, 2}


def test_at_most_max_rows_are_learned_from(tiny_dataset: Dataset, tmp_path: Path) -> None:
    trained(tiny_dataset, tmp_path, max_rows=500)
    assert json.loads((tmp_path / "teacher.json").read_text())["rows"] == 500


def test_weights_count(make_dataset: Callable[..., Dataset], tmp_path: Path) -> None:
    dataset = make_dataset(weighted=True)
    teacher = trained(dataset, tmp_path / "out")
    rows = list(batches(dataset, Rows("train"), 1000, features=["item"]))
    seen = sum(float(batch.weight[(batch.sparse["item"].values() == 1)].sum()) for batch in rows)
    seen /= float(torch.cat([batch.weight for batch in rows]).mean())
    at = list(teacher.encoding.arrays["ids/item"]).index(1)
    assert teacher.encoding.arrays["codes/item"][at, 1] == pytest.approx(np.log1p(seen), rel=1e-6)
    with pytest.raises(UserError, match="rows have weights, and sklearn.neighbors.KNeighborsClassifier takes none"):
        trained(dataset, tmp_path / "none", model="sklearn.neighbors.KNeighborsClassifier", params={})


def test_a_version_that_continues_learns_from_all_days_so_far(tiny_dataset: Dataset, tmp_path: Path) -> None:
    members = {"foundation": {"kind": "dlrm"}, "trees": {"kind": "sklearn"}}
    chain = versions(Teachers.model_validate({"regime": "prequential", "members": members}), tiny_dataset)
    learned = []
    for number, version in enumerate(chain[:3]):
        trained(tiny_dataset, tmp_path / str(number), version)
        learned.append(json.loads((tmp_path / str(number) / "teacher.json").read_text())["rows"])
    assert learned == [375, 750, 1125]


def test_versions_fill_the_cache(tiny_dataset: Dataset, tmp_path: Path) -> None:
    members = {"foundation": {"kind": "dlrm"}, "trees": {"kind": "sklearn"}}
    teachers = Teachers.model_validate({"regime": "out_of_fold", "folds": 2, "members": members})
    for version in versions(teachers, tiny_dataset):
        trained(tiny_dataset, tmp_path / "teachers" / version.name, version)
    for version in versions(teachers, tiny_dataset):
        record, shards = cache_version("trees", tmp_path / "teachers", version, tiny_dataset, tmp_path / "cache")
        assert 0.3 < record.slope < 2
        assert sum(shard.rows for shard in shards) == (750 if version.name == "final" else pytest.approx(1125, abs=80))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"model": "xgboost.XGBClassifier"}, "'xgboost.XGBClassifier' is not scikit-learn's"),
        ({"model": "sklearn.ensembles.RandomForestClassifier"}, "no module 'sklearn.ensembles'"),
        ({"model": "sklearn.ensemble.RandomForestClasifier"}, "did you mean 'RandomForestClassifier'"),
        ({"model": "sklearn.ensemble.RandomForestRegressor"}, "is no classifier of sklearn.ensemble"),
        ({"params": {"max_iters": 3}}, "has no parameter 'max_iters'; did you mean 'max_iter'"),
        ({"params": {"max_iter": -3}}, "cannot be fitted: The 'max_iter' parameter"),
        ({"model": "sklearn.ensemble.VotingClassifier", "params": {}}, "cannot be made from `params`"),
        ({"model": "sklearn.semi_supervised.LabelPropagation", "params": {}}, "gives no number for some validation"),
    ],
)
def test_a_classifier_that_cannot_be_had_is_refused(
    tiny_dataset: Dataset, tmp_path: Path, spec: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        trained(tiny_dataset, tmp_path, **spec)
    assert not (tmp_path / "teacher.json").exists()


def test_a_classifier_that_reads_back_as_another_is_refused(
    tiny_dataset: Dataset, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = open_sklearn(folder).classifier
    monkeypatch.setattr("recdistill.teachers.trees._load", lambda path: other)
    with pytest.raises(UserError, match="HistGradientBoostingClassifier does not say the same after it was written"):
        trained(tiny_dataset, tmp_path, params={**QUICK, "learning_rate": 0.3})


def test_rows_that_teach_nothing_are_refused(tiny_dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no rows to train on"):
        trained(tiny_dataset, tmp_path, WHOLE.within((("item", (999,)),)))


def test_a_file_with_a_flipped_byte_or_a_foreign_type_is_not_opened(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "broken")
    path = tmp_path / "broken" / "classifier.skops"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"classifier\.skops: missing, or not the file whose checksum"):
        open_sklearn(tmp_path / "broken")
    skops.io.dump({"x": zipfile.ZipFile}, path)
    sums = tmp_path / "broken" / "checksums.json"
    write_json(sums, {**read_json(sums), path.name: file_sha256(path)})
    with pytest.raises(UserError, match="holds a zipfile.ZipFile, which is not scikit-learn's"):
        open_sklearn(tmp_path / "broken")
