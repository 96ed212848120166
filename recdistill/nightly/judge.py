"""What is known about a finished night: the evidence for the gates, and where all of it came from."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import recdistill
from recdistill.clicklog.schema import Dataset
from recdistill.clicklog.sources import find
from recdistill.config import Job
from recdistill.errors import UserError
from recdistill.evaluate.reports import read_report
from recdistill.files import SUCCESS, file_sha256, fingerprint, read_json
from recdistill.models.frozen import WEIGHTS
from recdistill.nightly.drift import drift_of
from recdistill.nightly.duel import champion_predictions, judge
from recdistill.nightly.gates import Duel, Evidence
from recdistill.nightly.plan import Plan, by_day, files_mark
from recdistill.teachers.versions import FINAL


def evidence(job: Job, run: Path, champion: dict[str, Any] | None, service: Path) -> tuple[Evidence, Duel | None]:
    """What the gates look at: tonight's student and the champion (None: there is none), judged on the same rows.

    Args:
        job: the night's own job.
        run: the night's run folder, every stage done.
        champion: as `champion.json` has it.
        service: the service's folder.
    """
    dataset, trained = Dataset(run / "stages" / "ingest"), _trained(run)
    report = read_report(run / "report.json")
    bounds = job.service.gates
    with tempfile.TemporaryDirectory(prefix="recdistill-nightly-") as folder:
        scratch = Path(folder)
        predictions = [trained / "test.parquet"]
        if champion is not None:
            assert job.dataset.log is not None
            logs = [source.path for source in find(job.dataset.log)]
            theirs = scratch / "champion-test.parquet"
            champion_predictions(service / champion["model"], logs, dataset, theirs, scratch)
            predictions.append(theirs)
        judged = judge(dataset, predictions, scratch, bounds.resamples, bounds.confidence)
    ours = judged.values[0]
    found = Evidence(
        drift=drift_of(dataset),
        auc=ours["auc"],
        ne=ours["ne"],
        calibration=ours["calibration"],
        gap=report["gap"]["ne"],
        recovered=report["gap_recovered"].get(trained.parent.name, {}).get("ne"),
        compression=report["params"]["compression"],
        target=job.student.compression,
    )
    if champion is None:
        return found, None
    duel = Duel(
        champion=champion["day"],
        auc_loss=judged.above("auc", 1, 0),
        ne_loss=judged.above("ne", 0, 1),
        champion_ne=judged.interval("ne", 1),
        champion_ne_then=champion["ne"],
    )
    return found, duel


def lineage(job: Job, run: Path, planned: Plan) -> dict[str, Any]:
    """Where a night's student comes from: days, files, teachers, configuration, code."""
    teachers = run / "stages" / "teach"
    return {
        "days": planned.model_dump(include={"train", "validation", "day", "skipped", "missing"}),
        "files": _files(job, planned.day),
        "dataset": Dataset(run / "stages" / "ingest").fingerprint,
        "teachers": {
            "night": planned.teachers,
            "job": planned.teaching,
            "fingerprints": {
                path.parent.parent.name: read_json(path)["fingerprint"]
                for path in sorted(teachers.glob(f"*/{FINAL}/teacher.json"))
            },
        },
        "start": planned.start,
        "method": _trained(run).parent.name,
        "config": file_sha256(run / "config.yaml"),
        "code": {"version": recdistill.__version__, "sha256": _code()},
    }


def _files(job: Job, day: str) -> str:
    return files_mark([source.path for source in by_day(job)[day]])


def _trained(run: Path) -> Path:
    """The folder that the exported student was trained in."""
    weights = file_sha256(run / "student" / WEIGHTS) if (run / "student").exists() else None
    for marker in sorted(run.glob(f"stages/distill/*/*/{SUCCESS}")):
        if weights == file_sha256(marker.parent / WEIGHTS):
            return marker.parent
    raise UserError(f"{run}: the night is not finished, it has no student; run it first")


def _code() -> str:
    """Fingerprint of the package's own sources."""
    root = Path(recdistill.__file__).parent
    sources = sorted(path for kind in ("*.py", "*.html", "*.css") for path in root.rglob(kind))
    return fingerprint([[str(path.relative_to(root)), file_sha256(path)] for path in sources])
