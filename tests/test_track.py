"""MLflow as a sink: what of a run goes there, once, and into a database of MLflow's own where it is installed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recdistill import cli
from recdistill.config.load import dump_job, load_job
from recdistill.errors import UserError
from recdistill.files import read_json, write_json, write_text
from recdistill.track import BATCH, numbers, settings, track

STAT = {"mean": 0.8, "low": 0.7, "high": 0.9}
METRICS = dict.fromkeys(("auc", "ne", "log_loss", "calibration"), STAT)
MODEL = {"role": "student", "parameters": 10, "coverage": 1.0, **METRICS}
REPORT: dict[str, Any] = {
    "version": 1,
    "name": "tiny",
    "dataset": {"fingerprint": "f", "rows": {"test": 7}},
    "seeds": [0],
    "bootstrap": {"resamples": 100, "confidence": 0.95, "seed": 0},
    "foundation": "foundation",
    "params": {"foundation": 380, "student": 10, "compression": 38.0},
    "models": {"foundation": {**MODEL, "role": "teacher"}, "alone": MODEL, "diverse": MODEL},
    "comparisons": [],
    "reliability": {},
    "gap": {"auc": STAT, "ne": {"mean": None, "low": None, "high": None}},
    "gap_recovered": {"diverse": {"auc": STAT, "ne": None}},
    "teacher_forwards": {"full": 100, "computed": 70, "reused": 0, "saved": 30},
    "timings": {"teach": 1.5},
    "warnings": ["small", "noisy"],
}


@pytest.fixture
def run(tmp_path: Path, job_file: Path) -> Path:
    folder = tmp_path / "monday"
    write_json(folder / "report.json", REPORT)
    write_text(folder / "report.html", "<!DOCTYPE html>")
    write_text(folder / "config.yaml", dump_job(load_job(job_file)))
    return folder


def test_numbers_have_their_intervals_and_unknown_ones_are_left_out() -> None:
    found = numbers(REPORT)
    assert (found["diverse/auc_low"], found["diverse/auc"], found["diverse/auc_high"]) == (0.7, 0.8, 0.9)
    assert found["diverse/auc_gap_recovered"] == 0.8 and found["gap/auc_high"] == 0.9
    assert (found["parameters/compression"], found["passes/saved"], found["seconds/teach"]) == (38.0, 30.0, 1.5)
    assert "diverse/ne_gap_recovered" not in found and "gap/ne" not in found


def test_settings_are_dotted_names_without_the_features(run: Path) -> None:
    found = settings(run / "config.yaml")
    assert found["teachers.members.ids.features"] == '["user"]'
    assert found["dataset.split.by"] == "random" and not any(name.startswith("dataset.features") for name in found)


def test_without_mlflow_it_says_what_brings_it(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[mlflow\]'"):
        track(run, "sqlite:///mlflow.db")


def test_a_run_that_is_not_finished_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no report\.json"):
        track(tmp_path, "sqlite:///mlflow.db")


@pytest.fixture(scope="module")
def mlflow() -> Any:
    return pytest.importorskip("mlflow", reason="MLflow is not installed; pip install -e '.[mlflow]'")


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs `recdistill track ARGUMENTS` in an empty folder; gives what it printed."""
    monkeypatch.chdir(tmp_path)  # without another word MLflow keeps files of a local database in ./mlruns

    def tell(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["recdistill", "track", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = capsys.readouterr()
        assert (left.value.code or 0) == (2 if err else 0), err
        return out or err

    return tell


def test_a_database_gets_everything_once(mlflow: Any, run: Path, tmp_path: Path, call: Callable[..., str]) -> None:
    uri = "sqlite:///mlflow.db"
    assert call(run, "--to", uri) == f"{run}: tracked\n"
    assert call(run, "--to", uri) == f"{run}: is there already\n"
    client = mlflow.MlflowClient(tracking_uri=uri)
    (found,) = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    assert (found.info.run_name, found.info.status) == ("monday", "FINISHED")
    assert found.data.metrics == numbers(REPORT)
    assert found.data.params == settings(run / "config.yaml") and len(found.data.params) > BATCH / 2
    assert found.data.tags["recdistill.warnings"] == "small\nnoisy"
    names = [file.path for file in client.list_artifacts(found.info.run_id)]
    assert names == ["config.yaml", "report.html", "report.json"]  # and no model
    write_json(run / "report.json", {**read_json(run / "report.json"), "warnings": []})
    assert call(run, "--to", uri) == f"{run}: tracked\n"


def test_an_address_that_does_not_answer_is_one_sentence(
    mlflow: Any, run: Path, call: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    said = call(run, "--to", "http://127.0.0.1:9")
    assert said.startswith(f"recdistill: http://127.0.0.1:9: did not take {run} (") and said.count("\n") == 1
