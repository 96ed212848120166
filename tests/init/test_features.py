from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from recdistill.init import leaks
from recdistill.init.draft import Draft
from recdistill.init.features import Choice
from recdistill.init.jobfile import render
from recdistill.init.profile import profile

Look = Callable[..., Draft]
rng = np.random.default_rng(2)
LABEL = rng.integers(0, 2, 600)
WORDS = np.array(["red", "blue", "old", "new", "cheap", "big"])


def of(found: Draft, column: str) -> Choice:
    return next(choice for choice in found.choices if choice.column == column)


@pytest.mark.parametrize(
    ("name", "values", "kind"),
    [
        ("city", rng.integers(0, 300, 600), "single"),
        ("n_views", rng.poisson(40, 600), "dense"),
        ("whatever", rng.poisson(3, 600) * rng.poisson(2, 600), "dense"),
        ("whatever", rng.integers(100, 999, 600), "single"),
        ("pixels", rng.integers(1e5, 1e9, 600), "dense"),
        ("hist_3", rng.poisson(3, 600) * rng.poisson(2, 600), "single"),
        ("prev_clicks", rng.poisson(40, 600), "dense"),
        ("score_before", rng.random(600), "dense"),
        ("flag", rng.integers(0, 2, 600).astype(bool), "single"),
        ("genres", np.array(["a|b", "b|c", "c|a", "a|d", "d|b", "c|d"])[rng.integers(0, 6, 600)], "bag"),
        ("query", [" ".join(WORDS[rng.permutation(6)[:3]]) for _ in range(600)], "bag"),
        ("recent_ads", [",".join(map(str, rng.integers(10, 40, rng.integers(1, 6)))) for _ in range(600)], "bag"),
        ("spent", np.array(["1,000", "12,000", "150,000", "1,000,000"])[rng.integers(0, 4, 600)], "single"),
        ("zip", np.char.zfill(rng.integers(0, 300, 600).astype(str), 5), "single"),
        (
            "downloads",
            np.array(["1,000 - 5,000", "5,000 - 10,000", "100 - 500", "50"])[rng.integers(0, 4, 600)],
            "single",
        ),
        ("country", np.array(["United Kingdom", "United States", "South Africa"])[rng.integers(0, 3, 600)], "single"),
    ],
)
def test_the_kind_of_a_feature(look: Look, name: str, values: Any, kind: str) -> None:
    choice = of(look(**{name: values}), name)
    assert choice.kind is not None and choice.kind.kind == kind


def test_lists_in_parquet_are_bags(look: Look) -> None:
    choice = of(look("log.parquet", drop=("tags",), tags=[[1, 2], [3], []] * 200), "tags")
    assert choice.kind is not None and choice.kind.kind == "bag" and choice.kind.delimiter is None


def test_an_embedding_is_no_bag(look: Look) -> None:
    found = look("log.parquet", vector=list(rng.random((600, 4))), ids=list(rng.integers(0, 9, (600, 3))))
    assert of(found, "vector").kind is None and of(found, "ids").kind.kind == "bag"
    assert any(doubt.startswith("vector: holds lists of numbers") for doubt in found.doubts)


def test_a_long_tail_takes_a_logarithm(look: Look) -> None:
    found = look(height=rng.normal(170, 10, 600))
    assert of(found, "price").kind.transform == "log" and of(found, "height").kind.transform == "none"


