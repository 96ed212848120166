from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recdistill.errors import UserError
from recdistill.init.draft import Draft, draft

Look = Callable[..., Draft]
rng = np.random.default_rng(1)
BITS = rng.integers(0, 2, 600)


@pytest.mark.parametrize(
    ("name", "values", "rule"),
    [
        ("clicked", BITS, {"column": "clicked", "at_least": None, "equals": None}),
        ("rating", rng.integers(1, 6, 600), {"column": "rating", "at_least": 4.0, "equals": None}),
        ("is_click", BITS, {"column": "is_click", "at_least": None, "equals": None}),
        ("target", np.where(BITS, 1, -1), {"column": "target", "at_least": 1.0, "equals": None}),
        ("label", np.where(BITS, "yes", "no"), {"column": "label", "at_least": None, "equals": "yes"}),
        (
            "label",
            np.where(np.arange(600) % 3, "seen", "bought"),
            {"column": "label", "at_least": None, "equals": "bought"},
        ),
        ("y", BITS.astype(bool), {"column": "y", "at_least": None, "equals": "True"}),
    ],
)
def test_the_label_and_its_rule(look: Look, name: str, values: Any, rule: dict[str, Any]) -> None:
    found = look(drop=("label",), **{name: values})
    label = found.roles.label.model_dump()
    if rule["at_least"] == 4.0:
        assert label["at_least"] in (3.0, 4.0)
        rule = {**rule, "at_least": label["at_least"]}
    assert label == rule
    assert found.roles.positive.mean() == pytest.approx(np.mean([_positive(value, rule) for value in values]))


def _positive(value: Any, rule: dict[str, Any]) -> bool:
    if rule["at_least"] is not None:
        return value >= rule["at_least"]
    return str(value) == rule["equals"] if rule["equals"] else value == 1


def test_a_column_of_zeros_and_ones_will_do(look: Look) -> None:
    found = look(drop=("label",), seen_before=BITS)
    assert found.roles.label.column == "seen_before"
    assert any("seen_before" in doubt for doubt in found.doubts)


@pytest.mark.parametrize(
    ("more", "asked", "said"),
    [
        ({"a": BITS, "b": 1 - BITS}, None, "several columns hold 0 and 1 .a, b."),
        ({}, None, "no column looks like a label .* --label"),
        ({}, "prise", "no column 'prise'.*did you mean 'price'"),
        ({"label": 1}, None, "all 600 rows looked at are positive by 'label'"),
        ({"label": np.where(BITS, 1.0, np.nan)}, None, "'label' is empty in"),
        ({"label": np.arange(600).astype(str) + "x"}, "label", "600 different texts"),
    ],
)
def test_no_label_is_one_sentence(look: Look, more: dict[str, Any], asked: str | None, said: str) -> None:
    with pytest.raises(UserError, match=said):
        look(asked=asked, drop=("label",), **more)


def test_what_is_positive_can_be_said(look: Look) -> None:
    behaviour = np.array(["pv", "cart", "buy"])[rng.integers(0, 3, 600)]
    found = look(asked="behavior=buy", drop=("label",), behavior=behaviour)
    assert (found.roles.label.column, found.roles.label.equals) == ("behavior", "buy")
    assert np.array_equal(found.roles.positive, behaviour == "buy")
    with pytest.raises(UserError, match=r"no row has behavior = 'bye'; it holds .*buy"):
        look("other.csv", asked="behavior=bye", drop=("label",), behavior=behaviour)
    with pytest.raises(UserError, match=r"'behavior' holds 3 different texts .*--label behavior="):
        look("third.csv", asked="behavior", drop=("label",), behavior=behaviour)


def test_a_rating_goes_before_a_column_of_two_values(look: Look) -> None:
    found = look(drop=("label",), overall=rng.integers(1, 6, 600), verified=BITS)
    assert found.roles.label.column == "overall" and "verified" in found.features


def test_a_label_by_name_that_holds_numbers_goes_before_a_column_of_two_values(look: Look) -> None:
    found = look(drop=("label",), y=rng.integers(1, 6, 600), service=BITS)
    assert found.roles.label.column == "y" and "service" in found.features
    assert look("both.csv", drop=("label",), y=rng.integers(1, 6, 600), clicked=BITS).roles.label.column == "clicked"


def test_a_label_that_is_asked_for_may_be_any_number(look: Look) -> None:
    assert look(asked="price").roles.label.column == "price"
    ratio = look("ratio.csv", asked="ratio", ratio=np.arange(600) / 100)
    assert ratio.roles.label.at_least == 3.0
    clicks = look("clicks.csv", asked="clicks", clicks=rng.poisson(0.2, 600) * 7 + 0.0)
    assert clicks.roles.label.at_least == 7.0


