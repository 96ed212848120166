"""Runs side by side, and paired tests wherever models were judged on the same rows.

Two runs share their rows when their test splits hold the same examples with the same labels and weights, in the same
order. Then one draw of rows serves both, and where their seeds are the same, one draw of seeds.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from recdistill.clicklog.schema import Dataset
from recdistill.errors import UserError
from recdistill.evaluate import gap as gaps
from recdistill.evaluate.bootstrap import seed_draws, seed_stretch
from recdistill.evaluate.gap import Estimate
from recdistill.evaluate.metrics import HIGHER_IS_BETTER
from recdistill.evaluate.predictions import Rows, read_logits, read_rows, scratch_array
from recdistill.evaluate.report import rounded
from recdistill.evaluate.reports import read_report
from recdistill.evaluate.scoreboard import measure, resample


@dataclass
class FinishedRun:
    """A run folder with a report. `label` tells it from the others."""

    label: str
    folder: Path
    report: dict[str, Any]
    rows: Rows | None = None
    """Its test rows, where the folder still holds them."""
    estimates: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    """Per method and metric, higher being better."""

    @property
    def methods(self) -> list[str]:
        """The students' methods."""
        return [name for name, model in self.report["models"].items() if model["role"] == "student"]


def read_run(folder: Path, label: str | None = None) -> FinishedRun:
    """A finished run.

    Raises:
        UserError: there is no report, or one of another version.
    """
    folder = Path(folder)
    if not (folder / "report.json").is_file():
        what = "has no report.json: finish it with `recdistill run`" if folder.is_dir() else "there is no such folder"
        raise UserError(f"{folder}: {what}; expected the folder of a finished run")
    return FinishedRun(label or folder.name, folder, read_report(folder / "report.json"))


def read_runs(folders: list[Path]) -> list[FinishedRun]:
    """Several runs, called by their folders' names where these differ, else by their paths."""
    folders = list(dict.fromkeys(Path(folder) for folder in folders))
    names = [os.path.basename(os.path.realpath(folder)) for folder in folders]
    labels = names if len(set(names)) == len(names) else [str(folder) for folder in folders]
    labels = [label.encode(errors="backslashreplace").decode() for label in labels]  # a name may be any bytes
    return [read_run(folder, label) for folder, label in zip(folders, labels, strict=True)]


def compare(folders: list[Path]) -> dict[str, Any]:
    """Compares runs.

    Args:
        folders: run folders; the first is what the others are tested against.

    Returns:
        Fit for JSON. `runs`: a record each, in order. `inside`: paired differences of methods of one run. `between`:
        of the same method in two runs on the same rows. `refused`: pairs of runs that were not tested, and why.
        Differences are signed so that plus is better, in NE too; intervals are not widened for their number.

    Raises:
        UserError: a run has no report.
    """
    runs = read_runs(folders)
    first = runs[0]
    settings = first.report["bootstrap"]
    between: list[dict[str, Any]] = []
    refused = []
    with tempfile.TemporaryDirectory(prefix="recdistill-compare-") as name:
        for number, run in enumerate(runs):
            # Seeds that are not the same must not be drawn together.
            apart = 0 if _seeds(run) == _seeds(first) else number
            _judge(run, Path(name) / str(number), settings, settings["seed"] + apart)
        for run in runs[1:]:
            reason = _apart(first, run)
            if reason is None:
                between += _between(first, run, settings["confidence"])
            else:
                refused.append({"run": run.label, "against": first.label, "reason": reason})
        inside = [pair for run in runs for pair in _inside(run, settings["confidence"])]
    return rounded(
        {
            "version": 1,
            "confidence": settings["confidence"],
            "runs": [record(run.label, run.folder, run.report) for run in runs],
            "inside": inside,
            "between": between,
            "refused": refused,
        }
    )


