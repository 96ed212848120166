"""What other places read of a finished run's `report.json`, checked when it is read: a report may have been edited."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from recdistill.config.base import NAME
from recdistill.evaluate.lineup import ALONE
from recdistill.files import read_checked

Name = Annotated[str, Field(pattern=NAME)]
Count = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    """What else a part holds does not matter."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)


class _Stat(_Part):
    mean: float | None
    low: float | None
    high: float | None


class _Metrics(_Part):
    auc: _Stat
    ne: _Stat


class _Shares(_Part):
    auc: _Stat | None
    ne: _Stat | None


class _Model(_Metrics):
    role: Literal["teacher", "student", "committee"]
    parameters: Count
    coverage: float
    log_loss: _Stat
    calibration: _Stat
    per_seed: dict[Count, dict[str, float | None]] = {}


class _Pair(_Metrics):
    method: str
    against: str


class _Rows(_Part):
    test: Count


class _Dataset(_Part):
    fingerprint: str
    rows: _Rows


class _Params(_Part):
    foundation: Count
    student: Count
    compression: float


class _Forwards(_Part):
    full: Count
    computed: Count
    reused: Count
    saved: Count


class _Bootstrap(_Part):
    resamples: int = Field(ge=100)
    confidence: float = Field(gt=0, lt=1)
    seed: Count


class _Curve(_Part):
    share: list[float]
    prediction: list[float]
    rate: list[float]

    @model_validator(mode="after")
    def _bins(self) -> _Curve:
        if not len(self.share) == len(self.prediction) == len(self.rate):
            raise ValueError("expected as many shares as predictions and rates")
        return self


class Report(_Part):
    """The content of `report.json`; see `evaluate.report`."""

    version: Literal[1]
    name: str | None
    dataset: _Dataset
    params: _Params
    foundation: Name
    seeds: list[Count] = Field(min_length=1)
    bootstrap: _Bootstrap
    models: dict[Name, _Model]
    gap: _Metrics
    gap_recovered: dict[Name, _Shares]
    comparisons: list[_Pair]
    reliability: dict[str, _Curve]
    teacher_forwards: _Forwards | None
    timings: dict[str, Annotated[float, Field(ge=0)]]
    warnings: list[str]

    @model_validator(mode="after")
    def _fits_together(self) -> Report:
        missing = {self.foundation, ALONE, *self.gap_recovered} - self.models.keys()
        if missing:
            raise ValueError(f"there is no model {min(missing)!r}")
        return self


def read_report(path: Path) -> dict[str, Any]:
    """A report; `UserError` where it is none, or is one of another version."""
    return read_checked(path, Report, "report of version 1")
