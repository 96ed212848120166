"""Runs side by side, and paired tests wherever models were judged on the same rows.

Two runs share their rows when their test splits hold the same examples with the same labels and weights, in the same
order. Then one draw of rows serves both, and where their seeds are the same, one draw of seeds.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from recdistill.evaluate import gap as gaps
from recdistill.evaluate.finished import FinishedRun, apart, judge, pairs, read_runs, record
from recdistill.evaluate.metrics import HIGHER_IS_BETTER
from recdistill.evaluate.report import rounded
from recdistill.evaluate.trainings import of_one_job, trainings


def compare(folders: list[Path]) -> dict[str, Any]:
    """Compares runs.

    Args:
        folders: run folders; the first is what the others are tested against.

    Returns:
        Fit for JSON. `runs`: a record each, in order. `inside`: paired differences of models of one run. `between`:
        of the same method in two runs on the same rows. `refused`: pairs of runs that were not tested, and why.
        `trainings`: what holds over runs that differ from the first by the seeds of teachers alone (see `trainings`).
        Differences are signed so that plus is better, in NE too; intervals are not widened for their number.

    Raises:
        UserError: a run has no report.
    """
    runs = read_runs(folders)
    first = runs[0]
    settings = first.report["bootstrap"]
    between: list[dict[str, Any]] = []
    refused, paired = [], [first]
    with tempfile.TemporaryDirectory(prefix="recdistill-compare-") as name:
        for number, run in enumerate(runs):
            # Seeds that are not the same must not be drawn together.
            other = 0 if run.seeds == first.seeds else number
            judge(run, Path(name) / str(number), settings, settings["seed"] + other)
        for run in runs[1:]:
            reason = apart(first, run)
            if reason is None:
                paired.append(run)
                between += _between(first, run, settings["confidence"])
            else:
                refused.append({"run": run.label, "against": first.label, "reason": reason})
        inside = [pair for run in runs for pair in _inside(run, settings["confidence"])]
        together = trainings(of_one_job(paired), settings)
    return rounded(
        {
            "version": 1,
            "confidence": settings["confidence"],
            "runs": [record(run.label, run.folder, run.report) for run in runs],
            "inside": inside,
            "between": between,
            "refused": refused,
            "trainings": together,
        }
    )


def _inside(run: FinishedRun, confidence: float) -> list[dict[str, Any]]:
    """Every two methods of a run, and each against the foundation; what its report has where predictions are gone."""
    if not run.estimates:
        return [{"run": run.label, **pair} for pair in run.report["comparisons"]]
    return pairs(run.label, run.estimates, confidence)


def _between(first: FinishedRun, run: FinishedRun, confidence: float) -> list[dict[str, Any]]:
    """Each method of both runs."""
    return [
        {
            "run": run.label,
            "against": first.label,
            "method": name,
            **{m: gaps.stat(run.estimates[name][m] - first.estimates[name][m], confidence) for m in HIGHER_IS_BETTER},
        }
        for name in run.methods
        if name in run.estimates and name in first.estimates
    ]
