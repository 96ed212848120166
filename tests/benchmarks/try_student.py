"""Trains single students on the cache of a finished run, with other settings, and prints their validation NE.

    python tests/benchmarks/try_student.py runs/frappe diverse '{"distill": {"soft_weight": 3}}' \\
        alone '{"student": {"dims": [8]}}'

For exploring before a job file is changed: one seed, validation rows only; the test split stays unread. Teachers, their
answers and routes are the run's. What is learned goes into LEDGER.md beside this file.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import torch

from recdistill.clicklog.schema import Dataset
from recdistill.config import Job
from recdistill.config.load import load_job
from recdistill.distill.train import Materials, train_student
from recdistill.models.clusters import cluster
from recdistill.models.shape import shape_of
from recdistill.models.size import solve
from recdistill.models.untrained import Untrained
from recdistill.teachers.routes import Routed
from recdistill.teachers.versions import FINAL


def main(run: Path, pairs: list[tuple[str, str]]) -> None:
    """Trains one student after another."""
    torch.set_num_threads(1)
    job = load_job(run / "config.yaml", [])
    dataset = Dataset(run / "stages" / "ingest")
    names = [job.teachers.foundation, *(name for name in job.teachers.members if name != job.teachers.foundation)]
    for method, text in pairs:
        changed = Job.model_validate(_merged(job.model_dump(exclude_none=True), json.loads(text)))
        foundation = changed.teachers.members[changed.teachers.foundation]
        large = shape_of(foundation, foundation.dim, dataset.schema, foundation.features)
        stages = run / "stages"
        more = (stages / "recombine", stages / "label") if changed.distill.recombine else None
        routes = {path.name: path for path in (stages / "route" / "routes").glob("*/") if path.is_dir()}
        routed = Routed(routes, changed.teachers.keep) if method == "diverse" and routes else None
        for shape in solve(changed.student, dataset.schema, large.parameters(), large.known):
            begun = time.monotonic()
            with tempfile.TemporaryDirectory() as work:
                student = Untrained(shape)
                if shape.clusters:
                    student = Untrained(shape, Path(work) / "clusters")
                    cluster(Path(work) / "clusters", "", stages / "teach" / names[0] / FINAL, shape)
                opened = Materials(
                    dataset.root, stages / "teach", stages / "cache", tuple(names), student, more, routed=routed
                ).open()
                _, position = train_student(opened, student, method, 0, changed.distill, method, Path(work) / "student")
            print(
                f"{method} {text}: dim {shape.dim}{', ids clustered' if shape.clusters else ''}, "
                f"{shape.parameters():,} parameters, validation NE {position.checks[position.best]:.4f} at check "
                f"{position.best + 1} of {len(position.checks)}, {time.monotonic() - begun:.0f} s",
                flush=True,
            )


def _merged(base: dict, change: dict) -> dict:
    return {
        **base,
        **{
            key: _merged(base.get(key, {}), value) if isinstance(value, dict) else value
            for key, value in change.items()
        },
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), list(zip(sys.argv[2::2], sys.argv[3::2], strict=True)))
