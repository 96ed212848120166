"""One night: the job's own stages, with earlier nights' teachers, answers and students where the plan says so.

SERVICE/log/            the generated log, where the job generates one
SERVICE/plans/<day>     what the night takes over
SERVICE/nights/<day>/   its run folder; `night.json` is the verdict
SERVICE/shelf/          what teachers said, by version and by what they saw
SERVICE/models/         promoted students, never changed
SERVICE/champion.json   the one that serves, and every promotion, block and rollback before it
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from recdistill.clicklog.schema import Dataset
from recdistill.config import Job
from recdistill.config.dataset import Files
from recdistill.config.job import Method
from recdistill.distill.warm import Start
from recdistill.errors import UserError
from recdistill.files import SUCCESS
from recdistill.models.shape import Shape
from recdistill.nightly.alerts import watched
from recdistill.nightly.plan import Plan, derive, night_folder, plan, settled
from recdistill.nightly.registry import Verdict, promote
from recdistill.progress import Progress, silent
from recdistill.runs import Run
from recdistill.stages import Stages
from recdistill.teachers.shelf import Shelf
from recdistill.teachers.versions import FINAL, Version, versions
from recdistill.teachers.work import domain_of


def night(job: Job, day: str, service: Path, upto: str = "export", progress: Progress = silent) -> Path:
    """Runs the stages of a day's night up to and with `upto`; run again, it does only what is missing.

    Tonight's test rows are those of `day`; the day before validates, the `train_days` before it train.

    Returns:
        The stage's folder.

    Raises:
        UserError: the log lacks the day, or something in it or in the job cannot be used.
    """
    job = settled(job, service, progress)
    planned = plan(job, day, service)
    tonight = derive(job, planned, service)
    with Run(night_folder(service, day), tonight, progress) as run:
        try:
            return _Night(tonight, run, progress, planned, service).through(upto)
        except Exception:
            logging.getLogger(__name__).exception("the night of %s failed", day)
            raise


def whole_night(job: Job, day: str, service: Path, progress: Progress = silent) -> Verdict:
    """A day's night from its log to its verdict; a failure is told to the job's webhook and raised."""
    with watched(job, day):
        night(job, day, service, progress=progress)
        return promote(service, day)


class _Night(Stages):
    """The stages of one night."""

    def __init__(self, job: Job, run: Run, progress: Progress, planned: Plan, service: Path) -> None:
        super().__init__(job, run, progress)
        self._plan, self._service = planned, service
        taught_on = night_folder(service, planned.teachers) / "stages" / "ingest"
        self.shelf = Shelf(service / "shelf", taught_on, planned.day)
        if planned.begin is not None:
            stages = night_folder(service, planned.begin) / "stages"
            self.earlier = stages / "teach", stages / "ingest"

    @property
    def _teaches(self) -> bool:
        return self._plan.teachers == self._plan.day

    @cached_property
    def _taught_on(self) -> Dataset:
        return Dataset(night_folder(self._service, self._plan.teachers) / "stages" / "ingest")

    def ingest(self, log: Files, like: Dataset | None = None) -> Dataset:
        dataset = super().ingest(log, None if self._teaches else self._taught_on)
        days = {split: sorted({part.day for part in dataset.parts(split)}) for split in ("validation", "test")}
        if days != {"validation": [self._plan.validation], "test": [self._plan.day]}:
            raise UserError(
                f"day {self._plan.day}: its files hold rows of other days, so the last two days of the log are "
                f"{', '.join(days['validation'] + days['test'])}; expected a file's rows to be of the day in its name"
            )
        return dataset

    def teach(self) -> Path:
        """Tonight's teachers, or a link to those of an earlier night."""
        folder = self.run.stage_folder("teach")
        theirs = Path("..", "..", self._plan.teachers, "stages", "teach")
        if folder.is_symlink() and (self._teaches or folder.readlink() != theirs):
            folder.unlink()  # of an earlier plan; what it points to is another night's
        if self._teaches:
            return super().teach()
        if folder.exists() and not folder.is_symlink():
            shutil.rmtree(folder)
        if not folder.is_symlink():
            folder.symlink_to(theirs, target_is_directory=True)
        self.progress.stage(f"teach: the teachers of {self._plan.teachers}")
        return folder

    def versions(self, name: str) -> list[Version]:
        if self._teaches:
            return super().versions(name)
        domain = domain_of(self.job.teachers.members[name], self.dataset)
        taught = versions(self.job.teachers, self._taught_on)
        return [version.within(domain) for version in later(taught, self._taught_on, self.dataset)]

    def size(self) -> dict[Method, Shape]:
        """The taught students' for all: from night to night tables go on, which those of another dimension cannot."""
        found = super().size()
        return dict.fromkeys(found, found[self._first_taught])

    def _start(self, name: str, stage: str) -> Start | None:
        """The same student, or router, of the night that tonight begins at, where it had one."""
        if self._plan.start is None:
            return None
        before = night_folder(self._service, self._plan.start)
        folder = before / "stages" / stage / name
        if not (folder / SUCCESS).exists():
            return None
        theirs, ours = ((path / "stages" / "teach").resolve() for path in (before, self.run.folder))
        return Start(folder, before / "stages" / "ingest", method=theirs == ours)


def later(taught: list[Version], before: Dataset, dataset: Dataset) -> list[Version]:
    """The same versions on a later night.

    Training days that the teachers knew are scored by whom they were given to then; every newer day is unseen by all of
    them, and the final version scores it.
    """
    knew = {part.day for part in before.parts("train")}
    days = sorted({part.day for part in dataset.parts("train")})
    new = tuple(day for day in days if day not in knew)
    found = []
    for version in taught:
        scores = []
        for rows in version.scores:
            if rows.split != "train":
                scores.append(rows)
            elif still := tuple(day for day in days if day in (rows.days or knew) and day in knew):
                scores.append(replace(rows, days=still))
        if version.name == FINAL and new:
            scores.append(replace(version.learns, days=new, folds=0, inside=None, outside=None))
        found.append(replace(version, scores=tuple(scores)))
    return found
