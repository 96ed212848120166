"""report.json: what every model is worth on the test rows, and how much of the gap each method recovers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from recdistill.clicklog.schema import Dataset
from recdistill.config.job import Evaluate
from recdistill.evaluate import gap as gaps
from recdistill.evaluate.bootstrap import seed_draws, seed_stretch
from recdistill.evaluate.caveats import caveats
from recdistill.evaluate.gap import Estimate
from recdistill.evaluate.lineup import ALONE, COMMITTEE, DIVERSE, ORACLE, Lineup, line_up
from recdistill.evaluate.metrics import HIGHER_IS_BETTER, METRICS
from recdistill.evaluate.predictions import Rows, Scored, read_rows
from recdistill.evaluate.reliability import Reliability
from recdistill.evaluate.scoreboard import Scoreboard, score
from recdistill.evaluate.slices import by_day, cut, importance, slice_metrics

__all__ = ["Scored", "evaluate"]

NO_ECE_INTERVAL = "no interval: resampling adds to a binned error"


def evaluate(dataset: Dataset, models: list[Scored], settings: Evaluate, context: dict[str, Any]) -> dict[str, Any]:
    """Judges every model on the dataset's test rows.

    Args:
        dataset: the ingested dataset; its test split is read once.
        models: the teachers, the foundation among them, the committee, and every method's students, `alone` among them,
            all with the same seeds.
        settings: the job's `evaluate:` section.
        context: what only the run knows, copied to the report. All may be absent: `name` of the job, `foundation` (that
            teacher's name, by default "foundation"), `regime` (which rows teachers scored), `in_sample` (teachers known
            by a file who had learned from training rows that they scored), `teacher_forwards` (row-teacher pairs: full,
            computed, reused, saved), `saved` (the share that `diverse` does without), `pairs` (by the share saved, for
            `diverse` and each point of the trade-off curve: all pairs and those kept), `worth` (on how many validation
            `rows`, and of `teachers` by how much NE of the committee's word is worse without each, with its standard
            error),
            `account` (records of model, tables, dense, total parameters; and, where ids share rows, how many `ids` have
            one `each`, share one by `likeness`, and by `hash`), `without` (records of `methods` and of the `features`
            that their students do without), `timings` (seconds a stage).

    Returns:
        report.json's content, version 1: fit for JSON, no NaN, no date, the same for the same inputs. A metric's `mean`
        is exact, over seeds; `low` and `high` are its percentile interval over resampled rows and seeds. Gaps and
        comparisons are signed so that positive is better, for NE too.

    Raises:
        UserError: models do not fit together, or a predictions file does not fit the test rows.
    """
    lineup = line_up(models, context.get("foundation", "foundation"))
    with tempfile.TemporaryDirectory(prefix="recdistill-evaluate-") as folder:
        scratch = Path(folder)
        rows = read_rows(dataset, settings.slices, scratch)
        board = score(lineup, rows, scratch, settings.resamples, settings.seed)
        slices, days = cut(dataset, rows, scratch), by_day(dataset, rows, scratch)
        methods = [name for name in lineup.methods if name not in lineup.curve]
        shown = {name: board.columns[name] for name in (lineup.foundation.name, *methods)}
        report = {
            "version": 1,
            "name": context.get("name"),
            "regime": context.get("regime"),
            "in_sample": context.get("in_sample", []),
            "dataset": _dataset(dataset, rows),
            "params": _params(lineup),
            "foundation": lineup.foundation.name,
            "seeds": lineup.seeds,
            "bootstrap": settings.model_dump(include={"resamples", "confidence", "seed"}),
            **_Judge(lineup, board, settings).verdict(context.get("saved", 0.0), context.get("pairs", {})),
            "reliability": {
                name: _reliability(board, columns)
                for name, columns in board.columns.items()
                if name not in lineup.curve
            },
            "days": slice_metrics(days, rows, board.logits, shown) if days else [],
            "slices": [
                {"feature": part.feature, "values": slice_metrics(part, rows, board.logits, shown)} for part in slices
            ],
            "importance": importance(lineup.paths(DIVERSE), rows, slices),
            "heard": _heard(context.get("pairs", {}).get(context.get("saved"))),
            "worth": _worth(context.get("worth"), settings.confidence),
            "account": context.get("account", []),
            "without": context.get("without", []),
            "teacher_forwards": context.get("teacher_forwards"),
            "timings": context.get("timings", {}),
        }
    return rounded({**report, "warnings": caveats(report)})


class _Judge:
    """What the scoreboard says about models, gaps and methods."""

    def __init__(self, lineup: Lineup, board: Scoreboard, settings: Evaluate) -> None:
        self._lineup, self._board, self._confidence = lineup, board, settings.confidence
        draws = seed_draws(len(lineup.seeds), settings.resamples, settings.seed)
        stretch = seed_stretch(len(lineup.seeds), settings.confidence)
        once = np.zeros((settings.resamples, 1), np.intp)
        self._estimates = {
            name: {
                metric: gaps.over_seeds(
                    np.array([board.measured[column].values[metric] for column in columns]),
                    board.replicates[metric][:, columns],
                    draws if name in lineup.methods else once,
                    stretch,
                )
                for metric in METRICS
            }
            for name, columns in board.columns.items()
        }

    def verdict(self, saved: float, pairs: dict[float, tuple[int, int]]) -> dict[str, Any]:
        foundation = self._lineup.foundation.name
        to_foundation = self._accounts(dict.fromkeys(HIGHER_IS_BETTER, foundation))
        rivals = [foundation] if self._board.coverage(foundation) == 1 else []
        rivals = [*rivals, *self._lineup.baselines] if DIVERSE in self._lineup.methods else []
        return {
            "models": {
                name: self._model(name)
                for name in self._board.columns
                if name != ORACLE and name not in self._lineup.curve
            },
            "oracle": self._stats(ORACLE) if ORACLE in self._board.columns else None,
            "gap": {metric: found["gap"] for metric, found in to_foundation.items()},
            "gap_recovered": {
                method: {metric: found["recovered"][method] for metric, found in to_foundation.items()}
                for method in self._lineup.distilled
            },
            "against": {
                "best_member": self._accounts(self._best_members()),
                COMMITTEE: self._accounts(dict.fromkeys(HIGHER_IS_BETTER, COMMITTEE)),
            },
            "comparisons": [self._comparison(rival) for rival in rivals],
            "curve": self._curve(saved, pairs),
        }

    def _curve(self, chosen: float, pairs: dict[float, tuple[int, int]]) -> list[dict[str, Any]]:
        """What `diverse` is worth from fewer answers: per share of pairs saved, against itself with all of them.

        One of them is `diverse` as it stands among the methods, which does without the share `chosen`.
        """
        if not self._lineup.curve:
            return []
        points = sorted([(chosen, DIVERSE), *((saved, name) for name, saved in self._lineup.curve.items())])
        (_, full), foundation = points[0], self._lineup.foundation.name
        shares: dict[str, dict[str, Any]] = {}
        for metric in HIGHER_IS_BETTER:
            methods = {name: self._signed(name, metric) for _, name in points}
            alone, reference = self._signed(ALONE, metric), self._signed(foundation, metric)
            shares[metric] = gaps.account(methods, alone, reference, self._confidence)["recovered"]
        return [
            {
                "aimed": saved,
                "saved": 1 - pairs[saved][1] / pairs[saved][0] if saved else 0.0,
                "recovered": {metric: found[name] for metric, found in shares.items()},
                "against_full": {
                    metric: gaps.stat(self._signed(name, metric) - self._signed(full, metric), self._confidence)
                    for metric in HIGHER_IS_BETTER
                },
            }
            for saved, name in points
        ]

    def _signed(self, name: str, metric: str) -> Estimate:
        """An estimate of which higher is better."""
        estimate = self._estimates[name][metric]
        return estimate if HIGHER_IS_BETTER[metric] else -estimate

    def _accounts(self, references: dict[str, str]) -> dict[str, Any]:
        """Per metric, the gap to a reference model and what each method recovers of it."""
        found = {}
        for metric, reference in references.items():
            methods = {name: self._signed(name, metric) for name in self._lineup.distilled}
            if self._board.coverage(reference) < 1:
                reason = f"{reference} does not answer every row, so its metrics do not compare with a student's"
                parts = gaps.no_account(methods, reason)
            else:
                alone, target = self._signed(ALONE, metric), self._signed(reference, metric)
                parts = gaps.account(methods, alone, target, self._confidence)
            found[metric] = {"reference": reference, **parts}
        return found

    def _best_members(self) -> dict[str, str]:
        """Per metric, the best teacher of those that answer every row, or of all where none does."""
        names = [teacher.name for teacher in self._lineup.teachers]
        names = [name for name in names if self._board.coverage(name) == 1] or names
        return {
            metric: max(names, key=lambda name: np.nan_to_num(self._signed(name, metric).value, nan=-np.inf))
            for metric in HIGHER_IS_BETTER
        }

    def _comparison(self, rival: str) -> dict[str, Any]:
        differences = {
            metric: gaps.stat(self._signed(DIVERSE, metric) - self._signed(rival, metric), self._confidence)
            for metric in HIGHER_IS_BETTER
        }
        return {"method": DIVERSE, "against": rival, **differences}

    def _stats(self, name: str) -> dict[str, Any]:
        return {metric: gaps.stat(estimate, self._confidence) for metric, estimate in self._estimates[name].items()}

    def _model(self, name: str) -> dict[str, Any]:
        lineup, measured = self._lineup, [self._board.measured[column] for column in self._board.columns[name]]
        ece = float(np.mean([each.values["ece"] for each in measured]))
        entry = {
            "role": "student" if name in lineup.methods else "committee" if name == COMMITTEE else "teacher",
            "parameters": _sizes(lineup)[name],
            "coverage": measured[0].coverage,
            **self._stats(name),
            "ece": {"mean": _known(ece), "low": None, "high": None, "reason": NO_ECE_INTERVAL},
        }
        if name in lineup.methods:
            entry["per_seed"] = {
                str(seed): {metric: _known(value) for metric, value in sorted(each.values.items())}
                for seed, each in zip(lineup.seeds, measured, strict=True)
            }
        return entry


def _sizes(lineup: Lineup) -> dict[str, int]:
    """Parameters of each model."""
    sizes = {teacher.name: teacher.parameters for teacher in lineup.teachers}
    sizes[COMMITTEE] = lineup.committee.parameters
    return sizes | {method: max(each.parameters for each in students) for method, students in lineup.methods.items()}


def _params(lineup: Lineup) -> dict[str, Any]:
    sizes, foundation = _sizes(lineup), lineup.foundation.parameters
    student = max(sizes[method] for method in lineup.distilled or lineup.methods)
    return {"foundation": foundation, "student": student, "compression": foundation / student}


def _dataset(dataset: Dataset, rows: Rows) -> dict[str, Any]:
    weight = positive = positives = 0.0
    for at in rows.chunks():
        weight += float(rows.weight[at].sum())
        positive += float(rows.weight[at] @ rows.label[at])
        positives += np.count_nonzero(rows.label[at])
    return {
        "fingerprint": dataset.fingerprint,
        "rows": {split: dataset.rows(split) for split in ("train", "validation", "test")},
        "test_positives": int(positives),
        "base_rate": _known(positive / weight) if weight else None,
        "negative_keep_rate": rows.negative_keep_rate,
        "weighted": rows.weighted,
    }


def _reliability(board: Scoreboard, columns: list[int]) -> dict[str, list[float]]:
    """The reliability curve of a model, its seeds pooled."""
    pooled = Reliability()
    for column in columns:
        pooled.merge(board.measured[column].reliability)
    share, prediction, rate = pooled.curve().T.tolist()
    return {"share": share, "prediction": prediction, "rate": rate}


def _heard(pairs: tuple[int, int] | None) -> float | None:
    """The share of answers on rows to learn from that `diverse` hears."""
    return pairs[1] / pairs[0] if pairs and pairs[0] else None


def _worth(found: dict[str, Any] | None, confidence: float) -> dict[str, Any] | None:
    """What teachers are worth, with normal intervals."""
    if not found or not found["teachers"]:
        return None
    width = NormalDist().inv_cdf(0.5 + confidence / 2)
    teachers = {
        name: {"mean": mean, "low": mean - width * error, "high": mean + width * error}
        for name, (mean, error) in found["teachers"].items()
    }
    return {"rows": found["rows"], "teachers": teachers}


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None


def rounded(value: Any) -> Any:
    """Eight significant digits: below that the order of a sum decides, and the same job should give the same bytes."""
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return float(f"{value:.8g}") if isinstance(value, float) else value
