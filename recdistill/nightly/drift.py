"""How a day differs from the days before it: rows, click rate, ids that training never saw, each feature's shift."""

from __future__ import annotations

import statistics
from collections import defaultdict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recdistill.clicklog.parts import read_part
from recdistill.clicklog.schema import Dataset, SplitName
from recdistill.nightly.gates import Drift

TOP = 18
"""The most frequent training ids, each a bin of its own beside unseen, missing and all others."""
EDGES = np.linspace(-2, 2, 9)
"""Bin edges of dense features, in standard deviations over training rows."""


def drift_of(dataset: Dataset) -> Drift:
    """The test day beside the training days; new ids beside the validation day."""
    parts = dataset.manifest.parts
    rows: dict[str, int] = defaultdict(int)
    for part in parts:
        rows[part.day] += part.rows
    train = [part for part in parts if part.split == "train"]
    test = [part for part in parts if part.split == "test"]
    usual = [count for day, count in rows.items() if day not in {part.day for part in test}]
    counts: dict[SplitName, dict[str, np.ndarray]] = {
        split: _histograms(dataset, split) for split in ("train", "validation", "test")
    }
    unseen = {split: {name: _unseen(found[name]) for name in _seen(dataset)} for split, found in counts.items()}
    return Drift(
        rows=dataset.rows("test"),
        usual_rows=statistics.median(usual),
        click_rate=sum(part.positives for part in test) / dataset.rows("test"),
        usual_click_rate=sum(part.positives for part in train) / dataset.rows("train"),
        new_ids={name: unseen["test"][name] - unseen["validation"][name] for name in unseen["test"]},
        psi={name: psi(*_binned(counts["train"][name], counts["test"][name])) for name in counts["train"]},
    )


def psi(expected: np.ndarray, found: np.ndarray) -> float:
    """Population stability index of two histograms over the same bins, half a row added to each bin.

    The sum over bins of (q - p) * log(q / p): 0 for equal shares; above 0.25 is commonly called a shift.
    """
    p, q = ((counts + 0.5) / (counts.sum() + 0.5 * len(counts)) for counts in (expected, found))
    return float(((q - p) * np.log(q / p)).sum())


def _seen(dataset: Dataset) -> list[str]:
    """Sparse features with a vocabulary: the others have no unseen ids."""
    return [s.name for s in dataset.schema.sparse if dataset.schema.table(s.name).encoding == "vocabulary"]


def _unseen(counts: np.ndarray) -> float:
    ids = counts[:-1]
    return float(ids[0] / max(1, ids.sum()))


def _histograms(dataset: Dataset, split: SplitName) -> dict[str, np.ndarray]:
    """Per sparse feature, rows of each id and last those without one; per dense feature, rows of each bin.

    Histories are short in the first days of any log and grow: how many are empty, and what is counted of them, is no
    drift.
    """
    schema = dataset.schema
    histories = {s.name for s in schema.sparse if s.source.get("kind") == "history"}
    found = {s.name: np.zeros(schema.table(s.name).rows + 1, np.int64) for s in schema.sparse}
    found |= {c.name: np.zeros(len(EDGES) + 1, np.int64) for c in schema.dense if c.history is None}
    for part in dataset.parts(split):
        table = read_part(part, list(found))
        for name, counts in found.items():
            column = table[name].combine_chunks()
            if pa.types.is_floating(column.type):
                counts += np.bincount(np.searchsorted(EDGES, column.to_numpy()), minlength=len(counts))
                continue
            if pa.types.is_list(column.type):
                if name not in histories:
                    counts[-1] += int(pc.sum(pc.equal(pc.list_value_length(column), 0)).as_py() or 0)
                column = pc.list_flatten(column)
            counts[-1] += column.null_count
            counts += np.bincount(column.drop_null().to_numpy(), minlength=len(counts))
    return found


def _binned(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same two histograms with rare ids put together."""
    if len(train) <= TOP + 3:
        return train, test
    top = 1 + np.argsort(-train[1:-1], kind="stable")[:TOP]
    own = np.concatenate([[0, len(train) - 1], top])
    return tuple(np.append(h[own], h.sum() - h[own].sum()) for h in (train, test))  # type: ignore[return-value]
