"""Which rows each version of a teacher learns from, and which it scores: the four regimes of leak-free soft labels."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from recdistill.clicklog.batches import Rows
from recdistill.clicklog.schema import Dataset, SplitName
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

    @property
    def day(self) -> Rows | None:
        """What it scores, where that is a single later day: what its logits mean there, no other day tells."""
        return self.scores[0] if len(self.scores) == 1 and self.scores[0].days else None


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


def recombined_split(teachers: Teachers) -> SplitName:
    """The split whose rows are recombined.

    Where teachers go from day to day, that of the newest days, which no version has learned from. Whoever has knows a
    day's news, which nobody could know in time, and students of that learn nothing; rows of older days, labelled by
    versions that have not seen these, bring less (Globo, in tests/benchmarks/LEDGER.md). No label of them is read.
    """
    return "validation" if teachers.by_day else "train"


def labeller(final: Version) -> Version:
    """The final version, to score recombined rows of its domain."""
    return replace(final, scores=(Rows("unlabelled", domain=final.learns.domain),), seen="unseen")


def chains(all_versions: list[Version]) -> list[list[Version]]:
    """Versions that can be trained side by side, each list in its own order."""
    out: list[list[Version]] = []
    for version in all_versions:
        if version.continues is None:
            out.append([version])
        else:
            next(chain for chain in out if chain[-1].name == version.continues).append(version)
    return out
