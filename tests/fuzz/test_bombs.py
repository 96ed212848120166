"""Small files that unpack to a thousand times their size: read in bounded memory, or refused.

They are read in a process of their own, which the system gives no more memory than `ROOM`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.cpus import NO_GPU
from tests.fuzz.harness import SECONDS, TIMES, check_sentence

ROOM = 4 << 30
"""Bytes of address space beside what the libraries themselves take."""
PEAK = 900 << 20
"""Bytes that may be in memory at any time."""
SCALE = 1 if TIMES == 1 else 5
READ = """
import json, re, resource, sys
from pathlib import Path
from recdistill.clicklog.ingest import ingest
from recdistill.config.dataset import Dataset
from recdistill.errors import UserError
room, folder, *paths = sys.argv[1:]
limit = int(room) + int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in paths:
    features = {"user": {"kind": "single"}}
    if "bag" in path:
        features["tags"] = {"kind": "bag", "max_length": 10, **({} if "parquet" in path else {"delimiter": "|"})}
    split = {"by": "order", "validation": 0.2, "test": 0.2}
    section = {"log": {"paths": [path]}, "split": split, "features": features}
    try:
        rows = ingest(Dataset.model_validate(section), Path(folder)).rows()
        said = None
    except UserError as error:
        rows, said = None, str(error)
    peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]
    print(json.dumps([path, rows, said, int(peak) << 10]), flush=True)
"""


def packed(path: Path, head: bytes, piece: bytes, times: int) -> None:
    codec = {".gz": "gzip", ".zst": "zstd"}[path.suffix]
    with pa.output_stream(path, compression=codec) as stream:
        stream.write(head)
        for _ in range(times):
            stream.write(piece)


def table(rows: int, user: pa.Array, **more: pa.Array) -> pa.Table:
    return pa.table({"label": np.arange(rows) % 2, "user": user, **more})


def bags(path: Path, sizes: list[int]) -> None:
    """Lists of so many elements, all of them few different ones."""
    offsets = pa.array(np.cumsum([0, *sizes]), pa.int32())
    tags = pa.ListArray.from_arrays(offsets, pa.array(np.arange(sum(sizes)) % 1000))
    pq.write_table(table(len(sizes), pa.array(["a"] * len(sizes)), tags=tags), path)


HEAD = b"label,user\n" + b"0,a\n1,b\n" * 20
BOMBS: dict[str, tuple[Callable[[Path], None], int | str]] = {
    "empty lines.csv.gz": (lambda path: packed(path, HEAD, b"\n" * 1_000_000, 100 * SCALE), 40),
    "a long line.csv.zst": (lambda path: packed(path, HEAD, b"x" * 1_000_000, 300 * SCALE), "a row of more than 8 MiB"),
    "an open quote.csv.gz": (
        lambda path: packed(path, HEAD + b'1,"', b"x\n" * 500_000, 50 * SCALE),
        "a row of more than",
    ),
    "long texts.csv.gz": (
        lambda path: packed(path, HEAD, b"0," + b"a" * 1_000_000 + b"\n", 300 * SCALE),
        "row 41, column 'user': is 'aaaaaaaaaaaa...aaaaaaaaaaaaa'; expected at most 4,096 bytes of text",
    ),
    "many columns.csv.gz": (
        lambda path: packed(path, b"label,user" + b",x" * 300_000 * SCALE, b"\n0,a", 2),
        "a header of more than 20,000 columns",
    ),
    "long rows.csv.gz": (lambda path: packed(path, HEAD, b"1,a\n0,b\n" * 10_000, 15 * SCALE), 40 + 300_000 * SCALE),
    "long bags.csv.gz": (
        lambda path: packed(path, b"label,user,tags\n", b"0,a," + b"x|" * 50_000 + b"\n1,b,\n", 500 * SCALE),
        1000 * SCALE,
    ),
    "one huge bag.parquet": (lambda path: bags(path, [*[0] * 50, 2_000_000 * SCALE, *[0] * 50]), 101),
    "many large bags.parquet": (lambda path: bags(path, [1000] * 20_000 * SCALE), 20_000 * SCALE),
    "one text many times.parquet": (
        lambda path: pq.write_table(
            table(
                50_000,
                pa.DictionaryArray.from_arrays(np.zeros(50_000, np.int32), pa.array(["a" * 1_000_000])),
            ),
            path,
        ),
        "row 1, column 'user': is 'aaaaaaaaaaaa...aaaaaaaaaaaaa'; expected at most 4,096 bytes of text",
    ),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int | None, str | None, int]]:
    """What came of each bomb: the rows or the refusal, and the most memory until then."""
    folder = tmp_path_factory.mktemp("bombs")
    for name, (make, _) in BOMBS.items():
        make(folder / name)
    arguments = [str(ROOM), str(folder / "out"), *(str(folder / name) for name in BOMBS)]
    done = subprocess.run(
        [sys.executable, "-c", READ, *arguments],
        env={**os.environ, **NO_GPU},
        capture_output=True,
        text=True,
        timeout=10 * SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = map(json.loads, done.stdout.splitlines())
    return {Path(path).name: (rows, said, peak) for path, rows, said, peak in lines}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_takes_bounded_memory(found: dict[str, tuple[int | None, str | None, int]], name: str) -> None:
    (rows, said, peak), (_, expected) = found[name], BOMBS[name]
    if isinstance(expected, str):
        assert said is not None and expected in check_sentence(said)
    else:
        assert said is None and rows == expected
    assert peak < PEAK
