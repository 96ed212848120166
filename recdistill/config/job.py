"""The whole job: what is read, who teaches, who learns, how that is judged."""

from __future__ import annotations

import itertools
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationInfo, field_validator, model_validator

from recdistill.config.base import MOST_TOLD, NAME, Location, Section, expand, nearest
from recdistill.config.dataset import Bucket, Dataset, Feature, History, Match, Number, Single
from recdistill.config.models import FileTeacher, Member, Student, Teachers, Train
from recdistill.config.service import Service
from recdistill.remote import is_url

Method = Literal["alone", "single", "mean", "hint", "confidence", "diverse"]
METHODS: tuple[Method, ...] = ("alone", "single", "mean", "hint", "confidence", "diverse")
OTHER_MODELS = (*METHODS, "committee", "oracle")
"""What a report is about besides teachers."""
MOST_GROUPS = 62
"""Of features that are recombined: which of them come from elsewhere is drawn as one whole number."""


class Diverse(Section):
    """Settings of the question-and-answer module (METHOD: Liu et al., arXiv 2402.14035)."""

    teacher_dim: int = Field(16, ge=1)
    """Width of the learned embedding of each teacher."""
    question_width: int = Field(64, ge=1)
    """Hidden width of the question and answer augmenters."""
    align_weight: float = Field(0.002, ge=0)
    """How strongly the student's last hidden layer is drawn to translated answers, where a click loss weighs 1."""
    answer_weight: float = Field(0.5, ge=0)
    """Of the click loss of translated answers by themselves, which is what the translation learns from."""
    questions: float = Field(0.0625, gt=0, le=1)
    """The share of rows whose embeddings are read, and of a batch that asks the share on which a teacher is asked
    questions; logits count on all of them."""


class Recombine(Section):
    """Rows without labels for the students: rows of the log whose groups of features come from other rows of the day.

    Training rows are recombined; where teachers go from day to day, those of the validation days in their place: the
    newest that there are. No label of theirs is read.
    """

    rows: float = Field(2.0, gt=0, le=100)
    """Rows for every row that is recombined."""
    groups: list[Annotated[list[str], Field(min_length=1)]] = Field([], max_length=MOST_GROUPS)
    """Features that stay together, such as an item and its metadata; what else is made of the same columns, and users'
    histories, goes with them."""
    others: Literal["stay", "each"] = "stay"
    """What no group holds stays with its row, or each column is a group by itself, as suits a log that nobody can
    explain."""
    weight: float = Field(1.0, ge=0)
    """Of what teachers say about them; a click loss weighs 1, what teachers say about the log's rows `soft_weight`."""
    seed: int = Field(0, ge=0)
    """Of what is drawn."""

    @field_validator("groups", mode="before")
    @classmethod
    def _spell_out(cls, value: Any) -> Any:
        return [expand(group) for group in value] if isinstance(value, list) else value

    @model_validator(mode="after")
    def _disjoint(self) -> Recombine:
        names = [name for group in self.groups for name in group]
        if len(set(names)) < len(names):
            raise ValueError("`groups` must not share a feature")
        if not names and self.others == "stay":
            raise ValueError("give `groups`, or `others: each`: else no row would be new")
        return self

    def over(self, features: dict[str, Feature]) -> Recombine:
        """The same with every feature that moves in a group: those of one column are never apart.

        How much a history matches is no group's: it is worked out anew for each row.
        """
        groups, held = [list(group) for group in self.groups], {name for group in self.groups for name in group}
        moved = {name: feature for name, feature in features.items() if not isinstance(feature, Match)}
        place = {_column(name, moved[name]): group for group in groups for name in group}
        for name, feature in moved.items():
            column = _column(name, feature)
            if name in held or (self.others == "stay" and column not in place):
                continue
            if column not in place:
                groups.append(place.setdefault(column, []))
            place[column].append(name)
        dealt = [list(itertools.chain(*groups[start::MOST_GROUPS])) for start in range(min(len(groups), MOST_GROUPS))]
        return self.model_copy(update={"groups": dealt, "others": "stay"})


Sees = TypeVar("Sees", Student, Member)


def _seeing(model: Sees, shown: list[str]) -> Sees:
    """The same model, which sees what is shown where it does not say itself what it sees."""
    own = isinstance(model, FileTeacher) or model.features is not None
    return model if own else model.model_copy(update={"features": shown})


def _column(name: str, feature: Feature) -> str:
    """The log's column that a feature is made of; of a history the user's."""
    return feature.user if isinstance(feature, History) else getattr(feature, "column", None) or name


class Tune(Section):
    """A search on validation NE, the same number of trials for every method, before the students are trained."""

    trials: int = Field(1, ge=1)
    """1 takes the settings as they stand."""
    embedding_rate: list[float] = []
    """Values of `train.embedding_rate` to try."""
    dense_rate: list[float] = []
    """Values of `train.dense_rate` to try."""
    soft_weight: list[float] = []
    """Ignored by `alone`, which spends its trials on the other lists."""
    seeds: list[Annotated[int, Field(ge=0)]] = Field([0], min_length=1)
    """Of every trial, of sizes too, which is judged by the mean over them: several where one training differs more from
    the next than what is tried does."""


