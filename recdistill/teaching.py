"""The committee's stages: teachers are taught, and asked about every row that somebody will learn from.

tune_teachers -> teach -> recombine -> (route, in `learning`) -> cache -> label
"""

from __future__ import annotations

import shutil
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from recdistill.clicklog.batches import Rows
from recdistill.clicklog.recombine import recombine
from recdistill.clicklog.schema import Dataset
from recdistill.clicklog.sources import find
from recdistill.config import Job
from recdistill.config.dataset import Files
from recdistill.config.models import DlrmTeacher, FileTeacher
from recdistill.files import CHECKPOINTS, SUCCESS, file_sha256, read_json
from recdistill.models.shape import Shape, shape_of
from recdistill.progress import Progress
from recdistill.runs import Run, Unit
from recdistill.spread import machines
from recdistill.teachers.routes import Routed
from recdistill.teachers.shards import CONTRACT, TeacherCache
from recdistill.teachers.shelf import Shelf
from recdistill.teachers.versions import FINAL, Version, chains, labeller, recombined_split, versions
from recdistill.teachers.work import cache_teacher, domain_of, earlier_version, label_rows, teach_chain, try_teacher


class Teaching:
    """The committee of one job in one run folder; each method does its stage if it must, and returns what it made."""

    dataset: Dataset
    unlabelled: Dataset | None
    """Recombined rows."""
    routes: dict[str, Path] | None
    """How important teachers are, by split."""
    caches: list[TeacherCache]
    labels: list[TeacherCache]
    shelf: Shelf | None = None
    """Where teachers' answers are kept from night to night."""
    earlier: tuple[Path, Path] | None = None
    """Teachers of an earlier night, where these begin, and the dataset whose ids they know."""

    def __init__(self, job: Job, run: Run, progress: Progress) -> None:
        self.job, self.run, self.progress = job, run, progress

    @property
    def members(self) -> list[str]:
        """Names of the committee, the foundation first."""
        names = self.job.teachers.members
        return [self.job.teachers.foundation, *(name for name in names if name != self.job.teachers.foundation)]

    @property
    def _askable(self) -> list[str]:
        return [name for name in self.members if not isinstance(self.job.teachers.members[name], FileTeacher)]

    def versions(self, name: str) -> list[Version]:
        domain = domain_of(self.job.teachers.members[name], self.dataset)
        return [version.within(domain) for version in versions(self.job.teachers, self.dataset)]

    def teach(self) -> Path:
        units, tuned = [], self._tuned()
        for name in self._askable:
            member = tuned.get(name, self.job.teachers.members[name])
            for chain in chains(self.versions(name)):
                inputs: dict[str, Any] = {
                    "dataset": self.dataset.fingerprint,
                    "teacher": member.model_dump(mode="json", exclude={"embedding_rates"}),
                    "versions": [repr(version) for version in chain],
                }
                if self.earlier and (begin := earlier_version(self.earlier[0] / name, chain[0].name)):
                    inputs["earlier"] = read_json(begin / "teacher.json")["fingerprint"]
                args = (member, name, self.dataset.root, chain, self.earlier)
                *also, last = (f"{name}/{version.name}" for version in chain)
                units.append(Unit(last, inputs, args, tuple(also)))
        folder = self.run.units("teach", teach_chain, units)
        for left in folder.glob(f"*/*/{CHECKPOINTS}"):  # a kill left them
            shutil.rmtree(left)
        return folder

    def _tuned(self) -> dict[str, DlrmTeacher]:
        """The members that have rates to choose from, with the one that did best on validation rows."""
        tried: dict[str, dict[str, DlrmTeacher]] = {}
        units = []
        for name, member in self.job.teachers.members.items():
            if not isinstance(member, DlrmTeacher):
                continue
            for rate in member.embedding_rates:
                spec = member.model_copy(update={"train": member.train.model_copy(update={"embedding_rate": rate})})
                version = Version(f"rate-{rate}", Rows("train", domain=domain_of(member, self.dataset)), ())
                unit = f"{name}/{version.name}"
                inputs = {
                    "dataset": self.dataset.fingerprint,
                    "teacher": spec.model_dump(mode="json", exclude={"embedding_rates"}),
                    "version": repr(version),
                }
                units.append(Unit(unit, inputs, (spec, self.dataset.root, version, f"tune_teachers {unit}")))
                tried.setdefault(name, {})[unit] = spec
        if not units:
            return {}
        folder = self.run.units("tune_teachers", try_teacher, units)

        def ne(unit: str) -> float:
            return float(read_json(folder / unit / "teacher.json")["validation_ne"])

        return {name: specs[min(specs, key=ne)] for name, specs in tried.items()}

    def recombine(self) -> Dataset | None:
        """Rows that nobody was shown."""
        settings = self.job.distill.recombine
        if settings is None:
            return None
        settings = settings.over(self.job.dataset.features)
        split = recombined_split(self.job.teachers)
        inputs = {
            "dataset": self.dataset.fingerprint,
            "recombine": settings.model_dump(mode="json", exclude={"weight"}),
            "split": split,
        }

        def make(work: Path) -> None:
            recombine(self.dataset, settings, work, self.progress, split)

        return Dataset(self.run.stage("recombine", inputs, make))

    @property
    def _keep(self) -> float:
        """The share of pairs of which answers are cached: less than all where nobody reads more."""
        route, readers = self.job.teachers.route, set(self.job.distill.methods) - {"alone", "diverse"}
        return 1.0 if readers or route.curve or not self._askable else self.job.teachers.keep

    @property
    def _routed(self) -> Routed | None:
        """Who is asked, where it is not everybody about everything."""
        return Routed(self.routes, self._keep) if self.routes and self._keep < 1 else None

    def _routed_by(self, routed: Routed | None) -> dict[str, Any]:
        """What an answer, or a student, depends on because of the router."""
        if routed is None:
            return {}
        return {"routed": [routed.keep, file_sha256(self.run.stage_folder("route") / "routes" / SUCCESS)]}

    def _outside(self) -> list[Path]:
        """Caches of teachers that are known by their answers alone."""
        names = [name for name in self.members if name not in self._askable]
        if not names:
            return []
        folder = self.run.units("cache", cache_teacher, [self._cached(name, None) for name in names])
        return [folder / name for name in names]

    def cache(self) -> list[TeacherCache]:
        """What every teacher says about the rows that it may score."""
        units = [self._cached(name, self._routed) for name in self.members]
        folder = self.run.units("cache", partial(cache_teacher, spread=machines(self.job)), units)
        return [TeacherCache(folder / name, self.dataset) for name in self.members]

    def _cached(self, name: str, routed: Routed | None) -> Unit:
        """One teacher's cache."""
        teachers, member = self.run.stage_folder("teach"), self.job.teachers.members[name]
        inputs: dict[str, Any] = {"dataset": self.dataset.fingerprint, "contract": CONTRACT}
        everyone = self.versions(name)
        if isinstance(member, FileTeacher):
            inputs["teacher"] = member.model_dump(mode="json")
            inputs["files"] = [file_sha256(source.path) for source in find(Files(paths=member.paths))]
        else:
            inputs["versions"] = {
                version.name: [
                    repr(version),
                    read_json(teachers / name / version.name / "teacher.json")["fingerprint"],
                ]
                for version in everyone
            }
            inputs |= self._routed_by(routed)
        return Unit(name, inputs, (member, name, teachers, self.dataset.root, everyone, self.shelf, routed))

    def label(self) -> list[TeacherCache]:
        """What the teachers that can be asked say about recombined rows."""
        made, teachers = self.unlabelled, self.run.stage_folder("teach")
        if made is None:
            return []
        asked = [cache for cache in self.caches if FINAL in cache.manifest.versions]
        units = []
        for cache in asked:
            labelling = labeller(self.versions(cache.name)[-1])
            inputs = {
                "recombined": made.fingerprint,
                "version": [repr(labelling), cache.manifest.versions[FINAL].model_dump()],
                "contract": CONTRACT,
                **self._routed_by(self._routed),
            }
            args = (cache.name, teachers, self.dataset.root, made.root, labelling, self.shelf, self._routed)
            units.append(Unit(cache.name, inputs, args))
        folder = self.run.units("label", partial(label_rows, spread=machines(self.job)), units)
        return [TeacherCache(folder / cache.name, made) for cache in asked]

    @cached_property
    def foundation(self) -> Shape | None:
        """The foundation's shape; None where it is known by its answers alone."""
        member = self.job.teachers.members[self.job.teachers.foundation]
        if not isinstance(member, DlrmTeacher):
            return None
        return shape_of(member, member.dim, self._taught_on.schema, member.features)

    @property
    def _taught_on(self) -> Dataset:
        """The dataset that the teachers learned from."""
        return self.dataset