@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        ("leak", LABEL * 3 + 1, "gives the label away"),
        ("leak", np.where(LABEL, None, "x"), "gives the label away"),
        ("leak", LABEL + rng.normal(0, 0.05, 600), "gives the label away"),
        ("session_size", rng.integers(1, 9, 600), "known only afterwards"),
        ("dwell_ms", rng.random(600), "known only afterwards"),
        ("is_like", rng.integers(0, 2, 600), "known only afterwards"),
        ("share", rng.random(600) < 0.3, "known only afterwards"),
        ("long_view", rng.integers(0, 3, 600), "known only afterwards"),
        ("watching_times", rng.integers(0, 50, 600), "known only afterwards"),
        ("play_duration", rng.random(600), "known only afterwards"),
        ("opened", np.where(LABEL & (np.arange(600) % 2), "deep", "no"), "known only afterwards"),
        ("depth", LABEL * rng.integers(0, 2, 600) * rng.random(600), "known only afterwards"),
        ("same", "x", "always the same"),
        ("nothing", None, "empty"),
        ("hour", np.arange(600) // 25 + 1000, "only counts time"),
        ("session_id", rng.permutation(600) // 2, "names one visit, which never comes again"),
        ("hash", [f"{value:016x}" for value in rng.integers(0, 2**60, 600)], "almost every row has a value of its own"),
        ("json", '["a", "b"]', "always the same"),
        ("json", np.where(rng.random(600) < 0.5, '["a"]', '["b"]'), "lists or objects as text"),
    ],
)
def test_what_is_left_out(look: Look, name: str, values: Any, reason: str) -> None:
    found = look(drop=("label",), label=LABEL, **{name: values})
    choice = of(found, name)
    assert (choice.kind, choice.reason) == (None, reason)
    assert name not in found.features
    suspicious = reason in ("gives the label away", "known only afterwards")
    assert choice.suspicious is suspicious
    if suspicious:
        assert any(doubt.startswith(f"{name}:") for doubt in found.doubts)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("item_likes", rng.integers(0, 50, 600)),
        ("liked_before", rng.integers(0, 2, 600)),
        ("followers", rng.integers(0, 2, 600)),
        ("muted", np.where(1 - LABEL, np.arange(600) % 2, 0)),  # with it nobody clicks, which may be known before
    ],
)
def test_what_is_known_before_stays(look: Look, name: str, values: Any) -> None:
    assert of(look(drop=("label",), label=LABEL, **{name: values}), name).kind is not None


def test_what_seldom_is_no_click_comes_of_nothing() -> None:
    label = np.arange(2000) % 10 > 0
    flag = profile("flag", pa.array(np.where(label & (np.arange(2000) % 3 == 0), 1, 0)))
    assert not leaks.comes_of(flag, label) and leaks.comes_of(flag, label & (np.arange(2000) % 3 == 0))


def test_earlier_items_are_looked_up_where_the_item_is(look: Look, tmp_path: Path) -> None:
    again = {f"hist_{number}": rng.integers(0, 30, 600) for number in (1, 2)}
    bag = np.array(["|".join(map(str, rng.integers(0, 30, 4))) for _ in range(600)])
    found = look(**again, item_history=bag, last_seen=[f"p{n}" for n in rng.integers(0, 30, 600)])
    shared = {name: getattr(choice.kind, "share", None) for name, choice in found.features.items()}
    assert {name for name, of in shared.items() if of == "item_id"} == {"hist_1", "hist_2", "item_history"}
    text = render(found, ["log.csv"], tmp_path / "job.yaml")
    assert "hist_1, hist_2: {kind: single, share: item_id}" in text
    assert 'item_history: {kind: bag, delimiter: "|", share: item_id}' in text
    assert "clicked: {kind: history" in text


def test_a_column_that_says_a_lot_is_kept_and_pointed_at(look: Look) -> None:
    noisy = np.where(rng.random(600) < 0.97, LABEL, 1 - LABEL)
    choice = of(look(drop=("label",), label=LABEL, hint=noisy), "hint")
    assert choice.kind is not None and choice.suspicious and "alone it tells the label" in (choice.doubt or "")


def test_a_number_of_each_row_is_none_of_its_features(look: Look) -> None:
    found = look(drop=("timestamp",), rownames=np.arange(1, 601))
    assert of(found, "rownames").reason == "only counts rows" and "rownames" not in found.features


def test_values_that_never_come_again_tell_nothing() -> None:
    """Scored on the rows that it was learned from, a column of unique ids would look perfect."""
    label = rng.random(2000) < 0.3
    ids = profile("id", pa.array([f"u{number}" for number in range(2000)]))
    assert leaks.alone(ids, label) < 0.6
    perfect = profile("id", pa.array(np.where(label, "a", "b")))
    assert leaks.alone(perfect, label) == 1.0


def test_what_may_be_otherwise_when_a_student_serves_is_asked_about(look: Look) -> None:
    found = look(pctr=rng.random(600), banner_pos=rng.integers(0, 5, 600), prev_position=rng.integers(0, 5, 600))
    asked = {doubt.partition(":")[0]: doubt for doubt in found.doubts if "by its name" in doubt}
    assert set(asked) == {"pctr", "banner_pos"} and {"pctr", "banner_pos"} <= set(found.features)
    assert "what another model said" in asked["pctr"] and "known before items are ranked" in asked["banner_pos"]


def test_doubts_of_a_kind_are_told_together(look: Look) -> None:
    found = look(one=rng.integers(100, 999, 600), two=rng.integers(100, 999, 600))
    assert sum("one, two: taken as an id" in doubt for doubt in found.doubts) == 1
