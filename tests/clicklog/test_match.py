from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recdistill.clicklog.match import matches
from recdistill.clicklog.recombine import recombine
from recdistill.clicklog.schema import Dataset, Schema
from recdistill.config.job import Recombine

IDS = st.integers(0, 4)
MORE: dict[str, Any] = {
    "liked_tags": {"kind": "history", "user": "user", "of": "tags", "last": 9},
    "ages": {"kind": "history", "user": "user", "of": "age", "last": 5, "outcome": "any"},
    "same_item": {"kind": "match", "of": "liked"},
    "same_tags": {"kind": "match", "of": "liked_tags"},
    "same_age": {"kind": "match", "of": "ages"},
}
MATCHED = {"item": "liked", "tags": "liked_tags_before"}
PAIRS = {"same_item": ("liked", "item"), "same_tags": ("liked_tags", "tags"), "same_age": ("ages", "age")}


def slow(history: list[int], own: list[int] | int | None) -> float:
    ids = own if isinstance(own, list) else [own]
    return math.log1p(sum(id_ in ids for id_ in history if id_))


def check(rows: list[dict[str, Any]]) -> None:
    for name, (history, own) in PAIRS.items():
        expected = [slow(row[history], row[own]) for row in rows]
        assert [row[name] for row in rows] == pytest.approx(expected)
        assert len(set(expected)) > 1


def rows_of(dataset: Dataset) -> list[dict[str, Any]]:
    tables = [pq.read_table(part.path, partitioning=None) for part in dataset.parts()]
    return pa.concat_tables(tables).to_pylist()


@pytest.fixture
def dataset(logs: Any, small: Any, features: dict[str, Any]) -> Dataset:
    return logs.ingest(small(), features=features | MORE)


@given(st.lists(st.tuples(st.lists(IDS, max_size=4), st.none() | IDS)))
def test_counts_ids_that_are_the_rows_own(rows: list[tuple[list[int], int | None]]) -> None:
    histories = pa.array([history for history, _ in rows], pa.list_(pa.int64()))
    found = matches(histories, pa.array([own for _, own in rows], pa.int64()))
    assert found.type == pa.float32()
    assert found.to_pylist() == pytest.approx([slow(*row) for row in rows])


@given(st.lists(st.tuples(st.lists(IDS, max_size=4), st.lists(IDS, max_size=3))))
def test_counts_ids_that_are_among_the_rows_own(rows: list[tuple[list[int], list[int]]]) -> None:
    histories, own = (pa.array([row[side] for row in rows], pa.list_(pa.int64())) for side in (0, 1))
    assert matches(histories, own).to_pylist() == pytest.approx([slow(*row) for row in rows])


def test_of_histories_of_ids_bags_and_buckets(dataset: Dataset) -> None:
    check(rows_of(dataset))
    assert all((column.mean, column.std) == (0, 1) for column in dataset.schema.dense if column.name in PAIRS)


def test_in_short_they_are_the_same(logs: Any, small: Any, features: dict[str, Any], dataset: Dataset) -> None:
    more = features | {"liked": features["liked"] | {"matches": ["item", "tags"], "last": 9}}
    short, spelled_out = logs.ingest(small(), features=more), features | {"liked": features["liked"] | {"last": 9}}
    spelled_out |= {"liked_tags_before": MORE["liked_tags"] | {"hidden": True}}
    spelled_out |= {f"liked_{name}": {"kind": "match", "of": of} for name, of in MATCHED.items()}
    long = logs.ingest(small(), features=spelled_out)
    assert rows_of(short) == rows_of(long) and {f"liked_{name}" for name in MATCHED} <= set(rows_of(short)[0])
    assert short.schema.spec["features"]["liked_tags_before"]["hidden"]


def test_what_a_user_had_before_is_counted_from_the_log_itself(logs: Any, small: Any, features: dict[str, Any]) -> None:
    table = small()
    some = {"user": {"kind": "single"}, "item": {"kind": "single"}, "had": features["liked"] | {"last": 900}}
    made = logs.ingest(table, features=some | {"again": {"kind": "match", "of": "had"}})
    known = {row["example_id"]: row for row in rows_of(made) if row["item"]}
    assert len(known) > 250
    for at, name in enumerate(table["id"]):
        had = sum(
            clicked and (user, item) == (table["user"][at], table["item"][at]) and when < table["when"][at]
            for when, user, item, clicked in zip(*(table[c] for c in ("when", "user", "item", "clicked")), strict=True)
        )
        if name in known:
            assert known[name]["again"] == pytest.approx(math.log1p(had))


def test_recombined_rows_are_counted_anew(dataset: Dataset, tmp_path: Any) -> None:
    check(rows_of(recombine(dataset, Recombine(rows=3, groups=[["item", "hashed"], ["tags"], ["age"]]), tmp_path)))


def test_a_schema_whose_match_has_no_history_is_refused(dataset: Dataset) -> None:
    schema = dataset.schema.model_dump()
    schema["sparse"] = [sparse for sparse in schema["sparse"] if sparse["name"] != "liked"]
    with pytest.raises(ValueError, match="'same_item' has no history 'liked'"):
        Schema.model_validate(schema)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"same": {"kind": "match", "of": "item"}}, "'same' refers to 'item', which is no history"),
        ({"same": {"kind": "match", "of": "none"}}, "'same' refers to 'none', which is no history"),
        ({"prices": {"kind": "history", "user": "user", "of": "price"}}, "'price', which is no single, bag or bucket"),
    ],
)
def test_of_what_is_no_history_is_refused(
    logs: Any, small: Any, features: dict[str, Any], wrong: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        logs.section(small(), features=features | wrong)
