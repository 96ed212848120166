from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from recdistill.clicklog.schema import Dataset, Manifest, PartRecord, SplitName
from recdistill.config.models import Teachers
from recdistill.nightly.night import later
from recdistill.teachers.versions import FINAL, versions


class OfDays(Dataset):
    """A dataset of which nothing is known but its days."""

    def __init__(self, train: range) -> None:
        self.root = Path("nowhere")
        splits: list[tuple[int, SplitName]] = [(day, "train") for day in train]
        splits += [(train.stop, "validation"), (train.stop + 1, "test")]
        self.manifest = Manifest(
            parts=[
                PartRecord(day=f"2026-01-{day:02d}", split=split, index=0, rows=1, positives=0, sha256="")
                for day, split in splits
            ]
        )


def teachers(regime: str) -> Teachers:
    foundation: dict[str, Any] = {"kind": "dlrm"}
    return Teachers.model_validate({"regime": regime, "folds": 3, "members": {"foundation": foundation}})


@pytest.mark.parametrize("regime", ["later_days", "prequential", "out_of_fold", "in_sample"])
@pytest.mark.parametrize("nights", [0, 1, 3, 9])
def test_every_row_is_scored_at_most_once_and_never_by_who_learned_from_it(regime: str, nights: int) -> None:
    before, now = OfDays(range(1, 6)), OfDays(range(1 + nights, 6 + nights))
    taught = versions(teachers(regime), before)
    found = later(taught, before, now)
    assert [version.name for version in found] == [version.name for version in taught]
    days = {part.day for part in now.parts("train")}
    knew = {part.day for part in before.parts("train")}
    scored: Counter = Counter()
    for version in found:
        for rows in version.scores:
            if rows.split != "train":
                assert version.name == FINAL
                continue
            assert rows.days is not None and set(rows.days) <= days
            learned = set(version.learns.days or knew)
            for day in rows.days:
                scored[day, rows.inside] += 1
                other_fold = rows.inside is not None and rows.inside == version.learns.outside
                assert regime == "in_sample" or day not in learned or other_fold
    assert set(scored.values()) <= {1}
    new = days - knew
    assert {day for day, fold in scored if fold is None and day in new} == new
    if regime in ("out_of_fold", "in_sample"):
        assert {day for day, _ in scored} == days
    if nights == 0:
        assert {rows for v in found for rows in v.scores if rows.split != "train"} == set(taught[-1].scores) - {
            rows for rows in taught[-1].scores if rows.split == "train"
        }
