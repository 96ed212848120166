"""The gates: what is known about a night and the bounds it must keep, in; a verdict for each bound, out.

Nothing is read or written here. `promote` calls `gates` itself, so that no schedule and no person can go around them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from recdistill.config.service import Gates


@dataclass(frozen=True)
class Interval:
    """A number and its confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Duel:
    """Tonight's student beside the champion on the same rows, which neither learned from. A loss is positive."""

    champion: str
    """The champion's day."""
    auc_loss: Interval
    ne_loss: Interval
    champion_ne: Interval
    """The champion's NE on tonight's rows."""
    champion_ne_then: float
    """Its NE on the rows that it was promoted on."""


@dataclass(frozen=True)
class Drift:
    """A day beside the days before it."""

    rows: int
    usual_rows: float
    click_rate: float
    usual_click_rate: float
    new_ids: dict[str, float]
    """Per feature, the fraction of ids that training never saw, less the same of the day before."""
    psi: dict[str, float]
    """Per feature, the population stability index between the training days and the day."""


@dataclass(frozen=True)
class Evidence:
    """All that the gates look at."""

    drift: Drift
    auc: float
    ne: float
    calibration: float
    """Mean prediction over mean label, of tonight's student on tonight's rows."""
    gap: dict[str, Any]
    """The report's NE gap between the foundation and the student alone: `mean`, `low`, `high`; positive is better."""
    recovered: dict[str, Any] | None
    """The report's fraction of the NE gap that the promoted method recovers; None where there is no gap."""
    compression: float
    target: float
    """The compression that the job asks for."""


@dataclass(frozen=True)
class Gate:
    """One verdict. A failed `data` gate speaks against the day: later nights do not learn from it."""

    name: str
    about: Literal["data", "model"]
    passed: bool
    value: float | None
    bound: float
    why: str


def gates(night: Evidence, duel: Duel | None, bounds: Gates) -> list[Gate]:
    """Every gate, in a fixed order; the champion's are left out where there is no champion to compare with."""
    return [*_data(night.drift, duel, bounds), *_model(night, bounds), *([] if duel is None else _duel(duel, bounds))]


def blocked(verdicts: list[Gate]) -> str | None:
    """Why promotion is blocked, as one sentence; None where it is not."""
    failed = [f"{gate.name}: {gate.why}" for gate in verdicts if not gate.passed]
    return "; ".join(failed) or None


def _data(drift: Drift, duel: Duel | None, bounds: Gates) -> list[Gate]:
    share = drift.rows / drift.usual_rows
    shift = drift.click_rate / drift.usual_click_rate - 1
    found = [
        Gate(
            "rows",
            "data",
            share >= bounds.rows,
            share,
            bounds.rows,
            f"the day has {drift.rows:,} rows, {share:.0%} of the usual {drift.usual_rows:,.0f}",
        ),
        Gate(
            "click_rate",
            "data",
            abs(shift) <= bounds.click_rate_shift,
            shift,
            bounds.click_rate_shift,
            f"the day's click rate is {drift.click_rate:.4f}, {shift:+.0%} from the usual {drift.usual_click_rate:.4f}",
        ),
        _worst(
            "new_ids",
            drift.new_ids,
            bounds.new_ids,
            bounds,
            "has the most ids that training never saw, more than the day before by",
        ),
        _worst("psi", drift.psi, bounds.psi, bounds, "moved most since the training days, by a PSI of"),
    ]
    if duel is not None:
        rise, now = duel.champion_ne.low - duel.champion_ne_then, duel.champion_ne.value
        found.append(
            Gate(
                "champion_ne",
                "data",
                rise <= bounds.champion_ne_rise,
                rise,
                bounds.champion_ne_rise,
                f"the unchanged champion's NE went from {duel.champion_ne_then:.4f} to {now:.4f}",
            )
        )
    return found


def _worst(name: str, values: dict[str, float], bound: float, bounds: Gates, text: str) -> Gate:
    judged = {feature: value for feature, value in values.items() if feature not in bounds.drifting}
    if not judged:
        return Gate(name, "data", True, None, bound, "no feature is judged")
    feature = max(judged, key=judged.__getitem__)
    return Gate(
        name, "data", judged[feature] <= bound, judged[feature], bound, f"{feature} {text} {judged[feature]:.3f}"
    )


def _model(night: Evidence, bounds: Gates) -> list[Gate]:
    off = night.calibration - 1
    return [
        Gate(
            "calibration",
            "model",
            abs(off) <= bounds.calibration,
            night.calibration,
            bounds.calibration,
            f"mean prediction is {night.calibration:.3f} of the mean label",
        ),
        _recovered(night, bounds),
        Gate(
            "compression",
            "model",
            night.compression >= night.target,
            night.compression,
            night.target,
            f"the student is {night.compression:.1f} times smaller than the foundation",
        ),
    ]


def _recovered(night: Evidence, bounds: Gates) -> Gate:
    """What was recovered; where there is no gap, whether the foundation is surely worse than it may be."""
    if night.recovered is not None and night.recovered["mean"] is not None:
        share = night.recovered["mean"]
        return Gate(
            "gap_recovered",
            "model",
            share >= bounds.gap_recovered,
            share,
            bounds.gap_recovered,
            f"{share:.0%} of the NE gap was recovered",
        )
    mean, high = night.gap["mean"], night.gap["high"]
    if mean is None or high is None:
        return Gate("gap_recovered", "model", False, None, bounds.gap_recovered, "the NE gap is not defined on the day")
    sound = high >= -bounds.foundation_loss
    why = (
        "there is no gap to recover"
        if sound
        else "the foundation is worse than the student alone: is it broken, or too old?"
    )
    return Gate("gap_recovered", "model", sound, None, bounds.gap_recovered, f"the NE gap is {mean:+.4f}, {why}")


def _duel(duel: Duel, bounds: Gates) -> list[Gate]:
    found = []
    for name, loss, bound in (("auc", duel.auc_loss, bounds.auc_loss), ("ne", duel.ne_loss, bounds.ne_loss)):
        better = "worse" if loss.value > 0 else "better"
        worst = f"at most {loss.high:.4f} worse" if loss.high > 0 else f"at least {-loss.high:.4f} better"
        why = f"{abs(loss.value):.4f} {better} than the champion of {duel.champion} on the same rows, {worst}"
        found.append(Gate(name, "model", loss.high <= bound, loss.high, bound, why))
    return found
