"""The job's sections that describe models: how one is built, how one is trained."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from recdistill.config.base import NAME, Location, Section, expand

Width = Annotated[int, Field(ge=1, le=65_536)]
Rate = Annotated[float, Field(gt=0, le=10)]


class Train(Section):
    """How a model is trained: tables by fused row-wise Adagrad, everything dense by Adam.

    Training stops after `patience` checks on validation rows without a better NE; the best check is kept.
    """

    batch_size: int = Field(1024, ge=1)
    """Rows of a step, of all ranks together."""
    epochs: int = Field(10, ge=1)
    """Passes over the training rows, at most."""
    checks_per_epoch: int = Field(1, ge=1)
    """Looks at the validation rows in each of them."""
    patience: int = Field(2, ge=1)
    """Checks without a better validation NE, after which training stops."""
    embedding_rate: Rate = 0.05
    """Step size of tables (row-wise Adagrad)."""
    dense_rate: Rate = 1e-3
    """Step size of everything else (Adam)."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled, on dense weights (AdamW)."""


class Architecture(Section):
    """A DLRM: embedding bags, an MLP for dense features, an interaction, an MLP on top.

    `dot` is every pairwise dot product (Naumov et al. 2019), `cross` is DCN-v2 (Wang et al. 2021), `none` concatenates.
    """

    bottom: list[Width] = [64]
    """Hidden widths for dense features; the last layer, as wide as the embeddings, is added."""
    interaction: Literal["dot", "cross", "none"] = "dot"
    """How embeddings meet: every dot product, crosses, or not at all."""
    cross_layers: int = Field(2, ge=1, le=8)
    """Layers of `cross`."""
    top: list[Width] = Field([256, 128], min_length=1)
    """Hidden widths after the interaction. The last is what a distillation module sees."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of activations of the top MLP that training leaves out."""
    unknown: float = Field(0.0, ge=0, lt=1)
    """The share of ids that training reads as unknown (row 0), so that the model learns what to do without them. For
    logs whose later days bring new ids (after DropoutNet, Volkovs et al. 2017)."""


