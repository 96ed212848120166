"""What tests of every room may use: a job, a tiny dataset, real data."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import settings

from recdistill.clicklog.schema import (
    SPLITS,
    Dataset,
    DenseColumn,
    Manifest,
    PartRecord,
    Schema,
    Sparse,
    SplitName,
    Table,
    part_key,
    write_dataset,
)
from recdistill.config.load import load_job
from recdistill.files import file_sha256
from recdistill.progress import Progress
from recdistill.runs import Run
from tests.browser import NAMES, Page, browser, installed

settings.register_profile("patient", deadline=None)  # how long an example takes is up to what else the machine does
settings.load_profile("patient")

JOB = """\
name: tiny
dataset:
  log: {paths: "log/*.csv"}
  split: {by: random, validation: 0.1, test: 0.1}
  features:
    user: {kind: single, min_count: 2}
    C1..C3: {kind: single}
    age: {kind: dense}
teachers:
  regime: out_of_fold
  members:
    foundation: {kind: dlrm}
    ids:
      kind: dlrm
      features: [user]
"""
KILLER = """
import os, re, runpy, signal, sys
pattern, times, path, function, *arguments = sys.argv[1:]
left = int(times)
def watch(event, args):
    global left
    if event == "os.rename" and re.search(pattern, os.fspath(args[1])):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
runpy.run_path(path)[function](*arguments)
"""
USERS, ITEMS, TAGS = 80, 40, 12
"""Ids of each table, row 0 included."""


class Heard(Progress):
    """Notes what each stage says."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def stage(self, name: str) -> None:
        self.said.append(name)

    def update(self, task: str, done: float, total: float, note: str = "") -> None:
        pass


@pytest.fixture
def job_text() -> str:
    """A whole job, valid, with every default left out."""
    return JOB


@pytest.fixture
def job_file(tmp_path: Path, job_text: str) -> Path:
    """The same in a file."""
    path = tmp_path / "job.yaml"
    path.write_text(job_text)
    return path


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Gives a real data set's folder by name (see RECDISTILL_DATA), or skips the test where it is absent."""

    def find(name: str) -> Path:
        folder = Path(os.environ.get("RECDISTILL_DATA", "../shared/data")) / name
        if not folder.is_dir():
            pytest.skip(f"no data set at {folder}; the environment variable RECDISTILL_DATA names another place")
        return folder

    return find


