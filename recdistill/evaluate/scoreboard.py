"""Every model's metrics on the test rows, and what they would have been in each bootstrap resample.

Models are measured one after the other, and resampled block by block of rows: besides mapped files, memory holds the
ranks of one model, and does not grow with the number of models.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recdistill import progress
from recdistill.errors import UserError
from recdistill.evaluate.bootstrap import block_rows, class_sums, components, replicates
from recdistill.evaluate.lineup import ORACLE, Lineup
from recdistill.evaluate.metrics import Array, AucAccumulator, Floats, LogLossSums, population_logit
from recdistill.evaluate.predictions import Rows, read_logits, scratch_array, unmap
from recdistill.evaluate.reliability import Reliability


@dataclass(frozen=True)
class Measured:
    """One model over the rows that it answers."""

    values: dict[str, float]
    """`auc`, `ne`, `log_loss`, `calibration` and `ece`; NaN where its rows do not define one."""
    coverage: float
    """The fraction of test rows that it answers."""
    reliability: Reliability


@dataclass(frozen=True)
class Scoreboard:
    """All models by column: teachers, the committee, the oracle where there is one, then students."""

    columns: dict[str, list[int]]
    """Per name in the report, its columns (see `Lineup.columns`)."""
    logits: Array
    """float32 [columns, rows], in the log's own terms; NaN where a model does not answer."""
    measured: list[Measured] = field(default_factory=list)
    replicates: dict[str, Floats] = field(default_factory=dict)
    """Per metric, float64 [resamples, columns]."""

    def coverage(self, name: str) -> float:
        """The fraction of test rows that a model answers."""
        return self.measured[self.columns[name][0]].coverage


def score(lineup: Lineup, rows: Rows, scratch: Path, resamples: int, seed: int) -> Scoreboard:
    """Reads every model's predictions, measures them, and resamples them.

    Raises:
        UserError: a predictions file is not fit for use, or a student does not answer every row.
    """
    columns = lineup.columns(oracle=rows.true_probability is not None)
    size = (sum(map(len, columns.values())), len(rows))
    board = Scoreboard(columns, scratch_array(scratch, "logits", np.float32, size))
    _fill(lineup, rows, board)
    placements = scratch_array(scratch, "placements", np.float32, size)
    board.measured.extend(measure(rows, board.logits, placements))
    for method, students in lineup.methods.items():
        for student, column in zip(students, columns[method], strict=True):
            if board.measured[column].coverage < 1:
                raise UserError(
                    f"{student.path}: a logit is null; expected a student to answer every row: score it again"
                )
    board.replicates.update(resample(rows, board.logits, placements, board.measured, resamples, seed))
    return board


def measure(rows: Rows, logits: Array, placements: Array) -> list[Measured]:
    """Measures models, and fills in their placement values.

    Args:
        rows: the test rows.
        logits: float32 [models, rows], in the log's own terms; NaN where a model does not answer.
        placements: float32 [models, rows], to be written.
    """
    found = []
    for logit, placement in zip(logits, placements, strict=True):
        found.append(_measure(rows, logit, placement))
        progress.current().update("measure models", len(found), len(logits))
    return found


def resample(
    rows: Rows, logits: Array, placements: Array, measured: list[Measured], resamples: int, seed: int
) -> dict[str, Floats]:
    """Per metric, what each model would have been worth in each resample: float64 [resamples, models].

    The draws depend on `resamples`, `seed` and the number of rows alone: models that are resampled apart are paired.
    """
    exact = np.array([each.values["auc"] for each in measured])
    sums = class_sums(_blocks(rows, logits, placements, block_rows(resamples)), resamples, seed)
    return replicates(sums, exact)


def _fill(lineup: Lineup, rows: Rows, board: Scoreboard) -> None:
    """Fills the columns of logits."""
    for model in (*lineup.teachers, lineup.committee):
        read_logits(model.path, rows, board.logits[board.columns[model.name][0]])
    for method, students in lineup.methods.items():
        for student, column in zip(students, board.columns[method], strict=True):
            read_logits(student.path, rows, board.logits[column])
    if rows.true_probability is not None:
        for at in rows.chunks():
            known = np.clip(rows.true_probability[at].astype(np.float64), 1e-9, 1 - 1e-9)
            board.logits[board.columns[ORACLE][0], at] = np.log(known) - np.log1p(-known)
            unmap(rows.true_probability, board.logits)


def _measure(rows: Rows, logit: Array, placement: Array) -> Measured:
    ranks, sums, reliability, answered = AucAccumulator(), LogLossSums(), Reliability(), 0
    for at, there in _answered(rows, logit):
        label, weight = rows.label[at][there], rows.weight[at][there]
        ranks.update(label, logit[at][there], weight if rows.weighted else None)
        moved = population_logit(logit[at][there], rows.negative_keep_rate)
        sums.update(label, moved, weight)
        reliability.update(label, moved, weight)
        answered += len(label)
    found = sums.compute()
    values = {name: found[name] for name in ("ne", "log_loss", "calibration")}
    values |= {"auc": ranks.compute(), "ece": reliability.ece()}
    if np.isfinite(values["auc"]):
        for at, there in _answered(rows, logit):
            placed = np.zeros(len(there))
            placed[there] = ranks.placements(rows.label[at][there], logit[at][there])
            placement[at] = placed
            unmap(placement)
    return Measured(values, answered / len(rows), reliability)


def _answered(rows: Rows, logit: Array) -> Iterator[tuple[slice, NDArray[np.bool_]]]:
    for at in rows.chunks():
        yield at, ~np.isnan(logit[at])
        unmap(logit)


def _blocks(rows: Rows, logits: Array, placements: Array, size: int) -> Iterator[tuple[Array, NDArray[np.float32]]]:
    for at in rows.chunks(size):
        moved = population_logit(logits[:, at], rows.negative_keep_rate)
        yield rows.label[at], components(rows.label[at], moved, placements[:, at], rows.weight[at])
        unmap(logits, placements)
        progress.current().update("resample test rows", at.stop, len(rows))
