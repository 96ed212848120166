"""A run folder as pandas frames. Nothing is computed again: numbers come from `report.json` and `training.json`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recdistill.evaluate.finished import read_run, record
from recdistill.evaluate.page import headline, hero_of
from recdistill.files import read_json

METRICS = ("auc", "ne")
_ENDS = ("mean", "low", "high")


@dataclass(frozen=True)
class RunView:
    """A finished run. `label` is its folder's name, `report` the content of its `report.json`."""

    label: str
    folder: Path
    report: dict[str, Any]

    @property
    def headline(self) -> str:
        """The answer in one sentence."""
        return headline(self.report)

    @property
    def hero(self) -> str | None:
        """The method that the run is about: `diverse`, or the last one in its place."""
        return hero_of(self.report["gap_recovered"])

    @property
    def record(self) -> dict[str, Any]:
        """What stands for the run beside others; see `evaluate.compare`."""
        return record(self.label, self.folder, self.report)

    def models(self) -> pd.DataFrame:
        """A row a model: `role`, `parameters`, `coverage`, and of each metric its `mean`, `low`, `high`."""
        plain = ("role", "parameters", "coverage")
        return _frame(
            {
                name: {("", key): model[key] for key in plain} | _ends(model, ("auc", "ne", "log_loss", "calibration"))
                for name, model in self.report["models"].items()
            }
        )

    def gap(self) -> pd.DataFrame:
        """A row a metric: how far the foundation is ahead of the student alone; a `reason` where that is not clear."""
        return pd.DataFrame(self.report["gap"]).T.reindex(columns=[*_ENDS, "reason"])

    def recovered(self) -> pd.DataFrame:
        """A row a method: the share of the gap that it recovers, by metric; missing where there is no gap."""
        return _frame({name: _ends(found, METRICS) for name, found in self.report["gap_recovered"].items()})

    def comparisons(self) -> pd.DataFrame:
        """A row for the foundation and each baseline: by how much the hero is better, by metric."""
        return _frame({pair["against"]: _ends(pair, METRICS) for pair in self.report["comparisons"]})

    def seeds(self) -> pd.DataFrame:
        """A row a method and seed: every metric of that student."""
        found = {
            (name, int(seed)): metrics
            for name, model in self.report["models"].items()
            for seed, metrics in model.get("per_seed", {}).items()
        }
        return pd.DataFrame.from_dict(found, orient="index").rename_axis(index=["method", "seed"])

    def calibration(self) -> pd.DataFrame:
        """A row a model and bin: `share` of the rows, mean `prediction`, and the `rate` of clicks."""
        curves = {name: pd.DataFrame(curve) for name, curve in self.report["reliability"].items()}
        return pd.concat(curves, names=["model", "bin"])

    def importance(self, feature: str | None = None) -> pd.DataFrame:
        """A row a value of a slice feature, or one row for all test rows: each teacher's mean importance.

        Empty where no method weighs its teachers.

        Raises:
            KeyError: the feature was not among the job's `evaluate.slices`.
        """
        found = self.report["importance"]
        if found is None:
            return pd.DataFrame()
        if feature is None:
            return pd.DataFrame([found["overall"]], index=["all rows"])
        part = _slice(found["slices"], feature)
        return pd.DataFrame({row["value"]: row["importance"] for row in part}).T.rename_axis(feature)

    def slices(self, feature: str) -> pd.DataFrame:
        """A row a value of a slice feature: `rows`, `positives`, and AUC, NE and calibration of each model.

        Raises:
            KeyError: the feature was not among the job's `evaluate.slices`.
        """
        return _by_value(_slice(self.report["slices"], feature)).rename_axis(feature)

    def days(self) -> pd.DataFrame:
        """The same for the days of the test, a row each, in order. Empty for one day alone and for old reports."""
        return _by_value(self.report.get("days", [])).rename_axis("day")

    def passes(self) -> pd.Series:
        """Teacher passes, a teacher scoring a row each: all there are, computed, reused, saved."""
        return pd.Series(self.report["teacher_forwards"] or {}, dtype="int64", name=self.label)

    def curve(self) -> pd.DataFrame:
        """A row a share of teacher passes saved: what is recovered of the gap, and the difference to all passes.

        Empty where the job asks for no curve (`teachers.route.curve`).
        """
        rows = {}
        for number, point in enumerate(self.report["curve"]):  # two of them may save as much
            shares = {f"{metric} gap recovered": point["recovered"][metric] for metric in METRICS}
            shares |= {f"{metric} difference": point["against_full"][metric] for metric in METRICS}
            rows[number] = _ends(shares, shares)
        saved = pd.Index([point["saved"] for point in self.report["curve"]], name="saved", dtype="float64")
        return _frame(rows).set_axis(saved)

    def training(self) -> pd.DataFrame:
        """A row a method, seed and check: validation `ne`, and the training `loss` since the check before.

        Empty where the run folder keeps its report alone.
        """
        found = {}
        for method, model in self.report["models"].items():
            for seed in model.get("per_seed", {}):
                path = self.folder / "stages" / "distill" / method / f"seed-{seed}" / "training.json"
                if path.exists():
                    log = read_json(path)
                    curves = {"ne": pd.Series(log["checks"]), "loss": pd.Series(log["losses"])}
                    found[method, int(seed)] = pd.DataFrame(curves).rename(lambda check: check + 1)
        return pd.concat(found, names=["method", "seed", "check"]) if found else pd.DataFrame(columns=["ne", "loss"])


