"""The student as an ONNX file: handed the log's own values, it answers as the student does."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from scipy.special import expit

from recdistill import cli
from recdistill.config.models import Student
from recdistill.errors import UserError
from recdistill.export import score
from recdistill.models.dlrm import DLRM
from recdistill.models.frozen import load_model, save_model
from recdistill.portable import file
from recdistill.portable.file import open_onnx, write_onnx
from recdistill.portable.student import StudentGraph
from tests.exported import FEATURES, Exported, raw_table

SALT = 7
HASHED = {
    "user": FEATURES["user"],
    "item": {"kind": "single", "hash": {"size": 40, "salt": SALT}},
    "tags": {"kind": "bag", "delimiter": "|", "hash": {"size": 6}, "max_length": 2},
    "price": {"kind": "dense", "bins": 5},
    "liked": FEATURES["liked"],
}
NUMBERS = {"price": {"kind": "bucket", "bins": 4}, "cost": {"kind": "dense", "column": "price", "standardise": False}}
BAGS = {"tags": FEATURES["tags"], "price": FEATURES["price"]}
SHARED = {
    "item": FEATURES["item"],
    "tags": {**FEATURES["tags"], "share": "item"},
    "liked": FEATURES["liked"],
    "user": {"kind": "single", "share": "item"},
}
MATCHES = {
    "item": FEATURES["item"],
    "tags": FEATURES["tags"],
    "price": {"kind": "bucket", "bins": 4},
    "liked": {**FEATURES["liked"], "matches": ["tags"]},
    "had": {"kind": "history", "user": "user", "of": "tags", "last": 5},
    "prices": {"kind": "history", "user": "user", "of": "price", "last": 4},
    "same_item": {"kind": "match", "of": "liked"},
    "same_tags": {"kind": "match", "of": "had"},
    "same_price": {"kind": "match", "of": "prices"},
}
CUT = {"compression": 2.5}
STUDENTS = [
    (FEATURES, {"dims": [4], "bottom": [4], "top": [8], **CUT}),
    (FEATURES, {"dims": [2], "top": [8, 4], "interaction": "cross", "compression": 1}),
    (HASHED, {"dims": [1], "top": [4], "interaction": "none", **CUT}),
    (HASHED, {"dims": [8], "top": [4], "features": ["tags", "liked", "price_bucket"], "compression": 1}),
    (NUMBERS, {"dims": [4], "top": [4], "compression": 1}),
    (BAGS, {"dims": [4], "top": [4], "compression": 1}),
    (SHARED, {"dims": [4], "top": [4], "compression": 1}),
    (MATCHES, {"dims": [4], "top": [4], "compression": 1}),
    (
        MATCHES,
        {
            "dims": [4],
            "top": [4],
            "compression": 1,
            "features": ["item", "same_item", "same_tags", "same_price", "liked_tags"],
        },
    ),
]


def new_log(folder: Path) -> Path:
    """Rows with values that training never saw, gaps, and numbers of every size; no two at one time."""
    table, prices = raw_table(), raw_table()["price"].to_pylist()
    users, items = table["user"].to_pylist(), table["item"].to_pylist()
    prices[:7] = [None, np.inf, -np.inf, 1e300, -1e30, 0.0, -3.5]
    users[3:7] = [None, "nobody", "", "NA"]
    items[5:8] = ["nothing", None, "ïtem\u00a0é"]
    changed = {
        "user": pa.array(users),
        "item": pa.array(items),
        "price": pa.array(prices, pa.float64()),
        "when": pa.array(1_700_006_400 + 1000 * np.arange(table.num_rows)),
    }
    for name, values in changed.items():
        table = table.set_column(table.column_names.index(name), name, values)
    pq.write_table(table, folder / "new.parquet")
    return folder / "new.parquet"


def handed(log: Path, features: dict[str, Any]) -> dict[str, np.ndarray]:
    """What a service would hand in for the rows of a log."""
    table = pq.read_table(log)
    words: dict[str, list[Any]] = {name: table[name].to_pylist() for name in ("user", "item", "tags")}
    words["tags"] = [[tag for tag in (text or "").split("|") if tag] for text in words["tags"]]
    prices = table["price"].to_numpy().astype(np.float64)
    liked = table["label"].to_numpy() == 1
    words["liked"] = before(words["user"], [[item] if item is not None else [] for item in words["item"]], liked)
    words["had"] = words["liked_tags_before"] = before(words["user"], words["tags"], liked)
    given = {name: texts(rows, hashing(name, features)) for name, rows in words.items()}
    past = before(words["user"], [[price] if not np.isnan(price) else [] for price in prices], liked)
    longest = max(map(len, past))
    given["prices"] = np.array([[*row, *[np.nan] * (longest - len(row))] for row in past], np.float64)
    return given | {"price": prices}


def before(users: list[Any], added: list[list[Any]], liked: np.ndarray) -> list[list[Any]]:
    """What each row's user had before it, newest first; no two rows are at one time."""
    past: dict[str, list[Any]] = {}
    found = []
    for user, values, label in zip(users, added, liked, strict=True):
        known = past.setdefault(user, []) if user not in (None, "", "NA") else []
        found.append(known[::-1])
        known += values if label else []
    return found


