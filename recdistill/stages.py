"""The whole way through, in order. Read this file first: it calls every room.

    simulate -> ingest -> teach (-> cluster -> recombine -> route) -> cache (-> label) -> distill -> evaluate -> export

Each stage reads what the stages before it wrote into the run folder, and is skipped when it was done from the same
inputs. The command line, the orchestrator and a notebook all call `run_job`. The committee's stages are in `teaching`,
the students' in `learning`.
"""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Any

from recdistill.clicklog.ingest import ingest
from recdistill.clicklog.schema import Dataset
from recdistill.clicklog.simulate import simulate
from recdistill.clicklog.sources import find
from recdistill.config import Job
from recdistill.config.dataset import Files
from recdistill.config.job import Method
from recdistill.config.models import FileTeacher
from recdistill.distill.train import calibrates
from recdistill.distill.work import best_of
from recdistill.evaluate.page import render
from recdistill.evaluate.report import evaluate
from recdistill.export import export_student
from recdistill.files import file_sha256, write_json, write_text
from recdistill.judged import account, committee, forwards, taught
from recdistill.learning import Learning
from recdistill.progress import Progress
from recdistill.runs import Run
from recdistill.spread import engine
from recdistill.teachers.routes import Routed

STAGES = ("simulate", "ingest", "teach", "cache", "distill", "evaluate", "export")


def run_job(job: Job, run: Run, upto: str, progress: Progress) -> Path:
    """Runs the stages up to and with `upto`, and returns that stage's folder."""
    return Stages(job, run, progress).through(upto)


class Stages(Learning):
    """The stages of one job in one run folder; each method does its stage if it must, and returns what it made."""

    def through(self, upto: str) -> Path:
        log = self.simulate()
        if upto == "simulate":
            return self.run.stage_folder("simulate")
        self.dataset = self.ingest(log)
        if upto == "ingest":
            return self.dataset.root
        self.fitting()  # a size that cannot be is told before teachers are trained, not after
        teachers = self.teach()
        if upto == "teach":
            return teachers
        self.clusters = self.cluster()
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

    def evaluate(self, students: dict[Method, list[Path]]) -> Path:
        members, sizes = self.job.teachers.members, {m: shape.parameters() for m, shape in self.shapes.items()}
        outside = {name: member for name, member in members.items() if isinstance(member, FileTeacher)}
        in_sample = [name for name, member in outside.items() if member.seen == "in_sample"]
        told = [member.parameters for member in outside.values()]
        inputs = {
            "job": [self.job.name, self.job.teachers.regime, *told, *in_sample],
            "dataset": self.dataset.fingerprint,
            "caches": [[cache.name, cache.fingerprint] for cache in self.caches],
            "students": {
                str(f.relative_to(f.parent.parent)): file_sha256(f / "test.parquet")
                for fs in students.values()
                for f in fs
            },
            "curve": {f"{saved:g}": [file_sha256(f / "test.parquet") for f in fs] for saved, fs in self.curve.items()},
            "evaluate": self.job.evaluate.model_dump(mode="json"),
            "worth": self.worth,
        }

        def make(work: Path) -> None:
            seeds = self.job.distill.seeds
            told = calibrates(self.job.teachers.foretell)
            models = committee(self.dataset, self.caches, members, told, self.run.stage_folder("teach"), work)
            for method, folders in students.items():
                models += taught(method, method, seeds, folders, sizes[method])
            for saved, folders in self.curve.items():
                models += taught(f"saved-{saved:g}", "diverse", seeds, folders, sizes["diverse"], saved)
            context = {
                "name": self.job.name,
                "foundation": self.job.teachers.foundation,
                "regime": self.job.teachers.regime,
                "in_sample": in_sample,
                "teacher_forwards": forwards(self.caches, self.labels, self.shelf),
                "saved": self._saved,
                "pairs": {saved: Routed(self.routes or {}, 1 - saved).pairs() for saved in (self._saved, *self.curve)},
                "worth": self.worth,
                "account": [self._foundation_size, account("student", self.student)],
                "without": self.without,
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
        best = folders[best_of([[folder] for folder in folders])]
        inputs = {"dataset": self.dataset.fingerprint, "student": file_sha256(best / "weights.safetensors")}
        folder = self.run.stage("export", inputs, lambda work: export_student(best, self.dataset, work))
        link = self.run.folder / "student"
        if not link.exists():
            link.unlink(missing_ok=True)
            link.symlink_to(folder.relative_to(self.run.folder), target_is_directory=True)
        return link
