"""Trains single students on the cache of a finished run, with other settings, and prints their validation NE.

    python tests/benchmarks/try_student.py runs/frappe diverse '{"distill": {"soft_weight": 3}}' \\
        alone '{"student": {"dims": [8]}}'

For exploring before a job file is changed: one seed, validation rows only; the test split stays unread. What is learned
goes into LEDGER.md beside this file.
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
from recdistill.models.shape import shape_of
from recdistill.models.size import solve


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
        for shape in solve(changed.student, dataset.schema, large.parameters()):
            stages = run / "stages"
            more = (stages / "recombine", stages / "label") if changed.distill.recombine else None
            materials = Materials(dataset.root, stages / "teach", stages / "cache", tuple(names), shape, more)
            begun = time.monotonic()
            with tempfile.TemporaryDirectory() as work:
                _, position = train_student(materials.open(), shape, method, 0, changed.distill, method, Path(work))
            print(
                f"{method} {text}: dim {shape.dim}, {shape.parameters():,} parameters, validation NE "
                f"{position.checks[position.best]:.4f} at check {position.best + 1} of {len(position.checks)}, "
                f"{time.monotonic() - begun:.0f} s",
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
