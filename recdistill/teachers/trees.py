"""Scikit-learn classifiers as teachers, boosted trees above all: fitted in memory on target-encoded columns.

A version's folder holds `classifier.skops` (scikit-learn's own objects, without pickle), `encoding.safetensors`, the
checksums of both, and `teacher.json`.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import math
import re
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import skops.io
import torch
from safetensors.numpy import load_file, save_file
from sklearn.base import ClassifierMixin
from sklearn.utils.validation import has_fit_parameter
from torch import Tensor

from recdistill import progress
from recdistill.clicklog.batches import Batch, Rows, batches
from recdistill.clicklog.schema import Dataset
from recdistill.config.base import nearest
from recdistill.config.models import SklearnTeacher
from recdistill.errors import UserError
from recdistill.files import atomic, file_sha256, fingerprint, read_json, write_json
from recdistill.models.task import normalised_entropy
from recdistill.teachers.calibration import evened
from recdistill.teachers.target_encoding import TargetEncoding, fit_transform, impressions, sample, singles
from recdistill.teachers.versions import Version

CLASSIFIER, ENCODING, CHECKSUMS = "classifier.skops", "encoding.safetensors", "checksums.json"
MAX_DIM = 64
STAGES = 8
"""Stages of a boosted classifier that its embedding shows: after all of its iterations, half of them, a quarter ..."""
SCORING_BATCH = 8192
_LEAST_PROBABILITY = 1e-6
_CHECKED_ROWS = 1 << 12
_ADDRESS = re.compile(rb'"__id__": \d+|"[^"/]+\.(npy|npz|bin)"')
"""What differs between two archives of the same classifier: addresses in memory, and files named after them."""


def train_sklearn(spec: SklearnTeacher, dataset: Dataset, version: Version, out: Path, label: str) -> None:
    """Fits one version of a teacher on at most `spec.max_rows` rows and writes it into the folder `out`.

    A version that continues another one learns anew from all days up to its own: a classifier has no way to go on.

    Raises:
        UserError: the classifier or a parameter is unknown, cannot be fitted, cannot be kept in a file or gives no
            number; there are no rows, or all their labels are equal; rows have weights and the classifier takes none.
    """
    columns = [*(column.name for column in dataset.schema.dense), *(column.name for column in dataset.schema.sparse)]
    features = [name for name in columns if spec.features is None or name in spec.features]
    classifier = _classifier(spec, label)
    if dataset.schema.has_weight and not has_fit_parameter(classifier, "sample_weight"):
        raise UserError(f"{label}: the rows have weights, and {spec.model} takes none; choose another classifier")
    rows = sample(dataset, _learned(version, dataset), features, spec.max_rows, spec.seed)
    if rows is None:
        raise UserError(f"{label}: there are no rows to train on; look at the split and the teacher's `rows`")
    if rows.label.min() == rows.label.max():
        raise UserError(f"{label}: all {len(rows)} rows to train on have the same label; nothing can be learned")

    rows = replace(rows, weight=evened(rows.weight))
    progress.current().update(label, 0, 2, f"{len(rows)} rows")
    encoding, matrix = fit_transform(rows, singles(dataset.schema))
    weight = {"sample_weight": rows.weight} if dataset.schema.has_weight else {}
    try:
        classifier.fit(matrix, rows.label.astype(np.int64), **weight)
    except ValueError as error:
        raise UserError(f"{label}: {spec.model} cannot be fitted: {str(error).splitlines()[0]}") from None
    teacher = FrozenSklearn(classifier, encoding, features, _stages(classifier, matrix[:1]))
    teacher.choose_columns(matrix[:_CHECKED_ROWS])
    progress.current().update(label, 1, 2, "fitted")
    _save(teacher, out, matrix[:_CHECKED_ROWS], label)
    ne = _validation_ne(teacher, dataset, version, label)
    _describe(teacher, out, {"model": spec.model, "rows": len(rows), "validation_ne": ne})
    progress.current().update(label, 2, 2, "" if ne is None else f"validation NE {ne:.4f}")


class FrozenSklearn:
    """A fitted classifier as everybody else sees it; see `protocol.Teacher`.

    Its logit is the decision function, or else the log-odds of the probability. Its embedding is the encoded columns
    that it looks at (those that go most with its logit, where there are too many), then its logit after each of its
    `stages`.
    """

    def __init__(self, classifier: Any, encoding: TargetEncoding, features: list[str], stages: list[int]) -> None:
        self.classifier, self.encoding = classifier, encoding
        self.features, self.stages = features, stages

    @property
    def dim(self) -> int:
        """Width of the embedding."""
        return len(self.encoding.arrays["shown"]) + len(self.stages)

    def score(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logit [B] and embedding [B, dim]."""
        logit, embedding = self.say(self.encoding.transform(impressions(batch, self.encoding.single)))
        return torch.from_numpy(logit), torch.from_numpy(embedding)

    def say(self, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logit float32 [N] and embedding float32 [N, dim] for encoded columns [N, columns]."""
        logits = self._logits(columns)
        return logits[:, -1].copy(), np.hstack([columns[:, self.encoding.arrays["shown"]], logits])

    def choose_columns(self, columns: np.ndarray) -> None:
        """Chooses what the embedding shows, by the correlation of columns [N, columns] with the logit."""
        logit = self._logits(columns)[:, -1].astype(np.float64)
        together = np.abs((columns - columns.mean(axis=0)).T @ (logit - logit.mean())) / (columns.std(axis=0) + 1e-12)
        best = np.argsort(-together, kind="stable")[: MAX_DIM - len(self.stages)]
        self.encoding.arrays["shown"] = np.sort(best)

    def _logits(self, columns: np.ndarray) -> np.ndarray:
        """The logit after each stage, float32 [N, stages]."""
        if hasattr(self.classifier, "staged_decision_function"):
            every = enumerate(self.classifier.staged_decision_function(columns), start=1)
            said = [np.array(logit).reshape(-1) for stage, logit in every if stage in self.stages]
        elif hasattr(self.classifier, "decision_function"):
            said = [self.classifier.decision_function(columns)]
        else:
            p = np.clip(self.classifier.predict_proba(columns)[:, 1], _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
            said = [np.log(p) - np.log1p(-p)]
        return np.stack(said, axis=1).astype(np.float32)


def open_sklearn(folder: Path) -> FrozenSklearn:
    """The frozen classifier in a version's folder.

    Raises:
        UserError: the classifier's file is damaged, or names a type that is not scikit-learn's.
    """
    about = read_json(folder / "teacher.json")
    digests = dict(read_json(folder / CHECKSUMS))
    for name in (CLASSIFIER, ENCODING):
        if not (folder / name).exists() or file_sha256(folder / name) != digests.get(name):
            raise UserError(f"{folder / name}: missing, or not the file whose checksum {CHECKSUMS} holds; teach again")
    encoding = TargetEncoding(load_file(folder / ENCODING), set(about["single"]))
    return FrozenSklearn(_load(folder / CLASSIFIER), encoding, about["features"], about["stages"])


def _classifier(spec: SklearnTeacher, label: str) -> Any:
    """The classifier that `spec` names, not fitted yet."""
    module, _, name = spec.model.rpartition(".")
    if spec.model.split(".")[0] != "sklearn":
        raise UserError(
            f"{label}: model {spec.model!r} is not scikit-learn's; expected a path such as "
            "sklearn.ensemble.HistGradientBoostingClassifier"
        )
    try:
        place = importlib.import_module(module)
    except ImportError:
        raise UserError(f"{label}: model {spec.model!r}: scikit-learn has no module {module!r}") from None
    kind: Any = getattr(place, name, None)
    is_classifier = isinstance(kind, type) and issubclass(kind, ClassifierMixin)
    if not is_classifier:
        classifiers = [known for known in dir(place) if known.endswith("Classifier")]
        raise UserError(f"{label}: {name!r} is no classifier of {module}{nearest(name, classifiers)}")
    known = kind._get_param_names()
    for parameter in spec.params:
        if parameter not in known:
            raise UserError(f"{label}: {name} has no parameter {parameter!r}{nearest(parameter, known)}")
    try:
        return kind(**({"random_state": spec.seed} if "random_state" in known else {}) | spec.params)
    except TypeError as error:
        raise UserError(f"{label}: {name} cannot be made from `params`: {error}") from None


def _learned(version: Version, dataset: Dataset) -> Rows:
    days = version.learns.days
    if version.continues is None or days is None:
        return version.learns
    return replace(version.learns, days=tuple(day for day in dataset.days if day <= max(days)))


def _stages(classifier: Any, row: np.ndarray) -> list[int]:
    if not hasattr(classifier, "staged_decision_function"):
        return [1]
    last = sum(1 for _ in classifier.staged_decision_function(row))
    return sorted({math.ceil(last / 2**halved) for halved in range(STAGES)})


def _save(teacher: FrozenSklearn, out: Path, columns: np.ndarray, label: str) -> None:
    """Writes encoding and classifier, and makes sure that what can be read back says the same about `columns`."""
    with atomic(out / ENCODING) as partial:
        save_file(teacher.encoding.arrays, partial)
    with atomic(out / CLASSIFIER) as partial:
        skops.io.dump(teacher.classifier, partial, compression=zipfile.ZIP_DEFLATED)
    reopened = FrozenSklearn(_load(out / CLASSIFIER), teacher.encoding, teacher.features, teacher.stages)
    if not np.array_equal(reopened.say(columns)[1], teacher.say(columns)[1]):
        raise UserError(
            f"{label}: {type(teacher.classifier).__name__} does not say the same after it was written and read again; "
            "choose another classifier"
        )


def _validation_ne(teacher: FrozenSklearn, dataset: Dataset, version: Version, label: str) -> float | None:
    """NE on the version's validation rows; None where it is not defined (no rows, or one label)."""
    rows = Rows("validation", domain=version.learns.domain)
    stream = batches(dataset, rows, SCORING_BATCH, features=teacher.features)
    ne = normalised_entropy((teacher.score(batch)[0], batch) for batch in stream)
    if math.isnan(ne):
        kind = type(teacher.classifier).__name__
        raise UserError(f"{label}: {kind} gives no number for some validation rows; choose another classifier")
    return ne if math.isfinite(ne) else None


def _describe(teacher: FrozenSklearn, out: Path, about: dict[str, Any]) -> None:
    """Writes `teacher.json`. `parameters` are the numbers in both files, where a tree's node counts as one."""
    digest = hashlib.sha256()
    parameters = sum(array.size for array in teacher.encoding.arrays.values())
    for name, content in _archive(out / CLASSIFIER):
        digest.update(_ADDRESS.sub(b"", content) if name == "schema.json" else content)
        parameters += np.load(io.BytesIO(content)).size if name.endswith(".npy") else 0
    # Apart from teacher.json, which is the same for two trainings of one teacher; a skops file is not.
    write_json(out / CHECKSUMS, {name: file_sha256(out / name) for name in (CLASSIFIER, ENCODING)})
    said = {"features": teacher.features, "single": sorted(teacher.encoding.single), "stages": teacher.stages}
    write_json(
        out / "teacher.json",
        {
            "version": 1,
            "kind": "sklearn",
            **about,
            **said,
            "parameters": int(parameters),
            "fingerprint": fingerprint([digest.hexdigest(), file_sha256(out / ENCODING), said]),
        },
    )


def _archive(path: Path) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            yield name, archive.read(name)


def _load(path: Path) -> Any:
    try:
        unknown = skops.io.get_untrusted_types(file=path)
        foreign = [name for name in unknown if not _is_sklearns(name)]
        if not foreign:
            return skops.io.load(path, trusted=unknown)
    except Exception as error:  # whatever a damaged archive leads to
        raise UserError(f"{path}: not readable as a classifier ({error}); train this teacher again") from None
    raise UserError(f"{path}: holds a {foreign[0]}, which is not scikit-learn's; it will not be opened")


def _is_sklearns(name: str) -> bool:
    """Whether a class that scikit-learn defines has this name: its modules hold functions, too, that run anything."""
    module, _, kind = name.rpartition(".")
    if module.split(".")[0] != "sklearn":
        return False
    found = getattr(importlib.import_module(module), kind, None)
    return isinstance(found, type) and found.__module__.split(".")[0] == "sklearn"
