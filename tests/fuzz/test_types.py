"""Parquet columns of every type under every kind of feature, and times of every kind: understood, or refused."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from recdistill.clicklog.ingest import ingest
from recdistill.clicklog.schema import Dataset
from recdistill.config.dataset import Dataset as Section
from tests.fuzz.harness import attempt, fuzz
from tests.fuzz.tables import contract

ROWS = 12
WHOLE = st.integers(-(2**7), 2**7 - 1)
HUGE = st.sampled_from([-(2**63), 2**63 - 1, 0, 1, 1_700_000_000, 2**53 + 1])
FLOATS = st.floats(width=16) | st.sampled_from([math.nan, math.inf, -math.inf, -0.0, 1.0, 2.0**15])
WORDS = st.text(max_size=3) | st.sampled_from(["1", "0", "nan", "2023-11-14", "\x00"])
TYPES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.null(): st.none(),
    pa.bool_(): st.booleans(),
    **dict.fromkeys([pa.int8(), pa.int16(), pa.int32()], WHOLE),
    pa.int64(): WHOLE | HUGE,
    **dict.fromkeys([pa.uint8(), pa.uint32()], st.integers(0, 255)),
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.float16(): FLOATS.map(np.float16),
    **dict.fromkeys([pa.float32(), pa.float64()], FLOATS),
    pa.float64(): st.floats(),
    pa.decimal128(5, 2): st.decimals(-999, 999, places=2),
    pa.decimal256(60, 0): st.integers(-(10**60) + 1, 10**60 - 1),
    **dict.fromkeys([pa.string(), pa.large_string(), pa.string_view()], WORDS),
    pa.dictionary(pa.int32(), pa.string()): WORDS,
    **dict.fromkeys([pa.binary(), pa.large_binary(), pa.binary_view()], st.binary(max_size=3)),
    pa.binary(2): st.binary(min_size=2, max_size=2),
    pa.date32(): st.integers(-(2**31), 2**31 - 1) | st.just(19_675),
    pa.date64(): st.integers(-(10**8), 10**8).map(lambda day: day * 86_400_000),
    **dict.fromkeys([pa.timestamp("ms"), pa.timestamp("ns"), pa.timestamp("ms", "Europe/Paris")], WHOLE | HUGE),
    pa.timestamp("us", "no/where"): WHOLE | HUGE,
    pa.time32("s"): st.integers(0, 86_399),
    pa.duration("ns"): WHOLE | HUGE,
    pa.list_(pa.int64()): st.lists(st.none() | HUGE, max_size=3),
    pa.list_(pa.float32()): st.lists(st.none() | FLOATS, max_size=3),
    pa.large_list(pa.string()): st.lists(st.none() | WORDS, max_size=3),
    pa.list_(pa.binary()): st.lists(st.binary(max_size=2), max_size=3),
    pa.list_(pa.bool_(), 2): st.lists(st.booleans(), min_size=2, max_size=2),
    pa.list_view(pa.int64()): st.lists(WHOLE, max_size=3),
    pa.list_(pa.list_(pa.int8())): st.lists(st.lists(WHOLE, max_size=2), max_size=2),
    pa.struct({"a": pa.int64()}): st.fixed_dictionaries({"a": WHOLE}),
    pa.map_(pa.string(), pa.int64()): st.lists(st.tuples(WORDS, WHOLE), max_size=2),
    pa.uuid(): st.binary(min_size=16, max_size=16),
    pa.bool8(): st.integers(0, 1),
    pa.json_(): st.just("{}"),
}
FEATURES = {
    "single": {"kind": "single", "column": "x"},
    "hashed": {"kind": "single", "column": "x", "hash": {"size": 5}},
    "bag": {"kind": "bag", "column": "x"},
    "cut": {"kind": "bag", "column": "x", "delimiter": "|"},
    "dense": {"kind": "dense", "column": "x", "transform": "log"},
    "bucket": {"kind": "bucket", "column": "x", "bins": 3},
}
ROLES: dict[str, dict[str, Any]] = {
    "feature": {},
    "example_id": {"example_id": "x"},
    "weight": {"weight": "x"},
    "label": {"label": {"column": "x"}},
    "least": {"label": {"column": "x", "at_least": 0.5}},
    "equals": {"label": {"column": "x", "equals": "1"}},
    "seconds": {"time": {"column": "x", "unit": "s"}},
    "date": {"time": {"column": "x", "unit": "datetime"}},
    "rank": {"time": {"column": "x", "unit": "order"}},
}


@st.composite
def columns(draw: st.DrawFn) -> pa.Array:
    """A column of one type; in one of two, some cells are missing."""
    kind = draw(st.sampled_from(list(TYPES)))
    cell = TYPES[kind] if draw(st.booleans()) else st.none() | TYPES[kind]
    cells = draw(st.lists(cell, min_size=ROWS, max_size=ROWS))
    storage = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    array = pa.array(cells, pa.int32() if kind == pa.date32() else storage)
    return pa.ExtensionArray.from_storage(kind, array) if storage is not kind else array.cast(kind)


@fuzz(120)
@given(column=columns(), role=st.sampled_from(list(ROLES)), feature=st.sampled_from(list(FEATURES)))
def test_a_column_of_any_type(tmp_path: Path, column: pa.Array, role: str, feature: str) -> None:
    table = pa.table({"x": column, "label": [0, 1] * (ROWS // 2), "user": ["a", "b"] * (ROWS // 2)})
    pq.write_table(table, tmp_path / "log.parquet")
    features = {"user": {"kind": "single"}, **({"f": FEATURES[feature]} if role == "feature" else {})}
    section = {
        "log": {"paths": [str(tmp_path / "log.parquet")]},
        "split": {"by": "order", "validation": 0.2, "test": 0.2},
        "features": features,
        **ROLES[role],
    }
    dataset = attempt(ingest, Section.model_validate(section), tmp_path / "out")
    if dataset is not None:
        check_contract(dataset)


def check_contract(dataset: Dataset) -> None:
    sizes = {sparse.name: dataset.schema.table(sparse.name).rows for sparse in dataset.schema.sparse}
    contract(pa.concat_tables(pq.read_table(part.path, partitioning=None) for part in dataset.parts()), sizes)


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LAST = 7_258_118_400 * 10**6
MOMENTS = st.integers(0, LAST) | st.sampled_from(
    [-1, 0, LAST, LAST + 10**6, 253_402_300_799 * 10**6, -62_135_596_800 * 10**6]
)
PAST_PYTHON = st.sampled_from([2**63 - 1, -(2**63), 2**62, 10**15, -(10**15), 1 << 52])


def written(moment: int, zone: int, blank: str, digits: int) -> str:
    """A moment (microseconds) as people write it, in a zone so many quarters of an hour from UTC."""
    local = EPOCH + timedelta(microseconds=moment) + timedelta(minutes=15 * zone)
    fraction = f".{local.microsecond:06d}"[: digits + 1] if digits else ""
    sign, quarters = "-+"[zone >= 0], abs(zone)
    ending = "" if digits == 5 else "Z" if zone == 0 else f"{sign}{quarters // 4:02d}:{quarters % 4 * 15:02d}"
    return f"{local.year:04d}-{local.month:02d}-{local.day:02d}{blank}{local:%H:%M:%S}{fraction}{ending}"


@st.composite
def clocks(draw: st.DrawFn) -> tuple[str, pa.Array, int]:
    """A unit, one cell and the moment in microseconds that it means."""
    kind = draw(st.sampled_from(["text", "s", "ms", "us", "stamp", "date"]))
    if kind == "text":
        moment = draw(MOMENTS)
        digits = draw(st.sampled_from([0, 3, 5, 6]))
        moment -= moment % 10 ** (6 - digits)
        zone = 0 if digits == 5 or abs(moment) > LAST else draw(st.integers(-48, 56))
        return "datetime", pa.array([written(moment, zone, draw(st.sampled_from("T ")), digits)]), moment
    if kind == "date":
        day = draw(st.integers(0, 84_000) | st.sampled_from([-1, 84_006, 84_007, 2**31 - 1, -(2**31)]))
        return "datetime", pa.array([day], pa.int32()).cast(pa.date32()), day * 86_400 * 10**6
    scale = {"s": 10**6, "ms": 10**3, "us": 1}
    unit = draw(st.sampled_from(["ms", "us"])) if kind == "stamp" else kind
    count = draw(MOMENTS) // scale[unit] if draw(st.booleans()) else draw(PAST_PYTHON)
    if kind == "stamp":
        return "datetime", pa.array([count], pa.int64()).cast(pa.timestamp(unit)), count * scale[unit]
    form = draw(st.sampled_from([pa.int64(), pa.string()]))
    return unit, pa.array([count]).cast(form), count * scale[unit]


@fuzz(60)
@given(clock=clocks())
def test_a_moment_is_what_was_written_or_is_refused(tmp_path: Path, clock: tuple[str, pa.Array, int]) -> None:
    unit, cell, moment = clock
    rows = pa.table({"when": pa.concat_arrays([cell] * 6), "label": [0, 1] * 3, "user": ["a"] * 6})
    pq.write_table(rows, tmp_path / "log.parquet")
    section = {
        "log": {"paths": [str(tmp_path / "log.parquet")]},
        "time": {"column": "when", "unit": unit},
        "split": {"by": "order", "validation": 0.2, "test": 0.2},
        "features": {"user": {"kind": "single"}},
    }
    dataset = attempt(ingest, Section.model_validate(section), tmp_path / "out")
    assert (dataset is not None) == (0 <= moment <= LAST), "read" if dataset else "refused"
    if dataset is not None:
        assert {time for part in dataset.parts() for time in pq.read_table(part.path)["time"].to_pylist()} == {moment}
        assert dataset.days == [f"{EPOCH + timedelta(microseconds=moment):%Y-%m-%d}"]
