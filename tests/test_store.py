from __future__ import annotations

import gzip
import json
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recdistill import cli
from recdistill.clicklog.schema import Dataset
from recdistill.clicklog.simulate import simulate
from recdistill.config import Job
from recdistill.config.dataset import Simulation
from recdistill.config.load import load_job
from recdistill.errors import UserError
from recdistill.files import done, file_sha256, once, read_json
from recdistill.runs import Run, Unit
from recdistill.store import Record, Store
from tests.conftest import Heard
from tests.s3 import BUCKET, Server, serving

INPUTS = {"a": 1}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    return f"{BUCKET}/{re.sub(r'[^a-z0-9]+', '-', request.node.name)}"


@pytest.fixture
def job(job_file: Path, url: str) -> Job:
    return load_job(job_file, [f"store={url}", "workers=1"])


@pytest.fixture
def machine(server: Server, job: Job, tmp_path: Path) -> Callable[[str], tuple[Run, Heard]]:
    """A run folder of its own, and what its run says."""

    def make(name: str) -> tuple[Run, Heard]:
        heard = Heard()
        return Run(tmp_path / name, job, heard), heard

    return make


def make(work: Path) -> None:
    (work / "day=1").mkdir(exist_ok=True)
    (work / "day=1" / "part.parquet").write_bytes(bytes(range(256)) * 1000)
    (work / "empty").touch()
    (work / "same").write_bytes(bytes(range(256)) * 1000)


def never(*_: Any) -> None:
    raise AssertionError("must not be done again")


def chain(folder: Path, mark: str, text: str) -> None:
    """As a chain of teachers: a unit that fills a folder beside its own."""
    for name in ("before", folder.name):
        once(folder.parent / name, mark, partial(_write, text + name))


def _write(text: str, work: Path) -> None:
    (work / "text").write_text(text)


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns if path.name != "_SUCCESS" else 0)
        for path in folder.rglob("*")
        if path.is_file()
    }


def objects(server: Server, url: str) -> list[str]:
    from pyarrow.fs import FileSelector, FileType

    infos = server.files.get_file_info(FileSelector(f"{url.removeprefix('s3://')}/objects", recursive=True))
    return [info.path for info in infos if info.type == FileType.File]


def test_a_stage_is_done_once(server: Server, url: str, machine: Any) -> None:
    with machine("a")[0] as run:
        made = run.stage("ingest", INPUTS, make)
    second, heard = machine("b")
    with second as run:
        fetched = run.stage("ingest", INPUTS, never)
        assert content(fetched) == content(made) and len(content(made)) == 5
        run.stage("ingest", INPUTS, never)
    assert heard.said == [f"ingest: from {url}", "ingest: up to date"]
    # Named by what is in them: the same bytes lie there once.
    assert len(objects(server, url)) == len({data for data, _ in content(made).values()}) - 1
    with machine("c")[0] as run:
        with pytest.raises(AssertionError):
            run.stage("ingest", {"a": 2}, never)
        with pytest.raises(AssertionError):
            run.stage("other", INPUTS, never)


def test_units_are_done_once_with_all_that_they_fill(machine: Any) -> None:
    units = [Unit(f"{name}/final", {"name": name}, (name,)) for name in ("x", "y")]
    with machine("a")[0] as run:
        made = run.units("teach", chain, units[:1])
    second, heard = machine("b")
    with second as run:
        made_there = run.units("teach", chain, units)
    assert heard.said == [second_line for second_line in heard.said if "from" in second_line] + ["teach: 1 of 2"]
    assert heard.said[0].startswith("teach: 1 of 2 from s3://")
    third, heard = machine("c")
    with third as run:
        fetched = run.units("teach", never, units)
    assert content(fetched) == content(made_there) and content(made).items() <= content(fetched).items()
    assert {str(path.parent.relative_to(fetched)) for path in fetched.rglob("text")} == {
        "x/before",
        "x/final",
        "y/before",
        "y/final",
    }


def test_what_was_done_without_a_store_is_published_later(job: Job, machine: Any, tmp_path: Path) -> None:
    unit = [Unit("final", INPUTS, ("z",))]
    with Run(tmp_path / "a", job.model_copy(update={"store": None})) as run:
        run.stage("ingest", INPUTS, make)
        run.units("teach", chain, unit)
    with machine("a")[0] as run:
        run.stage("ingest", INPUTS, never)
        run.units("teach", never, unit)
    with machine("b")[0] as run:
        run.stage("ingest", INPUTS, never)
        run.units("teach", never, unit)


