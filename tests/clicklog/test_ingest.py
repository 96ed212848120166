from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recdistill.clicklog import parts, scratch, sources
from recdistill.clicklog.hashing import hashed_ids
from recdistill.clicklog.ingest import ingest
from recdistill.clicklog.schema import Dataset
from recdistill.files import file_sha256
from recdistill.progress import Progress


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder, and a hash of its bytes."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def decode(dataset: Dataset, name: str, ids: pa.ChunkedArray) -> list:
    """Values of a vocabulary feature; None for an unseen one."""
    values = [None, *pq.read_table(dataset.vocabulary_path(dataset.schema.table(name).name))["value"].to_pylist()]
    return [
        [values[id_] for id_ in cell] if isinstance(cell, list) else cell and values[cell] for cell in ids.to_pylist()
    ]


def test_values_come_back_from_ids(logs, small, read):
    table = small()
    dataset = logs.ingest(table)
    rows = read(dataset)
    assert rows["example_id"].to_pylist() == table["id"]
    assert rows["label"].to_pylist() == table["clicked"]
    assert rows["time"].to_pylist() == [time * 1000 for time in table["when"]]
    assert decode(dataset, "user", rows["user"]) == table["user"]
    assert decode(dataset, "tags", rows["tags"]) == [tags.split("|") if tags else [] for tags in table["tags"]]
    training = Counter(table["item"][: dataset.rows("train")])
    frequent = [str(item) if training[item] >= 3 else 0 for item in table["item"]]
    assert decode(dataset, "item", rows["item"]) == frequent
    assert rows["hashed"].to_pylist() == hashed_ids(map(str, table["item"]), 3, 7).tolist()
    price = next(column for column in dataset.schema.dense if column.name == "price")
    expected = [0 if x is None else (np.log1p(x) - price.mean) / price.std for x in table["price"]]
    assert rows["price"].to_pylist() == pytest.approx(expected, abs=1e-5)


def test_the_files_are_as_the_contract_says(logs, small):
    dataset = logs.ingest(small(), weight="price", features={"user": {"kind": "single"}} | TAGS)
    assert [str(field.type) for field in pq.read_schema(dataset.parts()[0].path)] == [
        "int64", "float", "float", "int64", "int64", "list<element: int64>",
    ]  # fmt: skip
    assert dataset.schema.has_weight and dataset.schema.has_time and not dataset.schema.has_true_probability
    for record, part in zip(dataset.manifest.parts, dataset.parts(), strict=True):
        table = pq.read_table(part.path, partitioning=None)
        assert record.sha256 == file_sha256(part.path) and record.rows == table.num_rows
        assert record.positives == sum(table["label"].to_pylist())
    assert {path.name for path in dataset.root.iterdir()} == {
        *(f"day={day}" for day in dataset.days),
        "vocabulary",
        "schema.json",
        "manifest.json",
    }


TAGS = {"tags": {"kind": "bag", "delimiter": "|"}}


@pytest.fixture
def small(small):
    """A small log without gaps in `price`, so that it may be a weight."""

    def make(*args, **kwargs):
        table = small(*args, **kwargs)
        table["price"] = [1.0 if price is None else price for price in table["price"]]
        return table

    return make


def test_every_format_gives_the_same_bytes(logs, small):
    table = small()
    expected = tree(logs.ingest(table, "parquet").root)
    for name in ("log.csv", "log.tsv", "log.csv.gz", "log.tsv.zst"):
        assert tree(logs.ingest(logs.write(table, name), name + "-out").root) == expected
    floats = {**table, "age": [None if age is None else float(age) for age in table["age"]]}
    floats["item"] = [float(item) for item in table["item"]]
    assert tree(logs.ingest(floats, "floats").root) == expected
    lists = {**table, "tags": [tags.split("|") if tags else None for tags in table["tags"]]}
    assert tree(logs.ingest(lists, "lists").root) == expected