def open_run(folder: Path | str) -> RunView:
    """A finished run.

    Raises:
        UserError: the folder has no report.
    """
    found = read_run(Path(os.path.realpath(folder)))
    return RunView(found.label, found.folder, found.report)


def find_runs(folder: Path | str) -> list[RunView]:
    """Every finished run in a folder, the one finished first first."""
    reports = sorted(Path(folder).glob("*/report.json"), key=lambda path: (path.stat().st_mtime_ns, path))
    return [open_run(path.parent) for path in reports]


def side_by_side(runs: Iterable[RunView]) -> pd.DataFrame:
    """A row a model and run: AUC, NE and the shares of the gap recovered, each with its interval."""
    found = {}
    for run in runs:
        for name, model in run.report["models"].items():
            shares = run.report["gap_recovered"].get(name, {})
            recovered = {f"{metric} gap recovered": shares.get(metric) for metric in METRICS}
            found[name, run.label] = _ends(model, METRICS) | _ends(recovered, recovered)
    return _frame(found).sort_index(level=0, sort_remaining=False, key=_order(found)).rename_axis(["model", "run"])


def readable(frame: pd.DataFrame, form: str = ".4f") -> pd.DataFrame:
    """The same frame for people: `mean`, `low` and `high` of each metric in one cell, written in `form`."""
    out = {}
    for metric in dict.fromkeys(column[0] for column in frame.columns if column[1] in _ENDS):
        ends = frame[[(metric, end) for end in _ENDS]].to_numpy(dtype=float)
        shape = ".0%" if metric.endswith("recovered") else form
        out[metric] = [_interval(["?" if np.isnan(value) else format(value, shape) for value in row]) for row in ends]
    return pd.DataFrame(out, index=frame.index)


def _interval(ends: list[str]) -> str:
    mean, low, high = ends
    return "" if mean == "?" else f"{mean} [{low}, {high}]"


def _order(found: Iterable[tuple[str, str]]) -> Any:
    """Sorts names by their first appearance."""
    place = {name: at for at, name in enumerate(dict.fromkeys(name for name, _ in found))}
    return lambda names: names.map(place)


def _ends(stats: dict[str, Any], metrics: Iterable[str]) -> dict[tuple[str, str], float]:
    """`mean`, `low`, `high` of some metrics; missing where there is no such number."""
    return {
        (metric, end): float("nan") if stats[metric] is None or stats[metric][end] is None else stats[metric][end]
        for metric in metrics
        for end in _ENDS
    }


def _frame(rows: dict[Any, dict[tuple[str, str], Any]]) -> pd.DataFrame:
    """A row a key, columns of two levels."""
    keys = list(dict.fromkeys(key for row in rows.values() for key in row))
    values = [[row.get(key) for key in keys] for row in rows.values()]
    columns = pd.MultiIndex.from_tuples(keys) if keys else None
    return pd.DataFrame(values, index=pd.Index(list(rows)), columns=columns)


def _by_value(records: list[dict[str, Any]]) -> pd.DataFrame:
    """A row a value of what rows were told apart by."""
    found = {
        row["value"]: {("", "rows"): row["rows"], ("", "positives"): row["positives"]}
        | {(model, metric): value for model, each in row["models"].items() for metric, value in each.items()}
        for row in records
    }
    return _frame(found)


def _slice(parts: list[dict[str, Any]], feature: str) -> list[dict[str, Any]]:
    for part in parts:
        if part["feature"] == feature:
            return part["values"]
    known = ", ".join(part["feature"] for part in parts) or "none"
    raise KeyError(f"{feature!r} was not among the job's evaluate.slices, which are: {known}")