@pytest.fixture
def kill_at() -> Callable[..., None]:
    """Runs a function of a test file in a process of its own and kills it in the middle.

    `kill_at(pattern, times, file, function, *arguments)`: the process dies by SIGKILL just before something is renamed
    for the `times`-th time to a path that matches `pattern`, which is how everything here becomes final.
    """

    def run(pattern: str, times: int, file: str, function: str, *arguments: object) -> None:
        done = subprocess.run(
            [sys.executable, "-c", KILLER, pattern, str(times), file, function, *map(str, arguments)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == -signal.SIGKILL, f"ended with {done.returncode}: {done.stderr}"

    return run


@pytest.fixture
def on_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what depends on this machine's processors and memory: here it has no GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(scope="session")
def run_text() -> Callable[..., list[str]]:
    """Runs a job's stages in this process: `run_text(text, out, *changes, upto="export")`; gives what they said.

    The job's file, `job.yaml`, lies beside the run folder `out`.
    """

    def run(text: str, out: Path, *changes: str, upto: str = "export") -> list[str]:
        from recdistill.stages import run_job

        path, progress = out.parent / "job.yaml", Heard()
        path.write_text(text)
        job = load_job(path, changes)
        with Run(out, job, progress) as held:
            run_job(job, held, upto, progress)
        return progress.said

    return run


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One torch thread, as in a worker process: results are compared bit for bit."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_schema(**changes: Any) -> Schema:
    """Two single features (`user` may be missing), a bag, two dense ones."""
    sizes = {"user": USERS, "item": ITEMS, "tags": TAGS}
    return Schema(
        sparse=[Sparse(name=name, kind="bag" if name == "tags" else "single", table=name, source={}) for name in sizes],
        dense=[DenseColumn(name=name, mean=0.0, std=1.0, source={}) for name in ("price", "age")],
        tables=[Table(name=name, rows=rows, encoding="vocabulary") for name, rows in sizes.items()],
        **changes,
    )


def tiny_rows(rows: int, seed: int = 0) -> tuple[dict[str, pa.Array], np.ndarray]:
    """Columns of `rows` impressions and their true log-odds. A row's worth lies in user, item, tags and price."""
    world = np.random.default_rng(7)
    user_taste, item_worth, tag_worth = (world.normal(0, 1, size) for size in (USERS, ITEMS, TAGS))
    rng = np.random.default_rng(seed)
    user = rng.integers(0, USERS, rows)
    item = np.minimum(rng.geometric(0.08, rows), ITEMS - 1)
    lengths = rng.integers(0, 5, rows)
    tags = rng.integers(0, TAGS, lengths.sum())
    price, age = rng.normal(size=(2, rows))
    row = np.repeat(np.arange(rows), lengths)
    tag_mean = np.bincount(row, tag_worth[tags], minlength=rows) / np.maximum(lengths, 1)
    truth = -0.5 + user_taste[user] + item_worth[item] + tag_mean + 0.7 * price * np.sign(user_taste[user])
    label = (rng.random(rows) < 1 / (1 + np.exp(-truth))).astype(np.float32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    columns = {
        "example_id": pa.array(rng.permutation(10 * rows)[:rows].astype(np.int64) - 3 * rows),
        "label": pa.array(label),
        "price": pa.array(price.astype(np.float32)),
        "age": pa.array(age.astype(np.float32)),
        "user": pa.array(user, mask=rng.random(rows) < 0.05),
        "item": pa.array(item),
        "tags": pa.ListArray.from_arrays(offsets, pa.array(tags)),
    }
    return columns, truth


def write_tiny(
    root: Path, rows: int = 3000, days: int = 8, seed: int = 0, weighted: bool = False, keep_rate: float = 1.0
) -> Dataset:
    """Writes the dataset: one part a day, the last day tests, the one before validates."""
    columns, _ = tiny_rows(rows, seed)
    if weighted:
        columns["weight"] = pa.array(np.random.default_rng(seed).integers(1, 4, rows).astype(np.float32))
    table, parts = pa.table(columns), []
    for day, at in enumerate(np.array_split(np.arange(rows), days)):
        split: SplitName = SPLITS[max(0, day - days + 3)]
        name = f"2026-01-{day + 1:02d}"
        path = root / (part_key(name, split, 0) + ".parquet")
        path.parent.mkdir(parents=True, exist_ok=True)
        chosen = table.slice(at[0], len(at))
        pq.write_table(chosen, path)
        positives = int(chosen["label"].to_numpy().sum())
        parts.append(
            PartRecord(day=name, split=split, index=0, rows=len(at), positives=positives, sha256=file_sha256(path))
        )
    vocabulary = root / "vocabulary"
    vocabulary.mkdir()
    for feature, size in {"user": USERS, "item": ITEMS, "tags": TAGS}.items():
        values = {"value": [f"{feature[0]}{value}" for value in range(1, size)], "count": [1] * (size - 1)}
        pq.write_table(pa.table(values), vocabulary / f"{feature}.parquet")
    write_dataset(root, tiny_schema(has_weight=weighted, negative_keep_rate=keep_rate), Manifest(parts=parts))
    return Dataset(root)


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """3000 rows over eight days: six train, one validates, one tests. Read only."""
    return write_tiny(tmp_path_factory.mktemp("tiny") / "dataset")


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., Dataset]:
    """Writes a tiny dataset of its own: `make_dataset(rows, days, seed, weighted, keep_rate)`."""
    return lambda **options: write_tiny(tmp_path / "dataset", **options)


@pytest.fixture(scope="session")
def screen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A page of a real, headless browser; skips the test where none is on the PATH."""
    if installed() is None:
        pytest.skip(f"no browser on the PATH: none of {', '.join(NAMES)}")
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page
