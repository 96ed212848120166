"""Runs a job from a notebook, whole or only as far as an outside teacher needs it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recdistill.analysis.view import RunView, open_run
from recdistill.clicklog.schema import SPLITS, Dataset
from recdistill.config.load import load_job
from recdistill.progress import on_stderr
from recdistill.runs import Run


def run_job(job_file: Path | str, out: Path | str, *changes: str) -> RunView:
    """Runs a job as `recdistill run` does, each of `changes` a `--set`; does only what is missing or has changed."""
    _through("export", job_file, out, changes)
    return open_run(out)


def split_ids(job_file: Path | str, out: Path | str, *changes: str) -> dict[str, NDArray[np.int64]]:
    """Ingests a job's log, and says which example ids train, validate and test: what an outside teacher must know."""
    dataset = Dataset(_through("ingest", job_file, out, changes))
    parts = {split: [part.path for part in dataset.parts(split)] for split in SPLITS}
    return {
        split: pa.concat_tables(pq.read_table(path, columns=["example_id"], partitioning=None) for path in paths)[
            "example_id"
        ].to_numpy()
        for split, paths in parts.items()
        if paths
    }


def _through(stage: str, job_file: Path | str, out: Path | str, changes: tuple[str, ...]) -> Path:
    from recdistill.stages import run_job as run_stages

    job = load_job(Path(job_file), changes)
    with on_stderr() as progress, Run(Path(out), job, progress) as run:
        return run_stages(job, run, stage, progress)
