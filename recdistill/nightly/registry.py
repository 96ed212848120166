"""Which student serves, and how it came to: promotion through the gates, rollback, and the list of all of it.

`champion.json` is the one file that says so, replaced by a rename: `champion` names a folder of `models/`, `history`
holds every promotion, block and rollback in order. A promoted student is a copy of its own, so a night that is run
again never changes what serves.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from recdistill.clicklog.schema import Day
from recdistill.config import Job
from recdistill.config.load import load_job
from recdistill.errors import UserError
from recdistill.evaluate.reports import read_report
from recdistill.export import open_student
from recdistill.files import file_sha256, once, read_checked, read_json, read_record, write_json
from recdistill.models.frozen import WEIGHTS
from recdistill.nightly.alerts import alert
from recdistill.nightly.gates import Gate, blocked, gates
from recdistill.nightly.judge import evidence, lineage
from recdistill.nightly.plan import Plan, night_folder

POINTER = "champion.json"


class _Entry(BaseModel):
    """A line of the history; it holds more, for people."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)
    event: Literal["promoted", "blocked", "rolled back"]
    day: Day
    model: str = Field(pattern=r"^models/\d{4}-\d\d-\d\d-[0-9a-f]{12}$")
    at: str


class _Champion(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)
    day: Day
    model: str
    ne: float
    auc: float
    lineage: dict[str, Any]


