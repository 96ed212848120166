"""Which rows each version of a teacher learns from, and which it scores: the four regimes of leak-free soft labels."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from recdistill.clicklog.batches import Rows
from recdistill.clicklog.schema import Dataset, Part
from recdistill.config.models import Teachers
from recdistill.errors import UserError

FINAL = "final"
"""The version that scores validation and test rows; its embedding space is the teacher's."""
Seen = Literal["unseen", "in_sample"]


@dataclass(frozen=True)
class Version:
    """A teacher as trained on some rows.

    `learns` and `scores` are rows; `continues` names the version whose training this one goes on from. `seen` says
    whether it learned from the training rows that it scores.
    """

    name: str
    learns: Rows
    scores: tuple[Rows, ...]
    continues: str | None = None
    seen: Seen = "unseen"

    def within(self, domain: tuple[tuple[str, tuple[int, ...]], ...]) -> Version:
        """The same version of a teacher that knows only a domain's rows."""
        return replace(
            self,
            learns=replace(self.learns, domain=domain),
            scores=tuple(replace(rows, domain=domain) for rows in self.scores),
        )


HELD_OUT = (Rows("validation"), Rows("test"))


def versions(teachers: Teachers, dataset: Dataset) -> list[Version]:
    """The versions of every member, in the order in which they must be trained; the last is `FINAL`.

    Raises `UserError` when the training days are too few for the regime.
    """
    train = Rows("train")
    if teachers.regime == "in_sample":
        return [Version(FINAL, train, (train, *HELD_OUT), seen="in_sample")]
    if teachers.regime == "out_of_fold":
        folds = [
            Version(
                f"fold-{fold}",
                Rows("train", folds=teachers.folds, outside=fold),
                (Rows("train", folds=teachers.folds, inside=fold),),
            )
            for fold in range(teachers.folds)
        ]
        return [*folds, Version(FINAL, train, HELD_OUT)]

    days = sorted({part.day for part in dataset.parts("train")})
    if len(days) < 2:
        raise UserError(
            f"teachers.regime: {teachers.regime} needs at least two training days, and the dataset has {len(days)}; "
            "use out_of_fold, or give the log more days"
        )
    if teachers.regime == "later_days":
        first = min(len(days) - 1, max(1, math.floor(len(days) * teachers.teacher_days)))
        return [Version(FINAL, Rows("train", tuple(days[:first])), (Rows("train", tuple(days[first:])), *HELD_OUT))]
    chain = [
        Version(
            f"until-{day}",
            Rows("train", (day,)),
            (Rows("train", (after,)),),
            continues=f"until-{before}" if before else None,
        )
        for before, day, after in zip([None, *days], days, days[1:], strict=False)
    ]
    return [*chain, Version(FINAL, train, HELD_OUT)]


def held_out_days(dataset: Dataset) -> tuple[str, ...]:
    """Days of validation rows that have no training rows: no version has learned from one."""
    train, validation = ({part.day for part in dataset.parts(split)} for split in ("train", "validation"))
    return tuple(sorted(validation - train))


def labellers(all_versions: list[Version], held_out: tuple[str, ...] = ()) -> list[Version]:
    """The versions that score recombined rows, and which of them each scores.

    Of a day, those that score its rows: whoever learned from a day knows its news, which nobody could know in time, and
    students of that learn less (tests/benchmarks/LEDGER.md). So the final version scores the days that are `held_out`
    for validation; days that nobody scores are left out. Folds are no matter of days: there the final version scores
    all that training rows were made into.
    """
    if not any(rows.days for version in all_versions for rows in version.scores):
        final = all_versions[-1]
        return [replace(final, scores=(replace(final.learns, split="unlabelled"),), seen="unseen")]
    by_day = [replace(version, scores=_of_days(version.scores, held_out)) for version in all_versions]
    return [version for version in by_day if version.scores]


def _of_days(scores: tuple[Rows, ...], held_out: tuple[str, ...]) -> tuple[Rows, ...]:
    """Recombined rows of the days of training rows, and of those held out for validation."""
    days = [held_out if rows.split == "validation" else rows.days for rows in scores]
    return tuple(replace(rows, split="unlabelled", days=of) for rows, of in zip(scores, days, strict=True) if of)


def parts_of(labelling: list[Version], dataset: Dataset) -> list[Part]:
    """The parts whose recombined rows versions score: training ones first."""
    days = [rows.days for version in labelling for rows in version.scores]
    if not all(days):
        return dataset.parts("train")
    known = sorted(day for each in days if each for day in each)
    held_out = [day for day in held_out_days(dataset) if day in known]
    return [*dataset.parts("train", known), *dataset.parts("validation", held_out)]


def chains(all_versions: list[Version]) -> list[list[Version]]:
    """Versions that can be trained side by side, each list in its own order."""
    out: list[list[Version]] = []
    for version in all_versions:
        if version.continues is None:
            out.append([version])
        else:
            next(chain for chain in out if chain[-1].name == version.continues).append(version)
    return out
