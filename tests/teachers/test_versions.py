from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recdistill.clicklog.batches import Rows
from recdistill.clicklog.schema import Dataset
from recdistill.config.models import Teachers
from recdistill.errors import UserError
from recdistill.teachers.versions import FINAL, Version, chains, labeller, recombined_split, versions

DOMAIN = (("item", (1, 2, 5)),)


def committee(regime: str, **settings: Any) -> Teachers:
    return Teachers.model_validate({"regime": regime, "members": {"foundation": {"kind": "dlrm"}}, **settings})


def table_of(dataset: Dataset, rows: Rows) -> pa.Table:
    """The rows meant, with the day of each."""
    tables = []
    for part in rows.parts(dataset):
        table = rows.select(pq.read_table(part.path, columns=["example_id", "item"], partitioning=None))
        tables.append(table.append_column("day", pa.array([part.day] * len(table), pa.string())))
    return pa.concat_tables(tables)


def ids(dataset: Dataset, *chosen: Rows) -> Counter[int]:
    return Counter(number for rows in chosen for number in table_of(dataset, rows)["example_id"].to_pylist())


def learned(all_versions: list[Version], version: Version) -> list[Rows]:
    """What a version learned from, its forerunners' rows included."""
    before = [other for other in all_versions if other.name == version.continues]
    return [version.learns, *(rows for other in before for rows in learned(all_versions, other))]


REGIMES = [
    committee("later_days"),
    committee("later_days", teacher_days=0.9),
    committee("later_days", teacher_days=0.01),
    committee("prequential"),
    committee("out_of_fold", folds=2),
    committee("out_of_fold", folds=5),
]


@pytest.mark.parametrize("domain", [(), DOMAIN])
@pytest.mark.parametrize("teachers", REGIMES, ids=lambda teachers: f"{teachers.regime}-{teachers.folds}")
def test_nobody_scores_a_row_that_it_learned_from(
    tiny_dataset: Dataset, teachers: Teachers, domain: tuple[tuple[str, tuple[int, ...]], ...]
) -> None:
    found = [version.within(domain) for version in versions(teachers, tiny_dataset)]
    train, times = ids(tiny_dataset, Rows("train", domain=domain)), Counter[int]()
    for version in found:
        seen = ids(tiny_dataset, *learned(found, version))
        scored = ids(tiny_dataset, *version.scores)
        assert version.seen == "unseen"
        assert seen and scored
        assert not seen & scored
        assert seen <= train
        times += scored & train
    assert times and max(times.values()) == 1
    if teachers.regime == "out_of_fold":
        assert times == train


@pytest.mark.parametrize("teachers", [*REGIMES, committee("in_sample")], ids=lambda teachers: teachers.regime)
def test_held_out_rows_are_scored_by_the_final_version_alone(tiny_dataset: Dataset, teachers: Teachers) -> None:
    found = versions(teachers, tiny_dataset)
    held_out = ids(tiny_dataset, Rows("validation"), Rows("test"))
    for version in found:
        scored = ids(tiny_dataset, *version.scores) & held_out
        assert scored == (held_out if version.name == FINAL else Counter())
    assert found[-1].name == FINAL and len({version.name for version in found}) == len(found)


@pytest.mark.parametrize("regime", ["later_days", "prequential"])
def test_the_future_is_never_learned_before_it_is_scored(tiny_dataset: Dataset, regime: str) -> None:
    found = versions(committee(regime), tiny_dataset)
    for version in found:
        last = max(max(table_of(tiny_dataset, rows)["day"].to_pylist()) for rows in learned(found, version))
        first = min(min(table_of(tiny_dataset, rows)["day"].to_pylist()) for rows in version.scores)
        assert last < first


def test_prequential_scores_every_day_but_the_first(tiny_dataset: Dataset) -> None:
    found = versions(committee("prequential"), tiny_dataset)
    days = sorted({part.day for part in tiny_dataset.parts("train")})
    scored = [set(table_of(tiny_dataset, rows)["day"].to_pylist()) for v in found[:-1] for rows in v.scores]
    assert scored == [{day} for day in days[1:]]
    for (before, after), day in zip(pairwise([None, *found[:-1]]), days, strict=False):
        assert after.continues == (before.name if before else None)
        assert set(table_of(tiny_dataset, after.learns)["day"].to_pylist()) == {day}


@pytest.mark.parametrize("regime", ["prequential", "out_of_fold", "in_sample"])
def test_the_final_version_learns_from_every_training_row(tiny_dataset: Dataset, regime: str) -> None:
    found = versions(committee(regime), tiny_dataset)
    assert ids(tiny_dataset, *learned(found, found[-1])) == ids(tiny_dataset, Rows("train"))


@pytest.mark.parametrize(("share", "days"), [(0.5, 3), (0.01, 1), (0.99, 5), (0.34, 2)])
def test_later_days_learns_from_the_first_share_of_days(tiny_dataset: Dataset, share: float, days: int) -> None:
    (version,) = versions(committee("later_days", teacher_days=share), tiny_dataset)
    assert version.learns.days == tuple(f"2026-01-{day + 1:02d}" for day in range(days))


def test_in_sample_says_so(tiny_dataset: Dataset) -> None:
    (version,) = versions(committee("in_sample"), tiny_dataset)
    assert version.seen == "in_sample"
    assert ids(tiny_dataset, Rows("train")) <= ids(tiny_dataset, *version.scores)


@pytest.mark.parametrize("regime", ["later_days", "prequential"])
def test_one_training_day_is_too_few(make_dataset: Callable[..., Dataset], regime: str) -> None:
    dataset = make_dataset(rows=30, days=3)
    with pytest.raises(UserError, match=rf"teachers.regime: {regime} needs at least two training days.*has 1; use"):
        versions(committee(regime), dataset)
    assert len(versions(committee("out_of_fold", folds=2), dataset)) == 3


@pytest.mark.parametrize("teachers", [*REGIMES, committee("in_sample")], ids=lambda teachers: teachers.regime)
def test_chains_hold_every_version_once_after_what_it_continues(tiny_dataset: Dataset, teachers: Teachers) -> None:
    found = versions(teachers, tiny_dataset)
    lists = chains(found)
    assert sorted(version.name for chain in lists for version in chain) == sorted(version.name for version in found)
    for chain in lists:
        assert chain[0].continues is None
        assert all(later.continues == earlier.name for earlier, later in pairwise(chain))
    assert (max(map(len, lists)) > 1) == (teachers.regime == "prequential")


@pytest.mark.parametrize("teachers", [*REGIMES, committee("in_sample")], ids=lambda teachers: teachers.regime)
def test_recombined_rows_of_a_day_are_labelled_by_who_has_not_learned_from_it(
    tiny_dataset: Dataset, teachers: Teachers
) -> None:
    final = versions(teachers, tiny_dataset)[-1].within(DOMAIN)
    version = labeller(final)
    assert version.name == FINAL and version.seen == "unseen"
    assert version.scores == (Rows("unlabelled", domain=DOMAIN),)
    split = recombined_split(teachers)
    if teachers.regime in ("later_days", "prequential"):
        days = {part.day for part in tiny_dataset.parts(split)}
        assert days and not days & {part.day for part in version.learns.parts(tiny_dataset)}
    else:
        assert split == "train"


def test_a_domain_keeps_to_its_rows(tiny_dataset: Dataset) -> None:
    for version in versions(committee("out_of_fold", folds=3), tiny_dataset):
        narrow = version.within(DOMAIN)
        for rows in (narrow.learns, *narrow.scores):
            assert set(table_of(tiny_dataset, rows)["item"].to_pylist()) == {1, 2, 5}
