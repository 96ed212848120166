"""Metrics and teacher importance apart for each value of a feature, and for each day."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from recdistill.clicklog.schema import Dataset, Table
from recdistill.evaluate.metrics import Array, AucAccumulator, Floats, LogLossSums, population_logit
from recdistill.evaluate.predictions import IMPORTANCE, Rows, importance_columns, scratch_array, stream, unmap

VALUES = 20
"""How many values of a feature are reported: the most frequent ones."""


@dataclass(frozen=True)
class Slice:
    """The most frequent values of one feature among the test rows."""

    feature: str
    names: list[str]
    code: Array
    """int8 [rows]: the position in `names`, -1 for every other value."""
    rows: list[int]
    positives: list[int]


def cut(dataset: Dataset, rows: Rows, scratch: Path) -> list[Slice]:
    """Finds each slice feature's most frequent values, ties by id, and which rows hold them."""
    found = []
    for number, (feature, ids) in enumerate(rows.slices.items()):
        top = _most_frequent(ids[at] for at in rows.chunks())
        order = np.argsort(top)
        code = scratch_array(scratch, f"code-{number}", np.int8, len(rows))
        counts = np.zeros((len(top), 2), np.int64)
        for at in rows.chunks():
            nearest = order[np.minimum(np.searchsorted(top[order], ids[at]), len(top) - 1)]
            code[at] = np.where(top[nearest] == ids[at], nearest, -1)
            for label in (0, 1):
                counts[:, label] += np.bincount(code[at][rows.label[at] == label] + 1, minlength=len(top) + 1)[1:]
            unmap(code)
        names = value_names(dataset, feature, top)
        found.append(Slice(feature, names, code, counts.sum(1).tolist(), counts[:, 1].tolist()))
    return found


def by_day(dataset: Dataset, rows: Rows, scratch: Path) -> Slice | None:
    """The first days of the test, in order, which tell how models age; None where there is only one."""
    counts: dict[str, Array] = {}
    for part in sorted(dataset.manifest.parts, key=lambda part: part.day):
        if part.split == "test":
            counts[part.day] = counts.get(part.day, 0) + np.array([part.rows, part.positives])
    if len(counts) == 1:
        return None
    names, ends = list(counts)[:VALUES], np.cumsum([count[0] for count in counts.values()])
    code = scratch_array(scratch, "code-day", np.int8, len(rows))
    for at in rows.chunks():
        day = np.searchsorted(ends, np.arange(at.start, at.stop), "right")
        code[at] = np.where(day < len(names), day, -1)
        unmap(code)
    held, positives = np.array([counts[name] for name in names]).T.tolist()
    return Slice("day", names, code, held, positives)


def _most_frequent(chunks: Iterable[Array]) -> Array:
    ids, counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for chunk in chunks:
        more, of_each = np.unique(chunk, return_counts=True)
        ids, place = np.unique(np.concatenate([ids, more]), return_inverse=True)
        counts = np.bincount(place, np.concatenate([counts, of_each]), len(ids)).astype(np.int64)
    return ids[np.lexsort((ids, -counts))[:VALUES]]


def value_names(dataset: Dataset, feature: str, ids: Array) -> list[str]:
    """What people call these ids of a feature; -1 is a missing value, 0 one that training never saw."""
    table = dataset.schema.table(feature)
    values = None
    if table.encoding == "vocabulary":
        known = ids[ids > 0]
        column = pq.read_table(dataset.vocabulary_path(table.name), columns=["value"])["value"]
        values = dict(zip(known.tolist(), column.take(known - 1).to_pylist(), strict=True))
    return [_name(table, id_, values) for id_ in ids.tolist()]


def _name(table: Table, id_: int, values: dict[int, str] | None) -> str:
    if id_ < 0:
        return "(missing)"
    if id_ == 0:
        return "(not seen in training)"
    if values is not None:
        return str(values[id_])
    if table.boundaries is None:
        return f"#{id_}"
    edges = [f"{edge:.4g}" for edge in table.boundaries]
    low, high = edges[id_ - 2 : id_ - 1], edges[id_ - 1 : id_]
    if low and high:
        return f"{low[0]} to {high[0]}"
    return f"from {low[0]}" if low else f"below {high[0]}" if high else "all"