class Distill(Section):
    """The job's `distill:` section."""

    methods: list[Method] = Field(list(METHODS), min_length=1)
    """The ways in which students are taught; `alone` is always one of them."""
    seeds: list[Annotated[int, Field(ge=0)]] = Field([0, 1, 2, 3, 4], min_length=1)
    """A student of each method for every seed; a figure to quote needs at least five."""
    soft_weight: float = Field(1.0, ge=0)
    """Weight of what teachers say about the log's rows beside the click loss; not tied to 1 - a (Rec-Distill)."""
    recombine: Recombine | None = None
    """What every method but `alone` learns from beside the log."""
    train: Train = Train()
    diverse: Diverse = Diverse()
    tune: Tune = Tune()

    @model_validator(mode="after")
    def _has_alone(self) -> Distill:
        if "alone" not in self.methods:
            raise ValueError("`methods` must hold `alone`: without it there is no gap to speak of")
        if len(set(self.methods)) < len(self.methods) or len(set(self.seeds)) < len(self.seeds):
            raise ValueError("`methods` and `seeds` must not repeat")
        return self


class Evaluate(Section):
    """The job's `evaluate:` section."""

    resamples: int = Field(1000, ge=100)
    """Bootstrap resamples behind every interval."""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Of every interval."""
    slices: list[str] = []
    """Single features whose values are reported apart (the 20 most frequent)."""
    seed: int = Field(0, ge=0)
    """Of resamples."""


class Launch(Section):
    """The job's `launch:` section: several processes (ranks) that train each model together, on shards of its tables.

    Under torchrun there are as many as torchrun started. The result does not depend on how many they are, but for
    rounding and dropout: a job may go on with another number.
    """

    ranks: int = Field(1, ge=1, le=256)
    """Processes that the command starts on this machine; with GPUs, one for each."""
    row_wise: list[str] = []
    """Features whose tables are cut by rows over all ranks. Elsewhere the planner decides: whole, or by rows."""
    engine: Literal["here", "processes", "ray"] = "here"
    """Who reads the log, encodes its days and has teachers score its parts, which are all maps (see `spread.py`)."""

    @field_validator("row_wise", mode="before")
    @classmethod
    def _spell_out(cls, value: Any) -> Any:
        return expand(value) if isinstance(value, list | str) else value


class Job(Section):
    """A distillation job, as read from YAML."""

    name: Annotated[str, Field(pattern=NAME)]
    """What reports call it."""
    dataset: Dataset
    teachers: Teachers
    student: Student = Student()
    distill: Distill = Distill()
    evaluate: Evaluate = Evaluate()
    workers: int = Field(0, ge=0)
    """Processes that train models side by side, one thread each; 0 is one a core. Without meaning for ranks."""
    launch: Launch = Launch()
    store: Location | None = None
    """Where runs share what their stages made, as `s3://bucket/prefix`: the same work is done once (see `store.py`)."""
    service: Service = Service()

    @field_validator("store")
    @classmethod
    def _is_remote(cls, value: str | None) -> str | None:
        if value is not None and (not is_url(value) or value.startswith("file:")):
            raise ValueError("expected a place in an object store, like s3://bucket/prefix")
        return value

    @field_validator("teachers", "student")
    @classmethod
    def _see(cls, value: Teachers | Student, info: ValidationInfo) -> Teachers | Student:
        """With every feature that is not hidden named, where some are and a model names none."""
        features = info.data["dataset"].features if "dataset" in info.data else {}
        shown = [name for name, feature in features.items() if not getattr(feature, "hidden", False)]
        if len(shown) == len(features):
            return value
        if isinstance(value, Teachers):
            return value.model_copy(update={"members": {name: _seeing(m, shown) for name, m in value.members.items()}})
        return _seeing(value, shown)

    @model_validator(mode="after")
    def _features_exist(self) -> Job:
        known = self.dataset.features
        models = [("student", self.student.features)]
        models += [
            (f"teachers.members.{name}", member.features)
            for name, member in self.teachers.members.items()
            if not isinstance(member, FileTeacher)
        ]
        asked = [*models, *(("student.without", names) for names in self.student.without)]
        asked.append(("evaluate.slices", self.evaluate.slices))
        asked.append(("service.gates.drifting", self.service.gates.drifting))
        asked.append(("launch.row_wise", self.launch.row_wise))
        groups = self.distill.recombine.groups if self.distill.recombine else []
        asked += [("distill.recombine.groups", group) for group in groups]
        problems: list[str] = []
        for where, names in asked:
            for name in names or []:
                if name not in known and len(problems) < MOST_TOLD:
                    problems.append(f"{where}: no feature {name!r} in dataset.features{nearest(name, known)}")
        whole = self.student.features or list(known)
        models += [("student.without", [n for n in whole if n not in names]) for names in self.student.without]
        for where, names in models:
            if names is not None and all(isinstance(known.get(name), Number) for name in names):
                problems.append(f"{where}: needs at least one feature that is not dense")
        for name in self.launch.row_wise:
            feature = known.get(name)
            owner = feature.of if isinstance(feature, History) else getattr(feature, "share", None)
            if isinstance(feature, Number) or owner:
                hint = f"name {owner!r}, whose table it shares" if owner else "a dense feature needs none"
                problems.append(f"launch.row_wise: {name!r} has no table of its own; {hint}")
        for name in self.evaluate.slices:
            if name in known and not isinstance(known[name], Single | Bucket):
                problems.append(
                    f"evaluate.slices: {name!r} has no single values to report apart; a single or bucket feature has"
                )
        for name in self.teachers.members:
            if name in OTHER_MODELS:
                problems.append(f"teachers.members.{name}: reports call something else {name!r}; rename the teacher")
        for name in itertools.chain(*groups):
            if isinstance(known.get(name), Match):
                problems.append(f"distill.recombine.groups: {name!r} is worked out anew for every row; leave it out")
        if self.teachers.by_day and self.dataset.split.by != "days":
            problems.append(f"teachers.regime: {self.teachers.regime} needs dataset.split: {{by: days}}")
        if problems:
            raise ValueError("\n".join(problems))
        return self
