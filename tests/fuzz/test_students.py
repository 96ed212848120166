"""Exported students that were changed on the way: they give the scores of their export, or are refused."""

from __future__ import annotations

import json
import shutil
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recdistill.export import FILES, _digests, open_student, score
from recdistill.files import file_sha256
from recdistill.models.frozen import WEIGHTS
from tests.fuzz.conftest import Exported, scores
from tests.fuzz.harness import EDITS, attempt, fuzz, refused, spoil_file, spoilt


@contextmanager
def copied(student: Path) -> Iterator[Path]:
    """A copy of a student, to be spoilt."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "student"
        shutil.copytree(student, copy)
        yield copy


def sign(folder: Path) -> None:
    """Puts checksums right, as somebody would who means it."""
    about = json.loads((folder / "model.json").read_text())
    if isinstance(about, dict):
        about["sha256"] = file_sha256(folder / WEIGHTS)
    (folder / "model.json").write_text(json.dumps(about))
    check = pq.read_table(folder / "check.parquet")
    pq.write_table(check.replace_schema_metadata({FILES: json.dumps(_digests(folder))}), folder / "check.parquet")


def scored(exported: Exported, folder: Path) -> dict[int, float] | None:
    out = folder.parent / "scores.parquet"
    attempt(score, folder, [exported.log], out)
    return scores(out) if out.exists() else None


@fuzz(60)
@given(data=st.data(), edits=EDITS)
def test_changed_bytes(exported: Exported, data: st.DataObject, edits: list[tuple[str, float, bytes]]) -> None:
    with copied(exported.student) as folder:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        spoil_file(data.draw(st.sampled_from(files)), edits)
        assert scored(exported, folder) in (None, exported.scores)


@fuzz(60)
@given(data=st.data(), name=st.sampled_from(["schema.json", "model.json"]), signed=st.booleans())
def test_changed_descriptions(exported: Exported, data: st.DataObject, name: str, signed: bool) -> None:
    with copied(exported.student) as folder:
        path = folder / name
        path.write_text(json.dumps(data.draw(spoilt(json.loads(path.read_text())))))
        if signed:
            sign(folder)
        found = scored(exported, folder)
        assert signed or found in (None, exported.scores)


HEADERS: dict[str, bytes] = {
    "huge": struct.pack("<Q", 2**40) + b"{}",
    "beyond": struct.pack("<Q", 2**63) + b"{}",
    "not json": struct.pack("<Q", 8) + b"{" * 8,
    "deep": struct.pack("<Q", 100_000) + b"[" * 100_000,
    "large tensor": struct.pack("<Q", 80)
    + json.dumps({"head.bias": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).ljust(80).encode(),
    "empty": b"",
    "short": b"\x00" * 7,
}


@pytest.mark.parametrize("name", HEADERS)
def test_weights_with_a_header_that_lies(exported: Exported, name: str) -> None:
    with copied(exported.student) as folder:
        (folder / WEIGHTS).write_bytes(HEADERS[name] + b"\x00" * (1 << 16))
        sign(folder)
        refused(open_student, folder)


def test_a_model_that_is_larger_than_its_weights(exported: Exported) -> None:
    with copied(exported.student) as folder:
        about: dict[str, Any] = json.loads((folder / "model.json").read_text())
        for table in about["shape"]["tables"]:
            table["rows"] = table["own"] = table["source_rows"] = 10**12
        (folder / "model.json").write_text(json.dumps(about))
        assert "fewer numbers than the" in refused(open_student, folder)


VALUES = {
    "turned": lambda values: values[::-1],
    "fewer": lambda values: values[:-1],
    "more": lambda values: [*values, "new"],
    "twice": lambda values: [*values[:-1], values[0]],
    "missing": lambda values: [None, *values[1:]],
    "numbers": lambda values: list(range(len(values))),
    "lists": lambda values: [[value] for value in values],
}


@pytest.mark.parametrize("how", VALUES)
@pytest.mark.parametrize("signed", [False, True])
def test_a_vocabulary_of_others(exported: Exported, how: str, signed: bool) -> None:
    with copied(exported.student) as folder:
        path = folder / "vocabulary" / "user.parquet"
        values = VALUES[how](pq.read_table(path)["value"].to_pylist())
        pq.write_table(pa.table({"value": values, "count": [1] * len(values)}), path)
        if signed and how != "turned":
            sign(folder)
        refused(score, folder, [exported.log], folder.parent / "scores.parquet")


@pytest.mark.parametrize("name", ["../dataset/vocabulary/user", "/etc/passwd", "..", "a/b"])
def test_a_table_outside_of_the_folder(exported: Exported, name: str) -> None:
    with copied(exported.student) as folder:
        schema = json.loads((folder / "schema.json").read_text())
        old = schema["tables"][0]["name"]
        schema["tables"][0]["name"] = name
        for feature in schema["sparse"]:
            feature["table"] = name if feature["table"] == old else feature["table"]
        (folder / "schema.json").write_text(json.dumps(schema))
        sign(folder)
        assert "match pattern" in refused(score, folder, [exported.log], folder.parent / "scores.parquet")


CHECKS = {
    "no rows": lambda table: table.slice(0, 0),
    "texts": lambda table: table.set_column(table.num_columns - 1, "expected_logit", pa.array(["a"] * len(table))),
    "nulls": lambda table: table.set_column(
        table.num_columns - 1, "expected_logit", pa.nulls(len(table), pa.float32())
    ),
    "no logit": lambda table: table.drop_columns("expected_logit"),
    "no feature": lambda table: table.drop_columns("user"),
    "ids beyond": lambda table: table.set_column(
        table.column_names.index("user"), "user", pa.array([10**12] * len(table))
    ),
    "ids below": lambda table: table.set_column(table.column_names.index("user"), "user", pa.array([-5] * len(table))),
    "ids as texts": lambda table: table.set_column(
        table.column_names.index("user"), "user", pa.array(["1"] * len(table))
    ),
}


@pytest.mark.parametrize("how", CHECKS)
def test_a_check_of_others(exported: Exported, how: str) -> None:
    with copied(exported.student) as folder:
        path = folder / "check.parquet"
        pq.write_table(CHECKS[how](pq.read_table(path)), path)
        refused(open_student, folder)
