"""The whole way through, in order. Read this file first: it calls every room.

    simulate -> ingest -> teach (-> recombine -> route) -> cache (-> label) -> distill -> evaluate -> export

Each stage reads what the stages before it wrote into the run folder, and is skipped when it was done from the same
inputs. The command line, the orchestrator and a notebook all call `run_job`.
"""

from __future__ import annotations

import glob
import shutil
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from recdistill.clicklog.ingest import ingest
from recdistill.clicklog.recombine import recombine
from recdistill.clicklog.schema import SPLITS, Dataset
from recdistill.clicklog.simulate import simulate
from recdistill.clicklog.sources import find
from recdistill.config import Job
from recdistill.config.dataset import Files
from recdistill.config.job import Distill, Method
from recdistill.config.models import DlrmTeacher, FileTeacher
from recdistill.distill.router import Askable, Committee, route
from recdistill.distill.train import Materials
from recdistill.distill.warm import Start
from recdistill.distill.work import best_of, candidates, distill_unit
from recdistill.evaluate.page import render
from recdistill.evaluate.report import evaluate
from recdistill.export import export_student
from recdistill.files import CHECKPOINTS, SUCCESS, file_sha256, read_json, write_json, write_text
from recdistill.judged import account, committee, forwards, taught
from recdistill.models.shape import Shape, shape_of
from recdistill.models.size import solve
from recdistill.progress import Progress
from recdistill.runs import Run, Unit
from recdistill.spread import engine, machines
from recdistill.teachers.routes import Routed
from recdistill.teachers.shards import CONTRACT, TeacherCache
from recdistill.teachers.shelf import Shelf
from recdistill.teachers.versions import FINAL, Version, chains, versions
from recdistill.teachers.work import cache_teacher, domain_of, earlier_version, label_rows, teach_chain

STAGES = ("simulate", "ingest", "teach", "cache", "distill", "evaluate", "export")


def run_job(job: Job, run: Run, upto: str, progress: Progress) -> Path:
    """Runs the stages up to and with `upto`, and returns that stage's folder."""
    return Stages(job, run, progress).through(upto)


