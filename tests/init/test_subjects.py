"""What goes with an item, and so what a recombined row takes from another one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from recdistill.config.load import load_job
from recdistill.config.models import DlrmTeacher
from recdistill.init.draft import Draft
from recdistill.init.jobfile import render
from recdistill.init.profile import profile
from recdistill.init.subjects import of_each

from .conftest import columns

Look = Callable[..., Draft]
rng = np.random.default_rng(5)
ITEM, USER, ROWS = columns()["item_id"], columns()["user_id"], len(columns()["item_id"])


@pytest.mark.parametrize(
    ("name", "values", "goes"),
    [
        ("brand", np.array([f"b{i % 7}" for i in ITEM]), True),
        ("item_views", np.exp(ITEM % 9 + rng.normal(0, 0.2, ROWS)), True),  # a counter: it changes, and is the item's
        ("user_views", np.exp(USER % 9 + rng.normal(0, 0.2, ROWS)), False),
        ("hour_group", rng.choice(["day", "night"], ROWS), False),
        ("temperature", rng.normal(20, 5, ROWS), False),
    ],
)
def test_what_follows_from_an_item_goes_with_it(look: Look, name: str, values: np.ndarray, goes: bool) -> None:
    found = look(**{name: values})
    assert found.recombine is not None and found.recombine.others == "stay"
    assert found.recombine.groups == [["item_id", *([name] if goes else [])]]


def test_the_job_recombines_items_and_what_is_theirs(look: Look, tmp_path) -> None:
    text = render(look(brand=np.array([f"b{i % 7}" for i in ITEM])), ["log.csv"], tmp_path / "job.yaml")
    assert "  recombine: {rows: 4.0, groups: [[item_id, brand]]}" in text


@pytest.mark.parametrize(
    "changed", [{"item_id": np.arange(ROWS) // 1.5, "drop": ("timestamp",)}, {"drop": ("user_id", "timestamp")}]
)
def test_where_it_is_not_known_what_is_the_items_all_columns_change_places(
    look: Look, tmp_path: Path, changed: dict[str, Any]
) -> None:
    brand = [f"b{i % 7}" for i in changed.get("item_id", ITEM)]
    shop = [f"s{name}" for name in brand]
    found = look(**changed, brand=brand, shop=shop)
    assert found.recombine is not None and found.recombine.others == "each"
    assert any({"brand", "shop"} <= set(group) for group in found.recombine.groups)
    assert "others: each}" in render(found, ["log.csv"], tmp_path / "job.yaml")


def test_what_follows_from_ids_is_tried_without(look: Look, tmp_path: Path) -> None:
    """But not what takes few rows beside them, nor what does not follow."""
    zips, shade = [f"z{n % 35}" for n in USER], [f"s{n // 2}" for n in ITEM]
    place = [f"p{n}" for n in rng.integers(0, 30, ROWS)]
    found = look(zip=zips, sex=[f"s{n % 2}" for n in USER], place=place, shade=shade)
    assert found.student.without == [["zip", "shade"]]
    assert "without: [[zip, shade]]}" in render(found, ["log.csv"], tmp_path / "job.yaml")
    found = look(drop=("user_id", "timestamp"), shade=shade)
    assert found.student.without == [["shade"]]
    sizes = {"size": np.unique(ITEM, return_inverse=True)[1] + 0.5, "shade": [f"s{n // 2}" for n in ITEM]}
    found = look(drop=("user_id", "timestamp", "item_id"), **sizes)
    assert found.recombine is not None and ["shade", "size"] in map(sorted, found.recombine.groups)
    assert not found.student.without  # a number takes no rows, and what follows from it is all that there is
    assert not look().student.without


def test_news_is_taught_day_by_day(look: Look, tmp_path: Path) -> None:
    days = 1_767_225_600 + np.arange(ROWS) * 864
    found = look(timestamp=days)
    assert found.recombine and not found.news
    text = render(found, ["log.csv"], tmp_path / "job.yaml")
    assert "regime: out_of_fold" in text and "unknown" not in text

    found = look(timestamp=days, item_id=np.arange(ROWS) // 20)
    assert found.recombine and found.news
    text = render(found, ["log.csv"], tmp_path / "job.yaml")
    assert "regime: prequential" in text and "folds" not in text and text.count("unknown: 0.6") == 1
    (tmp_path / "job.yaml").write_text(text)
    job = load_job(tmp_path / "job.yaml", [])
    assert job.student.unknowns == [0.3, 0.6] and job.distill.recombine is not None
    context, seen = job.teachers.members["context"], ["price", "price_bucket", "tags"]
    assert isinstance(context, DlrmTeacher) and context.features == [*seen, "clicked_item_id"]
    assert context.unknown == 0.0
    assert job.teachers.members["trees"].features == ["user_id", "price", "tags", "clicked_item_id"]
    assert [*job.teachers.members] == ["foundation", "context", "trees"]
    assert job.teachers.keep == pytest.approx(2 / 3)  # two answers a row


def test_what_moves_of_news_changes_places_without_the_item(look: Look, tmp_path: Path) -> None:
    item, days = np.arange(ROWS) // 20, 1_767_225_600 + np.arange(ROWS) * 864
    views, brand = np.exp(item % 9 + rng.normal(0, 0.2, ROWS)), np.array([f"b{i % 7}" for i in item])
    found = look(timestamp=days, item_id=item, item_views=views, brand=brand)
    assert found.news and found.recombine is not None
    assert found.recombine.groups == [["item_id", "brand"], ["item_views"]]
    assert "groups: [[item_id, brand], [item_views]]" in render(found, ["log.csv"], tmp_path / "job.yaml")


def test_new_items_without_days_are_not_recombined(look: Look) -> None:
    found = look(
        timestamp=1_767_225_600 + np.arange(ROWS), user_id=np.arange(ROWS) % 200, item_id=np.arange(ROWS) // 20
    )
    assert found.split.by == "time" and found.recombine is None


def test_items_are_new_where_a_users_last_rows_have_others_than_all_rows_before(look: Look) -> None:
    """Users who come one after the other over years, each to what others of their year saw."""
    user, days = np.arange(ROWS) // 15, 1_400_000_000 + np.arange(ROWS) * 86_400
    found = look(timestamp=days, user_id=user, item_id=user // 10 * 15 + rng.integers(0, 15, ROWS))
    assert found.split.by == "user_order" and found.recombine is not None and not found.news
    found = look(timestamp=days, user_id=user, item_id=np.arange(ROWS) % 15 * 5 + user % 2)  # what each user sees last
    assert found.split.by == "user_order" and found.recombine is None


def test_a_row_stands_where_its_user_is_in_time() -> None:
    user = profile("user", pa.array(["a", "b", "a", None, "a", "b", "a", None]))
    share = of_each(user, np.array([4, 9, 3, 2, 2, 8, 1, 3]))
    assert share.tolist() == [0.75, 0.5, 0.5, 0, 0.25, 0, 0, 0.5]