def slice_metrics(part: Slice, rows: Rows, logits: Floats, columns: dict[str, list[int]]) -> list[dict[str, Any]]:
    """AUC, NE and calibration of each model in each value's rows.

    Args:
        part: the values.
        rows: the test rows.
        logits: float32 [models, rows].
        columns: per reported name the models (seeds) that its mean is taken over.

    Returns:
        One record per value: `value`, `rows`, `positives`, and `models`; a metric is null where the rows do not define
        it, and `reason` then says why, or where the model does not answer all of them.
    """
    found = {model: [_metrics(part, rows, logits[position]) for position in of] for model, of in columns.items()}
    records = []
    for value, name in enumerate(part.names):
        models = {}
        for model, seeds in found.items():
            means = {metric: float(np.mean([each[value][metric] for each in seeds])) for metric in seeds[0][value]}
            models[model] = {metric: mean if np.isfinite(mean) else None for metric, mean in means.items()}
        count, positives = part.rows[value], part.positives[value]
        reason = None if 0 < positives < count else "these rows hold one class only"
        records.append({"value": name, "rows": count, "positives": positives, "reason": reason, "models": models})
    return records


def _metrics(part: Slice, rows: Rows, logit: Array) -> list[dict[str, float]]:
    """One model's metrics in each value's rows; NaN where it does not answer all of them, for then none compares."""
    ranks, sums = [AucAccumulator() for _ in part.names], [LogLossSums() for _ in part.names]
    silent = np.zeros(len(part.names), bool)
    for at in rows.chunks():
        for value in range(len(part.names)):
            inside = np.flatnonzero(part.code[at] == value)
            silent[value] |= bool(np.isnan(logit[at][inside]).any())
            if silent[value]:
                continue
            label, weight, said = rows.label[at][inside], rows.weight[at][inside], logit[at][inside]
            ranks[value].update(label, said, weight if rows.weighted else None)
            sums[value].update(label, population_logit(said, rows.negative_keep_rate), weight)
        unmap(part.code, logit)
    found = [{"auc": ranked.compute(), **loss.compute()} for ranked, loss in zip(ranks, sums, strict=True)]
    return [
        {metric: math.nan if skips else each[metric] for metric in ("auc", "ne", "calibration")}
        for each, skips in zip(found, silent, strict=True)
    ]


def importance(paths: list[Path], rows: Rows, slices: list[Slice]) -> dict[str, Any] | None:
    """Each teacher's mean importance over all rows and over each value's rows, averaged over files (seeds).

    A row where the file has null for a teacher is left out of that teacher's means.

    Returns:
        `overall`, and `slices` in the order of `slices`; None where no file records importance.
    """
    teachers = list(dict.fromkeys(teacher for path in paths for teacher in importance_columns(path)))
    if not teachers:
        return None
    groups = 1 + sum(len(part.names) for part in slices)
    sums, weights = np.zeros((len(teachers), groups)), np.zeros((len(teachers), groups))
    for path in paths:
        names = [teacher for teacher in teachers if teacher in importance_columns(path)]
        for at, batch in stream(path, rows, [IMPORTANCE + name for name in names]):
            codes = [part.code[at] for part in slices]
            for name in names:
                values = batch.column(IMPORTANCE + name).to_numpy(zero_copy_only=False).astype(np.float64)
                there = np.where(np.isfinite(values), rows.weight[at], 0.0)
                teacher = teachers.index(name)
                sums[teacher] += _by_group(there * np.nan_to_num(values), codes, slices)
                weights[teacher] += _by_group(there, codes, slices)
            unmap(rows.weight, *(part.code for part in slices))
    with np.errstate(invalid="ignore"):
        means = sums / weights
    return _importance_record(teachers, means, slices)


def _by_group(values: Floats, codes: list[Array], slices: list[Slice]) -> Floats:
    by_value = [
        np.bincount(code + 1, values, len(part.names) + 1)[1:] for code, part in zip(codes, slices, strict=True)
    ]
    return np.concatenate([[values.sum()], *by_value])


def _importance_record(teachers: list[str], means: Floats, slices: list[Slice]) -> dict[str, Any]:
    def column(position: int) -> dict[str, float | None]:
        values = means[:, position].tolist()
        return {name: value if np.isfinite(value) else None for name, value in zip(teachers, values, strict=True)}

    position, parts = 1, []
    for part in slices:
        records = []
        for name, count in zip(part.names, part.rows, strict=True):
            records.append({"value": name, "rows": count, "importance": column(position)})
            position += 1
        parts.append({"feature": part.feature, "values": records})
    return {"overall": column(0), "slices": parts}
