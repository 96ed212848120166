"""The ready jobs, on the real data sets where those are there."""

from __future__ import annotations

from pathlib import Path

import pytest

from recdistill.clicklog.ingest import ingest
from recdistill.clicklog.typed import TypedLog
from recdistill.config.load import load_job

JOBS = Path(__file__).parents[2] / "pipelines" / "jobs"
REAL = {
    "frappe": (288_609, "frappe"),
    "movielens-100k": (100_000, "movielens-100k"),
    "movielens-1m": (1_000_209, "movielens-1m"),
    "globo": (2_329_096, "globo"),
    "criteo": (10_000, "criteo-10k"),
}


@pytest.mark.parametrize("name", REAL)
def test_a_ready_job_opens_with_its_command_and_reads_its_log(name, shared_data, monkeypatch):
    text = (JOBS / f"{name}.yaml").read_text()
    assert text.startswith("#") and f"recdistill run pipelines/jobs/{name}.yaml" in text.split("\nname:")[0]
    spec = load_job(JOBS / f"{name}.yaml").dataset
    assert not {"neg_type", "session_size"} & {getattr(feature, "column", None) for feature in spec.features.values()}
    monkeypatch.setenv("RECDISTILL_DATA", str(shared_data(REAL[name][1]).parent))
    first = next(iter(TypedLog(spec)))
    assert first.num_rows > 0
    empty = [column for column in first.schema.names if first[column].null_count == first.num_rows]
    assert empty == []


@pytest.mark.parametrize("name", ["frappe", "movielens-100k", "criteo"])
def test_a_ready_job_ingests_its_log(name, shared_data, monkeypatch, tmp_path):
    monkeypatch.setenv("RECDISTILL_DATA", str(shared_data(REAL[name][1]).parent))
    spec = load_job(JOBS / f"{name}.yaml").dataset
    dataset = ingest(spec, tmp_path / "dataset")
    assert dataset.rows() == REAL[name][0]
    assert [dataset.rows(split) / dataset.rows() for split in ("validation", "test")] == pytest.approx(
        [spec.split.validation, spec.split.test], abs=0.01
    )
