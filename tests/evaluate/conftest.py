"""A small dataset written by hand, with teachers and students whose quality is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recdistill.clicklog.schema import Dataset, Manifest, PartRecord, Schema, Sparse, Table, part_key, write_dataset
from recdistill.config.job import Evaluate
from recdistill.evaluate.report import Scored, evaluate

COUNTRIES = ["de", "fr", "it"]


@dataclass
class World:
    """A dataset, its test rows' labels and true logits, and the models scored on it."""

    root: Path
    dataset: Dataset
    ids: np.ndarray
    label: np.ndarray
    truth: np.ndarray
    country: np.ndarray
    models: list[Scored] = field(default_factory=list)

    def score(
        self, name: str, logit: np.ndarray, method: str | None = None, seed: int | None = None, **extra: Any
    ) -> Path:
        """Writes predictions and adds a model; NaN becomes null. Returns the file."""
        path = self.root / "predictions" / f"{name}.parquet"
        path.parent.mkdir(exist_ok=True)
        table = {"example_id": self.ids, "logit": pa.array(logit.astype(np.float32), from_pandas=True), **extra}
        pq.write_table(pa.table(table), path, row_group_size=1000)
        parameters = 400_000 if method is None else 10_000
        role: Literal["teacher", "student"] = "teacher" if method is None else "student"
        self.models.append(Scored(name, role, method, seed, parameters, path))
        if method is None:
            self._put_together()
        return path

    def _put_together(self) -> None:
        """The committee: the mean of those who answer."""
        teachers = [model for model in self.models if model.role == "teacher"]
        said = np.array([pq.read_table(teacher.path)["logit"].to_pandas().to_numpy() for teacher in teachers])
        there = ~np.isnan(said)
        with np.errstate(invalid="ignore"):
            mean = (np.where(there, said, 0).sum(0) / there.sum(0)).astype(np.float32)
        path = self.root / "predictions" / "committee.parquet"
        pq.write_table(pa.table({"example_id": self.ids, "logit": pa.array(mean, from_pandas=True)}), path)
        others = [model for model in self.models if model.role != "committee"]
        self.models = [*others, Scored("committee", "committee", None, None, sum(t.parameters for t in teachers), path)]


def write_world(root: Path, rows: int = 3000, keep_rate: float = 1.0, weighted: bool = False, seed: int = 0) -> World:
    """Test rows in two days and three parts, with a single feature `country` (null, unseen and known values)."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(-1.0, 1.5, rows)
    label = (rng.random(rows) < 1 / (1 + np.exp(-truth))).astype(np.float32)
    country = rng.choice([-1, 0, 1, 2, 3], rows, p=[0.1, 0.05, 0.5, 0.25, 0.1])
    ids = rng.permutation(rows).astype(np.int64)
    weight = rng.integers(1, 4, rows).astype(np.float32)
    parts, start = [], 0
    for index, (day, split, size) in enumerate(
        [("2026-01-01", "train", 10), ("2026-01-02", "test", rows // 3), ("2026-01-03", "test", rows - rows // 3)]
    ):
        at = slice(start, start + size) if split == "test" else slice(0, size)
        start += size if split == "test" else 0
        columns = {
            "example_id": ids[at],
            "label": label[at],
            "true_probability": (1 / (1 + np.exp(-truth[at]))).astype(np.float32),
            "country": pa.array(country[at], mask=country[at] < 0),
        }
        if weighted:
            columns["weight"] = weight[at]
        path = root / "dataset" / (part_key(day, split, index) + ".parquet")
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path)
        positives = int(label[at].sum())
        parts.append(PartRecord(day=day, split=split, index=index, rows=size, positives=positives, sha256=str(index)))
    schema = Schema(
        sparse=[Sparse(name="country", kind="single", table="country", source={})],
        dense=[],
        tables=[Table(name="country", rows=4, encoding="vocabulary")],
        negative_keep_rate=keep_rate,
        has_weight=weighted,
        has_true_probability=True,
    )
    vocabulary = root / "dataset" / "vocabulary" / "country.parquet"
    vocabulary.parent.mkdir()
    pq.write_table(pa.table({"value": COUNTRIES, "count": [3, 2, 1]}), vocabulary)
    write_dataset(root / "dataset", schema, Manifest(parts=parts))
    return World(root, Dataset(root / "dataset"), ids, label, truth, country)


def fill_world(world: World, noise: dict[str, float], seeds: int = 3) -> World:
    """Adds two teachers (an expert for one country) and a student per method and seed; noise blurs the true logit."""
    rng = np.random.default_rng(1)
    rows = len(world.label)
    world.score("foundation", world.truth + 0.3 * rng.normal(size=rows))
    expert = np.where(world.country == 1, world.truth + 0.2 * rng.normal(size=rows), np.nan)
    world.score("expert", expert)
    for method, size in noise.items():
        for seed in range(seeds):
            share = (0.3 + 0.4 * (world.country == 1)).astype(np.float32)
            importance = {"importance.foundation": 1 - share, "importance.expert": share} if method == "diverse" else {}
            world.score(f"{method}-{seed}", world.truth + size * rng.normal(size=rows), method, seed, **importance)
    return world


@pytest.fixture
def make_world(tmp_path: Path) -> Callable[..., World]:
    """Gives a world of its own; `noise` fills it with models."""

    def make(noise: dict[str, float] | None = None, seeds: int = 3, **options: Any) -> World:
        made = write_world(tmp_path / "world", **options)
        return made if noise is None else fill_world(made, noise, seeds)

    return make


@pytest.fixture(scope="session")
def world_at() -> Callable[..., World]:
    """Gives a filled world in a folder: `world_at(root, noise, seeds, **options)`."""
    return lambda root, noise, seeds=3, **options: fill_world(write_world(root, **options), noise, seeds)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A gap that `diverse` nearly closes and `single` closes in part. Read only."""
    noise = {"alone": 2.5, "single": 1.5, "diverse": 0.5}
    return fill_world(write_world(tmp_path_factory.mktemp("world")), noise)


@pytest.fixture(scope="session")
def report(world: World) -> dict[str, Any]:
    """That world's report, as read back from JSON. Read only."""
    context = {
        "name": "by_hand",
        "regime": "out_of_fold",
        "teacher_forwards": {"full": 33_000, "computed": 24_000, "reused": 0, "saved": 9_000, "held_out": 3_000},
        "worth": {"rows": 1500, "teachers": {"foundation": [0.02, 0.001], "expert": [0.0004, 0.0005]}},
        "account": [
            {"model": "foundation", "tables": 390_000, "dense": 10_000, "total": 400_000},
            {
                "model": "student",
                "tables": 9_000,
                "dense": 1_000,
                "total": 10_000,
                "ids": {"each": 2_100, "likeness": 3_400, "hash": 56},
            },
        ],
        "without": [{"methods": ["mean", "diverse"], "features": ["zip", "city"]}],
        "timings": {"ingest": 1.5, "distill": 75.0},
    }
    found = evaluate(world.dataset, world.models, Evaluate(resamples=400, slices=["country"]), context)
    return json.loads(json.dumps(found, allow_nan=False))
