"""Tonight's student and the champion on the same rows: metrics, and paired bootstrap intervals of their difference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recdistill.clicklog.schema import Dataset
from recdistill.errors import UserError
from recdistill.evaluate.bootstrap import block_rows, class_sums, components, replicates
from recdistill.evaluate.gap import Estimate
from recdistill.evaluate.metrics import Array, AucAccumulator, Floats, LogLossSums, population_logit
from recdistill.evaluate.predictions import Rows, read_logits, read_rows
from recdistill.export import score
from recdistill.nightly.gates import Interval
from recdistill.remote import Remote

LEAST_PROBABILITY = 1e-7


@dataclass(frozen=True)
class Judged:
    """Models on the same test rows: what each is worth, and in each resample; `auc`, `ne` and `calibration`."""

    values: list[dict[str, float]]
    replicates: dict[str, Floats]
    """Per metric, float64 [resamples, models]."""
    confidence: float

    def interval(self, metric: str, model: int) -> Interval:
        """A model's own metric."""
        return _interval(self._estimate(metric, model), self.confidence)

    def above(self, metric: str, model: int, other: int) -> Interval:
        """By how much a model's metric exceeds another's, resample by resample."""
        return _interval(self._estimate(metric, model) - self._estimate(metric, other), self.confidence)

    def _estimate(self, metric: str, model: int) -> Estimate:
        return Estimate(self.values[model][metric], self.replicates[metric][:, model])


def judge(dataset: Dataset, predictions: list[Path], scratch: Path, resamples: int, confidence: float) -> Judged:
    """Judges predictions files (`example_id`, `logit` in the dataset's order) on the test rows.

    Raises:
        UserError: a file does not hold the test rows, or they are all of one class.
    """
    rows = read_rows(dataset, [], scratch)
    logits = np.zeros((len(predictions), len(rows)), np.float32)
    for path, out in zip(predictions, logits, strict=True):
        read_logits(path, rows, out)
    if rows.label.all() or not rows.label.any():
        raise UserError(f"{dataset.root}: the test rows are all of one class, so no student can be judged on them")
    values, placements = zip(*(_measure(rows, logit) for logit in logits), strict=True)
    exact = np.array([found["auc"] for found in values])
    sums = class_sums(_blocks(rows, logits, np.stack(placements), block_rows(resamples)), resamples, seed=0)
    return Judged(list(values), replicates(sums, exact), confidence)


def champion_predictions(
    student: Path, logs: Sequence[Path | Remote], dataset: Dataset, out: Path, scratch: Path
) -> None:
    """Has an exported student score the test rows from the raw log, as serving does, in the dataset's own order.

    Its ids and means are its own, so nothing is lost on the way from one night's vocabulary to another's.
    """
    score(student, logs, scratch / "champion.parquet")
    wanted = np.concatenate([_ids(part.path) for part in dataset.parts("test")])
    order = np.argsort(wanted, kind="stable")
    logit = np.full(len(wanted), np.nan)
    for batch in pq.ParquetFile(scratch / "champion.parquet").iter_batches():
        ids = batch.column("example_id").to_numpy()
        at = np.minimum(np.searchsorted(wanted, ids, sorter=order), len(wanted) - 1)
        hit = wanted[order[at]] == ids
        p = np.clip(batch.column("probability").to_numpy()[hit].astype(np.float64), LEAST_PROBABILITY, 1 - 1e-7)
        logit[order[at[hit]]] = np.log(p) - np.log1p(-p)
    if np.isnan(logit).any():
        raise UserError(
            f"{student}: it scored the log of {dataset.days[-1]}, and {int(np.isnan(logit).sum()):,} test rows are not "
            "in it; was the log changed since the night's ingest? Run the night again"
        )
    # Probabilities speak about true traffic; what is judged here is in the log's own terms, as a student's are.
    logit -= np.log(dataset.schema.negative_keep_rate)
    pq.write_table(pa.table({"example_id": wanted, "logit": logit.astype(np.float32)}), out)


def _ids(path: Path) -> Array:
    return pq.read_table(path, columns=["example_id"], partitioning=None)["example_id"].to_numpy()


def _measure(rows: Rows, logit: Array) -> tuple[dict[str, float], Floats]:
    ranks, sums = AucAccumulator(), LogLossSums()
    ranks.update(rows.label, logit, rows.weight if rows.weighted else None)
    sums.update(rows.label, population_logit(logit, rows.negative_keep_rate), rows.weight)
    return {**sums.compute(), "auc": ranks.compute()}, ranks.placements(rows.label, logit)


def _blocks(rows: Rows, logits: Array, placements: Floats, size: int) -> Iterator[tuple[Array, Array]]:
    for at in rows.chunks(size):
        moved = population_logit(logits[:, at], rows.negative_keep_rate)
        yield rows.label[at], components(rows.label[at], moved, placements[:, at], rows.weight[at])


def _interval(estimate: Estimate, confidence: float) -> Interval:
    return Interval(estimate.value, *estimate.interval(confidence))