class Stages:
    """The stages of one job in one run folder; each method does its stage if it must, and returns what it made."""

    shelf: Shelf | None = None
    """Where teachers' answers are kept from night to night."""
    earlier: tuple[Path, Path] | None = None
    """Teachers of an earlier night, where these begin, and the dataset whose ids they know."""

    def __init__(self, job: Job, run: Run, progress: Progress) -> None:
        self.job, self.run, self.progress = job, run, progress

    def through(self, upto: str) -> Path:
        log = self.simulate()
        if upto == "simulate":
            return self.run.stage_folder("simulate")
        self.dataset = self.ingest(log)
        if upto == "ingest":
            return self.dataset.root
        teachers = self.teach()
        if upto == "teach":
            return teachers
        self.unlabelled = self.recombine()
        self.routes = self.route()
        self.caches = self.cache()
        self.labels = self.label()
        if upto == "cache":
            return self.run.stage_folder("cache")
        students = self.distill()
        if upto == "distill":
            return self.run.stage_folder("distill")
        evaluated = self.evaluate(students)
        return evaluated if upto == "evaluate" else self.export(students)

    @property
    def members(self) -> list[str]:
        """Names of the committee, the foundation first."""
        names = self.job.teachers.members
        return [self.job.teachers.foundation, *(name for name in names if name != self.job.teachers.foundation)]

    def simulate(self) -> Files:
        """The raw log: the job's own files, or a generated one."""
        spec = self.job.dataset
        if spec.simulate is None:
            assert spec.log is not None
            return spec.log
        simulation = spec.simulate

        def make(work: Path) -> None:
            simulate(simulation, work, self.progress)

        folder = self.run.stage("simulate", simulation.model_dump(mode="json"), make)
        return Files(paths=[f"{glob.escape(str(folder))}/day=*.parquet"])

    def ingest(self, log: Files, like: Dataset | None = None) -> Dataset:
        """The dataset; what models that learned from the dataset `like` see of a row stays as it was."""
        spec = self.job.dataset.model_copy(update={"log": log, "simulate": None})
        if self.job.dataset.simulate is not None:
            spec = spec.model_copy(update={"negative_keep_rate": self.job.dataset.simulate.negative_keep_rate})
        files = [source.path for table in (log, *spec.joins) for source in find(table)]
        inputs: dict[str, Any] = {
            "dataset": spec.model_dump(mode="json", exclude={"log": {"paths"}}),
            "files": [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files],
        }
        if like is not None:
            inputs["like"] = like.fingerprint

        def make(work: Path) -> None:
            ingest(spec, work, self.progress, like, engine(self.job))

        return Dataset(self.run.stage("ingest", inputs, make))

    def versions(self, name: str) -> list[Version]:
        domain = domain_of(self.job.teachers.members[name], self.dataset)
        return [version.within(domain) for version in versions(self.job.teachers, self.dataset)]

    def teach(self) -> Path:
        self.fitting()  # a size that cannot be is told before teachers are trained, not after
        units = []
        for name in self.members:
            member = self.job.teachers.members[name]
            if isinstance(member, FileTeacher):
                continue
            for chain in chains(self.versions(name)):
                inputs: dict[str, Any] = {
                    "dataset": self.dataset.fingerprint,
                    "teacher": member.model_dump(mode="json"),
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

    def recombine(self) -> Dataset | None:
        """Rows that nobody was shown."""
        settings = self.job.distill.recombine
        if settings is None:
            return None
        inputs = {"dataset": self.dataset.fingerprint, "recombine": settings.model_dump(mode="json")}

        def make(work: Path) -> None:
            recombine(self.dataset, settings, work, self.progress)

        return Dataset(self.run.stage("recombine", inputs, make))

    def route(self) -> dict[str, Path] | None:
        """How important each teacher is on each row: a folder for each split, where a method weighs teachers."""
        if "diverse" not in self.job.distill.methods:
            return None
        teachers, settings = self.run.stage_folder("teach"), candidates("diverse", self.job.distill)[0]
        outside = [TeacherCache(path, self.dataset) for path in self._outside()]
        asked = [Askable(name, self.versions(name)[-1]) for name in self._askable]
        start = self._start("routes", "route")
        inputs = {
            "dataset": self.dataset.fingerprint,
            "recombined": self.unlabelled.fingerprint if self.unlabelled else None,
            "teachers": [
                [one.name, repr(one.final), read_json(teachers / one.name / FINAL / "teacher.json")["fingerprint"]]
                for one in asked
            ],
            "answered": [[cache.name, cache.fingerprint] for cache in outside],
            "shape": self.student.model_dump(),
            "train": settings.train.model_dump(mode="json"),
            "seed": settings.tune.seed,
            "start": start.fingerprint() if start else None,
        }
        more = self.unlabelled.root if self.unlabelled else None
        whom = Committee(self.dataset.root, teachers, asked, [cache.root for cache in outside])
        args = (whom, more, self.shelf, self.student, settings.train, settings.tune.seed, start)
        folder = self.run.units("route", route, [Unit("routes", inputs, args)]) / "routes"
        return {split: folder / split for split in (*SPLITS, *(["unlabelled"] if more else []))}

    @property
    def _askable(self) -> list[str]:
        return [name for name in self.members if not isinstance(self.job.teachers.members[name], FileTeacher)]

    @property
    def _keep(self) -> float:
        """The share of pairs of which answers are cached: less than all where nobody reads more."""
        route, readers = self.job.teachers.route, set(self.job.distill.methods) - {"alone", "diverse"}
        return 1.0 if readers or route.curve or not self._askable else route.keep

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
        units = [
            Unit(
                cache.name,
                {
                    "recombined": made.fingerprint,
                    "teacher": cache.manifest.versions[FINAL].model_dump(),
                    "contract": CONTRACT,
                    **self._routed_by(self._routed),
                },
                (
                    cache.name,
                    teachers,
                    self.dataset.root,
                    made.root,
                    self.versions(cache.name)[-1],
                    self.shelf,
                    self._routed,
                ),
            )
            for cache in asked
        ]
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

    def fitting(self) -> list[Shape]:
        """The shapes that the student may have."""
        return solve(self.job.student, self.dataset.schema, self._foundation_size["total"])

    @property
    def _foundation_size(self) -> dict[str, Any]:
        name = self.job.teachers.foundation
        return account(name, self.foundation, self.job.teachers.members[name])

    @cached_property
    def student(self) -> Shape:
        """The student's shape: of those that fit, the one that does best on validation rows when trained alone."""
        shapes = self.fitting()
        for shape in (*([self.foundation] if self.foundation else []), *shapes):
            self.progress.stage(f"  {shape.told()}")
        if len(shapes) == 1:
            return shapes[0]
        seed, settings = self.job.distill.tune.seed, candidates("alone", self.job.distill)[0]
        units = [self._unit(f"dim-{s.dim}", "alone", seed, settings, s, "size") for s in shapes]
        folder = self.run.units("size", distill_unit, units)
        return shapes[best_of([folder / unit.name for unit in units])]

    def _unit(
        self,
        name: str,
        method: Method,
        seed: int,
        settings: Distill,
        shape: Shape,
        stage: str,
        keep: float | None = None,
    ) -> Unit:
        """One student: of a shape, by a method, with a seed; one that weighs teachers hears a share `keep` of them."""
        inputs = {
            "dataset": self.dataset.fingerprint,
            "shape": shape.model_dump(),
            "method": method,
            "seed": seed,
            "settings": _relevant(method, settings),
        }
        if method != "alone":
            # In order: the first is the foundation, and the others' order decides what is drawn for them.
            inputs["caches"] = [[cache.name, cache.fingerprint] for cache in self._all_caches]
        teach, cache, label = (self.run.stage_folder(name) for name in ("teach", "cache", "label"))
        names = () if method == "alone" else tuple(self.members)
        routed = None
        if method == "diverse" and self.routes:
            # Of a routed cache all is heard: an answer may be there because an earlier night's router asked for it.
            routed = Routed(self.routes, 1.0 if self._routed else keep or self.job.teachers.route.keep)
        inputs |= self._routed_by(routed)
        if start := self._start(name, "distill") if stage == "distill" else None:
            inputs["start"] = start.fingerprint()
        more = (self.unlabelled.root, label) if self.unlabelled and names else None
        materials = Materials(self.dataset.root, teach, cache, names, shape, more, start, routed)
        return Unit(name, inputs, (materials, method, seed, settings, f"{stage} {name}"))

    def _start(self, name: str, stage: str) -> Start | None:
        """The earlier student, or router, at which this one of the stage begins, if any."""
        return None

    @property
    def _all_caches(self) -> list[TeacherCache]:
        return [*self.caches, *self.labels]

    def distill(self) -> dict[Method, list[Path]]:
        """Every method's students, one folder a seed."""
        job, shape = self.job.distill, self.student
        for cache in self._all_caches:
            cache.verify()
        settings = self.tune()
        units = [
            self._unit(f"{method}/seed-{seed}", method, seed, settings[method], shape, "distill")
            for method in job.methods
            for seed in job.seeds
        ]
        folder = self.run.units("distill", distill_unit, units)
        self.curve = self._curve(settings["diverse"]) if "diverse" in job.methods else {}
        return {method: [folder / method / f"seed-{seed}" for seed in job.seeds] for method in job.methods}

    def _curve(self, settings: Distill) -> dict[float, list[Path]]:
        """Students of `diverse` from more and fewer answers: by the share of pairs saved, one folder a seed.

        With all of them first, which is what the others are compared with.
        """
        route, seeds = self.job.teachers.route, self.job.distill.seeds
        if not route.curve or not self._askable:
            return {}
        saved = [share for share in sorted({0.0, *route.curve}) if share != self._saved]
        units = [
            self._unit(f"saved-{share:g}/seed-{seed}", "diverse", seed, settings, self.student, "curve", 1 - share)
            for share in saved
            for seed in seeds
        ]
        folder = self.run.units("curve", distill_unit, units)
        return {share: [folder / f"saved-{share:g}" / f"seed-{seed}" for seed in seeds] for share in saved}

    @property
    def _saved(self) -> float:
        """The share of pairs that `diverse` does without."""
        return round(1 - self.job.teachers.route.keep, 6) if self._askable else 0.0

    def tune(self) -> dict[Method, Distill]:
        """Each method's settings: those of the trial with the best validation NE."""
        job = self.job.distill
        trials = {method: candidates(method, job) for method in job.methods}
        if job.tune.trials == 1:
            return {method: tried[0] for method, tried in trials.items()}
        units = [
            self._unit(f"{method}/trial-{number}", method, job.tune.seed, settings, self.student, "tune")
            for method, tried in trials.items()
            for number, settings in enumerate(tried)
        ]
        folder = self.run.units("tune", distill_unit, units)
        return {
            method: tried[best_of([folder / method / f"trial-{number}" for number in range(len(tried))])]
            for method, tried in trials.items()
        }

    def evaluate(self, students: dict[Method, list[Path]]) -> Path:
        small, members = self.student, self.job.teachers.members
        outside = [member.parameters for member in members.values() if isinstance(member, FileTeacher)]
        inputs = {
            "job": [self.job.name, self.job.teachers.regime, *outside],
            "dataset": self.dataset.fingerprint,
            "caches": [[cache.name, cache.fingerprint] for cache in self.caches],
            "students": {
                str(f.relative_to(f.parent.parent)): file_sha256(f / "test.parquet")
                for fs in students.values()
                for f in fs
            },
            "curve": {f"{saved:g}": [file_sha256(f / "test.parquet") for f in fs] for saved, fs in self.curve.items()},
            "evaluate": self.job.evaluate.model_dump(mode="json"),
        }

        def make(work: Path) -> None:
            seeds, size = self.job.distill.seeds, small.parameters()
            models = committee(self.dataset, self.caches, members, self.run.stage_folder("teach"), work)
            for method, folders in students.items():
                models += taught(method, method, seeds, folders, size)
            for saved, folders in self.curve.items():
                models += taught(f"saved-{saved:g}", "diverse", seeds, folders, size, saved)
            context = {
                "name": self.job.name,
                "foundation": self.job.teachers.foundation,
                "regime": self.job.teachers.regime,
                "teacher_forwards": forwards(self.caches, self.labels, self.shelf),
                "saved": self._saved,
                "pairs": {saved: Routed(self.routes or {}, 1 - saved).pairs() for saved in (self._saved, *self.curve)},
                "account": [self._foundation_size, account("student", small)],
                "timings": self.run.timings(),
            }
            report = evaluate(self.dataset, models, self.job.evaluate, context)
            write_json(work / "report.json", report)
            write_text(work / "report.html", render(report))

        folder = self.run.stage("evaluate", inputs, make)
        for name in ("report.json", "report.html"):
            made, shown = folder / name, self.run.folder / name
            if not shown.exists() or shown.read_bytes() != made.read_bytes():
                write_text(shown, made.read_text(encoding="utf-8"))
        return folder

    def export(self, students: dict[Method, list[Path]]) -> Path:
        """The student with the best validation NE of all, ready to serve, in `<run>/student`."""
        folders = [folder for method, folders in students.items() if method != "alone" for folder in folders]
        folders = folders or students["alone"]
        best = folders[best_of(folders)]
        inputs = {"dataset": self.dataset.fingerprint, "student": file_sha256(best / "weights.safetensors")}
        folder = self.run.stage("export", inputs, lambda work: export_student(best, self.dataset, work))
        link = self.run.folder / "student"
        if not link.exists():
            link.unlink(missing_ok=True)
            link.symlink_to(folder.relative_to(self.run.folder), target_is_directory=True)
        return link


def _relevant(method: Method, settings: Distill) -> dict[str, Any]:
    """What of the settings a method's result depends on."""
    out: dict[str, Any] = {"train": settings.train.model_dump(mode="json")}
    if method != "alone":
        out["soft_weight"] = settings.soft_weight
    if method == "diverse":
        out["diverse"] = settings.diverse.model_dump(mode="json")
    return out