def hashing(name: str, features: dict[str, Any]) -> int | None:
    """The salt with which a feature is hashed, if it is."""
    settings = features.get("item" if name == "liked" else name, {}).get("hash")
    return None if settings is None else settings.get("salt", 0)


def texts(rows: list[Any], salt: int | None) -> np.ndarray:
    """Texts, or their hashes, as an array; rows of several are filled up."""

    def one(text: str | None) -> Any:
        if salt is None:
            return text or ""
        return np.uint64(xxhash.xxh3_64_intdigest(text.encode(), salt)) if text else np.uint64(0)

    kind: Any = object if salt is None else np.uint64
    if not isinstance(rows[0], list):
        return np.array([one(text) for text in rows], kind)
    longest = max(map(len, rows))
    return np.array([[one(text) for text in [*row, *[None] * (longest - len(row))]] for row in rows], kind)


def answers(path: Path, given: dict[str, np.ndarray]) -> np.ndarray:
    session = open_onnx(path)
    wanted = {one.name: given[one.name] for one in session.get_inputs()}
    probability, logit = session.run(["probability", "logit"], wanted)
    assert probability.dtype == logit.dtype == np.float32
    assert np.allclose(probability, expit(logit.astype(np.float64)), atol=1e-6)
    return probability


@pytest.mark.parametrize(("features", "student"), STUDENTS)
@pytest.mark.parametrize("kept", [1.0, 0.2])
def test_it_answers_as_the_student_does(
    tmp_path: Path, features: dict[str, Any], student: dict[str, Any], kept: float
) -> None:
    exported = Exported(tmp_path / "root", Student.model_validate(student), features=features, negative_keep_rate=kept)
    log, path = new_log(tmp_path), tmp_path / "student.onnx"
    write_onnx(exported.folder, path)
    score(exported.folder, [log], tmp_path / "scores.parquet")
    expected = pq.read_table(tmp_path / "scores.parquet")["probability"].to_numpy()
    given = handed(log, features)
    found = answers(path, given)
    assert len(np.unique(expected)) > 10
    assert found == pytest.approx(expected, abs=2e-6)
    some = {name: values[9:10] for name, values in given.items()}
    assert answers(path, some) == pytest.approx(expected[9:10], abs=2e-6)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(tmp_path_factory.mktemp("portable") / "root", Student(top=[4], dims=[4], **CUT), features=HASHED)


