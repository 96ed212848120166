"""Filling the cache: each version of a teacher scores the rows that it has not seen, once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from sklearn.linear_model import LogisticRegression

from recdistill import progress
from recdistill.clicklog.batches import Block, Rows, read_blocks
from recdistill.clicklog.schema import Dataset, Part
from recdistill.errors import UserError
from recdistill.files import file_sha256, read_json
from recdistill.models.sharding import device
from recdistill.teachers.protocol import Teacher, open_teacher
from recdistill.teachers.shards import CachedVersion, Shard, shard_path, write_shard
from recdistill.teachers.versions import FINAL, Version

SAMPLE_ROWS = 1 << 16
"""Validation rows that calibrate a version and align its embedding."""
SCORING_BATCH = 8192


def cache_version(
    name: str, teacher_folder: Path, version: Version, dataset: Dataset, out: Path
) -> tuple[CachedVersion, list[Shard]]:
    """Writes the shards of one version into `out`; shards that are there already are kept.

    Logits are calibrated, and embeddings are moved into the space of the final version, by what both say about the
    same validation rows.
    """
    folder = teacher_folder / version.name
    teacher = open_teacher(folder)
    sample = next(
        read_blocks(
            dataset,
            Rows("validation", domain=version.learns.domain),
            shuffle=np.random.default_rng(0),
            features=teacher.features,
        ),
        None,
    )
    if sample is None:
        raise UserError(f"teacher {name!r}: no validation rows in its domain, so its logit cannot be calibrated")
    logit, embedding = score_block(teacher, sample, SAMPLE_ROWS)
    slope, intercept = calibrate(logit, sample.label[: len(logit)].numpy(), sample.weight[: len(logit)].numpy())
    align = None
    if version.name != FINAL and teacher.dim:
        align = alignment(embedding, score_block(open_teacher(teacher_folder / FINAL), sample, SAMPLE_ROWS)[1])

    parts = [(rows, part) for rows in version.scores for part in rows.parts(dataset)]
    shards = []
    for done, (rows, part) in enumerate(parts):
        path = shard_path(out, part.key, version.name)
        if not path.exists():
            _score_part(teacher, dataset, rows, part, align, path)
        count = pq.read_metadata(path).num_rows
        shards.append(
            Shard(part=part.key, split=part.split, version=version.name, rows=count, sha256=file_sha256(path))
        )
        progress.current().update(f"cache {name}/{version.name}", done + 1, len(parts))
    record = CachedVersion(
        fingerprint=read_json(folder / "teacher.json")["fingerprint"],
        learned_from=repr(version.learns),
        seen=version.seen,
        slope=slope,
        intercept=intercept,
    )
    return record, shards


def score_block(teacher: Teacher, block: Block, limit: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Logits float32 [N] and embeddings float32 [N, dim] of a block's first `limit` rows."""
    rows = block.rows if limit is None else min(limit, block.rows)
    logits, embeddings = [], []
    for start in range(0, rows, SCORING_BATCH):
        batch = block.take(torch.arange(start, min(rows, start + SCORING_BATCH)))
        logit, embedding = teacher.score(batch.to(device()))
        logits.append(logit.cpu().numpy())
        embeddings.append(embedding.cpu().numpy())
    return np.concatenate(logits), np.concatenate(embeddings)


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


def _score_part(
    teacher: Teacher, dataset: Dataset, rows: Rows, part: Part, align: np.ndarray | None, path: Path
) -> None:
    ids, logits, embeddings = [], [], []
    for block in read_blocks(dataset, rows, features=teacher.features, parts=[part]):
        logit, embedding = score_block(teacher, block)
        if align is not None:
            embedding = embedding @ align[:-1] + align[-1]
        ids.append(block.example_id.numpy())
        logits.append(logit)
        embeddings.append(np.clip(embedding, -65504, 65504).astype(np.float16))
    if not ids:
        ids, logits, embeddings = [np.zeros(0, np.int64)], [np.zeros(0, np.float32)], [np.zeros((0, teacher.dim))]
    logit = np.concatenate(logits)
    if not np.isfinite(logit).all():
        raise UserError(f"{path}: the teacher's logit is not finite on some rows of {part.key}; it cannot teach")
    write_shard(path, np.concatenate(ids), logit, np.concatenate(embeddings) if teacher.dim else None)
