"""Filling the cache: each version of a teacher scores the rows that it has not seen, once."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from recdistill import progress, ranks
from recdistill.clicklog.batches import Batch, Block, Columns, Rows, read_blocks
from recdistill.clicklog.schema import Dataset, Part
from recdistill.errors import UserError
from recdistill.files import read_json
from recdistill.models.sharding import device
from recdistill.teachers.protocol import Teacher, open_teacher
from recdistill.teachers.shards import CachedVersion, Shard, shard_of, shard_path, write_shard
from recdistill.teachers.shelf import Shelf
from recdistill.teachers.versions import FINAL, Version

SAMPLE_ROWS = 1 << 16
"""Validation rows that calibrate a version and align its embedding."""
SCORING_BATCH = 8192


def cache_version(
    name: str,
    teacher_folder: Path,
    version: Version,
    dataset: Dataset,
    out: Path,
    asked: Dataset | None = None,
    shelf: Shelf | None = None,
) -> tuple[CachedVersion, list[Shard]]:
    """Writes the shards of one version into `out`; shards that are there already are kept.

    It scores the rows of `asked`, or of the dataset itself. Logits are calibrated, and embeddings are moved into the
    space of the final version, by what both say about the same validation rows of the dataset. What is on the `shelf`
    is not scored again.
    """
    scorer = _Scorer(name, teacher_folder, version, dataset, shelf)
    slope, intercept = scorer.calibration()
    asked = asked or dataset
    parts = [(rows, part) for rows in version.scores for part in rows.parts(asked)]

    def write(at: int) -> Shard:
        rows, part = parts[at]
        path = shard_path(out, part.key, version.name)
        if not path.exists():
            scorer.score_part(asked, rows, part, path)
        progress.current().update(f"cache {name}/{version.name}", at, len(parts))
        return shard_of(path, part, version.name)

    shards = ranks.deal(range(len(parts)), write)
    progress.current().update(f"cache {name}/{version.name}", 1, 1)
    record = CachedVersion(
        fingerprint=scorer.fingerprint,
        learned_from=repr(version.learns),
        seen=version.seen,
        slope=slope,
        intercept=intercept,
    )
    return record, shards


class _Scorer:
    """One version of a teacher, about to score parts of a dataset."""

    def __init__(self, name: str, folder: Path, version: Version, dataset: Dataset, shelf: Shelf | None) -> None:
        self._name, self._folder, self._version, self._dataset, self._shelf = name, folder, version, dataset, shelf
        self._teacher = open_teacher(folder / version.name)
        self._view = shelf.view(dataset) if shelf else None
        self.fingerprint: str = read_json(folder / version.name / "teacher.json")["fingerprint"]

    @cached_property
    def _sample(self) -> list[Batch]:
        rows = Rows("validation", domain=self._version.learns.domain)
        found = _sample(self._dataset, rows, self._teacher.features, self._view)
        if not found:
            raise UserError(
                f"teacher {self._name!r}: no validation rows in its domain, so its logit cannot be calibrated"
            )
        return found

    @cached_property
    def _said(self) -> tuple[np.ndarray, np.ndarray]:
        return _scores(self._teacher, self._sample)

    @cached_property
    def _align(self) -> np.ndarray | None:
        if self._version.name == FINAL or not self._teacher.dim:
            return None
        return alignment(self._said[1], _scores(open_teacher(self._folder / FINAL), self._sample)[1])

    def calibration(self) -> tuple[float, float]:
        """Slope and intercept. Only the final version scores new days, so the others keep the first ones."""
        if self._shelf and self._version.name != FINAL:
            return self._shelf.calibration(self.fingerprint, self._fit)
        return self._fit()

    def _fit(self) -> tuple[float, float]:
        label, weight = (torch.cat([getattr(b, name) for b in self._sample]).numpy() for name in ("label", "weight"))
        return calibrate(self._said[0], label, weight)

    def score_part(self, asked: Dataset, rows: Rows, part: Part, path: Path) -> None:
        """Writes a part's shard."""
        blocks = list(read_blocks(asked, rows, features=self._teacher.features, parts=[part], join=self._view))
        if not blocks:
            none = np.zeros((0, self._teacher.dim)) if self._teacher.dim else None
            write_shard(path, np.zeros(0, np.int64), np.zeros(0, np.float32), none)
            return
        (block,) = blocks  # a part is no larger than a block

        def write(target: Path) -> None:
            logit, embedding = score_block(self._teacher, block)
            if not np.isfinite(logit).all():
                raise UserError(
                    f"{path}: the teacher's logit is not finite for some rows of {part.key}; it cannot teach"
                )
            if self._align is not None:
                embedding = embedding @ self._align[:-1] + self._align[-1]
            vectors = np.clip(embedding, -65504, 65504).astype(np.float16) if self._teacher.dim else None
            write_shard(target, block.example_id.numpy(), logit, vectors, self._shelf.night if self._shelf else "")

        if self._shelf:
            self._shelf.fill(self.fingerprint, block, path, write)
        else:
            write(path)


def _sample(dataset: Dataset, rows: Rows, features: list[str], view: Columns | None) -> list[Batch]:
    """At most `SAMPLE_ROWS` of the rows, evenly spread over all of them."""
    every = max(1, -(-sum(part.rows for part in rows.parts(dataset)) // SAMPLE_ROWS))
    blocks = read_blocks(dataset, rows, features=features, join=view)
    return [block.take(index) for block in blocks for index in torch.arange(0, block.rows, every).split(SCORING_BATCH)]


def score_block(teacher: Teacher, block: Block) -> tuple[np.ndarray, np.ndarray]:
    """Logits float32 [N] and embeddings float32 [N, dim] of a block's rows."""
    return _scores(teacher, (block.take(index) for index in torch.arange(block.rows).split(SCORING_BATCH)))


def _scores(teacher: Teacher, stream: Iterable[Batch]) -> tuple[np.ndarray, np.ndarray]:
    logits, embeddings = zip(*(teacher.score(batch.to(device())) for batch in stream), strict=True)
    return torch.cat(logits).cpu().numpy(), torch.cat(embeddings).cpu().numpy()


def calibrate(logit: np.ndarray, label: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of Platt scaling (1999), fitted by logistic regression on rows that were not learned from.

    (1, 0) where the labels are all equal.
    """
    if len(np.unique(label)) < 2:
        return 1.0, 0.0
    fitted = LogisticRegression(C=np.inf).fit(logit[:, None], label, sample_weight=weight)
    return float(fitted.coef_[0, 0]), float(fitted.intercept_[0])


def alignment(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The matrix [dim + 1, dim] that maps `[source, 1]` onto `target`: ridge regression, 1e-3 of the mean variance."""
    x, y = source.astype(np.float64), target.astype(np.float64)
    middle, goal = x.mean(axis=0), y.mean(axis=0)
    gram = (x - middle).T @ (x - middle)
    gram[np.diag_indices_from(gram)] += 1e-3 * np.trace(gram) / len(gram) + 1e-12  # an embedding may be constant
    matrix = np.linalg.solve(gram, (x - middle).T @ (y - goal))
    return np.vstack([matrix, goal - middle @ matrix]).astype(np.float32)
