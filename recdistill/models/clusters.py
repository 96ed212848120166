"""Which ids share a row of a student's table: those that its foundation treats alike.

A small student has fewer rows than there are ids. By hash, users who have nothing in common share one, and it says
nothing about any of them. The foundation has a vector for each; ids whose vectors are near are nearly one to it, and
k-means finds them. Ghaemmaghami et al., "Learning to collide" (arXiv 2203.15837), choose by a model's own vectors what
is to share a row; the teacher is a larger model that is there anyway. Students that learn alone may share so, too: it
is a shape, not a lesson. Measured (tests/benchmarks/LEDGER.md): on MovieLens-1M 824 rows tell nine tenths of what
differs between the foundation's vectors of 3,571 users, and all students are better for it. On ten thousand rows of
Criteo's log they are worse, for of an id that it saw five times a foundation knows these labels by heart. So both ways
are tried (`models.size`), and validation rows decide.
"""

from __future__ import annotations

import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from recdistill import ranks
from recdistill.errors import UserError
from recdistill.files import atomic
from recdistill.models.dlrm import DLRM
from recdistill.models.frozen import WEIGHTS, verify
from recdistill.models.shape import Shape

CLUSTERS = "clusters.safetensors"
SAMPLE = 1 << 16
"""Ids from which it is learned where the first, coarse clusters lie."""
ITERATIONS = 30


def cluster(folder: Path, mark: str, teacher: Path, shape: Shape) -> None:
    """The unit of the stage `cluster`: what the model in `teacher` says of the ids that share rows in `shape`."""

    def make(work: Path) -> None:
        if not ranks.leads():
            return
        verify(teacher)
        found = {}
        with safe_open(teacher / WEIGHTS, "numpy") as file:  # no more of a large model than is asked for
            for table in shape.tables:
                if table.clustered:
                    vectors = file.get_slice(f"embeddings.embedding_bags.{table.module}.weight")
                    some = vectors[table.own : table.own + table.clustered]
                    found[table.name] = alike(some.astype(np.float32), table.rows - table.own)
        with atomic(work / CLUSTERS) as partial:
            save_file(found, partial)

    ranks.once(folder, mark, make)


@torch.no_grad()
def clustered(model: DLRM, folder: Path | None) -> DLRM:
    """The model, its ids sharing rows as the `folder` of a unit says; as it is without one.

    Raises `UserError` where that is not what a unit wrote about such a model.
    """
    if folder is None or not model.shape.clusters:
        return model
    path, found = folder / CLUSTERS, dict[str, np.ndarray]()
    with suppress(OSError, SafetensorError):  # what is missing is told below
        found = load_file(path)
    tables = [table for table in model.shape.tables if table.clustered]
    if any(len(found.get(table.name, ())) != table.clustered for table in tables):
        raise UserError(f"{path}: not the clusters of this student; remove {folder.parent} and run again")
    every = np.concatenate([found[table.name] for table in tables])
    model.row_map.sharing.fill(torch.from_numpy(every))
    return model


def alike(vectors: np.ndarray, groups: int) -> np.ndarray:
    """A group, int32 in [0, groups), for each of float32 [N, d]: those that are near have the same one.

    In two steps, for N * groups distances are too many where there are millions: some sqrt(groups) coarse clusters,
    then of each its share of the groups, by how far its vectors lie from their mean.
    """
    coarse = _means(vectors, round(groups**0.5))
    members = [each for at in range(int(coarse.max()) + 1) if len(each := np.flatnonzero(coarse == at))]
    spread = np.array([np.square(vectors[each] - vectors[each].mean(0)).sum() for each in members])
    shares = _shares(spread, np.array([len(each) for each in members]), groups)
    found = np.zeros(len(vectors), np.int32)
    for each, count, first in zip(members, shares, np.cumsum(shares) - shares, strict=True):
        found[each] = first + _means(vectors[each], int(count))
    return found


def _means(vectors: np.ndarray, groups: int) -> np.ndarray:
    """The nearest of at most `groups` means, int32 [N], learned from a sample where there are many.

    On one thread: several add their sums in whatever order they come.
    """
    step = -(-len(vectors) // SAMPLE)
    some = vectors[::step]
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different vectors than groups
        means = KMeans(min(groups, len(some)), n_init=1, max_iter=ITERATIONS, random_state=0).fit(some)
        return means.labels_ if step == 1 else means.predict(vectors)


def _shares(spread: np.ndarray, sizes: np.ndarray, groups: int) -> np.ndarray:
    """`groups` dealt out in proportion to `spread`, at least one to each and no more than its size, int64."""
    shares = np.ones(len(sizes), np.int64)
    while (room := shares < sizes).any() and (left := groups - int(shares.sum())) > 0:
        wanted = np.where(room, spread + spread.sum() * 1e-9 + 1e-30, 0.0)
        more = np.minimum(np.floor(left * wanted / wanted.sum()).astype(np.int64), sizes - shares)
        if not more.any():  # less than one each: the widest first
            more[np.argsort(-wanted, kind="stable")[:left]] = 1
        shares += np.minimum(more, sizes - shares)
    return shares
