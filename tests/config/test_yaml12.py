from __future__ import annotations

import math
from itertools import pairwise

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from recdistill.config.yaml12 import MAX_VALUES, dump, parse
from recdistill.errors import UserError

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=8)
SCALARS = st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats(allow_nan=False) | TEXT
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))


@given(st.dictionaries(TEXT, VALUES, max_size=4))
def test_what_is_dumped_reads_back(value: dict[str, object]) -> None:
    assert parse(dump(value), "x").content == value


@given(st.dictionaries(st.sampled_from(["on", "no", "1e-3", "010", "2026-01-01", "~", "a"]), SCALARS, max_size=4))
def test_other_readers_agree_on_what_is_dumped(value: dict[str, object]) -> None:
    assert yaml.safe_load(dump(value)) == value


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("on", "on"),
        ("NO", "NO"),
        ("true", True),
        ("1e-3", 0.001),
        ("5E2", 500.0),
        (".5", 0.5),
        ("010", "010"),
        ("1_000", 1000),
        ("-3", -3),
        ("2026-01-01", "2026-01-01"),
        ("12:30", "12:30"),
        ("0x1f", "0x1f"),
        ("~", None),
        ("", None),
        (".inf", math.inf),
    ],
)
def test_scalars_are_what_they_look_like(written: str, expected: object) -> None:
    found = parse(f"key: {written}", "x").content["key"]
    assert found == expected and type(found) is type(expected)


def test_keys_are_text_and_have_lines() -> None:
    document = parse("on: 1\n\n2: {no: [3,\n 4]}\n", "x")
    assert document.content == {"on": 1, "2": {"no": [3, 4]}}
    assert document.lines == {("on",): 1, ("2",): 3, ("2", "no"): 3, ("2", "no", 0): 3, ("2", "no", 1): 4}


def test_merge_keys_lose_against_own_keys() -> None:
    text = "base: &b {a: 1, b: 2}\nc:\n  b: 3\n  <<: *b\nd: {<<: [{a: 5}, *b]}\n"
    content = parse(text, "x").content
    assert content["c"] == {"a": 1, "b": 3}
    assert content["d"] == {"a": 5, "b": 2}


def test_an_alias_is_a_copy() -> None:
    content = parse("a: &a [1]\nb: *a\n", "x").content
    content["a"].append(2)
    assert content["b"] == [1]


def _bomb(first: str, item: str) -> str:
    names = "abcdefghij"
    lines = [f"a: &a {first}"]
    lines += [f"{name}: &{name} {item.format(f'*{before}')}" for before, name in pairwise(names)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("a: 1\nb: 2\na: 3\n", "f:3:", "'a' is given twice (first in line 1)"),
        ("x:\n  k: 1\n  k: 1\n", "f:3:", "'k' is given twice"),
        (_bomb("[x,x]", "[{0},{0},{0},{0},{0},{0}]"), "f:", f"more than {MAX_VALUES:,} values"),
        (_bomb("{x: 1}", "{{<<: [{0},{0},{0},{0},{0},{0}]}}"), "f:", f"more than {MAX_VALUES:,} values"),
        ("a: &a [*a]\n", "f:1:", "alias that holds itself"),
        ("a: &a {<<: *a}\n", "f:1:", "merges itself"),
        ("[" * 3000, "f:", "nested more than"),
        ("a: *b\n", "f:1:", "undefined alias"),
        ("a: 1\n b: 2\n", "f:2:", "not readable as YAML"),
        ("a: [1,\n", "f:2:", "not readable as YAML"),
        ("a: 1\n---\nb: 2\n", "f:2:", "another document"),
        ("? [1]\n: 2\n", "f:1:", "a key must be text"),
        ("a: !!python/object:os.system x\n", "f:1:", "not a plain value"),
        ('a: "\\ud800"\n', "f:1:", "not a plain value"),
        ("\x00", "f:", "not readable as YAML"),
        ("<<: 3\n", "f:1:", "`<<` takes a mapping"),
    ],
)
def test_what_cannot_be_read_is_said_with_its_line(text: str, where: str, what: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(text, "f")
    assert str(caught.value).startswith(where)
    assert what in str(caught.value)