def test_what_it_is_handed_is_said(exported: Exported, tmp_path: Path) -> None:
    path = tmp_path / "student.onnx"
    inputs = {one.name: one for one in write_onnx(exported.folder, path)}
    session = open_onnx(path)
    assert {one.name: one.type for one in session.get_inputs()} == {
        "user": "tensor(string)",
        "item": "tensor(uint64)",
        "tags": "tensor(uint64)",
        "price": "tensor(double)",
        "liked": "tensor(uint64)",
    }
    assert inputs["price"].features == ["price", "price_bucket"]
    assert f"seed {SALT}" in inputs["item"].about and "at most 2 a row" in inputs["tags"].about
    assert "of each item of this user's past, newest first, at most 3 a row" in inputs["liked"].about
    said = json.loads(session.get_modelmeta().custom_metadata_map["inputs"])
    assert said == {name: one.about for name, one in inputs.items()}
    described = {one.name: one.doc_string for one in onnx.load(path).graph.input}
    assert described == said


def test_the_texts_of_a_table_are_there_once(tmp_path: Path) -> None:
    """But for bags: a null of the log is missing as a cell, and a text like any other as one of several in a cell."""
    for name, features, tables in ("own", FEATURES, ["user", "item", "tags"]), ("shared", SHARED, ["item", "item"]):
        student = Exported(tmp_path / name, Student(top=[4], dims=[4], compression=1), features=features)
        write_onnx(student.folder, tmp_path / "student.onnx")
        graph = onnx.load(tmp_path / "student.onnx").graph
        encoders = [one for one in graph.node if one.op_type == "LabelEncoder"]
        sizes = [len(pq.read_table(student.folder / "vocabulary" / f"{table}.parquet")) for table in tables]
        found = [len(onnx.helper.get_node_attr_value(one, "keys_tensor").string_data) for one in encoders]
        assert all(0 < some - size <= 8 for some, size in zip(sorted(found), sorted(sizes), strict=True))
        assert {one.name for one in graph.initializer} <= {value for one in graph.node for value in one.input}


def test_an_example_for_it_has_infinite_and_missing_numbers(tmp_path: Path) -> None:
    """What it is made of, the student's check, has neither: both are 0 there."""
    table = raw_table()
    prices = [[np.inf, -np.inf, None][at % 3] if at % 4 == 0 else 1e6 + at for at in range(table.num_rows)]
    pq.write_table(
        table.set_column(table.column_names.index("price"), "price", pa.array(prices)), tmp_path / "log.parquet"
    )
    spec = {"log": {"paths": [str(tmp_path / "log.parquet")]}, "features": {"price": {"kind": "dense", "bins": 5}}}
    odd = Exported(tmp_path / "root", Student(top=[4], dims=[4], compression=1), **spec)
    write_onnx(odd.folder, tmp_path / "student.onnx")
    price = file.example(odd.folder)["price"]
    assert np.isposinf(price).any() and np.isneginf(price).any() and np.isnan(price).any()
    known = price[np.isfinite(price)]
    assert known == pytest.approx(np.round(known), abs=1e-3) and known.min() > 1e6


def test_a_column_that_is_read_in_two_ways_is_two_inputs(tmp_path: Path) -> None:
    features = {"user": {"kind": "single"}, "spelt": {"kind": "single", "column": "price"}, "price": {"kind": "dense"}}
    two = Exported(tmp_path / "root", Student(top=[4], dims=[4], compression=1), features=features)
    found = {one.name: one.kind for one in write_onnx(two.folder, tmp_path / "student.onnx")}
    assert found == {"user": "text", "spelt": "text", "price": "number"}


def test_columns_may_have_any_names(tmp_path: Path) -> None:
    odd = ("logit", "probability", "v0", "c1", "recdistill")
    table = raw_table()
    for number, name in enumerate(odd):
        table = table.append_column(name, pa.array(np.arange(table.num_rows) % (number + 2)))
    pq.write_table(table, tmp_path / "log.parquet")
    features = {f"f_{name}": {"kind": "single", "column": name} for name in odd}
    spec = {"log": {"paths": [str(tmp_path / "log.parquet")]}, "features": features}
    some = Exported(tmp_path / "root", Student(top=[4], dims=[4], compression=1), **spec)
    found = [one.name for one in write_onnx(some.folder, tmp_path / "student.onnx")]
    assert found == ["input_logit", "input_probability", *odd[2:]]
    assert [one.name for one in open_onnx(tmp_path / "student.onnx").get_inputs()] == found


