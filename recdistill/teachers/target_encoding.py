"""Ids as numbers that any classifier can use: each id's smoothed click rate, and how often it was seen.

The rate of an id is (clicks + 10 p) / (rows + 10), p the click rate of all rows (Micci-Barreca 2001, with a fixed
prior as in scikit-learn's TargetEncoder). Rows that the encoding is fitted on are encoded out of fold, so that no row
sees its own label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from recdistill.clicklog.batches import Batch, Rows, folds_of, read_blocks
from recdistill.clicklog.schema import PART_ROWS, Dataset, Schema

PRIOR_ROWS = 10
FOLDS = 5
MISSING = -1
"""The id of a single feature's missing value: an id like any other."""

Jagged = tuple[np.ndarray, np.ndarray]
"""Ids end to end, and how many of them each row has, both int64."""


@dataclass(frozen=True)
class Impressions:
    """N rows as arrays: `dense` float32 [N, D]; `ids` by feature; `label`, `weight` float32 [N]; `key` uint64 [N].

    `key` is drawn from `example_id`: it puts rows in a random order that is the same wherever they lie.
    """

    dense: np.ndarray
    ids: dict[str, Jagged]
    label: np.ndarray
    weight: np.ndarray
    key: np.ndarray

    def __len__(self) -> int:
        return len(self.label)

    def take(self, index: np.ndarray) -> Impressions:
        """The rows `index`, in that order."""
        ids = {name: _take(jagged, index) for name, jagged in self.ids.items()}
        return Impressions(self.dense[index], ids, self.label[index], self.weight[index], self.key[index])


def singles(schema: Schema) -> set[str]:
    """Features that have one id a row, or none."""
    return {feature.name for feature in schema.sparse if feature.kind == "single"}


def impressions(batch: Batch, single: set[str], seed: int = 0) -> Impressions:
    """A batch as arrays; `single` are the features whose missing value is an id of its own."""
    ids = {}
    for name in batch.sparse.keys():  # noqa: SIM118 (a KeyedJaggedTensor is no mapping)
        values, lengths = (part.numpy().astype(np.int64) for part in _jagged(batch, name))
        if name in single:
            filled = np.full(len(batch), MISSING)
            filled[lengths == 1] = values
            values, lengths = filled, np.ones(len(batch), np.int64)
        ids[name] = values, lengths
    salt = np.random.default_rng(seed).integers(1 << 62)
    return Impressions(
        batch.dense.numpy(),
        ids,
        batch.label.numpy(),
        batch.weight.numpy(),
        folds_of(batch.example_id.numpy() ^ salt, 1 << 63),
    )


def sample(dataset: Dataset, rows: Rows, features: Sequence[str], size: int, seed: int) -> Impressions | None:
    """At most `size` of the rows meant, drawn uniformly, in random order; None where there are no such rows.

    Memory holds `size` rows and two blocks. The same seed draws the same rows.
    """
    single = singles(dataset.schema)
    held: list[Impressions] = []
    limit = np.uint64(1 << 63)
    for block in read_blocks(dataset, rows, features=features):
        found = impressions(block.take(torch.arange(block.rows)), single, seed)
        held.append(_below(found, limit))
        if sum(map(len, held)) > size + PART_ROWS:
            limit = np.partition(np.concatenate([piece.key for piece in held]), size)[size]
            held = [_below(piece, limit) for piece in held]
    if not held:
        return None
    whole = _concat(held)
    return whole.take(np.argsort(whole.key, kind="stable")[:size])


class TargetEncoding:
    """Turns impressions into columns: dense features, then a few a sparse feature, all standardised.

    A single feature has two columns, the log-odds of its id's click rate and log(1 + rows seen); a bag has the
    means of both over its ids, and its length. An id that was never seen has the rate of all rows and the count 0;
    so has an empty bag.

    `arrays`: `ids/<feature>` int64 [n], ascending; `codes/<feature>` float32 [n, 2]; `unseen` float32 [2]; `mean` and
    `std` float32 [columns].
    """

    def __init__(self, arrays: dict[str, np.ndarray], single: set[str]) -> None:
        self.arrays = arrays
        self.single = single

    def transform(self, rows: Impressions) -> np.ndarray:
        """The columns, float32 [N, columns]."""
        codes = {name: self._look_up(name, values) for name, (values, _) in rows.ids.items()}
        return (self.raw(rows, codes) - self.arrays["mean"]) / self.arrays["std"]

    def raw(self, rows: Impressions, codes: dict[str, np.ndarray]) -> np.ndarray:
        """The columns before they are standardised, from the codes [ids, 2] of each feature's ids."""
        columns = [rows.dense]
        for name, (_, lengths) in rows.ids.items():
            if name in self.single:
                columns.append(codes[name])
            else:
                columns += [_mean(codes[name], lengths, self.arrays["unseen"]), lengths[:, None]]
        return np.hstack(columns, dtype=np.float32, casting="same_kind")

    def _look_up(self, name: str, values: np.ndarray) -> np.ndarray:
        ids = self.arrays[f"ids/{name}"]
        at = np.minimum(np.searchsorted(ids, values), len(ids) - 1)
        return np.where((ids[at] == values)[:, None], self.arrays[f"codes/{name}"][at], self.arrays["unseen"])