class _Known(BaseModel):
    """The content of `champion.json`, whose champion must be the one that its history leads to."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    version: Literal[1]
    champion: _Champion | None
    history: list[_Entry]

    @model_validator(mode="after")
    def _adds_up(self) -> _Known:
        served: list[str] = []
        for entry in self.history:
            if entry.event == "promoted":
                served.append(entry.model)
            elif entry.event == "rolled back" and (not served or served.pop() != entry.model):
                raise ValueError(f"{entry.model} was rolled back, and did not serve")
        if served[-1:] != ([self.champion.model] if self.champion else []):
            raise ValueError("the champion is not the one that the history leads to")
        return self


@dataclass(frozen=True)
class Verdict:
    """What came of a night."""

    day: str
    outcome: Literal["promoted", "blocked", "older", "champion", "rolled back"]
    """`older` than the champion, `champion` already, or `rolled back` before: passed the gates, and changed nothing."""
    why: str
    gates: list[Gate]
    night: dict[str, Any]
    """`night.json`: numbers, gates, lineage."""


def registry(service: Path) -> dict[str, Any]:
    """`champion` (day, model, ne, auc, lineage; null before the first promotion) and `history`, oldest first."""
    path = service / POINTER
    if not path.exists():
        return {"version": 1, "champion": None, "history": []}
    return read_checked(path, _Known, "registry")


def promote(service: Path, day: str, force: bool = False) -> Verdict:
    """Judges a finished night by the gates of its own job and, if all are passed, makes its student the champion.

    Nothing goes around the gates. `force` is for a day older than the champion's and for one that was rolled back.

    Raises:
        UserError: the night is not finished.
    """
    job, run = _finished(service, day)
    digest = file_sha256(run / "student" / WEIGHTS)
    model = f"models/{day}-{digest[:12]}"
    with _locked(service):
        known = registry(service)
        champion = known["champion"]
        if champion is not None and champion["model"] == model:
            record = read_json(run / "night.json")
            return Verdict(day, "champion", "serves already", _gates_of(record), record)
        record, verdicts = _judge(job, run, day, known, service)
        why = blocked(verdicts)
        entry: dict[str, Any] = {"day": day, "model": model, "at": _now()}
        if why is not None:
            _write(service, known, champion, {"event": "blocked", "why": why, **entry})
            alert(job, day, "promotion blocked", why, gates=[asdict(gate) for gate in verdicts if not gate.passed])
            return Verdict(day, "blocked", why, verdicts, record)
        if champion is not None and champion["day"] > day and not force:
            return Verdict(day, "older", f"older than the champion of {champion['day']}", verdicts, record)
        if not force and _rolled_back(known, model):
            return Verdict(day, "rolled back", "this student was rolled back before", verdicts, record)
        once(service / model, digest, lambda work: _copy(run / "student", work))
        serving = {
            **entry,
            "ne": record["numbers"]["ne"],
            "auc": record["numbers"]["auc"],
            "lineage": record["lineage"],
        }
        _write(service, known, serving, {"event": "promoted", "forced": force, **serving})
    return Verdict(day, "promoted", "passed every gate", verdicts, record)


def rollback(service: Path, why: str = "") -> dict[str, Any]:
    """Puts the champion before this one in its place; returns it.

    Raises:
        UserError: there is no champion, or none before it.
    """
    with _locked(service):
        known = registry(service)
        champion = known["champion"]
        if champion is None:
            raise UserError(f"{service}: there is no champion to roll back")
        served = _standing(known)
        if len(served) < 2:
            raise UserError(f"{service}: the champion of {champion['day']} is the first; there is none before it")
        open_student(service / served[-2]["model"])
        entry = {"day": champion["day"], "model": champion["model"], "at": _now()}
        _write(service, known, served[-2], {"event": "rolled back", "to": served[-2]["day"], "why": why, **entry})
    return dict(served[-2])


def assess(service: Path, day: str) -> tuple[dict[str, Any], list[Gate]]:
    """Judges a finished night without promoting it: what `night.json` then holds, and the gates.

    Raises:
        UserError: the night is not finished.
    """
    job, run = _finished(service, day)
    with _locked(service):
        return _judge(job, run, day, registry(service), service)


def _finished(service: Path, day: str) -> tuple[Job, Path]:
    run = night_folder(service, day)
    if not (run / "report.json").exists():
        raise UserError(f"{run}: no finished night; run it first, as in: recdistill nightly JOB.yaml --day {day}")
    return load_job(run / "config.yaml"), run


def _standing(known: dict[str, Any]) -> list[dict[str, Any]]:
    """The champions that were not rolled back, in order; the last one serves."""
    served: list[dict[str, Any]] = []
    for entry in known["history"]:
        if entry["event"] == "promoted":
            served.append({name: value for name, value in entry.items() if name not in ("event", "forced")})
        elif entry["event"] == "rolled back":
            served.pop()
    return served


def _judge(job: Job, run: Path, day: str, known: dict[str, Any], service: Path) -> tuple[dict[str, Any], list[Gate]]:
    """Judges the night and writes `night.json`, by which later nights know what to take over.

    Its rival is the last champion of an earlier day: one of this day or of a later one may have learned from the rows.
    """
    champion = next((c for c in reversed(_standing(known)) if c["day"] < day), None)
    found, duel = evidence(job, run, champion, service)
    verdicts = gates(found, duel, job.service.gates)
    report = read_report(run / "report.json")
    planned = read_record(service / "plans" / f"{day}.json", Plan, "night's plan")
    forwards = report["teacher_forwards"]
    numbers = {
        "auc": found.auc,
        "ne": found.ne,
        "calibration": found.calibration,
        "gap_ne": found.gap["mean"],
        "gap_recovered_ne": None if found.recovered is None else found.recovered["mean"],
        "passes_saved": 1 - forwards["computed"] / forwards["full"],
        "compression": found.compression,
        "rows": found.drift.rows,
        "click_rate": found.drift.click_rate,
    }
    record = {
        "version": 1,
        "day": day,
        "blocked": blocked(verdicts),
        "bad_day": any(gate.about == "data" and not gate.passed for gate in verdicts),
        "gates": [asdict(gate) for gate in verdicts],
        "numbers": numbers,
        "teacher_forwards": forwards,
        "champion": None if champion is None else champion["day"],
        "lineage": lineage(job, run, planned),
    }
    write_json(run / "night.json", record)
    return record, verdicts


def _gates_of(record: dict[str, Any]) -> list[Gate]:
    return [Gate(**entry) for entry in record["gates"]]


def _rolled_back(known: dict[str, Any], model: str) -> bool:
    events = [e["event"] for e in known["history"] if e["model"] == model and e["event"] != "blocked"]
    return events[-1:] == ["rolled back"]


def _copy(student: Path, work: Path) -> None:
    shutil.copytree(student, work, dirs_exist_ok=True, ignore=shutil.ignore_patterns("_SUCCESS", "inputs.json"))
    open_student(work)


def _write(service: Path, known: dict[str, Any], champion: dict[str, Any] | None, entry: dict[str, Any]) -> None:
    write_json(service / POINTER, {"version": 1, "champion": champion, "history": [*known["history"], entry]})


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


@contextmanager
def _locked(service: Path) -> Iterator[None]:
    """One promotion or rollback at a time; the others wait."""
    service.mkdir(parents=True, exist_ok=True)
    with (service / ".champion.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