@pytest.mark.parametrize("rows", [0, 1])
def test_few_rows_and_empty_bags(exported: Exported, tmp_path: Path, rows: int) -> None:
    write_onnx(exported.folder, tmp_path / "student.onnx")
    given = {name: values[:rows] for name, values in handed(exported.raw, HASHED).items()}
    given["tags"] = given["tags"][:, :0]
    found = answers(tmp_path / "student.onnx", given)
    assert found.shape == (rows,) and np.isfinite(found).all()


def test_a_graph_that_answers_otherwise_is_not_written(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = StudentGraph._rows
    monkeypatch.setattr(StudentGraph, "_rows", lambda self, ids, features: right(self, ids, features[::-1]))
    with pytest.raises(RuntimeError, match="logits differ by"):
        write_onnx(exported.folder, tmp_path / "student.onnx")
    assert not list(tmp_path.iterdir())


def test_a_damaged_student_is_refused(exported: Exported, tmp_path: Path) -> None:
    other = DLRM(load_model(exported.folder).shape)
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in exported.folder.iterdir():
        (copy / path.name).symlink_to(path)
    for name in ("weights.safetensors", "model.json"):
        (copy / name).unlink()
    save_model(other, copy)
    with pytest.raises(UserError, match="belong to different exports"):
        write_onnx(copy, tmp_path / "student.onnx")


def test_one_that_is_too_large_is_refused(exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "LARGEST", 1000)
    with pytest.raises(UserError, match="an ONNX file has at most 1,000"):
        write_onnx(exported.folder, tmp_path / "student.onnx")


def test_the_empty_text_cannot_be_an_id_of_a_bag(tmp_path: Path) -> None:
    features = {"item": {"kind": "single"}, "tags": {**FEATURES["tags"], "share": "item"}}
    table = raw_table()
    items = [None if at % 9 else "" for at in range(table.num_rows)]
    pq.write_table(
        table.set_column(table.column_names.index("item"), "item", pa.array(items)), tmp_path / "log.parquet"
    )
    spec = {"log": {"paths": [str(tmp_path / "log.parquet")], "nulls": ["NA"]}, "features": features}
    odd = Exported(tmp_path / "root", Student(top=[4], dims=[4], compression=1), **spec)
    with pytest.raises(UserError, match="an id of 'tags' is the empty text"):
        write_onnx(odd.folder, tmp_path / "student.onnx")


def test_the_command(exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["recdistill", "onnx", str(exported.folder), "--out", str(tmp_path / "s.onnx")])
    with pytest.raises(SystemExit, match="0"):
        cli.main()
    out = capsys.readouterr().out
    assert (tmp_path / "s.onnx").exists() and out.rstrip().endswith("s.onnx")
    assert "uint64 [rows, any]" in out and "as in the log" in out


@pytest.fixture
def without(exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Runs the command as if a module were not there."""

    def run(module: str) -> None:
        for name in [*sys.modules]:
            if name.startswith("recdistill.portable."):
                monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, module, None)
        out = str(tmp_path / "student.onnx")
        monkeypatch.setattr(sys, "argv", ["recdistill", "onnx", str(exported.folder), "--out", out])
        cli.main()

    return run


def test_without_onnx_it_says_what_brings_it(without: Callable[[str], None], capsys: Any) -> None:
    with pytest.raises(SystemExit, match="2"):
        without("onnxruntime")
    assert "pip install -e '.[onnx]'" in capsys.readouterr().err


def test_another_module_that_is_missing_is_a_fault(without: Callable[[str], None], capsys: Any) -> None:
    with pytest.raises(SystemExit):
        without("recdistill.portable.graph")
    said = capsys.readouterr().err
    assert "a fault in recdistill (ModuleNotFoundError: import of recdistill.portable.graph" in said
    assert "pip install" not in said
