"""The gap between foundation and student, and how much of it a method recovers, with paired percentile intervals."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recdistill.evaluate.metrics import Floats

NO_GAP = "no gap to recover"


@dataclass(frozen=True)
class Estimate:
    """A number and what it was in every resample.

    The same position in two estimates' `replicates` is the same resample of rows and of seeds, so arithmetic on them
    keeps the pairing.
    """

    value: float
    replicates: Floats

    def __sub__(self, other: Estimate) -> Estimate:
        return Estimate(self.value - other.value, self.replicates - other.replicates)

    def __neg__(self) -> Estimate:
        return Estimate(-self.value, -self.replicates)

    def interval(self, confidence: float) -> tuple[float, float]:
        """The percentile interval, rounded outwards to whole resamples; resamples that are NaN are left out."""
        known = self.replicates[~np.isnan(self.replicates)]
        if not known.size:
            return float("nan"), float("nan")
        tail = (1 - confidence) / 2
        low, high = np.quantile(known, tail, method="lower"), np.quantile(known, 1 - tail, method="higher")
        return float(low), float(high)


def over_seeds(values: Floats, replicates: Floats, draws: NDArray[np.intp], stretch: float) -> Estimate:
    """A method's mean over seeds.

    Args:
        values: one per seed, shape [seeds].
        replicates: shape [resamples, seeds].
        draws: the seeds of each resample, shape [resamples, drawn]; the same for all methods, which pairs them.
        stretch: by how much a resample's own seeds move it further from all seeds' mean (see `seed_stretch`).
    """
    every = replicates.mean(axis=1)
    drawn = np.take_along_axis(replicates, draws, axis=1).mean(axis=1)
    return Estimate(float(values.mean()), every + stretch * (drawn - every))


def no_gap(gap: Estimate, confidence: float) -> str | None:
    """Why nothing can be said about the recovery of `gap`, or None where its interval is above zero."""
    low, high = gap.interval(confidence)
    if not np.isfinite(gap.value) or not np.isfinite(low):
        return "not defined on these rows"
    if low > 0:
        return None
    return f"{NO_GAP}: {gap.value:+.5f}, {confidence:.0%} interval [{low:+.5f}, {high:+.5f}] is not above zero"


def recovered(method: Estimate, alone: Estimate, reference: Estimate) -> Estimate:
    """(method - alone) / (reference - alone), higher being better for all three; below 0 and above 1 are real values.

    A resample in which the gap is not positive has no finite answer: it counts as beyond any bound, on the side of
    its numerator.
    """
    gain, gap = method - alone, reference - alone
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = gain.replicates / gap.replicates
        # The sign of nothing times infinity is NaN, and so is what has no value: neither has a side.
        beyond = np.inf * np.sign(gain.replicates)
    return Estimate(gain.value / gap.value, np.where(gap.replicates > 0, ratio, beyond))


def stat(estimate: Estimate, confidence: float) -> dict[str, Any]:
    """`mean`, `low`, `high` for a report; null with a `reason` where the rows do not define them."""
    if not np.isfinite(estimate.value):
        return {"mean": None, "low": None, "high": None, "reason": "not defined on these rows"}
    low, high = estimate.interval(confidence)
    found: dict[str, Any] = {"mean": estimate.value, "low": low, "high": high}
    for bound in ("low", "high"):
        if not np.isfinite(found[bound]):
            found[bound] = None
            found["reason"] = "unbounded: in too many resamples the gap is not positive"
    return found


def account(methods: dict[str, Estimate], alone: Estimate, reference: Estimate, confidence: float) -> dict[str, Any]:
    """The gap to `reference` and each method's share of it, in one metric where higher is better.

    Returns:
        `gap`: a `stat`, with a `reason` where it is not clear of zero; `recovered`: per method a `stat`, or null where
        there is no gap to recover.
    """
    gap = reference - alone
    reason = no_gap(gap, confidence)
    if reason is not None:
        return {**no_account(methods, reason), "gap": {**stat(gap, confidence), "reason": reason}}
    shares = {name: stat(recovered(method, alone, reference), confidence) for name, method in methods.items()}
    return {"gap": stat(gap, confidence), "recovered": shares}


def no_account(methods: Iterable[str], reason: str) -> dict[str, Any]:
    """What `account` returns where there is no gap to speak of at all."""
    return {"gap": {"mean": None, "low": None, "high": None, "reason": reason}, "recovered": dict.fromkeys(methods)}