def test_what_breaks_off_is_gone_on_with(server: Server, url: str, machine: Any) -> None:
    """Published in part, there is no result; fetched in part, the rest is fetched."""
    first, _ = machine("a")
    with first as run:
        server.line.down = True
        try:
            with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match=r"s3://.*: the store failed"):
                patch.setattr(Store, "fetch", lambda *_: False)
                run.stage("ingest", INPUTS, make)
        finally:
            server.line.down = False
        made = run.stage_folder("ingest")
        mark = read_json(made / "_SUCCESS")["inputs"]
        assert not Store(url, run.folder / "elsewhere").fetch(run.folder / "elsewhere" / "ingest", mark)
        run.stage("ingest", INPUTS, never)
    store = Store(url, run.folder / "elsewhere")
    folder = store.root / "ingest"
    damaged = f"{url}/objects/{(sha := file_sha256(made / 'same'))[:2]}/{sha}".removeprefix("s3://")
    whole = server.files.open_input_file(damaged).readall()
    for bad in (whole[:-1], b"x" + whole[1:]):
        server.put(damaged.removeprefix("bucket/"), bad)
        with pytest.raises(
            UserError, match=rf"^s3://{damaged}: these are not the bytes .* remove it and s3://.*\.json"
        ):
            store.fetch(folder, mark)
        assert not folder.exists()
    server.files.delete_file(damaged)
    with pytest.raises(UserError, match=rf"^s3://{damaged}: there is no such object"):
        store.fetch(folder, mark)
    (work,) = store.root.glob(".ingest.work-*")
    (work / "left over").touch()
    server.put(damaged.removeprefix("bucket/"), whole)
    before = server.line.brought
    assert store.fetch(folder, mark) and content(folder) == content(made)
    assert server.line.brought - before < 2 * len(whole) + 5000


def test_a_connection_that_breaks_off_does_not_matter(server: Server, machine: Any) -> None:
    with machine("a")[0] as run:
        made = run.stage("ingest", INPUTS, make)
    with machine("b")[0] as run:
        server.line.after, server.line.cuts = 100_000, 3
        try:
            assert content(run.stage("ingest", INPUTS, never)) == content(made)
            assert server.line.cuts < 3
        finally:
            server.line.cuts = 0


def test_who_cannot_use_the_store_hears_it_before_any_work(server: Server, url: str, job: Job, tmp_path: Path) -> None:
    def begins(store: str) -> None:
        with Run(tmp_path / "run", job.model_copy(update={"store": store})):
            raise AssertionError("must not begin")

    with pytest.raises(UserError, match=r"^s3://nobody/x/store.json: there is no such bucket"):
        begins("s3://nobody/x")
    server.put("newer/store.json", b'{"version": 2}')
    with pytest.raises(UserError, match=r"^s3://bucket/newer/store.json: not a store of version 1"):
        begins(f"{BUCKET}/newer")
    server.admits("0")
    try:
        with pytest.raises(UserError, match=r"^s3://bucket/.*/store.json: access was refused"):
            begins(url)
    finally:
        server.admits("inf")


@pytest.mark.parametrize("value", ["/mnt/disk", "bucket/x", "file:///mnt/disk"])
def test_a_store_is_an_object_store(job_file: Path, value: str) -> None:
    with pytest.raises(UserError, match="store: expected a place in an object store, like s3://bucket/prefix"):
        load_job(job_file, [f"store={value}"])


@pytest.mark.parametrize(
    "path", ["../x", "/etc/x", "a/../../x", "..", "", ".", "a\\..\\x", "a/\0", 3, None, ["x"], {"a": 1}]
)
def test_a_record_reaches_nothing_outside_its_folder(server: Server, url: str, tmp_path: Path, path: object) -> None:
    store = Store(url, tmp_path / "stages")
    file = {"path": path, "size": 1, "sha256": "0" * 64, "mtime_ns": 0}
    good = {**file, "path": "x"}
    for folders in ({"ingest": [file]}, {path if isinstance(path, str) else "a/b": [good]}, [file], path):
        record = json.dumps({"version": 1, "folders": folders})
        server.put(f"{url}/stages/ingest/m.json".removeprefix(f"{BUCKET}/"), record.encode())
        with pytest.raises(UserError, match=r"^s3://.*/m\.json: not the record of a result \(.*\); remove it$"):
            store.fetch(store.root / "ingest", "m")
    assert not [entry for entry in tmp_path.rglob("*") if entry.is_file()]