def test_a_log_in_many_files_and_any_order_gives_the_same_bytes(logs, small, read):
    table = small()
    table["when"] = [time + index for index, time in enumerate(table["when"])]
    expected = tree(logs.ingest(table).root)
    order = np.random.default_rng(0).permutation(len(table["id"]))
    shuffled = {name: [values[at] for at in order] for name, values in table.items()}
    assert tree(logs.ingest(shuffled, "shuffled").root) == expected
    for index in range(3):
        logs.write({name: values[index::3] for name, values in shuffled.items()}, f"many/{index}.csv")
    assert tree(logs.ingest([f"{logs.folder}/many/*.csv"], "files").root) == expected


def test_files_in_order_inside_but_not_among_themselves(logs, small, read):
    table = small()
    expected = tree(logs.ingest(table).root)
    days = sorted({when // 86_400_000 for when in table["when"]})
    for index, day in enumerate(reversed(days)):
        rows = [at for at, when in enumerate(table["when"]) if when // 86_400_000 == day]
        logs.write({name: [values[at] for at in rows] for name, values in table.items()}, f"many/{index}.csv")
    assert tree(logs.ingest([f"{logs.folder}/many/*.csv"], "files").root) == expected


def test_where_the_log_lies_does_not_matter(logs, small):
    table = small()
    paths = [logs.write(table, f"{folder}/day=1/log.csv") for folder in ("here", "there/deep")]
    one, two = (
        logs.ingest([f"{path.parent.parent}/day=*/log.csv"], f"out{index}", example_id=None)
        for index, path in enumerate(paths)
    )
    assert one.fingerprint == two.fingerprint and tree(one.root) == tree(two.root)


def test_derived_ids_name_file_and_row(logs, small, read):
    table = small(60, days=3)
    halves = [{name: values[half::2] for name, values in table.items()} for half in (0, 1)]
    for index, half in enumerate(halves):
        logs.write(half, f"log/{index}.csv")
    split = {"by": "random", "validation": 0.3, "test": 0.3}
    dataset = logs.ingest([f"{logs.folder}/log/*.csv"], example_id=None, time=None, split=split, features=TAGS)
    ids = sorted(read(dataset)["example_id"].to_pylist())
    assert len(set(ids)) == 60 and ids[0] >= 0
    assert Counter(np.diff(ids).tolist())[1] == 58


def test_ingesting_again_gives_the_same_bytes_and_leaves_nothing_old(logs, small):
    dataset = logs.ingest(small(400, days=9))
    assert len(dataset.days) == 9
    again = logs.ingest(small())
    assert tree(again.root) == tree(logs.ingest(small(), "other").root)


@pytest.mark.parametrize("writes", [0, 3])
def test_killed_half_way_then_again_equals_straight_through(logs, small, writes):
    section = logs.section(small())
    expected = tree(ingest(section, logs.folder / "straight").root)
    out = logs.folder / "killed"
    program = f"""
import os, signal
from pathlib import Path
from recdistill.clicklog import ingest, parts
from recdistill.config.dataset import Dataset
left = {writes}
def killed(path):
    global left
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return "0"
parts.file_sha256 = killed
ingest.ingest(Dataset.model_validate_json(Path({str(logs.folder / "section.json")!r}).read_text()), Path({str(out)!r}))
"""
    (logs.folder / "section.json").write_text(section.model_dump_json())
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    left = tree(out)
    assert "manifest.json" not in left and any(name.startswith(".scratch") for name in left)
    assert sum("part-" in name for name in left) == writes + 1
    assert tree(ingest(section, out).root) == expected


def test_parts_and_batches_of_any_size_hold_the_same_rows(logs, small, read, monkeypatch):
    split = {"by": "random", "validation": 0.2, "test": 0.2}
    expected = read(logs.ingest(small(), split=split, example_id=None))
    monkeypatch.setattr(parts, "PART_ROWS", 20)
    monkeypatch.setattr(parts, "ROW_GROUP_ROWS", 7)
    monkeypatch.setattr(scratch, "ROW_GROUP_ROWS", 11)
    monkeypatch.setattr(scratch, "_GROUPS", 2)
    monkeypatch.setattr(sources, "BATCH_ROWS", 13)
    dataset = logs.ingest(small(), "small-parts", split=split, example_id=None)
    sizes: dict[str, list[int]] = {}
    for part in dataset.parts("train"):
        sizes.setdefault(part.day, []).append(part.rows)
    assert all(len(rows) == -(-sum(rows) // 20) and max(rows) <= 20 for rows in sizes.values())
    assert max(map(len, sizes.values())) > 1
    found, expected = (
        rows.sort_by([("split", "ascending"), ("example_id", "ascending")]) for rows in (read(dataset), expected)
    )
    dense = expected.schema.get_field_index("price")
    assert found.remove_column(dense).equals(expected.remove_column(dense))
    assert found["price"].to_pylist() == pytest.approx(expected["price"].to_pylist(), abs=1e-6)


def test_progress_reaches_its_end(logs, small):
    class Heard(Progress):
        def __init__(self):
            self.last = {}

        def update(self, task, done, total, note=""):
            self.last[task] = (done, total, note)

    heard = Heard()
    ingest(logs.section(small()), logs.folder / "out", heard)
    assert heard.last == {"read": (1, 1, "300 rows"), "encode": (300, 300, "")}


def test_weight_and_true_probability_are_kept(logs, small, read):
    table = {**small(), "p": [0.25] * 300}
    rows = read(logs.ingest(table, weight="price", true_probability="p", features=TAGS))
    assert rows["weight"].to_pylist() == pytest.approx(table["price"])
    assert set(rows["true_probability"].to_pylist()) == {0.25}


def test_features_that_share_a_table(logs, read):
    table = {
        "item": ["a", "b", "a", "c"] * 5,
        "cart": ["a|x", None, "c|b", "b"] * 5,
        "last": ["b", "x", None, "a"] * 5,
        "when": list(range(20)),
        "user": ["u"] * 20,
        "clicked": [0, 1] * 10,
    }
    dataset = logs.ingest(
        table,
        example_id=None,
        time={"column": "when", "unit": "order"},
        split={"by": "order", "validation": 0.2, "test": 0.2},
        features={
            "item": {"kind": "single"},
            "cart": {"kind": "bag", "delimiter": "|", "share": "item"},
            "last": {"kind": "single", "share": "item"},
            "tags": {"kind": "bag", "column": "cart", "delimiter": "|"},
            "past": {"kind": "history", "user": "user", "of": "tags", "last": 3, "outcome": "any"},
        },
    )
    rows = read(dataset).slice(0, 4)
    assert [part.name for part in dataset.schema.tables] == ["item", "tags"]
    assert decode(dataset, "item", rows["item"]) == ["a", "b", "a", "c"]
    assert decode(dataset, "cart", rows["cart"]) == [["a", None], [], ["c", "b"], ["b"]]
    assert decode(dataset, "last", rows["last"]) == ["b", 0, None, "a"]
    assert decode(dataset, "past", rows["past"]) == [[], ["x", "a"], ["x", "a"], ["b", "c", "x"]]


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=6)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.none() | TEXT, st.lists(TEXT, max_size=3)), min_size=1, max_size=12), st.booleans())
def test_any_text_comes_back(logs, read, cells, as_csv):
    cells = cells * 4
    single = [value for value, _ in cells]
    table = {"x": single, "clicked": ([0, 1] * len(cells))[: len(cells)], "pad": ["p"] * len(cells)}
    if not as_csv:
        table["bag"] = pa.array([bag for _, bag in cells], pa.list_(pa.string()))
    log = logs.write(table, "log.csv" if as_csv else "log.parquet")
    section = logs.section(
        log,
        log={"paths": [str(log)], "nulls": [""]},
        example_id=None,
        time=None,
        split={"by": "order", "validation": 0.3, "test": 0.3},
        features={"x": {"kind": "single"}} | ({} if as_csv else {"bag": {"kind": "bag"}}),
    )
    dataset = ingest(section, logs.folder / "dataset")
    rows = read(dataset)
    seen = {*single[: dataset.rows("train")]}
    assert decode(dataset, "x", rows["x"]) == [value if value is None or value in seen else 0 for value in single]
    if not as_csv:
        known = {value for _, bag in cells[: dataset.rows("train")] for value in bag}
        expected = [[value if value in known else None for value in bag] for _, bag in cells]
        assert decode(dataset, "bag", rows["bag"]) == expected


def test_importing_ingest_does_not_import_torch():
    program = "import sys, recdistill.clicklog.ingest, recdistill.clicklog.encode; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", program], env=environment, check=False).returncode == 0
