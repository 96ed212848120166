"""Several runs of one job, each with teachers that were trained anew: what holds beyond one training of them.

A report's intervals are about test rows and seeds of students, for the teachers that it has. Another training of the
same teachers (`teachers.seed`) moves a method as much as methods differ. Here both are drawn, trainings and seeds, each
as a report draws seeds: one fewer than there are, and their part is widened by Student's t. A student that is of a
training and a seed at once is in both parts: what these do together counts twice, which is on the careful side.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from recdistill.config.yaml12 import parse
from recdistill.errors import UserError
from recdistill.evaluate import gap as gaps
from recdistill.evaluate.bootstrap import seed_draws, seed_stretch
from recdistill.evaluate.finished import FinishedRun, pairs
from recdistill.evaluate.gap import Estimate
from recdistill.evaluate.lineup import ALONE
from recdistill.evaluate.metrics import HIGHER_IS_BETTER

LEAST = 3
"""Trainings; of two, Student's t knows next to nothing."""


def of_one_job(runs: list[FinishedRun]) -> list[FinishedRun]:
    """The first run, and those that differ from it, and from each other, by the seeds of their teachers alone."""
    found: list[FinishedRun] = []
    jobs: list[tuple[Any, Any] | None] = []
    for run in runs:
        job = _job(run)
        if not found or (job is not None and job not in jobs and jobs[0] is not None and job[0] == jobs[0][0]):
            found.append(run)
            jobs.append(job)
    return found


def trainings(runs: list[FinishedRun], settings: dict[str, Any]) -> dict[str, Any] | None:
    """What holds over trainings of the teachers.

    Args:
        runs: of one job, on the same rows, one a training.
        settings: of the bootstrap, as a report has them.

    Returns:
        Such as `record` makes of one run: `label`, `gap`, and `models` with `auc`, `ne` and `gap_recovered`; besides,
        `runs`, their labels, and `pairs`, the differences of every two models, plus being better. None of fewer runs
        than `LEAST`.
    """
    if len(runs) < LEAST:
        return None
    confidence, foundation, label = settings["confidence"], runs[0].report["foundation"], f"{len(runs)} trainings"
    seeds = len(runs[0].seeds)
    parts = [
        (seed_draws(size, settings["resamples"], settings["seed"] + number), seed_stretch(size, confidence))
        for number, size in enumerate((seeds, len(runs)))
    ]

    def over(name: str, metric: str) -> Estimate:
        values, replicates = (np.stack(each) for each in zip(*(run.by_seed[name][metric] for run in runs), strict=True))
        every = replicates.mean(axis=(0, 2))
        moved = np.zeros_like(every)
        for axis, (draws, stretch) in enumerate(parts):
            if values.shape[1 - axis] > 1:
                one = gaps.over_seeds(values.mean(axis), np.moveaxis(replicates, 1, 0).mean(axis + 1), draws, stretch)
                moved += one.replicates - every
        return Estimate(float(values.mean()), every + moved)

    names = [name for name in runs[0].by_seed if all(name in run.by_seed for run in runs)]
    told = {name: {metric: over(name, metric) for metric in HIGHER_IS_BETTER} for name in names}
    students = [name for name in names if name != foundation]
    accounts = {}
    for metric in HIGHER_IS_BETTER:
        methods = {name: told[name][metric] for name in students if name != ALONE}
        accounts[metric] = (
            gaps.account(methods, told[ALONE][metric], told[foundation][metric], confidence)
            if foundation in told
            else gaps.no_account(methods, f"what {foundation} says about test rows is not kept, or not about all")
        )
    models: dict[str, dict[str, Any]] = {}
    for name in sorted(names, key=lambda name: name != foundation):
        signed = {metric: one if HIGHER_IS_BETTER[metric] else -one for metric, one in told[name].items()}
        shares = {metric: found["recovered"].get(name) for metric, found in accounts.items()}
        models[name] = {
            **{metric: gaps.stat(one, confidence) for metric, one in signed.items()},
            "gap_recovered": None if name in (foundation, ALONE) else shares,
        }
    return {
        "label": label,
        "runs": [run.label for run in runs],
        "gap": {metric: found["gap"] for metric, found in accounts.items()},
        "models": models,
        "pairs": pairs(label, told, confidence),
    }


def _job(run: FinishedRun) -> tuple[Any, Any] | None:
    """What a run was told to do, and the seeds of its teachers; None where that is not kept."""
    path = run.folder / "config.yaml"
    try:
        job = parse(path.read_text(encoding="utf-8"), str(path)).content
        teachers, distill = dict(job["teachers"]), dict(job["distill"])
        members = {name: dict(member) for name, member in teachers.pop("members").items()}
        said = {"dataset": job["dataset"], "student": job["student"], "members": members}
        seeds = {name: member.pop("seed", None) for name, member in members.items()}
        route = dict(teachers.pop("route"))
        # Which methods there are changes none of them, but for the first that hears teachers: it decides all sizes.
        decides = next((method for method in distill.pop("methods") if method != ALONE), None)
    except (OSError, UnicodeDecodeError, UserError, KeyError, TypeError, ValueError, AttributeError):
        return None
    for section, name in ((teachers, "seed"), (route, "curve")):
        section.pop(name, None)  # which shares of answers there are changes nobody
    return {**said, "teachers": teachers, "route": route, "distill": distill, "decides": decides}, seeds