@pytest.mark.parametrize(
    ("values", "unit"),
    [
        (1_767_225_600 + np.arange(600), "s"),
        ((1_767_225_600 + np.arange(600)) * 1000, "ms"),
        ((1_767_225_600 + np.arange(600)) * 1_000_000, "us"),
        (pd.date_range("2026-01-01", periods=600, freq="min"), "datetime"),
        (pd.date_range("2026-01-01", periods=600, freq="h").strftime("%Y-%m-%d %H:%M"), "datetime"),
        (20260101 + np.arange(600) // 30, "order"),
    ],
)
def test_the_unit_of_time(look: Look, values: Any, unit: str) -> None:
    found = look(drop=("timestamp", "user_id"), date=values)
    assert found.roles.time is not None and (found.roles.time.column, found.roles.time.unit) == ("date", unit)


def test_a_clock_without_a_name_is_one(tmp_path) -> None:
    rows = [
        f"{row % 40},{row % 30},{BITS[row]},{1_511_544_000 + 97 * row},{1_700_000_000 + row % 50}" for row in range(600)
    ]
    (tmp_path / "log.csv").write_text("\n".join(rows))
    found = draft([str(tmp_path / "log.csv")], "column3")
    assert found.roles.time is not None and (found.roles.time.column, found.roles.clocks) == ("column4", [])


def test_a_session_id_that_looks_like_a_time_is_none(look: Look) -> None:
    found = look(drop=("timestamp",), session_id=1_506_988_760_189_661 + np.arange(600))
    assert found.roles.time is None


def test_large_numbers_without_a_name_for_time_are_no_seconds(look: Look) -> None:
    found = look(drop=("timestamp",), advertiser=1_700_000_000 + rng.integers(0, 50, 600))
    assert found.roles.time is None and "advertiser" in found.features


def test_of_two_clocks_the_finer_is_the_time(look: Look) -> None:
    found = look(session_start=(1_767_225_600 + np.arange(600) // 60 * 3600) * 1000)
    assert found.roles.time is not None and found.roles.time.column == "timestamp"
    assert found.roles.clocks == ["session_start"] and "session_start" not in found.features


def test_rows_and_weights_are_known_by_name(look: Look) -> None:
    found = look(impression_id=np.arange(600), weight=1.5, true_probability=0.3)
    named = {role: column for column, role in found.roles.named.items()}
    assert named["example_id"] == "impression_id"
    assert (named["weight"], named["true_probability"]) == ("weight", "true_probability")
    assert not {"impression_id", "weight", "true_probability"} & set(found.features)
    assert found.roles.subjects == {"user": "user_id", "item": "item_id"}


def test_an_id_that_comes_twice_names_no_row(look: Look) -> None:
    assert look(event_id=np.arange(600) // 2).roles.example_id is None


def test_neither_a_user_nor_when_an_item_began_is_the_time(look: Look) -> None:
    phones = 919_800_000_000 + rng.integers(0, 40, 600)
    found = look(drop=("user_id",), user=phones)
    assert found.roles.time is not None and found.roles.time.column == "timestamp"
    assert found.roles.subjects["user"] == "user" and "user" in found.features
    assert look(drop=("user_id", "timestamp"), user=phones).roles.time is None
    days = pd.to_datetime(1_767_225_600 + np.arange(600) // 100 * 86_400, unit="s").astype(str)
    born = pd.to_datetime(1_700_000_000 + rng.integers(0, 30, 600) * 977, unit="s").astype(str)
    found = look(drop=("timestamp",), event_date=days, item_created_at=born)
    assert found.roles.time is not None and found.roles.time.column == "event_date"
    found = look(drop=("timestamp",), signup_date=born)
    assert found.roles.time is not None and any("when a user or an item began" in doubt for doubt in found.doubts)


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        (np.where(np.arange(600) % 50 == 0, np.nan, 1_767_225_600 + np.arange(600)), "2.0% of its cells are empty"),
        ([f"{1 + n % 12:02}/{1 + n % 28:02}/2026 10:{n % 60:02}:00" for n in range(600)], "is written as '01/01/2026"),
    ],
)
def test_a_time_that_cannot_be_read_is_told(look: Look, cells: Any, why: str) -> None:
    found = look(timestamp=cells)
    assert "timestamp" not in found.features and found.roles.time is None
    assert any(doubt.startswith("timestamp: looks like a time") and why in doubt for doubt in found.doubts)


def test_a_history_of_clicks_is_no_label(look: Look) -> None:
    seen = rng.integers(0, 2, 600)
    found = look(drop=("label",), user_clicked_before=seen, purchase=1 - seen[::-1], target_gender=seen[::-1])
    assert found.roles.label.column == "purchase"
    assert "target_gender" in look(target_gender=seen).features


def test_a_day_that_has_only_begun_is_not_the_whole_test(look: Look) -> None:
    days = np.append(np.sort(rng.integers(0, 6 * 86_400, 590)), 6 * 86_400 + np.arange(10))
    found = look(timestamp=1_767_225_600 + days)
    assert found.split.test == 2 and any("the last day has few rows (10)," in doubt for doubt in found.doubts)
    whole = look(timestamp=1_767_225_600 + np.sort(rng.integers(0, 7 * 86_400, 600)))
    assert whole.split.test == 1 and not any("last day" in doubt for doubt in whole.doubts)


def test_users_that_are_not_always_known_cannot_be_split(look: Look) -> None:
    user = np.where(rng.random(600) < 0.3, None, rng.integers(0, 20, 600).astype(str))
    found = look(drop=("timestamp",), user_id=user, seq=np.arange(600))
    assert found.split.by == "time"


def test_too_few_clicks_to_see_leaks_are_told(look: Look) -> None:
    found = look(label=(np.arange(600) % 40 == 0).astype(int))
    assert any(doubt.startswith("15 rows of the rarer class are too few") for doubt in found.doubts)
