from __future__ import annotations

import csv
import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from recdistill.clicklog.hashing import draws
from recdistill.clicklog.ingest import ingest
from recdistill.clicklog.schema import NO_DAY
from recdistill.clicklog.split import day_name
from recdistill.config.dataset import Dataset as Section
from recdistill.config.dataset import Split
from recdistill.errors import UserError

USER = {"user": {"kind": "single"}}


def splits(table: pa.Table) -> dict[int, str]:
    return dict(zip(table["example_id"].to_pylist(), table["split"].to_pylist(), strict=True))


def test_days_are_the_last_ones_that_have_rows(logs, small, read):
    table = small(400, days=8)
    table["when"] = [time + (86_400_000 * 3 if index > 150 else 0) for index, time in enumerate(table["when"])]
    dataset = logs.ingest(table, split={"by": "days", "validation": 2, "test": 1}, features=USER)
    days = sorted({time // 86_400_000 for time in table["when"]})
    names = dict(zip(days, ["train"] * (len(days) - 3) + ["validation"] * 2 + ["test"], strict=True))
    expected = {id_: names[time // 86_400_000] for id_, time in zip(table["id"], table["when"], strict=True)}
    assert splits(read(dataset)) == expected
    assert dataset.days == [day_name(day) for day in days]
    gaps = [day_name(day) for day in range(days[0], days[-1]) if day not in days]
    assert gaps and dataset.manifest.counts["missing_days"] == dict.fromkeys(gaps, 0)


def test_each_part_holds_one_day_and_one_split(logs, small, read):
    dataset = logs.ingest(small(), split={"by": "random", "validation": 0.2, "test": 0.2}, features=USER)
    for part in dataset.parts():
        times = pa.parquet.read_table(part.path, partitioning=None)["time"].to_numpy()
        assert {day_name(int(day)) for day in times // 86_400_000_000} == {part.day}
    assert {part.split for part in dataset.parts()} == {"train", "validation", "test"}


def test_random_depends_on_the_id_and_the_seed_alone(logs, small, read):
    table = small(400)
    split = {"by": "random", "validation": 0.2, "test": 0.3}
    got = splits(read(logs.ingest(table, split=split, features=USER, time=None)))
    draw = dict(zip(table["id"], draws(np.array(table["id"]), 0), strict=True))
    assert got == {id_: "train" if x < 0.5 else "validation" if x < 0.7 else "test" for id_, x in draw.items()}
    backwards = {name: values[::-1] for name, values in table.items()}
    assert splits(read(logs.ingest(backwards, split=split, features=USER, time=None))) == got
    assert splits(read(logs.ingest(table, split={**split, "seed": 1}, features=USER, time=None))) != got


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from("abc"), min_size=20, max_size=60), st.randoms())
def test_user_order_takes_each_users_last_rows(logs, read, users, random):
    users = ["a"] * 10 + users
    ranks = list(range(len(users)))
    random.shuffle(ranks)
    table = {"id": ranks, "when": ranks, "user": users, "clicked": [rank % 2 for rank in ranks]}
    dataset = logs.ingest(
        table,
        time={"column": "when", "unit": "order"},
        split={"by": "user_order", "user": "user", "validation": 0.2, "test": 0.1},
        features=USER,
    )
    got = splits(read(dataset))
    assert dataset.days == [NO_DAY]
    for user in set(users):
        mine = sorted(rank for rank, who in zip(ranks, users, strict=True) if who == user)
        test, validation = len(mine) // 10, len(mine) // 5
        expected = ["train"] * (len(mine) - test - validation) + ["validation"] * validation + ["test"] * test
        assert [got[rank] for rank in mine] == expected


def test_order_takes_fractions_of_the_log_as_it_lies(logs, small, read):
    table = small(10)
    table["when"].reverse()
    table["clicked"] = [0, 1] * 5
    dataset = logs.ingest(table, split={"by": "order", "validation": 0.1, "test": 0.2}, features=USER)
    got = splits(read(dataset))
    assert [got[id_] for id_ in table["id"]] == ["train"] * 7 + ["validation"] + ["test"] * 2


@pytest.mark.parametrize("unit", ["s", "order"])
@pytest.mark.parametrize("shuffled", [False, True])
def test_time_takes_the_last_rows_wherever_they_lie(logs, read, shuffled, unit):
    times = [1_767_225_600 + 20_000 * (row // 2) for row in range(40)]  # two rows each
    lie = np.random.default_rng(0).permutation(40) if shuffled else np.arange(40)
    table = {"id": lie.tolist(), "when": [times[at] for at in lie], "user": ["a"] * 40, "clicked": [0, 1] * 20}
    split = {"by": "time", "validation": 0.1, "test": 0.125}
    dataset = logs.ingest(table, time={"column": "when", "unit": unit}, split=split, features=USER)
    got = splits(read(dataset))
    assert Counter(got.values()) == {"train": 31, "validation": 4, "test": 5}
    when = {
        part: [times[row] for row, where in got.items() if where == part] for part in ("train", "validation", "test")
    }
    assert max(when["train"]) <= min(when["validation"]) and max(when["validation"]) <= min(when["test"])
    (first,) = {row for row in (34, 35) if got[row] == "test"}  # of one moment: the one that lies later
    assert first == max(34, 35, key=lie.tolist().index)


def test_time_needs_a_time(logs):
    with pytest.raises(ValidationError, match="`split: {by: time}` needs `time`"):
        logs.ingest({"clicked": [0, 1]}, time=None, split={"by": "time", "validation": 0.1, "test": 0.1}, features=USER)


def test_fractions_that_floating_point_cannot_say_are_exact(logs, read):
    for rows, (validation, test) in itertools.product((100, 200), ((0.29, 0.57), (0.1, 0.2), (0.07, 0.00001e3))):
        table = {"clicked": [0, 1] * (rows // 2), "user": ["a"] * rows}
        dataset = logs.ingest(
            table,
            example_id=None,
            time=None,
            split={"by": "order", "validation": validation, "test": test},
            features=USER,
        )
        got = Counter(splits(read(dataset)).values())
        assert got["test"] == round(rows * test) and got["validation"] == round(rows * validation)


def test_rows_without_a_clock_lie_under_no_day_in_order_of_rank(logs, small, read):
    table = small(200)
    table["when"] = [time % 977 for time in table["when"]]
    dataset = logs.ingest(
        table,
        time={"column": "when", "unit": "order"},
        split={"by": "random", "validation": 0.2, "test": 0.2},
        features=USER,
    )
    assert {part.day for part in dataset.parts()} == {NO_DAY}
    for split in ("train", "validation", "test"):
        times = read(dataset, split)["time"].to_pylist()
        assert times == sorted(times)


@pytest.mark.parametrize(
    ("change", "minimum", "message"),
    [
        (lambda when: when, 1, None),
        (lambda when: [*when[:-1], when[-1] + 86_400_000 * 2], 1, None),
        (lambda when: [*when[:-1], when[-1] + 86_400_000 * 2], 2, r"day 2023-11-20 has 0 rows; expected at least 2"),
        (lambda when: [*when[:-1], when[-1] + 86_400_000], 2, r"day 2023-11-20 has 1 rows; .*`minimum_rows_per_day`"),
    ],
)
def test_thin_and_missing_days(logs, small, change, minimum, message):
    table = small()
    table["when"] = change(table["when"])
    if message is None:
        logs.ingest(table, minimum_rows_per_day=minimum, features=USER)
    else:
        with pytest.raises(UserError, match=message):
            logs.ingest(table, minimum_rows_per_day=minimum, features=USER)


def test_at_most_so_many_training_days(tmp_path: Path) -> None:
    """Earlier days feed histories and are no rows of the dataset."""
    with (tmp_path / "log.csv").open("w") as file:
        rows = csv.writer(file)
        rows.writerow(["label", "time", "user", "item"])
        for day in range(6):
            rows.writerows([[index % 2, f"2026-01-0{day + 1}T0{index}:00:00", "ann", f"i{day}"] for index in range(4)])
    section = {
        "log": {"paths": str(tmp_path / "log.csv")},
        "time": {"column": "time", "unit": "datetime"},
        "split": {"by": "days", "validation": 1, "test": 1, "train": 2},
        "features": {
            "item": {"kind": "single"},
            "seen": {"kind": "history", "user": "user", "of": "item", "outcome": "any"},
        },
    }
    dataset = ingest(Section.model_validate(section), tmp_path / "out")
    assert dataset.days == [f"2026-01-0{day}" for day in (3, 4, 5, 6)]
    assert [dataset.rows(split) for split in ("train", "validation", "test")] == [8, 4, 4]
    first = pq.read_table(dataset.parts("train")[0].path, partitioning=None)
    assert len(first["seen"][0].as_py()) == 8  # two days of which no row is here
    assert pq.read_table(dataset.vocabulary_path("item"))["value"].to_pylist() == ["i2", "i3"]


def test_train_is_for_days_alone() -> None:
    with pytest.raises(ValueError, match="`train` is a number of days"):
        Split(by="random", validation=0.1, test=0.1, train=2)
