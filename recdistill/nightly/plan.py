"""One night as a job: which days it reads, whose teachers it uses, where its student begins.

A night is the job itself with the log cut to its days. What it takes over from earlier nights is decided once and
kept in `plans/<day>.json`, so that a night that is run again is the same night.
"""

from __future__ import annotations

import glob
import re
from collections import defaultdict
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from recdistill.clicklog.schema import Day
from recdistill.clicklog.simulate import simulate
from recdistill.clicklog.sources import Source, find
from recdistill.config import Job
from recdistill.config.dataset import History, Split
from recdistill.errors import UserError
from recdistill.files import fingerprint, read_checked, read_record, write_json
from recdistill.models.frozen import load_shape
from recdistill.models.size import left_out
from recdistill.progress import Progress
from recdistill.remote import Remote

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


class Plan(BaseModel):
    """What a night takes over from earlier ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    day: Day
    train: list[Day]
    validation: Day
    earlier: list[Day]
    """Days before the training days whose rows are read for users' histories alone."""
    skipped: list[Day]
    """Days of the log that a data gate spoke against."""
    missing: list[Day]
    """Days that the log lacks between the first training day and this one."""
    teachers: Day
    """The night whose teachers answer: this one, or an earlier one."""
    begin: Day | None
    """The night at whose teachers these begin, where they are taught tonight."""
    start: Day | None
    """The night whose students these begin at."""
    teaching: str
    """What the teachers depend on but the days (see `teaching`): where the job has changed, the plan is made anew."""

    @property
    def days(self) -> list[str]:
        """Every day that is read."""
        return [*self.earlier, *self.train, self.validation, self.day]


class _Taught(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)
    night: Day
    job: str


class _Lineage(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)
    teachers: _Taught
    files: str


class _Record(BaseModel):
    """What other nights read of `night.json`; it holds more."""

    model_config = ConfigDict(extra="allow", frozen=True)
    blocked: str | None
    bad_day: bool
    lineage: _Lineage


def night_folder(service: Path, day: str) -> Path:
    """A night's run folder; `UserError` for a day that is none."""
    return service / "nights" / checked_day(day)


def checked_day(day: str) -> str:
    """The day; `UserError` where it is none."""
    try:
        if date.fromisoformat(day).isoformat() == day:
            return day
    except ValueError:
        pass
    raise UserError(f"{day!r} is no day; expected one like 2026-01-31")


def records(service: Path) -> dict[str, dict[str, Any]]:
    """What is known of each night that was judged, by day, in order."""
    paths = sorted(service.glob("nights/*/night.json"))
    return {checked_day(path.parent.name): read_checked(path, _Record, "night's record") for path in paths}


def settled(job: Job, service: Path, progress: Progress) -> Job:
    """The job with its log in files; a generated one is written once, for all nights."""
    if job.dataset.simulate is None:
        return job
    log = simulate(job.dataset.simulate, service / "log", progress)
    rate = job.dataset.simulate.negative_keep_rate
    changes = {"log": log, "simulate": None, "negative_keep_rate": rate}
    return job.model_copy(update={"dataset": job.dataset.model_copy(update=changes)})


def by_day(job: Job) -> dict[str, list[Source]]:
    """The files of a settled job's log by the last day that their path names, in order.

    Raises:
        UserError: a file's path names no day.
    """
    days: dict[str, list[Source]] = defaultdict(list)
    assert job.dataset.log is not None
    for source in find(job.dataset.log):
        found = _DAY.findall(str(source.path))
        if not found:
            raise UserError(
                f"{source.path}: a night reads the log by day, and this path names none; expected one like "
                "day=2026-01-31.parquet or 2026-01-31/part-0.csv"
            )
        days[checked_day(found[-1])].append(source)
    return dict(sorted(days.items()))


def teaching(job: Job) -> str:
    """Fingerprint of all that a teacher depends on but the days: another one means teachers of its own."""
    section = job.dataset.model_dump(mode="json", exclude={"log": {"paths"}, "split": True})
    teachers = job.teachers.model_dump(mode="json", exclude={"seed"})  # members have it
    return fingerprint([section, teachers])


