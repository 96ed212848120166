"""The job's `service:` section: how a job is run night after night, and what a new student must pass."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from recdistill.config.base import Section


class Gates(Section):
    """What tonight's student must pass before it is promoted. Its test rows are the night's own day.

    Differences from the champion are judged by the far end of their interval: a student is let through when it is known
    not to be worse by more than this, not when it merely looks so.
    """

    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Of the interval of a loss: its worse end must lie within the bound."""
    resamples: int = Field(1000, ge=100)
    """Bootstrap resamples behind that."""
    auc_loss: float = Field(0.005, ge=0)
    """How far the AUC may lie below the champion's."""
    ne_loss: float = Field(0.01, ge=0)
    """How far the NE may lie above the champion's."""
    calibration: float = Field(0.2, gt=0)
    """How far mean prediction over mean label may be from 1."""
    gap_recovered: float = 0.0
    """The least fraction of the NE gap that must be recovered, where there is a gap to recover."""
    foundation_loss: float = Field(0.05, ge=0)
    """How far the foundation's NE may lie above that of the student trained alone: more speaks of a broken teacher."""
    rows: float = Field(0.5, ge=0, le=1)
    """The fewest rows of the day, as a fraction of the usual day's (the median)."""
    click_rate_shift: float = Field(0.3, gt=0)
    """How far the day's click rate may be from that of the training days, as a fraction of it."""
    new_ids: float = Field(0.2, gt=0, le=1)
    """By how much the fraction of ids that training never saw may exceed the day before's, for any feature."""
    psi: float = Field(0.25, gt=0)
    """The largest population stability index of a feature between the training days and the day."""
    champion_ne_rise: float = Field(0.1, gt=0)
    """How far the champion's own NE may rise above what it was when it was promoted: more speaks against the day."""
    drifting: list[str] = []
    """Features that may drift and gain new ids as they like, such as the day of the week."""


class Service(Section):
    """The job's `service:` section."""

    train_days: Annotated[int, Field(ge=1)] = 7
    """Days that tonight's student learns from: those before the validation day, which is the day before the test."""
    teach_every: Annotated[int, Field(ge=1)] = 7
    """Days between two trainings of the teachers."""
    alert: str | None = Field(None, pattern=r"^https?://")
    """A webhook that is told of failures and blocked promotions; the variable RECDISTILL_WEBHOOK goes before it."""
    gates: Gates = Gates()
