from __future__ import annotations

import datetime
import decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recdistill.clicklog.values import Column, drop_nulls, lists, micros, numbers, text
from recdistill.errors import UserError

NULLS = ["", "NA"]


def column(cells: pa.Array | list, first: int = 0) -> Column:
    cells = cells if isinstance(cells, pa.Array) else pa.array(cells)
    return Column("c", drop_nulls(cells, NULLS), "log.csv", first)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["a", "", "NA", None, " "], ["a", None, None, None, " "]),
        (pa.array(["a", "NA"], pa.large_string()), ["a", None]),
        (pa.array(["a", "NA", "a"]).dictionary_encode(), ["a", None, "a"]),
        ([5, None, -3], ["5", None, "-3"]),
        ([5.0, None, float("nan"), 0.5, -0.0, 2.0**31], ["5", None, None, "0.5", "0", "2147483648"]),
        (pa.array([0.1, 7.0], pa.float32()), ["0.1", "7"]),
        (pa.array(np.array([2.0, 0.5], np.float16)), ["2", "0.5"]),
        ([True, False, None], ["true", "false", None]),
        (pa.array([2**64 - 1], pa.uint64()), ["18446744073709551615"]),
        ([datetime.date(2026, 1, 31)], ["2026-01-31"]),
        ([b"a", b""], ["a", ""]),
        (pa.nulls(2), [None, None]),
    ],
)
def test_text(cells, expected):
    assert text(column(cells)).to_pylist() == expected


@given(st.lists(st.integers(-(2**52), 2**52)))
def test_whole_floats_are_the_texts_of_integers(values):
    assert text(column(pa.array(values, pa.float64()))) == text(column(pa.array(values, pa.int64())))


def test_numbers():
    assert numbers(column([" 1.5", "", "-2e3", "+7"])).to_pylist() == [1.5, None, -2000.0, 7.0]
    assert numbers(column([True, False])).to_pylist() == [1.0, 0.0]
    assert numbers(column([float("nan"), float("inf")])).to_pylist() == [None, float("inf")]
    assert numbers(column([2**60, None])).to_pylist() == [2.0**60, None]


@given(st.integers(0, 50), st.integers(0, 50), st.sampled_from(["x", "1,5", "0x10", "1_0", "--1"]))
def test_the_first_number_that_cannot_be_read_is_named(before, after, bad):
    cells = ["1"] * before + [bad] + ["2", bad] * after
    with pytest.raises(UserError, match=rf"^log.csv, row {before + 101}, column 'c': is '{bad}'; expected a number$"):
        numbers(column(cells, first=100))


def test_numbers_are_not_times_or_lists():
    for cells in ([datetime.datetime(2026, 1, 1)], [[1]], [b"1"]):
        with pytest.raises(UserError, match=r"log.csv, column 'c': holds .*; expected numbers"):
            numbers(column(cells))


MORNING = 1_769_846_400_000_000
"""2026-01-31 08:00 UTC."""


@pytest.mark.parametrize(
    ("cells", "unit"),
    [
        ([MORNING // 10**6], "s"),
        ([str(MORNING // 10**6)], "s"),
        ([MORNING / 10**6], "s"),
        ([f"{MORNING // 10**6}.0"], "s"),
        ([MORNING // 1000], "ms"),
        ([str(MORNING)], "us"),
        (["2026-01-31 08:00"], "datetime"),
        (["2026-01-31T08:00:00.000000001"], "datetime"),
        (["2026-01-31T10:00:00+02:00"], "datetime"),
        (["2026-01-31 08:00:00Z"], "datetime"),
        ([datetime.datetime(2026, 1, 31, 8)], "datetime"),
        (pa.array([MORNING * 1000], pa.timestamp("ns", "Europe/Berlin")), "datetime"),
        ([str(MORNING)], "order"),
        ([float(MORNING)], "order"),
    ],
)
def test_times_of_every_unit(cells, unit):
    assert micros(column(cells), unit).to_pylist() == [MORNING]


def test_zoned_and_local_times_mix_and_dates_are_midnight():
    cells = ["2026-01-31", "2026-01-31 01:00:00+01:00", "2026-01-31 00:00:00"]
    assert len(set(micros(column(cells), "datetime").to_pylist())) == 1
    assert micros(column([datetime.date(1970, 1, 2)]), "datetime").to_pylist() == [86_400_000_000]


def test_fractions_of_seconds_are_kept():
    assert micros(column(["1.25", "2"]), "s").to_pylist() == [1_250_000, 2_000_000]


@pytest.mark.parametrize(
    ("cells", "unit", "message"),
    [
        (["5", ""], "s", "row 2, column 'c': is missing; expected a time"),
        (["2026-01-31", None], "datetime", "row 2, column 'c': is missing; expected a time"),
        (["5", "x"], "ms", "row 2, column 'c': is 'x'; expected a number"),
        ([1_506_913_213_202], "s", "expected a time between 1970 and 2200; is `unit: s` right"),
        ([-1], "s", "is -1; expected a time between 1970"),
        (["2026-01-31", "31.1.2026"], "datetime", "row 2, column 'c': is '31.1.2026'; expected a date as in"),
        ([5], "datetime", "holds int64; expected dates as in .*, or say `unit: s`"),
        ([datetime.datetime(2026, 1, 31)], "s", "holds timestamp.*; expected `unit: datetime`"),
        (["1", "1.5"], "order", "row 2, column 'c': is '1.5'; expected a whole number, the row's rank"),
        ([1, None], "order", "row 2, column 'c': is missing; expected a whole number"),
    ],
)
def test_times_that_cannot_be(cells, unit, message):
    with pytest.raises(UserError, match=message):
        micros(column(cells), unit)


def test_lists_from_text_and_from_lists():
    assert lists(column(["a| b||", "", None, "c"]), "|")[0].to_pylist() == [["a", "b"], [], [], ["c"]]
    nested = [["a", None, ""], None, [], ["b", "c"]]
    for kind in (pa.list_(pa.string()), pa.large_list(pa.large_string())):
        assert lists(column(pa.array(nested, kind)), None)[0].to_pylist() == [["a"], [], [], ["b", "c"]]
    assert lists(column(pa.array([[1, 2], None], pa.list_(pa.int64(), 2))), "|")[0].to_pylist() == [["1", "2"], []]
    assert lists(column(pa.array([[1.0, None, 0.5]])), None)[0].to_pylist() == [["1", "0.5"]]
    with pytest.raises(UserError, match="column 'c': holds string, not lists; say at what `delimiter`"):
        lists(column(["a"]), None)


@given(st.lists(st.none() | st.lists(st.none() | st.text("ab"), max_size=6), max_size=8), st.integers(1, 4))
def test_lists_are_cut(bags, most):
    cut, longer = lists(column(pa.array(bags, pa.list_(pa.string()))), None, most)
    known = [[word for word in bag or () if word] for bag in bags]
    assert cut.to_pylist() == [bag[:most] for bag in known]
    assert longer == sum(len(bag) > most for bag in known)


def test_decimals_are_the_nearest_floats() -> None:
    cents = [decimal.Decimal(n).scaleb(-2) for n in range(20_000)]
    assert numbers(column(pa.array(cents, pa.decimal128(10, 2)))).to_pylist() == [float(cell) for cell in cents]