def plan(job: Job, day: str, service: Path) -> Plan:
    """The plan of a day's night for a settled job: the one that was made before, or a new one.

    Raises:
        UserError: the log does not have the day, or too few days before it.
    """
    path = service / "plans" / f"{checked_day(day)}.json"
    if path.exists():
        before = read_record(path, Plan, "night's plan (remove it, and the night is planned anew)")
        if before.teaching == teaching(job):
            return before
    made = _plan(job, day, service, list(by_day(job)))
    write_json(path, made.model_dump())
    return made


def derive(job: Job, planned: Plan, service: Path) -> Job:
    """The job of one night: the same job, its log cut to the night's days."""
    files, log = by_day(job), job.dataset.log
    assert log is not None
    paths = [glob.escape(str(source.path)) for day in planned.days for source in files.get(day, [])]
    split = Split(by="days", validation=1, test=1, train=len(planned.train))
    changes = {"log": log.model_copy(update={"paths": paths}), "split": split}
    tonight = job.model_copy(update={"dataset": job.dataset.model_copy(update=changes)})
    if planned.start is not None:
        # Another dimension, or other features, would mean another beginning.
        shape = load_shape(night_folder(service, planned.start) / "student")
        same: dict[str, Any] = {"dims": [shape.dim], "unknown": shape.unknown, "unknowns": [], "without": []}
        if any(table.rows < table.source_rows for table in shape.tables):
            same["share"] = "likeness" if shape.clusters else "hash"
        if gone := left_out(job.student, shape):
            whole = job.student.features or list(job.dataset.features)
            same["features"] = [name for name in whole if name not in gone]
        tonight = tonight.model_copy(update={"student": job.student.model_copy(update=same)})
    return Job.model_validate(tonight.model_dump(mode="json"))


def _plan(job: Job, day: str, service: Path, days: list[str]) -> Plan:
    if day not in days:
        raise UserError(f"day {day}: the log has no file of it; it has {len(days)} days, the last is {days[-1]}")
    before = {name: record for name, record in records(service).items() if name < day}
    bad = [name for name, record in before.items() if record["bad_day"] and name in days]
    usable = [name for name in days if name < day and name not in bad]
    if len(usable) < 2:
        raise UserError(f"day {day}: a night needs two earlier days that can be used, and the log has {len(usable)}")
    train = usable[-1 - job.service.train_days : -1]
    histories = any(isinstance(feature, History) for feature in job.dataset.features.values())
    passed = [name for name, record in before.items() if record["blocked"] is None]
    taught = max((name for name in passed if _taught(before[name], name, job)), default=None)
    fresh = taught is not None and _days(taught, day) < job.service.teach_every
    return Plan(
        day=day,
        train=train,
        validation=usable[-1],
        earlier=[name for name in usable if name < train[0]] if histories else [],
        skipped=bad,
        missing=_missing(train[0], day, days),
        teachers=taught if taught is not None and fresh else day,
        begin=None if fresh else taught,
        start=max(passed, default=None),
        teaching=teaching(job),
    )


def _taught(record: dict[str, Any], night: str, job: Job) -> bool:
    """Whether a night taught teachers of its own, as this job would have them."""
    teachers = record["lineage"]["teachers"]
    return bool(teachers["night"] == night and teachers["job"] == teaching(job))


def _days(first: str, second: str) -> int:
    return (date.fromisoformat(second) - date.fromisoformat(first)).days


def _missing(first: str, last: str, days: list[str]) -> list[str]:
    start, end = date.fromisoformat(first).toordinal(), date.fromisoformat(last).toordinal()
    every = [date.fromordinal(number).isoformat() for number in range(start, end + 1)]
    return [day for day in every if day not in days]


def changed(job: Job, service: Path) -> dict[str, str]:
    """Days before the newest night whose files came or changed after their own night, with a mark of what they are now.

    `job` is settled. Days without a night count when two earlier days make one possible.
    """
    known = records(service)
    if not known:
        return {}
    marks = {day: files_mark([source.path for source in sources]) for day, sources in by_day(job).items()}
    possible = [day for day in list(marks)[2:] if day <= max(known)]
    return {day: marks[day] for day in possible if day not in known or known[day]["lineage"]["files"] != marks[day]}


def files_mark(paths: Sequence[Path | Remote]) -> str:
    """Changes when one of the files is written again."""
    return fingerprint([[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in paths])
