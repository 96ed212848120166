"""The students' stages: whom they should listen to, their size, their settings, and every student by every method.

cluster -> route -> (cache, in `teaching`) -> size -> tune -> distill -> curve
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from recdistill.clicklog.schema import SPLITS
from recdistill.config.job import Distill, Method
from recdistill.distill.asked import Askable, Committee
from recdistill.distill.routing import route, starts, worth_of
from recdistill.distill.train import Materials
from recdistill.distill.warm import Start
from recdistill.distill.work import best_of, candidates, distill_unit
from recdistill.files import read_json
from recdistill.judged import account
from recdistill.models.clusters import cluster
from recdistill.models.shape import Shape
from recdistill.models.size import left_out, solve
from recdistill.models.untrained import Untrained
from recdistill.runs import Unit
from recdistill.teachers.routes import Routed
from recdistill.teachers.shards import TeacherCache
from recdistill.teachers.versions import FINAL
from recdistill.teaching import Teaching

COMBINING: tuple[Method, ...] = ("mean", "diverse")
"""Methods that put the committee's answers together."""


class Learning(Teaching):
    """The students of one job, beside their committee."""

    clusters: dict[str, Path]
    """What `cluster` found."""
    curve: dict[float, list[Path]]
    """Students from more and fewer answers, by the share of pairs saved."""

    def fitting(self) -> list[Shape]:
        """The shapes that the student may have."""
        known = self.foundation.known if self.foundation else {}
        return solve(self.job.student, self.dataset.schema, self._foundation_size["total"], known)

    def cluster(self) -> dict[str, Path]:
        """Which ids share rows, for each shape of students where they do: a folder, by the shape's name."""
        sharing = {self._called(shape): shape for shape in self.fitting() if shape.clusters}
        if not sharing:
            return {}
        teacher = self.run.stage_folder("teach") / self.job.teachers.foundation / FINAL
        taught = read_json(teacher / "teacher.json")["fingerprint"]
        units = [
            Unit(name, {"teacher": taught, "tables": [t.model_dump() for t in shape.tables]}, (teacher, shape))
            for name, shape in sharing.items()
        ]
        folder = self.run.units("cluster", cluster, units)
        return {name: folder / name for name in sharing}

    @property
    def _foundation_size(self) -> dict[str, Any]:
        name = self.job.teachers.foundation
        return account(name, self.foundation, self.job.teachers.members[name])

    def size(self) -> dict[Method, Shape]:
        """Each method's shape: of those that fit, the one that does best on validation rows.

        A student that hears teachers learns more than its tables hold, one without them learns by heart: what suits the
        one would make the other look worse than it is. So `alone` has its own, and the others have the one that suits
        the first of them.
        """
        fitting, job = self.fitting(), self.job.distill
        for told in dict.fromkeys(shape.told() for shape in (self.foundation, *fitting) if shape):
            self.progress.stage(f"  {told}")
        if len(fitting) == 1:
            return dict.fromkeys(job.methods, fitting[0])
        deciding = {method: method if method == "alone" else self._first_taught for method in job.methods}
        best = self._best(
            "size",
            {
                method: [(self._called(shape), candidates(method, job)[0], shape) for shape in fitting]
                for method in dict.fromkeys(deciding.values())
            },
        )
        return {method: fitting[best[decider]] for method, decider in deciding.items()}

    def _called(self, shape: Shape) -> str:
        """A shape's trial among others."""
        student, parts = self.job.student, [f"dim-{shape.dim}"]
        if len(set(student.unknowns)) > 1:
            parts.append(f"unknown-{shape.unknown:g}")
        if gone := left_out(student, shape):
            parts.append(f"without-{student.without.index(gone) + 1}")
        if shape.clusters:
            parts.append("clustered")
        return "-".join(parts)

    @cached_property
    def shapes(self) -> dict[Method, Shape]:
        """What `size` found."""
        return self.size()

    @property
    def _first_taught(self) -> Method:
        return next((method for method in self.job.distill.methods if method != "alone"), "alone")

    @property
    def student(self) -> Shape:
        """The shape of the students that were taught."""
        return self.shapes[self._first_taught]

    @property
    def without(self) -> list[dict[str, list[str]]]:
        """`features` that students were found to do better without, and the `methods` whose students they are."""
        found: dict[tuple[str, ...], list[str]] = {}
        for method, shape in self.shapes.items():
            found.setdefault(tuple(left_out(self.job.student, shape)), []).append(method)
        return [{"methods": methods, "features": [*gone]} for gone, methods in found.items() if gone]

    def route(self) -> dict[str, Path] | None:
        """How important each teacher is on each row: a folder for each split, where a method weighs teachers."""
        if "diverse" not in self.job.distill.methods:
            return None
        teachers, settings = self.run.stage_folder("teach"), candidates("diverse", self.job.distill)[0]
        seed = self.job.distill.tune.seeds[0]
        # A router is thrown away, and may be as wide as any of them and know as much.
        student = self._untrained(self.fitting()[-1])
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
            **student.inputs(),
            "train": settings.train.model_dump(mode="json"),
            "seed": seed,
            "start": {name: begin.fingerprint() for name, begin in starts(start).items()},
        }
        more = self.unlabelled.root if self.unlabelled else None
        whom = Committee(self.dataset.root, teachers, asked, [cache.root for cache in outside])
        args = (whom, more, self.shelf, student, settings.train, seed, start)
        folder = self.run.units("route", route, [Unit("routes", inputs, args)]) / "routes"
        return {split: folder / split for split in (*SPLITS, *(["unlabelled"] if more else []))}

    @property
    def worth(self) -> dict[str, Any] | None:
        """What each teacher is worth to the committee's word; None where no method weighs teachers."""
        return worth_of(self.run.stage_folder("route") / "routes") if self.routes else None

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
        untrained = self._untrained(shape)
        inputs = {
            "dataset": self.dataset.fingerprint,
            **untrained.inputs(),
            "method": method,
            "seed": seed,
            "settings": _relevant(method, settings),
        }
        names = self._heard(method)
        if names:
            # In order: the first is the foundation, and the others' order decides what is drawn for them.
            inputs["caches"] = [[cache.name, cache.fingerprint] for cache in self._all_caches if cache.name in names]
        teach, cache, label = (self.run.stage_folder(name) for name in ("teach", "cache", "label"))
        routed = None
        if method == "diverse" and self.routes:
            routed = Routed(self.routes, keep or self.job.teachers.keep, sparse=self._routed is not None)
        inputs |= self._routed_by(routed)
        if start := self._start(name, "distill") if stage == "distill" else None:
            inputs["start"] = start.fingerprint()
        labelled = any(cache.name in names for cache in self.labels)
        more = (self.unlabelled.root, label) if self.unlabelled and labelled else None
        foretell = self.job.teachers.foretell and method in COMBINING
        inputs |= {"foretell": True} if foretell else {}
        materials = Materials(self.dataset.root, teach, cache, names, untrained, more, start, routed, foretell)
        return Unit(name, inputs, (materials, method, seed, settings, f"{stage} {name}"))

    def _heard(self, method: Method) -> tuple[str, ...]:
        """Teachers that a method hears: another expert is no reason to train `single` again."""
        return {"alone": (), "single": (self.job.teachers.foundation,)}.get(method, tuple(self.members))

    def _untrained(self, shape: Shape) -> Untrained:
        return Untrained(shape, self.clusters.get(self._called(shape)))

    def _start(self, name: str, stage: str) -> Start | None:
        """The earlier student, or router, at which this one of the stage begins, if any."""
        return None

    @property
    def _all_caches(self) -> list[TeacherCache]:
        return [*self.caches, *self.labels]

    def tune(self) -> dict[Method, Distill]:
        """Each method's settings: those of the trial with the best validation NE."""
        job = self.job.distill
        trials = {method: candidates(method, job) for method in job.methods}
        if job.tune.trials == 1:
            return {method: tried[0] for method, tried in trials.items()}
        best = self._best(
            "tune",
            {
                method: [(f"trial-{number}", settings, self.shapes[method]) for number, settings in enumerate(tried)]
                for method, tried in trials.items()
            },
        )
        return {method: tried[best[method]] for method, tried in trials.items()}

    def _best(self, stage: str, trials: dict[Method, list[tuple[str, Distill, Shape]]]) -> dict[Method, int]:
        """Which of each method's trials, a name with settings and a shape, does best on validation rows."""
        seeds = self.job.distill.tune.seeds
        units = [
            self._unit(f"{method}/{name}/seed-{seed}", method, seed, settings, shape, stage)
            for method, tried in trials.items()
            for name, settings, shape in tried
            for seed in seeds
        ]
        folder = self.run.units(stage, distill_unit, units)
        return {
            method: best_of([[folder / method / name / f"seed-{seed}" for seed in seeds] for name, _, _ in tried])
            for method, tried in trials.items()
        }

    def distill(self) -> dict[Method, list[Path]]:
        """Every method's students, one folder a seed."""
        job, shapes = self.job.distill, self.shapes
        for cache in self._all_caches:
            cache.verify()
        settings = self.tune()
        units = [
            self._unit(f"{method}/seed-{seed}", method, seed, settings[method], shapes[method], "distill")
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
            self._unit(
                f"saved-{share:g}/seed-{seed}", "diverse", seed, settings, self.shapes["diverse"], "curve", 1 - share
            )
            for share in saved
            for seed in seeds
        ]
        folder = self.run.units("curve", distill_unit, units)
        return {share: [folder / f"saved-{share:g}" / f"seed-{seed}" for seed in seeds] for share in saved}

    @property
    def _saved(self) -> float:
        """The share of pairs that `diverse` does without."""
        return round(1 - self.job.teachers.keep, 6) if self._askable else 0.0


def _relevant(method: Method, settings: Distill) -> dict[str, Any]:
    """What of the settings a method's result depends on."""
    out: dict[str, Any] = {"train": settings.train.model_dump(mode="json")}
    if method != "alone":
        out["soft_weight"] = settings.soft_weight
        out["recombined"] = settings.recombine.weight if settings.recombine else 0.0
    if method == "diverse":
        out["diverse"] = settings.diverse.model_dump(mode="json")
    return out
