"""A finished run: its report, and where its folder still holds them, its test rows and what its students say there."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from recdistill.clicklog.schema import Dataset
from recdistill.errors import UserError
from recdistill.evaluate import gap as gaps
from recdistill.evaluate.bootstrap import seed_draws, seed_stretch
from recdistill.evaluate.gap import Estimate
from recdistill.evaluate.metrics import HIGHER_IS_BETTER, Floats
from recdistill.evaluate.predictions import Rows, read_logits, read_rows, scratch_array
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
    """Per method and metric, higher being better: a mean over seeds, which is resampled over rows and seeds. The
    foundation's, too, where it answers every row."""
    by_seed: dict[str, dict[str, tuple[Floats, Floats]]] = field(default_factory=dict)
    """The same before it is a mean: the value of each seed, [seeds], and what it was in resamples of rows, [resamples,
    seeds]; the foundation's as of one seed."""

    @property
    def seeds(self) -> list[int]:
        """Of each method's students."""
        return self.report["seeds"]

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


def judge(run: FinishedRun, scratch: Path, settings: dict[str, Any], seed_of_seeds: int) -> None:
    """Reads a run's test rows, its students and its foundation, and resamples them; nothing where they are not kept."""
    stages, foundation = run.folder / "stages", run.report["foundation"]
    paths = {
        method: [stages / "distill" / method / f"seed-{seed}" / "test.parquet" for seed in run.seeds]
        for method in run.methods
    }
    if not (stages / "ingest" / "manifest.json").exists() or not all(
        path.exists() for path in itertools.chain(*paths.values())
    ):
        return
    if (answers := stages / "evaluate" / "teachers" / f"{foundation}.parquet").exists():
        paths = {foundation: [answers], **paths}
    scratch.mkdir()
    run.rows = rows = read_rows(Dataset(stages / "ingest"), [], scratch)
    size = (sum(map(len, paths.values())), len(rows))
    logits, placements = (scratch_array(scratch, name, np.float32, size) for name in ("logits", "placements"))
    for path, out in zip(itertools.chain(*paths.values()), logits, strict=True):
        read_logits(path, rows, out)
    measured = measure(rows, logits, placements)
    drawn = resample(rows, logits, placements, measured, settings["resamples"], settings["seed"])
    draws = seed_draws(len(run.seeds), settings["resamples"], seed_of_seeds)
    once = np.zeros_like(draws)
    stretch = seed_stretch(len(run.seeds), settings["confidence"])
    columns = iter(range(len(measured)))
    for name, files in paths.items():
        at = list(itertools.islice(columns, len(files)))
        if any(measured[column].coverage < 1 for column in at):
            continue
        for metric, higher in HIGHER_IS_BETTER.items():
            sign = 1 if higher else -1
            values = sign * np.array([measured[column].values[metric] for column in at])
            replicates = sign * drawn[metric][:, at]
            run.by_seed.setdefault(name, {})[metric] = values, replicates
            drawn_seeds = once if name == foundation else draws
            run.estimates.setdefault(name, {})[metric] = gaps.over_seeds(values, replicates, drawn_seeds, stretch)


def apart(first: FinishedRun, other: FinishedRun) -> str | None:
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


def pairs(label: str, estimates: Mapping[str, dict[str, Estimate]], confidence: float) -> list[dict[str, Any]]:
    """Paired differences of every two models, of which higher is better."""
    return [
        {
            "run": label,
            "method": one,
            "against": other,
            **{m: gaps.stat(estimates[one][m] - estimates[other][m], confidence) for m in HIGHER_IS_BETTER},
        }
        for other, one in itertools.combinations(estimates, 2)
    ]


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
