"""Which columns of a log without explanation belong together."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from recdistill.init.profile import profile
from recdistill.init.together import together

ROWS = 4000
rng = np.random.default_rng(7)
APP, USER, DAY = rng.integers(0, 300, ROWS), rng.zipf(1.5, ROWS) % 200, np.sort(rng.integers(0, 30, ROWS))
KIND, PLACE = rng.integers(0, 9, 300), rng.integers(0, 5, 200)


def groups(**columns: object) -> list[list[str]]:
    return together([profile(name, pa.array(values)) for name, values in columns.items()])


def test_what_follows_from_a_column_is_with_it_and_what_does_not_is_alone() -> None:
    found = groups(user=USER, kind=KIND[APP], app=APP, place=PLACE[USER], luck=rng.integers(0, 9, ROWS))
    assert found == [["user", "place"], ["kind", "app"]]


def test_a_few_exceptions_do_not_matter_and_many_do() -> None:
    changed = {share: np.where(rng.random(ROWS) < share, rng.integers(0, 9, ROWS), KIND[APP]) for share in (0.01, 0.2)}
    assert groups(app=APP, kind=changed[0.01]) == [["app", "kind"]]
    assert groups(app=APP, kind=changed[0.2]) == []


def test_steps_lead_to_one_group() -> None:
    maker, land = KIND[APP] + 10 * (APP % 3), (KIND[APP] > 4).astype(int)
    assert groups(land=land, app=APP, maker=maker, kind=KIND[APP]) == [["land", "app", "maker", "kind"]]


def test_two_names_of_one_thing_are_one_group() -> None:
    assert groups(app=APP, name=[f"a{app}" for app in APP]) == [["app", "name"]]


def test_neighbours_are_alike_in_everything_and_that_tells_nothing() -> None:
    assert groups(few=rng.integers(0, 10, ROWS), half=DAY // 15) == []


def test_of_a_wide_log_fewer_rows_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = {"app": APP, "kind": KIND[APP]}
    monkeypatch.setattr("recdistill.init.together.COMPARED", 2000 * len(columns) ** 2)
    assert groups(**columns) == [["app", "kind"]]
    monkeypatch.setattr("recdistill.init.together.COMPARED", 500 * len(columns) ** 2)
    assert groups(**columns) == []  # too few pairs are left to tell


@pytest.mark.parametrize(
    "values",
    [
        np.where(np.arange(ROWS) < 3, "a", "b"),  # is nearly always the same, whatever the app
        np.zeros(ROWS, int),
    ],
)
def test_that_all_rows_are_alike_tells_nothing(values: np.ndarray) -> None:
    assert groups(app=APP, other=values) == []


def test_values_that_do_not_come_again_determine_nothing() -> None:
    assert groups(visit=np.arange(ROWS), kind=KIND[APP]) == []
    assert together([]) == []


def test_rows_without_a_value_are_no_pair() -> None:
    sparse = [int(app) if at % 20 == 0 else None for at, app in enumerate(APP)]
    assert groups(app=sparse, kind=KIND[APP]) == []
