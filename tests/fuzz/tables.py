"""Random logs, and what a dataset of them must hold, worked out cell by cell without the package's code."""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from hypothesis import strategies as st

NULLS = ["", "NA", "N/A", "null", "NULL", "NaN", "nan", "\\N"]
COLUMNS = ("id", "label", "user", "tags", "price")
TEXTS = st.sampled_from(
    [
        *"abcab",
        "",
        "NA",
        "a\nb",
        'say "hi"',
        "x,y",
        "\t",
        " a ",
        "\r\n",
        "é",
        "日本",
        "\x00",
        "5",
        "5.0",
        "true",
        "'",
        "a|b",
    ]
) | st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=6)
NUMBERS = st.sampled_from(
    ["0", "1", "-0.0", "0.1", "1e3", " 7 ", "1e400", "-inf", "nan", "1e-320", "3.4e38", "1e39", ""]
)
IDS = st.sampled_from(
    ["0", "-1", "007", "abc", "9223372036854775807", "9223372036854775808", "-9223372036854775808", "9" * 40, "1.0"]
) | st.integers(-(2**63), 2**64).map(str)
BAD_LABELS = ["2", "x", "", "NAN", "-nan", "inf", "-1", "1e-9", "0,1", "True"]
BAD_NUMBERS = ["x", "1,5", "0x10", "1_0", "--1", "1e", "e5", "∞"]


@dataclass
class Log:
    """Rows of texts by column, and how they are read: the split's shares, the bag's length, the least count."""

    rows: list[dict[str, str]]
    validation: float
    test: float
    max_length: int
    min_count: int

    def section(self, path: Path, **more: Any) -> dict[str, Any]:
        """The `dataset:` section for the log in `path`."""
        return {
            "log": {"paths": [str(path)], **more},
            "example_id": "id",
            "split": {"by": "order", "validation": self.validation, "test": self.test},
            "features": {
                "user": {"kind": "single", "min_count": self.min_count},
                "tags": {"kind": "bag", "delimiter": "|", "max_length": self.max_length},
                "price": {"kind": "dense"},
            },
        }


@st.composite
def logs(draw: st.DrawFn) -> Log:
    """A log that is mostly well; one in three has a cell that cannot be read, or an id that is there twice."""
    count = draw(st.sampled_from([0, 1, 5, *range(10, 26)]))
    rows = [
        {
            "id": draw(IDS) if number % 7 == 0 else str(1000 + number),
            "label": [" 1", "0.0"][number] if number < 2 else draw(st.sampled_from(["0", "1", "1.0"])),
            "user": draw(TEXTS),
            "tags": draw(st.lists(TEXTS, max_size=4).map("|".join)),
            "price": draw(NUMBERS),
        }
        for number in range(count)
    ]
    if rows and draw(st.integers(0, 2)) == 0:
        row = draw(st.sampled_from(rows))
        what = draw(st.sampled_from(["label", "price", "id", "twice"]))
        bad = {"label": BAD_LABELS, "price": BAD_NUMBERS, "id": ["", "NA"], "twice": [rows[0]["id"]]}[what]
        row["id" if what == "twice" else what] = draw(st.sampled_from(bad))
    shares = st.sampled_from([0.1, 0.2, 0.3])
    return Log(rows, draw(shares), draw(shares), draw(st.integers(1, 3)), draw(st.integers(1, 2)))


def write_text(log: Log, path: Path, quoting: Any, newline: str) -> None:
    """The log as CSV or TSV, packed as the suffix says."""
    out = io.StringIO(newline="")
    delimiter = "\t" if ".tsv" in path.name else ","
    writer = csv.DictWriter(out, COLUMNS, delimiter=delimiter, quoting=quoting, lineterminator=newline)
    writer.writeheader()
    writer.writerows(log.rows)
    content = out.getvalue().encode()
    codec = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)
    with pa.output_stream(path, compression=codec) as stream:
        stream.write(content)