class _Member(Section):
    features: list[str] | None = None
    """What this teacher sees; every feature when absent. Short forms (`C1..C26`) are understood."""
    rows: dict[str, list[str]] | None = None
    """A domain expert's rows: single features and the raw values that select them. It answers there only."""

    @model_validator(mode="before")
    @classmethod
    def _spell_out(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("features") is not None:
            return {**value, "features": expand(value["features"])}
        return value


class DlrmTeacher(_Member, Architecture):
    """A DLRM trained here on TorchRec."""

    kind: Literal["dlrm"]
    dim: Annotated[int, Field(ge=4, multiple_of=4)] = 64
    """Numbers in a vector, a multiple of four."""
    seed: int = Field(0, ge=0)
    """Of its first weights and of the order of rows; `teachers.seed` when absent."""
    train: Train = Train()
    embedding_rates: list[Rate] = []
    """Rates of its tables to choose from, in place of `train.embedding_rate`: with each it is trained once on all
    training rows, and validation NE decides. Logs differ by ten times in the rate that they want."""

    @field_validator("embedding_rates")
    @classmethod
    def _each_once(cls, value: list[float]) -> list[float]:
        if len(set(value)) < len(value):
            raise ValueError("`embedding_rates` must not repeat a rate")
        return value


class SklearnTeacher(_Member):
    """Any scikit-learn classifier, fitted in memory on at most `max_rows` rows.

    Ids reach it as their smoothed training click rates and counts, and a bag as the mean over its ids: that is what
    lets trees use large vocabularies.
    """

    kind: Literal["sklearn"]
    model: str = "sklearn.ensemble.HistGradientBoostingClassifier"
    """The class, with its module."""
    params: dict[str, Any] = {}
    """What it is made with."""
    max_rows: int = Field(2_000_000, ge=100)
    """Of more training rows so many are drawn."""
    seed: int = Field(0, ge=0)
    """Of the model and of what is drawn; `teachers.seed` when absent."""


class FileTeacher(Section):
    """A teacher known only by what it said: Parquet with `example_id`, `logit` and, if any, `embedding`."""

    kind: Literal["file"]
    paths: list[Location] = Field(min_length=1)
    """Globs of files, or URLs; one may stand by itself."""
    negative_keep_rate: float = Field(1.0, gt=0, le=1)
    """The keep-rate of the log it was trained on; its logits are moved to this dataset's own."""
    seen: Literal["unseen", "in_sample"] = "unseen"
    """Whether it was trained on the training rows that it scores here."""
    parameters: int = Field(0, ge=0)
    """How many it has, for the account; a foundation must say so, since the student's size hangs on it."""

    @field_validator("paths", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


Member = Annotated[DlrmTeacher | SklearnTeacher | FileTeacher, Field(discriminator="kind")]
MemberName = Annotated[str, Field(pattern=NAME)]


Saved = Annotated[float, Field(ge=0, lt=1)]


class Route(Section):
    """Which teachers are asked about which rows: those that a router says would be missed, before they are asked.

    It learns from validation rows, which every teacher answers anyway (see `distill.router`). It decides about training
    rows and recombined ones; validation and test rows are answered by all. Its one reader is the method `diverse`:
    where other methods but `alone` are among the job's, or a `curve` is drawn, all pairs are computed for these.
    """

    keep: float | None = Field(None, gt=0, le=1)
    """The share of (row, teacher) pairs that `diverse` learns from. On each row the one that would be missed most
    is one of them, even if these are more. When absent: half, but two answers a row of two or three teachers, for of
    one answer there is nothing to put together."""
    curve: list[Saved] = []
    """Shares of pairs that could be saved: `diverse` is trained on so much less too, and on everything, and the report
    shows what that costs."""

    @model_validator(mode="after")
    def _within(self) -> Route:
        if len(set(self.curve)) < len(self.curve):
            raise ValueError("`curve` must not repeat a share")
        return self


class Teachers(Section):
    """The job's `teachers:` section: the committee, and which rows each member may score.

    - `later_days`: trained on the first `teacher_days` of the training days, scores all later rows;
    - `prequential`: goes on from day to day, and scores each day before it learns from it; a final version, trained
      on all training days, scores validation and test;
    - `out_of_fold`: `folds` versions, each scores the fold it has not seen; a final one for validation and test;
    - `in_sample`: scores its own training rows; an ablation, and the report says so.
    """

    regime: Literal["later_days", "prequential", "out_of_fold", "in_sample"]
    """As said above."""
    folds: int = Field(5, ge=2, le=50)
    """For `out_of_fold`."""
    teacher_days: float = Field(0.5, gt=0, lt=1)
    """For `later_days`: the fraction of training days that teachers learn from."""
    route: Route = Route()
    foundation: MemberName = "foundation"
    """The member that is 100 % of the gap, and that the size of students hangs on."""
    seed: int = Field(0, ge=0)
    """Of every member that has none of its own. With another one the same committee is trained anew, and `recdistill
    compare` puts such runs together."""
    members: dict[MemberName, Member] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _seeded(cls, value: Any) -> Any:
        match value:
            case {"seed": int(seed), "members": dict(members)} if seed > 0:
                return {**value, "members": {name: _with_seed(member, seed) for name, member in members.items()}}
        return value

    @property
    def keep(self) -> float:
        """The share of pairs that `diverse` learns from."""
        return self.route.keep or max(0.5, min(1.0, 2 / len(self.members)))

    @property
    def by_day(self) -> bool:
        """Whether versions learn from days and score later ones."""
        return self.regime in ("later_days", "prequential")

    @property
    def foretell(self) -> bool:
        """Whether what is said about training rows tells how good teachers are: they are of days that came later."""
        seen = {member.seen for member in self.members.values() if isinstance(member, FileTeacher)}
        return self.by_day and "in_sample" not in seen

    @model_validator(mode="after")
    def _has_foundation(self) -> Teachers:
        member = self.members.get(self.foundation)
        if not isinstance(member, DlrmTeacher | FileTeacher):
            raise ValueError(
                f"the foundation {self.foundation!r} must be one of the members, of kind dlrm or file; "
                "`teachers.foundation` names it"
            )
        if isinstance(member, FileTeacher) and not member.parameters:
            raise ValueError(f"the foundation {self.foundation!r} must say how many `parameters` it has")
        if isinstance(member, DlrmTeacher) and member.rows is not None:
            raise ValueError(f"the foundation {self.foundation!r} must answer every row: give it no `rows`")
        return self


def _with_seed(member: Any, seed: int) -> Any:
    """A member, as a job file has it, with a seed if it is trained here and says none."""
    match member:
        case {"kind": "dlrm" | "sklearn"}:
            return {"seed": seed, **member}
    return member


def _whole_rows(dim: int) -> int:
    if dim > 2 and dim % 4:
        raise ValueError("expected 1, 2 or a multiple of 4")
    return dim


class Student(Architecture):
    """The job's `student:` section. The solver cuts tables until `compression` is met; data choose the dimension."""

    compression: float = Field(38, gt=0)
    """The foundation teacher's parameters over the student's, tables included."""
    dims: Annotated[list[Annotated[int, Field(ge=1), AfterValidator(_whole_rows)]], Field(min_length=1)] | None = None
    """Embedding dimensions to try: 1, 2, or multiples of four, as fused kernels want them. A wider one has tables of
    fewer rows. Where several fit, validation NE decides (see `Learning.shapes`). When absent: powers of two up to 64,
    from the widest that leaves a row for every id, four of them at most."""
    share: Literal["hash", "likeness"] | None = None
    """By what ids share rows where there is none for each: a hash, or likeness to the foundation, where that is trained
    here (see `models.clusters`). When absent, both are tried: chosen with the dimension."""
    unknowns: list[Annotated[float, Field(ge=0, lt=1)]] = []
    """Shares of `unknown` to try, in place of it: chosen with the dimension. Who hears teachers about rows that nobody
    was shown needs less of it than who does not."""
    top: list[Width] = Field([32], min_length=1)
    bottom: list[Width] = []
    features: list[str] | None = None
    """What the student sees; every feature when absent."""
    without: list[list[str]] = []
    """Sets of features to try to leave out, where there is no row for every id with all of them: chosen with the
    dimension. What follows from an id, such as a zip code from its user, says little beside that id's own row, and
    takes rows from it."""

    @model_validator(mode="before")
    @classmethod
    def _spell_out(cls, value: Any) -> Any:
        match value:
            case {"features": names} if names is not None:
                value = {**value, "features": expand(names)}
        match value:
            case {"without": list(sets)}:
                value = {**value, "without": [expand(names) for names in sets]}
        return value

    @model_validator(mode="after")
    def _without_its_own(self) -> Student:
        for names in self.without:
            strange = [name for name in names if self.features is not None and name not in self.features]
            if strange:
                raise ValueError(f"`without` names {strange[0]!r}, which is none of the student's `features`")
        sets = [frozenset(names) for names in self.without]
        if not all(sets) or len(set(sets)) < len(sets):
            raise ValueError("expected sets of features in `without`, none of them empty, and none of them twice")
        return self
