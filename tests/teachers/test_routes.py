"""Who is asked: the most important pairs of all, and the best of every row."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recdistill.clicklog.schema import Part
from recdistill.errors import UserError
from recdistill.teachers.routes import Routed, Routes, count_route, finish_routes, route_path, write_route

NAMES = ["foundation", "ids", "trees"]


def part(rows: int, index: int = 0) -> Part:
    """A part of the training split; nothing of it is read."""
    return Part(Path("nowhere"), "2026-01-01", "train", index, rows)


def write(root: Path, *tables: np.ndarray) -> Routes:
    """Routes of parts of one day; ids go on from part to part."""
    counts, first = [], 0
    for index, importance in enumerate(tables):
        path = route_path(root, part(len(importance), index).key)
        write_route(path, NAMES, np.arange(len(importance)) + first, *2 * [importance])
        counts.append(count_route(path, NAMES))
        first += len(importance)
    finish_routes(root, NAMES, NAMES, np.sum(counts, axis=0))
    return Routes(root)


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.sampled_from([0.05, 0.3, 0.5, 0.7, 0.99, 1.0]))
def test_the_most_important_pairs_and_the_best_of_each_row_are_kept(
    tmp_path_factory: pytest.TempPathFactory, seed: int, rows: int, keep: float
) -> None:
    rng = np.random.default_rng(seed)
    importance = rng.dirichlet(np.ones(3), rows).astype(np.float16)
    importance[rng.random((rows, 3)) < 0.2] = 0
    routes = write(tmp_path_factory.mktemp("routes"), importance[: rows // 2], importance[rows // 2 :])
    halves = [(0, rows // 2), (rows // 2, rows)]
    parts = [routes.forecasts(part(b - a, at), np.arange(a, b))[0] for at, (a, b) in enumerate(halves)]
    asked = np.concatenate([routes.kept(importance, keep) for importance in parts])
    there = importance > 0
    best = there & (np.arange(3) == importance.argmax(1)[:, None])
    share = round(keep * there.sum())
    assert (asked >= best).all() and (asked <= there).all()
    assert asked.sum() <= max(share, best.sum())
    others, left = (importance[there & ~best & mask] for mask in (asked, ~asked))
    if asked.sum() < share:  # who is left out comes with others that are missed as much, and they are too many
        assert not left.size or share < asked.sum() + (left == left.max()).sum()
    assert not left.size or not others.size or others.min() > left.max()
    assert routes.pairs(keep) == (there.sum(), asked.sum())
    assert keep < 1 or (asked == there).all()


def test_rows_are_found_by_their_ids(tmp_path: Path) -> None:
    importance = np.array([[0.9, 0.05, 0.05], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]])
    routes = write(tmp_path, importance)
    found = routes.forecasts(part(3), np.array([2, 0]))[0]
    np.testing.assert_array_equal(found, importance[[2, 0]].astype(np.float16))
    assert routes.kept(found, 0.34).tolist() == [[False, False, True], [True, False, False]]
    with pytest.raises(UserError, match="lacks rows of nowhere"):
        routes.forecasts(part(3), np.array([2, 7]))[0]


def test_who_cannot_be_asked_is_always_heard_and_makes_no_pair(tmp_path: Path) -> None:
    importance = np.array([[0.9, 0.05, 0.05], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]])
    path = route_path(tmp_path, part(3).key)
    write_route(path, NAMES, np.arange(3), *2 * [importance])
    finish_routes(tmp_path, NAMES, NAMES[:2], count_route(path, NAMES[:2]))
    routes = Routes(tmp_path)
    assert routes.teachers == NAMES and routes.pairs(1.0) == (6, 6) and routes.pairs(0.34) == (6, 3)
    kept = routes.kept(routes.forecasts(part(3), np.arange(3))[0], 0.34)
    assert kept.tolist() == [[True, False, True], [False, True, True], [True, False, True]]


def test_a_committee_of_answers_alone_has_nobody_to_ask(tmp_path: Path) -> None:
    path = route_path(tmp_path, part(2).key)
    write_route(path, NAMES, np.arange(2), *2 * [np.full((2, 3), 1 / 3)])
    finish_routes(tmp_path, NAMES, [], count_route(path, []))
    assert Routed({"train": tmp_path}, 0.5).pairs() == (0, 0)
    assert Routes(tmp_path).kept(np.full((2, 3), 1 / 3, np.float16), 0.5).all()


def test_answers_are_taken_back_and_what_was_absent_stays_absent(tmp_path: Path) -> None:
    write(tmp_path, np.array([[0.9, 0.05, 0.05], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]]))
    logit = pa.array([1.0, None, 3.0], pa.float32())
    columns = {"example_id": pa.array([0, 1, 2]), **{f"logit.{name}": logit for name in NAMES}}
    routed, join = Routed({"train": tmp_path}, 0.4), lambda _, table: table
    whole = routed.weigh(join)(part(3), pa.table(columns))
    np.testing.assert_allclose(whole["importance.trees"].to_numpy(), [0.05, 0.1, 0.6], rtol=1e-3)
    assert whole["logit.foundation"].to_pylist() == [1.0, None, None]
    assert whole["logit.ids"].to_pylist() == [None, None, None]
    assert whole["logit.trees"].to_pylist() == [None, None, 3.0]
    everything = Routed({"train": tmp_path}, 1.0).weigh(join)(part(3), pa.table(columns))
    assert everything["logit.ids"].to_pylist() == [1.0, None, 3.0] and "importance.ids" in everything.column_names


def test_of_a_sparse_cache_all_is_heard_but_of_held_out_rows_what_would_have_been_asked(tmp_path: Path) -> None:
    roots = {split: tmp_path / split for split in ("train", "validation")}
    join, routed = lambda _, table: table, Routed(roots, 0.4, sparse=True)
    logit = pa.array([1.0, 2.0, 3.0], pa.float32())
    table = pa.table({"example_id": pa.array([0, 1, 2]), **{f"logit.{name}": logit for name in NAMES}})
    for split, root in roots.items():
        of = Part(Path("nowhere"), "2026-01-01", split, 0, 3)
        path = route_path(root, of.key)
        write_route(path, NAMES, np.arange(3), *2 * [np.array([[0.9, 0.05, 0.05], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]])])
        finish_routes(root, NAMES, NAMES, count_route(path, NAMES))
    for split in roots:
        of = Part(Path("nowhere"), "2026-01-01", split, 0, 3)
        heard = routed.weigh(join)(of, table)["logit.ids"].to_pylist()
        assert heard == ([1.0, 2.0, 3.0] if split == "train" else [None, 2.0, None])


def test_everyone_is_asked_about_rows_that_are_held_out(tmp_path: Path) -> None:
    held_out = Part(Path("nowhere"), "2026-01-01", "test", 0, 3)
    assert Routed({}, 0.1).asked("ids", held_out, np.arange(3)).tolist() == [True] * 3


def test_damage_is_told(tmp_path: Path) -> None:
    routes = write(tmp_path, np.full((50, 3), 1 / 3))
    path = route_path(tmp_path, part(50).key)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match="these routes are damaged"):
        routes.forecasts(part(50), np.arange(50))[0]


def test_importance_weighs_and_who_is_missed_is_asked(tmp_path: Path) -> None:
    importance, missed = np.array([[0.8, 0.1, 0.1]] * 3), np.array([[0.01, 0.5, 0.02]] * 3)
    path = route_path(tmp_path, part(3).key)
    write_route(path, NAMES, np.arange(3), importance, missed)
    finish_routes(tmp_path, NAMES, NAMES, count_route(path, NAMES))
    routed = Routed({"train": tmp_path}, 0.34)
    assert [routed.asked(name, part(3), np.arange(3)).tolist() for name in NAMES] == [
        [False] * 3,
        [True] * 3,
        [False] * 3,
    ]
    logit = pa.array([1.0, 2.0, 3.0], pa.float32())
    table = pa.table({"example_id": pa.array([0, 1, 2]), **{f"logit.{name}": logit for name in NAMES}})
    heard = routed.weigh(lambda _, table: table)(part(3), table)
    assert [heard[f"logit.{name}"].null_count for name in NAMES] == [3, 0, 3]
    np.testing.assert_allclose(heard[f"importance.{NAMES[0]}"].to_numpy(), 0.8, atol=1e-3)


def test_routes_of_another_version_are_told(tmp_path: Path) -> None:
    write(tmp_path, np.full((2, 3), 1 / 3))
    record = json.loads((tmp_path / "routes.json").read_text())
    (tmp_path / "routes.json").write_text(json.dumps({**record, "version": 2}))
    with pytest.raises(UserError, match="written by another version of recdistill"):
        Routes(tmp_path)