def write_parquet(log: Log, path: Path) -> None:
    """The log as Parquet, every column text but the bag, which is a list."""
    columns: dict[str, Any] = {name: [row[name] for row in log.rows] for name in COLUMNS}
    lists = pa.array([cell.split("|") for cell in columns.pop("tags")], pa.list_(pa.string()))
    pq.write_table(
        pa.table({**{name: pa.array(cells, pa.string()) for name, cells in columns.items()}, "tags": lists}),
        path,
        compression="none",
    )


@dataclass
class Expected:
    """What a dataset must hold, row by row in the log's order."""

    splits: list[str]
    example_id: list[int]
    label: list[float]
    user: list[int | None]
    tags: list[list[str]]
    price: list[float]


def expect(log: Log, lists: bool) -> Expected | None:
    """The oracle: None where the log must be refused. `lists` says that bags came as lists, not as text."""
    rows, count = log.rows, len(log.rows)
    numbers = [number(row["label"]) for row in rows]
    if any(value not in (0, 1) for value in numbers) or any(number(row["price"]) == "bad" for row in rows):
        return None
    ids = [None if row["id"] in NULLS else identity(row["id"]) for row in rows]
    tested, validated = (math.floor(count * Decimal(repr(share))) for share in (log.test, log.validation))
    trained = count - tested - validated
    if None in ids or len(set(ids)) < count or not (tested and validated and trained > 0):
        return None
    if len(set(numbers[:trained])) < 2:
        return None
    words = [None if row["user"] in NULLS else row["user"] for row in rows]
    counts = Counter(word for word in words[:trained] if word is not None)
    known = sorted(
        (word for word, times in counts.items() if times >= log.min_count), key=lambda w: (-counts[w], w.encode())
    )
    place = {word: at + 1 for at, word in enumerate(known)}
    prices = np.array([np.nan if (value := number(row["price"])) is None else value for row in rows], float)
    prices[~(np.abs(prices) <= np.finfo(np.float32).max)] = np.nan
    learnt = prices[:trained][~np.isnan(prices[:trained])]
    mean, std = (learnt.mean(), learnt.std()) if len(set(learnt)) > 1 else (learnt[0] if len(learnt) else 0.0, 1.0)
    scaled = (prices - mean) / (std if std > 0 else 1.0)
    scaled[~(np.abs(scaled) <= np.finfo(np.float32).max)] = 0.0
    return Expected(
        splits=["train"] * trained + ["validation"] * validated + ["test"] * tested,
        example_id=[value for value in ids if value is not None],
        label=[float(value) for value in numbers if value not in (None, "bad")],
        user=[None if word is None else place.get(word, 0) for word in words],
        tags=[bag(row["tags"], lists)[: log.max_length] for row in rows],
        price=scaled.tolist(),
    )


def number(text: str) -> Any:
    """A cell as a number; None where missing, "bad" where it is none."""
    if text in NULLS or text.strip().lower() in ("nan", "-nan", "+nan"):
        return None
    try:
        return "bad" if "_" in text else float(text)
    except ValueError:
        return "bad"


def identity(text: str) -> int:
    """A row's id: the number itself where it is a plain one of 64 bits, else a hash."""
    if re.fullmatch(r"0|-?[1-9][0-9]*", text) and abs(int(text)) < 2**63:
        return int(text)
    return xxhash.xxh3_64_intdigest(text.encode()) & (2**63 - 1)


def bag(text: str, lists: bool) -> list[str]:
    """The pieces of a bag's cell; those of text are trimmed."""
    if lists:
        return [part for part in text.split("|") if part]
    return [] if text in NULLS else [piece for part in text.split("|") if (piece := part.strip())]


def contract(table: pa.Table, sizes: dict[str, int]) -> None:
    """Checks what every dataset promises of its rows. `sizes`: the rows of each feature's table."""
    labels = table["label"].to_pylist()
    assert set(labels) <= {0.0, 1.0} and not table["example_id"].null_count
    for name, column in zip(table.column_names, table.columns, strict=True):
        if name in sizes:
            ids = pc.list_flatten(column) if pa.types.is_list(column.type) else column.drop_null()
            assert not ids.null_count
            assert all(0 <= id_ < sizes[name] for id_ in ids.to_pylist()), name
        elif pa.types.is_floating(column.type):
            assert np.isfinite(column.to_numpy()).all(), name