def _judge(run: FinishedRun, scratch: Path, settings: dict[str, Any], seed_of_seeds: int) -> None:
    """Reads a run's test rows and students, and resamples them; does nothing where they are not kept."""
    paths = {
        method: [run.folder / "stages" / "distill" / method / f"seed-{seed}" / "test.parquet" for seed in _seeds(run)]
        for method in run.methods
    }
    dataset = run.folder / "stages" / "ingest"
    if not (dataset / "manifest.json").exists() or not all(path.exists() for path in itertools.chain(*paths.values())):
        return
    scratch.mkdir()
    run.rows = rows = read_rows(Dataset(dataset), [], scratch)
    size = (sum(map(len, paths.values())), len(rows))
    logits, placements = (scratch_array(scratch, name, np.float32, size) for name in ("logits", "placements"))
    for path, out in zip(itertools.chain(*paths.values()), logits, strict=True):
        read_logits(path, rows, out)
    measured = measure(rows, logits, placements)
    drawn = resample(rows, logits, placements, measured, settings["resamples"], settings["seed"])
    seeds = _seeds(run)
    draws = seed_draws(len(seeds), settings["resamples"], seed_of_seeds)
    stretch = seed_stretch(len(seeds), settings["confidence"])
    for number, method in enumerate(paths):
        at = range(number * len(seeds), (number + 1) * len(seeds))
        run.estimates[method] = {}
        for metric, higher in HIGHER_IS_BETTER.items():
            values = np.array([measured[column].values[metric] for column in at])
            estimate = gaps.over_seeds(values, drawn[metric][:, list(at)], draws, stretch)
            run.estimates[method][metric] = estimate if higher else -estimate


def _seeds(run: FinishedRun) -> list[int]:
    return run.report["seeds"]


def _apart(first: FinishedRun, other: FinishedRun) -> str | None:
    """Why two runs cannot be tested against each other, or None where they share their rows."""
    for run in (first, other):
        if run.rows is None:
            return f"{run.label} keeps no test rows or predictions any more, so there is nothing to pair"
    assert first.rows is not None and other.rows is not None
    if len(first.rows) != len(other.rows):
        counts = f"{len(other.rows):,} rows against {len(first.rows):,}"
        return f"they were judged on other rows ({counts}), so they stand side by side without a paired test"
    for what in ("example_id", "label", "weight"):
        if not np.array_equal(getattr(first.rows, what), getattr(other.rows, what)):
            name = {"example_id": "rows", "label": "labels", "weight": "weights"}[what]
            return f"they were judged on other {name}, so they stand side by side without a paired test"
    return None


def _inside(run: FinishedRun, confidence: float) -> list[dict[str, Any]]:
    """Every two methods of a run; those that its report compares where its predictions are gone."""
    if not run.estimates:
        return [{"run": run.label, **pair} for pair in run.report["comparisons"]]
    return [
        {"run": run.label, "method": one, "against": other, **_differences(run, one, run, other, confidence)}
        for other, one in itertools.combinations(run.estimates, 2)
    ]


def _between(first: FinishedRun, run: FinishedRun, confidence: float) -> list[dict[str, Any]]:
    """Each method of both runs."""
    pairs = {"run": run.label, "against": first.label}
    return [
        {**pairs, "method": method, **_differences(run, method, first, method, confidence)}
        for method in run.estimates
        if method in first.estimates
    ]


def _differences(run: FinishedRun, method: str, other: FinishedRun, against: str, confidence: float) -> dict[str, Any]:
    return {
        metric: gaps.stat(run.estimates[method][metric] - other.estimates[against][metric], confidence)
        for metric in HIGHER_IS_BETTER
    }


def record(label: str, folder: Path, report: dict[str, Any]) -> dict[str, Any]:
    """What stands for a run beside others, all from its report."""
    passes, timings = report.get("teacher_forwards"), report.get("timings") or {}
    return {
        "label": label,
        "folder": str(folder).encode(errors="backslashreplace").decode(),
        "name": report["name"],
        "dataset": report["dataset"]["fingerprint"],
        "test_rows": report["dataset"]["rows"]["test"],
        "seeds": report["seeds"],
        "foundation": report["foundation"],
        "params": report["params"],
        "passes": passes,
        "passes_saved": 1 - passes["computed"] / passes["full"] if passes and passes["full"] else None,
        "seconds": sum(timings.values()),
        "gap": report["gap"],
        "models": {
            name: {
                "role": model["role"],
                "parameters": model["parameters"],
                "auc": model["auc"],
                "ne": model["ne"],
                "gap_recovered": report["gap_recovered"].get(name),
            }
            for name, model in report["models"].items()
        },
        "warnings": report["warnings"],
    }
