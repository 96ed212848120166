"""What tests of every room may use."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

JOB = """\
name: tiny
dataset:
  log: {paths: "log/*.csv"}
  split: {by: random, validation: 0.1, test: 0.1}
  features:
    user: {kind: single, min_count: 2}
    C1..C3: {kind: single}
    age: {kind: dense}
teachers:
  regime: out_of_fold
  members:
    foundation: {kind: dlrm}
    ids:
      kind: dlrm
      features: [user]
"""


@pytest.fixture
def job_text() -> str:
    """A whole job, valid, with every default left out."""
    return JOB


@pytest.fixture
def job_file(tmp_path: Path, job_text: str) -> Path:
    """The same in a file."""
    path = tmp_path / "job.yaml"
    path.write_text(job_text)
    return path


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Gives a real data set's folder by name (see RECDISTILL_DATA), or skips the test where it is absent."""

    def find(name: str) -> Path:
        folder = Path(os.environ.get("RECDISTILL_DATA", "../shared/data")) / name
        if not folder.is_dir():
            pytest.skip(f"no data set at {folder}; the environment variable RECDISTILL_DATA names another place")
        return folder

    return find