def test_a_record_that_is_no_json_is_told(server: Server, url: str, tmp_path: Path) -> None:
    store = Store(url, tmp_path / "stages")
    for data in (b"", b"{", b"\xff\xfe", b'{"version": 2, "folders": {}}', b"[" * 100_000):
        server.put(f"{url}/stages/ingest/m.json".removeprefix(f"{BUCKET}/"), data)
        with pytest.raises(UserError, match=r"not the record of a result"):
            store.fetch(store.root / "ingest", "m")
    server.put(f"{url}/stages/ingest/m.json".removeprefix(f"{BUCKET}/"), Record(folders={}).model_dump_json().encode())
    assert not store.fetch(store.root / "ingest", "m") and not done(store.root / "ingest", "m")


JOB = """\
name: shared
dataset:
  log: {paths: "s3://bucket/log/day=*.parquet"}
  joins: [{on: item, paths: "s3://bucket/items.csv.gz", take: [maker]}]
  example_id: example_id
  time: {column: time, unit: ms}
  split: {by: days, validation: 1, test: 1}
  features:
    domain, user, item, maker: {kind: single}
    clicked: {kind: history, user: user, of: item, last: 3}
teachers:
  regime: out_of_fold
  folds: 2
  members:
    foundation: {kind: dlrm, dim: 8, top: [8], train: {epochs: 1, batch_size: 256}}
    told: {kind: file, paths: "s3://bucket/answers/*.parquet", parameters: 1000}
student: {top: [4], compression: 2, dims: [4]}
distill: {methods: [alone, mean], seeds: [0], train: {epochs: 1, batch_size: 256}}
evaluate: {resamples: 100}
workers: 1
"""


def test_another_machine_goes_on_where_one_ended(
    server: Server, run_text: Callable[..., list[str]], tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Log, side table, a teacher's answers, dataset and caches: all in the store."""
    simulation = Simulation(rows=1500, days=4, users=20, items=10, domains=2)
    simulate(simulation, tmp_path / "log")
    server.put_folder(tmp_path / "log", "log")
    log = pa.concat_tables(pq.read_table(path, partitioning=None) for path in (tmp_path / "log").glob("day=*.parquet"))
    makers = "".join(f"{item},m{at % 3}\n" for at, item in enumerate(log["item"].unique().to_pylist()))
    server.put("items.csv.gz", gzip.compress(f"item,maker\n{makers}".encode()))
    said = pa.table({"example_id": log["example_id"], "logit": np.random.default_rng(0).normal(size=len(log))})
    pq.write_table(said, tmp_path / "answers.parquet")
    server.put("answers/all.parquet", (tmp_path / "answers.parquet").read_bytes())

    text, roots = f"{JOB}store: {url}\n", {}
    for name, upto in (("a", "cache"), ("b", "export"), ("c", "export")):
        (tmp_path / name).mkdir()
        roots[name] = tmp_path / name / "run"
        lines = run_text(text, roots[name], upto=upto)
        from_store = [line.partition(":")[0] for line in lines if f"from {url}" in line]
        assert (
            from_store
            == {
                "a": [],
                "b": ["ingest", "teach", "cache"],
                "c": ["ingest", "teach", "cache", "distill", "evaluate", "export"],
            }[name]
        )
    assert (
        Dataset(roots["a"] / "stages" / "ingest").fingerprint == Dataset(roots["b"] / "stages" / "ingest").fingerprint
    )
    for stage in ("ingest", "teach", "cache"):
        assert content(roots["a"] / "stages" / stage) == content(roots["b"] / "stages" / stage)
    assert (roots["b"] / "report.json").read_bytes() == (roots["c"] / "report.json").read_bytes()

    local = JOB.replace("s3://bucket/log", f"{tmp_path}/log")
    (tmp_path / "d").mkdir()
    run_text(local, tmp_path / "d" / "run", upto="ingest")
    here = Dataset(tmp_path / "d" / "run" / "stages" / "ingest")
    assert here.fingerprint == Dataset(roots["a"] / "stages" / "ingest").fingerprint

    out = tmp_path / "scores.parquet"
    student = str(roots["c"] / "student")
    monkeypatch.setattr(sys, "argv", ["recdistill", "score", student, f"{BUCKET}/log/*.parquet", "-o", str(out), "-q"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code in (0, None) and pq.read_metadata(out).num_rows == len(log)
