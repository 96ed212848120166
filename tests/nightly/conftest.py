"""A service of three nights, made once, and copies of it to go on with."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recdistill.config import Job
from recdistill.config.load import load_job
from recdistill.nightly.night import whole_night
from recdistill.nightly.registry import Verdict

JOB = Path(__file__).parents[2] / "pipelines" / "jobs" / "nightly.yaml"
DAYS = ("2026-01-04", "2026-01-05", "2026-01-06")

Night = Callable[..., Verdict]


@pytest.fixture(scope="session")
def job() -> Job:
    return load_job(JOB)


@pytest.fixture(scope="session")
def three_nights(tmp_path_factory: pytest.TempPathFactory, job: Job) -> tuple[Path, list[Verdict]]:
    """Read only."""
    service = tmp_path_factory.mktemp("nightly") / "service"
    return service, [whole_night(job, day, service) for day in DAYS]


@pytest.fixture
def service(three_nights: tuple[Path, list[Verdict]], tmp_path: Path) -> Path:
    """A copy to go on with."""
    shutil.copytree(three_nights[0], tmp_path / "service", symlinks=True)
    return tmp_path / "service"


@pytest.fixture
def corrupt() -> Callable[[Path, str], None]:
    """Shuffles the labels of a day in a service's log: the click rate stays as it was."""

    def change(service: Path, day: str) -> None:
        path = service / "log" / f"day={day}.parquet"
        table = pq.read_table(path, partitioning=None)
        label = np.random.default_rng(0).permutation(table["label"].to_numpy())
        at = table.schema.get_field_index("label")
        pq.write_table(table.set_column(at, table.schema.field(at), pa.array(label)), path)

    return change
