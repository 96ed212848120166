"""Who is judged: the foundation, the other teachers, and each method's students, one a seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from recdistill.errors import UserError
from recdistill.evaluate.predictions import Scored

ALONE, DIVERSE = "alone", "diverse"
COMMITTEE, ORACLE = "committee", "oracle"


@dataclass(frozen=True)
class Lineup:
    """The models of a report, checked to fit together."""

    foundation: Scored
    teachers: list[Scored]
    committee: Scored
    methods: dict[str, list[Scored]]
    """Students by method, each in the order of `seeds`."""
    curve: dict[str, float]
    """Those names among `methods` that are points of the trade-off curve, and the share of pairs each did without."""
    seeds: list[int]

    @property
    def baselines(self) -> list[str]:
        """Every method but `diverse`."""
        return [method for method in self.methods if method != DIVERSE and method not in self.curve]

    @property
    def distilled(self) -> list[str]:
        """Every method but `alone`."""
        return [method for method in self.methods if method != ALONE and method not in self.curve]

    def paths(self, method: str) -> list[Path]:
        """The predictions of a method's students; none where it was not trained."""
        return [student.path for student in self.methods.get(method, [])]

    def columns(self, oracle: bool) -> dict[str, list[int]]:
        """The scoreboard's columns of each name in the report: one for a teacher, one a seed for a method."""
        names = [*(teacher.name for teacher in self.teachers), COMMITTEE] + [ORACLE] * oracle
        found = {name: [column] for column, name in enumerate(names)}
        for number, method in enumerate(self.methods):
            first = len(names) + number * len(self.seeds)
            found[method] = list(range(first, first + len(self.seeds)))
        return found


def line_up(models: list[Scored], foundation: str) -> Lineup:
    """Sorts models into teachers and methods.

    Raises:
        UserError: the foundation, the committee or `alone` is missing, a method lacks a seed, or a name is there twice.
    """
    teachers = {model.name: model for model in models if model.role == "teacher"}
    if foundation not in teachers:
        known = ", ".join(teachers) or "none"
        raise UserError(f"the foundation {foundation!r} is not among the scored teachers, which are: {known}")
    by_method: dict[str, dict[int, Scored]] = {}
    curve: dict[str, float] = {}
    for model in models:
        if model.role == "student":
            name = model.method if model.saved is None else f"{model.method}, {model.saved:.0%} saved"
            _add_student(by_method, name, model)
            if name and model.saved is not None:
                curve[name] = model.saved
    committee = next((model for model in models if model.role == "committee"), None)
    if committee is None:
        raise UserError("the committee was not scored: expected its word about the test rows")
    if ALONE not in by_method:
        raise UserError("no student of method 'alone' was scored: train it too, for there is no gap without it")
    seeds = sorted(by_method[ALONE])
    for method, students in by_method.items():
        if sorted(students) != seeds:
            raise UserError(f"method {method!r} has seeds {sorted(students)}; expected those of 'alone': {seeds}")
    names = [model.name for model in models if model.role == "teacher"] + [*by_method, COMMITTEE, ORACLE]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"a teacher may not be called {name!r}, for another model of the report is; rename it")
    methods = {method: [students[seed] for seed in seeds] for method, students in by_method.items()}
    return Lineup(teachers[foundation], list(teachers.values()), committee, methods, curve, seeds)


def _add_student(by_method: dict[str, dict[int, Scored]], method: str | None, student: Scored) -> None:
    if method is None or student.seed is None:
        raise UserError(f"student {student.name!r} has no method or no seed; expected both")
    seeds = by_method.setdefault(method, {})
    if student.seed in seeds:
        raise UserError(f"method {method!r} was scored twice with seed {student.seed}; expected each seed once")
    seeds[student.seed] = student
