"""A finished run for MLflow: its settings, its numbers with their intervals, and its page. No model goes there.

A sink beside the run folder, which stays what counts. MLflow's own variables say who may write
(MLFLOW_TRACKING_USERNAME and the like).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recdistill import __version__
from recdistill.config.yaml12 import parse
from recdistill.errors import UserError
from recdistill.evaluate.finished import read_run
from recdistill.files import file_sha256

METRICS = ("auc", "ne", "log_loss", "calibration")
DIGEST = "recdistill.report"
"""The tag that holds a report's checksum: what was sent once is not sent again."""
LONGEST = 500
"""Characters of a setting."""
BATCH = 100
"""Settings or numbers in one request; MLflow takes no more of the former."""
_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}


def track(folder: Path, uri: str) -> bool:
    """Sends a finished run to the MLflow server or database at `uri`, into an experiment named after the job.

    Returns whether it was sent; False when this very report is there already.

    Raises:
        UserError: the run is not finished, MLflow is not installed, or it does not take the run.
    """
    run = read_run(Path(folder))
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
    except ImportError:
        raise UserError("tracking needs MLflow, which is not installed; pip install -e '.[mlflow]' brings it") from None
    try:
        return _send(MlflowClient(tracking_uri=uri), run.folder, run.report)
    except MlflowException as error:
        raise UserError(f"{uri}: did not take {folder} ({str(error).strip()[:200]}); is the address right?") from None


def _send(client: Any, folder: Path, report: dict[str, Any]) -> bool:
    experiment = client.get_experiment_by_name(report["name"])
    number = experiment.experiment_id if experiment else client.create_experiment(report["name"])
    page = folder / "report.json"
    digest, finished = file_sha256(page), page.stat().st_mtime_ns // 1_000_000
    if client.search_runs([number], f"tags.`{DIGEST}` = '{digest}' and attributes.status = 'FINISHED'", max_results=1):
        return False
    from mlflow.entities import Metric, Param

    tags = {DIGEST: digest, "recdistill.version": __version__, "recdistill.warnings": "\n".join(report["warnings"])}
    began = finished - int(1000 * sum(report["timings"].values()))
    tracked = client.create_run(number, start_time=began, tags=tags, run_name=folder.resolve().name).info.run_id
    for batch in _batches([Param(name, value) for name, value in settings(folder / "config.yaml").items()]):
        client.log_batch(tracked, params=batch)
    for batch in _batches([Metric(name, value, finished, 0) for name, value in numbers(report).items()]):
        client.log_batch(tracked, metrics=batch)
    for name in ("report.html", "report.json", "config.yaml"):
        client.log_artifact(tracked, str(folder / name))
    client.set_terminated(tracked, end_time=finished)
    return True


def settings(config: Path) -> dict[str, str]:
    """The job's settings by dotted name, without its features, of which there may be hundreds."""
    job = parse(config.read_text(encoding="utf-8"), str(config)).content
    job["dataset"].pop("features", None)
    return {name: value[:LONGEST] for name, value in _flat(job)}


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(inner, f"{prefix}.{name}" if prefix else str(name))
    elif value is not None:
        yield prefix, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def numbers(report: dict[str, Any]) -> dict[str, float]:
    """What a report says in numbers, such as `diverse/auc`, and `diverse/auc_low` and `diverse/auc_high` around it."""
    out: dict[str, float | None] = {}

    def put(name: str, stat: dict[str, Any] | None) -> None:
        for end, suffix in (("mean", ""), ("low", "_low"), ("high", "_high")):
            out[name + suffix] = stat[end] if stat else None

    for name, model in report["models"].items():
        for metric in METRICS:
            put(f"{name}/{metric}", model[metric])
        for metric, share in report["gap_recovered"].get(name, {}).items():
            put(f"{name}/{metric}_gap_recovered", share)
    for metric, stat in report["gap"].items():
        put(f"gap/{metric}", stat)
    for room, values in (("parameters", "params"), ("passes", "teacher_forwards"), ("seconds", "timings")):
        out |= {f"{room}/{name}": value for name, value in (report[values] or {}).items()}
    return {name: float(value) for name, value in out.items() if value is not None}


def _batches(items: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]
