"""Job files of any content: a job that reads back to itself, or one sentence a mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from recdistill.config import Job
from recdistill.config.load import dump_job, load_job
from recdistill.config.yaml12 import dump
from tests.fuzz.harness import JUNK, attempt, fuzz, places, refused, spoilt

JOB: dict[str, Any] = {
    "name": "tiny",
    "dataset": {
        "log": {"paths": ["log/*.csv"], "columns": "label, when, C1..C9", "nulls": ["", "-"]},
        "joins": [{"paths": "items.csv", "on": "C1", "take": ["price"]}],
        "label": {"column": "label", "at_least": 1},
        "time": {"column": "when", "unit": "s"},
        "split": {"by": "days", "validation": 1, "test": 1, "train": 7},
        "features": {
            "C1": {"kind": "single", "min_count": 2, "hash": {"size": 10, "salt": 3}},
            "C2..C4": {"kind": "single"},
            "tags": {"kind": "bag", "delimiter": "|", "max_length": 9},
            "liked": {"kind": "history", "user": "C2", "of": "C1", "last": 3},
            "price": {"kind": "dense", "transform": "log"},
            "C9": {"kind": "bucket", "bins": 5},
        },
    },
    "teachers": {
        "regime": "out_of_fold",
        "members": {
            "foundation": {"kind": "dlrm", "dim": 8, "train": {"epochs": 1, "dense_rate": 0.01}},
            "trees": {"kind": "sklearn", "params": {"max_iter": 9}},
            "outside": {"kind": "file", "paths": "said.parquet"},
        },
    },
    "student": {"compression": 30, "top": [8], "features": "C1..C4"},
    "distill": {"seeds": [0, 1], "recombine": {"groups": [["C1"], ["C2", "C3"]]}},
    "evaluate": {"slices": ["C2"]},
    "launch": {"ranks": 2, "row_wise": "C2..C3"},
    "service": {"alert": "https://example.org/hook", "gates": {"drifting": ["C2"]}},
}
TOKENS = st.sampled_from(
    [
        *("a", "b: ", "1", "- ", "\n", "\n  ", "? ", "{", "}", "[", "]", ", ", "&a ", "*a", "<<: *a", "'", '"', "#"),
        *("%YAML 1.1\n", "%TAG ! x:\n", "---\n", "...", "\t", "\\U99999999", "\\xff", "\\0", "\ufeff", "|", "|+\n"),
        *("!!python/object/apply:os.system ", "!!python/name:os.system ", "!!timestamp ", "!!binary ", "!!bool "),
        *("!!int ", "!!float ", "!!seq ", "!!map ", "!!set ", "!!str ", "!!null ", "! ", "!%ff ", "name", "dataset"),
        *("features", ".inf", ".nan", "1e999", "0x1f", "1_0", "2026-01-01", "~", ">", ">9\n", "@", "`", "\x00", "\x85"),
    ]
)


def read(folder: Path, content: str | bytes, *overrides: str) -> Job | None:
    path = folder / "job.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    job = attempt(load_job, path, overrides)
    if job is not None:
        (folder / "again.yaml").write_text(dump_job(job), encoding="utf-8")
        assert load_job(folder / "again.yaml") == job
    return job


def test_the_job_that_is_spoilt_below_is_a_job(tmp_path: Path) -> None:
    assert read(tmp_path, dump(JOB)) is not None


@fuzz(150)
@given(job=spoilt(JOB))
def test_a_job_with_something_else_in_it(tmp_path: Path, job: dict[str, Any]) -> None:
    read(tmp_path, yaml.safe_dump(job, allow_unicode=True))


@fuzz(150)
@given(tokens=st.lists(TOKENS, max_size=25))
def test_what_looks_like_yaml(tmp_path: Path, tokens: list[str]) -> None:
    read(tmp_path, "".join(tokens))
    read(tmp_path, "name: tiny\nteachers: {regime: x, members: {trees: {kind: sklearn, params: " + "".join(tokens))


@fuzz(50)
@given(content=st.binary(max_size=40), at=st.integers(0, 400))
def test_bytes_of_any_kind(tmp_path: Path, content: bytes, at: int) -> None:
    text = dump(JOB).encode()
    read(tmp_path, content)
    read(tmp_path, text[:at] + content + text[at:])


@fuzz(150)
@given(
    key=st.lists(st.sampled_from([str(part) for place in places(JOB) for part in place] + ["", "0", "9" * 5000, "x"])),
    value=st.lists(TOKENS, max_size=6).map("".join) | JUNK.map(str),
)
def test_overrides_of_anything_with_anything(tmp_path: Path, key: list[str], value: str) -> None:
    read(tmp_path, dump(JOB), f"{'.'.join(key)}={value}")


def many(piece: str, size: int) -> str:
    """Copies of a piece with numbers in place of `{i}`, `size` characters in all."""
    return "".join(piece.replace("{i}", str(i)) for i in range(size // len(piece)))


def known(piece: str, size: int) -> str:
    """The job with more features in it."""
    return dump(JOB).replace("  features:\n    C1:\n", f"  features:\n{many(piece, size)}    C1:\n", 1)


BOMBS = {
    "names": lambda: dump(JOB).replace("label, when, C1..C9", many("A1..A9999,", 900_000)),
    "a range of digits": lambda: dump(JOB).replace("features: C1..C4", f"features: {'1' * 900_000}..2"),
    "features": lambda: known("    A{i}x1..A{i}x9999: {kind: dense}\n", 100_000),
    "keys that are none": lambda: dump(JOB) + many("k{i}: {}\n", 150_000),
    "features that are none": lambda: known("    A{i}x1..A{i}x999: {kind: dense}\n", 500).replace(
        "  slices:\n", f"  slices:\n{many('  - A{i}x1a', 300_000)}".replace("  - ", "\n  - ") + "\n", 1
    ),
    "mistakes in a short form": lambda: known("    A{i}x1..A{i}x999: {kind: dense, x: 1}\n", 600),
    "aliases": lambda: "a: &a {b: 1}\n" + "".join(f"a{i}: &a{i} {{x: *a, y: *a}}\n" for i in range(9)) + "[*a," * 9,
    "laughs": lambda: "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{f'*a{i - 1},' * 9}]\n" for i in range(1, 20)),
    "merges": lambda: (
        "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{f'*a{i - 1},' * 9}]}}\n" for i in range(1, 20))
    ),
    "depth": lambda: "a: " + "[" * 1_000_000,
    "depth of blocks": lambda: "- " * 500_000,
    "a long list": lambda: f"a: [{'b,' * 250_000}]",
    "a long tag": lambda: f"a: !{'%41' * 300_000} b",
    "a large letter": lambda: 'a: "\\U99999999"',
    "a large version": lambda: f"%YAML 1.{'9' * 5000}\n---\na: b",
    "a large number": lambda: f"a: {'9' * 5000}",
    "a long name": lambda: f"name: {'a' * 900_000}",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_that_means_much(tmp_path: Path, name: str) -> None:
    (tmp_path / "job.yaml").write_text(BOMBS[name]())
    refused(load_job, tmp_path / "job.yaml")


def test_a_way_that_is_long(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(dump(JOB))
    refused(load_job, tmp_path / "job.yaml", ["a." * 60_000 + "a=1"])
    refused(load_job, tmp_path / "job.yaml", [f"distill.seeds.{'9' * 5000}=1"])