def fit_transform(rows: Impressions, single: set[str]) -> tuple[TargetEncoding, np.ndarray]:
    """The encoding learned from `rows`, and the columns of these very rows, each from the other folds' rows alone.

    Labels must not all be equal.
    """
    weight = rows.weight.astype(np.float64)
    rate = float(np.average(rows.label, weights=weight))
    encoding = TargetEncoding({"unseen": _codes(np.zeros(1), np.zeros(1), rate)[0]}, single)
    codes = {}
    for name, jagged in rows.ids.items():
        ids, known, codes[name] = _fit(jagged, weight, weight * rows.label, rows.key % FOLDS, rate)
        encoding.arrays |= {f"ids/{name}": ids, f"codes/{name}": known}
    columns = encoding.raw(rows, codes)
    std = columns.std(axis=0, dtype=np.float64)
    encoding.arrays["mean"] = columns.mean(axis=0, dtype=np.float64).astype(np.float32)
    encoding.arrays["std"] = np.where(std > 0, std, 1).astype(np.float32)
    return encoding, (columns - encoding.arrays["mean"]) / encoding.arrays["std"]


def _fit(
    jagged: Jagged, weight: np.ndarray, clicks: np.ndarray, fold: np.ndarray, rate: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Known ids and their codes, and the codes of `jagged`'s own ids without the rows of the same fold."""
    values, lengths = jagged
    row = np.repeat(np.arange(len(lengths)), lengths)
    ids, at = np.unique(np.append(values, MISSING), return_inverse=True)
    place = at[:-1] * FOLDS + fold[row].astype(np.int64)
    seen, clicked = (
        np.bincount(place, amount[row], len(ids) * FOLDS).reshape(-1, FOLDS) for amount in (weight, clicks)
    )
    known = _codes(seen.sum(axis=1), clicked.sum(axis=1), rate)
    others_seen, others_clicked = (
        np.maximum(table.sum(axis=1, keepdims=True) - table, 0).reshape(-1) for table in (seen, clicked)
    )
    held_out = _codes(others_seen, others_clicked, rate, FOLDS / (FOLDS - 1))
    return ids, known, held_out[place]


def _codes(seen: np.ndarray, clicked: np.ndarray, rate: float, scale: float = 1) -> np.ndarray:
    """Log-odds of the smoothed click rate and log(1 + scale * seen), float32 [ids, 2]."""
    not_clicked = np.maximum(seen - clicked, 0)
    odds = (clicked + PRIOR_ROWS * rate) / (not_clicked + PRIOR_ROWS * (1 - rate))
    return np.stack([np.log(odds), np.log1p(scale * seen)], axis=1).astype(np.float32)


def _mean(codes: np.ndarray, lengths: np.ndarray, empty: np.ndarray) -> np.ndarray:
    row = np.repeat(np.arange(len(lengths)), lengths)
    sums = np.stack([np.bincount(row, column, len(lengths)) for column in codes.T], axis=1)
    return np.where(lengths[:, None] > 0, sums / np.maximum(lengths, 1)[:, None], empty)


def _jagged(batch: Batch, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    jagged = batch.sparse[name]
    return jagged.values(), jagged.lengths()


def _below(rows: Impressions, limit: np.uint64) -> Impressions:
    return rows.take(np.flatnonzero(rows.key < limit))


def _take(jagged: Jagged, index: np.ndarray) -> Jagged:
    values, lengths = jagged
    starts, taken = np.cumsum(lengths) - lengths, lengths[index]
    shift = np.repeat(starts[index] - (np.cumsum(taken) - taken), taken)
    return values[shift + np.arange(len(shift))], taken


def _concat(pieces: list[Impressions]) -> Impressions:
    ids = {
        name: (
            np.concatenate([piece.ids[name][0] for piece in pieces]),
            np.concatenate([piece.ids[name][1] for piece in pieces]),
        )
        for name in pieces[0].ids
    }
    dense, label, weight, key = (
        np.concatenate([getattr(piece, name) for piece in pieces]) for name in ("dense", "label", "weight", "key")
    )
    return Impressions(dense, ids, label, weight, key)
