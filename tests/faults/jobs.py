"""The smallest job that goes through every stage, and what must be the same however it got there."""

from __future__ import annotations

import re
from pathlib import Path

from recdistill.files import read_json
from tests.jobs import over_simulated

STAGES = (
    "simulate",
    "ingest",
    "tune_teachers",
    "teach",
    "recombine",
    "route",
    "cache",
    "label",
    "size",
    "tune",
    "distill",
    "curve",
    "evaluate",
    "export",
)
"""In the order in which this job's are done."""
JOB = (
    over_simulated("hurt", "rows: 2500, days: 5, users: 40, items: 30, domains: 2")
    + """\
teachers:
  regime: prequential
  route: {curve: [0.5]}
  members:
    foundation:
      {kind: dlrm, dim: 16, bottom: [8], top: [16, 8], dropout: 0.1, embedding_rates: [0.05, 0.1],
       train: {epochs: 2, batch_size: 256}}
    trees: {kind: sklearn, params: {max_iter: 5}}
student: {top: [8], compression: 3, dims: [2, 8]}
distill:
  methods: [alone, diverse]
  seeds: [0]
  train: {epochs: 2, batch_size: 256}
  recombine: {rows: 0.5, groups: [[item]]}
  tune: {trials: 2, soft_weight: [0.3]}
  diverse: {question_width: 8}
evaluate: {resamples: 100, slices: [domain]}
workers: 1
"""
)
RESULTS = (
    "ingest/**/*.parquet",
    "teach/**/*.safetensors",
    "route/**/*.parquet",
    "cache/**/*.parquet",
    "label/**/*.parquet",
    "export/**/*",
)
"""What is compared byte for byte; a classifier's archive holds addresses in memory, which differ."""


def beginning(line: str) -> str | None:
    """The stage that begins to work where the log or standard error says `line`."""
    found = re.match(r"\w+", line)
    name = found[0] if found else ""
    return name if name in STAGES and not line.endswith("up to date") else None


def from_on(stage: str) -> tuple[str, ...]:
    """A stage and those after it."""
    return STAGES[STAGES.index(stage) :]


def results(out: Path) -> dict[str, object]:
    """All that a finished run is worth: the report apart from timings, and the bytes of students and caches."""
    report = out / "report.json"
    found: dict[str, object] = {"report": {**read_json(report), "timings": None} if report.exists() else None}
    for pattern in RESULTS:
        for path in sorted(out.glob(f"stages/{pattern}")):
            if path.is_file() and path.name != "_SUCCESS":
                found[str(path.relative_to(out))] = path.read_bytes()
    return found


def differences(one: dict[str, object], other: dict[str, object]) -> list[str]:
    """Names of the results that are not the same; without their bytes, which nobody can read."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def leftovers(out: Path) -> list[str]:
    """Files and folders of work that was not finished, and checkpoints of teachers, which nobody needs any more."""
    hidden = [path for path in out.rglob(".*") if ".work-" in path.name or ".partial" in path.name]
    return [str(path.relative_to(out)) for path in (*hidden, *out.glob("stages/teach/*/*/training"))]
