from __future__ import annotations

import gzip
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recdistill import remote
from recdistill.clicklog import sources
from recdistill.clicklog.sources import column_names, find, read
from recdistill.config.dataset import Files
from recdistill.config.load import load_job
from recdistill.errors import UserError
from recdistill.files import file_sha256
from tests.s3 import BUCKET, Server, serving

NAMES = [
    *(f"log/day=2026-01-{day:02d}/part-{part}.csv" for day in (1, 2, 11) for part in (0, 1)),
    "log/day=2026-01-01/.hidden.csv",
    "log/day=2026-01-01/[odd] name.csv",
    "log/top.csv",
    "log/deep/er/x.csv",
    "logs/other.csv",
]
PATTERNS = [
    "log/day=*/part-*.csv",
    "log/day=2026-01-0?/part-[01].csv",
    "log/**/*.csv",
    "log/**/x.csv",
    "**/top.csv",
    "log/*.csv",
    "log/top.csv",
    "l*/*.csv",
    "log/day=*/*",
    "log/day=2026-01-01/[odd] name.csv",
    "log/day=2026-01-01/.h*",
]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a small file takes many requests."""
    monkeypatch.setattr(remote, "BLOCK", 1 << 14)
    monkeypatch.setattr(sources, "_BLOCK_BYTES", 1 << 14)
    monkeypatch.setattr(sources, "_HEAD_BYTES", 1 << 14)


@pytest.fixture
def few_attempts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(remote, "ATTEMPTS", 2)
    remote._file_system.cache_clear()
    yield
    remote._file_system.cache_clear()


def contents(files: Files, columns: list[str]) -> pa.Table:
    return pa.Table.from_batches([batch for source in find(files) for batch in read(source, files, columns)])


def test_a_glob_finds_in_a_store_what_it_finds_on_a_disk(server: Server, tmp_path: Path) -> None:
    for name in NAMES:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"a\n{name}\n")
    url = server.put_folder(tmp_path, "globs")
    for pattern in PATTERNS:
        here, there = (find(Files(paths=[f"{root}/{pattern}"])) for root in (tmp_path, url))
        assert here and [source.name for source in there] == [source.name for source in here]
        for source, original in zip(there, here, strict=True):
            assert str(source.path).startswith("s3://bucket/globs/") and source.path.name == original.path.name
            assert source.path.stat().st_size == original.path.stat().st_size
            assert abs(source.path.stat().st_mtime_ns / 1e9 - time.time()) < 600
    assert file_sha256(there[0].path) == file_sha256(here[0].path)


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".csv.zst", ".tsv.gz", ".parquet"])
def test_every_format_reads_as_from_a_disk(server: Server, small_blocks: None, tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(0)
    table = pa.table({name: [f"{name}{x}" for x in rng.integers(0, 1 << 40, 4000)] for name in ("a", "b", "c")})
    path = tmp_path / f"log{suffix}"
    if suffix == ".parquet":
        pq.write_table(table, path, row_group_size=900)
    else:
        codec = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)
        delimiter = "\t" if ".tsv" in suffix else ","
        with pa.output_stream(path, compression=codec) as stream:
            pa.csv.write_csv(table, stream, pa.csv.WriteOptions(delimiter=delimiter))
    url = server.put(path.name, path.read_bytes())
    source = find(Files(paths=[url]))[0]
    assert column_names(source, Files(paths=[url])) == ["a", "b", "c"]
    assert contents(Files(paths=[url]), ["c", "a"]).equals(table.select(["c", "a"]))


def test_what_is_not_asked_for_is_not_brought(server: Server, small_blocks: None) -> None:
    rows = 20_000
    text = b"a,b\n" + b"".join(b"%d,%030d\n" % (row, row) for row in range(rows))
    files = Files(paths=[server.put("long.csv", text)])
    before = server.line.brought
    stream = read(find(files)[0], files, ["a"])
    assert next(stream).num_rows > 0
    stream.close()  # type: ignore[attr-defined]
    assert server.line.brought - before < 0.5 * len(text)
    sink = pa.BufferOutputStream()
    wide = {"a": np.arange(rows), "b": np.arange(rows), "c": np.arange(rows)}
    pq.write_table(pa.table(wide), sink, row_group_size=5000, use_dictionary=False, compression="none")
    data = sink.getvalue().to_pybytes()
    files = Files(paths=[server.put("wide.parquet", data)])
    before = server.line.brought
    assert contents(files, ["b"])["b"].to_pylist() == list(range(rows))
    assert server.line.brought - before < 0.5 * len(data)


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
def test_a_connection_that_breaks_off_is_taken_up_again(server: Server, small_blocks: None, suffix: str) -> None:
    numbers = np.random.default_rng(1).integers(0, 1 << 60, 5000)
    text = b"a\n" + b"".join(b"%d\n" % number for number in numbers)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"a": numbers.astype(str)}), sink, use_dictionary=False)
    made = {".csv": text, ".csv.gz": gzip.compress(text), ".parquet": sink.getvalue().to_pybytes()}
    files = Files(paths=[server.put(f"cut{suffix}", made[suffix])])
    server.line.after, server.line.cuts = 1 << 13, 2
    try:
        assert contents(files, ["a"])["a"].to_pylist() == numbers.astype(str).tolist()
        assert server.line.cuts == 0
    finally:
        server.line.cuts = 0


def test_a_connection_that_always_breaks_off_is_told(server: Server, few_attempts: None) -> None:
    files = Files(paths=[server.put("cut-always.csv", b"a\n" + b"1\n" * (1 << 16))])
    server.line.after, server.line.cuts = 1 << 12, 1000
    begun = time.monotonic()
    try:
        with pytest.raises(
            UserError, match=r"^s3://bucket/cut-always.csv.*: the store failed, asked 2 times \(.*\); r"
        ):
            contents(files, ["a"])
    finally:
        server.line.cuts = 0
    assert time.monotonic() - begun < 20


def test_a_store_that_is_down_is_told(server: Server, few_attempts: None) -> None:
    server.line.down = True
    try:
        with pytest.raises(UserError, match=r"^s3://bucket/x\*\.csv: the store failed, asked 2 times \(.*\); run the"):
            find(Files(paths=[f"{BUCKET}/x*.csv"]))
    finally:
        server.line.down = False


def test_a_store_that_refuses_is_told(server: Server) -> None:
    url = server.put("mine.csv", b"a\n1\n")
    server.admits("0")
    try:
        for pattern in (url, f"{BUCKET}/*.csv"):
            with pytest.raises(
                UserError, match=rf"^{re.escape(pattern)}: access was refused; are the credentials \(AWS"
            ):
                find(Files(paths=[pattern]))
    finally:
        server.admits("inf")
    assert find(Files(paths=[url]))


def test_what_is_not_there_is_told(server: Server) -> None:
    server.put("folder/x.csv", b"a\n1\n")
    for path, said in {
        "s3://bucket/none-*.csv": "no file matches; is the prefix right",
        "s3://bucket/none/*.csv": "no file matches; is the prefix right",
        "s3://buck*/x.csv": "",
        "s3://": "",
        "s3:///x": "",
        "s3://bucket": "this is a folder",
        "s3://nobody/x-*.csv": "there is no such bucket",
        "s3://bucket/folder": r"this is a folder; name its files, as in s3://bucket/folder/\*\.parquet",
        "nosuch://bucket/x.csv": "no object store that can be read",
        "s3://bucket/folder/x": "no file matches",
    }.items():
        with pytest.raises(UserError, match=rf"{re.escape(path.rpartition('/')[0])}.*: ({said})"):
            find(Files(paths=[path]))
    (source,) = find(Files(paths=[f"{BUCKET}/folder/x.csv"]))
    server.files.delete_file("bucket/folder/x.csv")
    with pytest.raises(UserError, match=r"^s3://bucket/folder/x.csv: there is no such object"):
        column_names(source, Files(paths=["x.csv"]))


def test_credentials_have_no_place_in_a_path(job_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "s3://key:hidden@bucket/x.csv"
    job_file.write_text(job_file.read_text().replace("log/*.csv", secret))
    monkeypatch.setenv("HERE", secret)
    for read_it in (lambda: load_job(job_file), lambda: find(Files(paths=["${HERE}"]))):
        with pytest.raises(UserError, match="a URL must not hold credentials") as caught:
            read_it()
        assert "hidden" not in str(caught.value)


def test_a_truncated_object_is_told(server: Server) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"a": np.random.default_rng(2).random(5000)}), sink)
    packed = gzip.compress(b"a\n" + b"".join(b"%d\n" % n for n in np.random.default_rng(3).integers(0, 1 << 60, 9999)))
    for name, data, said in (
        ("half.parquet", sink.getvalue().to_pybytes(), "cannot be read as Parquet .*; is the file whole"),
        ("half.csv.gz", packed, "cannot be read as gzip-compressed csv"),
        ("none.csv", b"", "the file is empty"),
    ):
        files = Files(paths=[server.put(name, data[: len(data) // 2])])
        with pytest.raises(UserError, match=rf"^s3://bucket/{name}.*: {said}"):
            contents(files, ["a"])


def test_any_store_that_pyarrow_knows_will_do() -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe({"/bucket/log/a.csv": b"x\n1\n", "/bucket/log/b.csv": b"x\n2\n"})
    files = Files(paths=["fsspec+memory://bucket/log/*.csv"])
    assert [source.name for source in find(files)] == ["a.csv", "b.csv"]
    assert contents(files, ["x"])["x"].to_pylist() == ["1", "2"]
