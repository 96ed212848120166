"""A student, exported, and the log that it was made for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recdistill.clicklog.ingest import ingest
from recdistill.clicklog.schema import Dataset
from recdistill.config.dataset import Dataset as Section

FEATURES = {
    "user": {"kind": "single"},
    "item": {"kind": "single", "hash": {"size": 20, "salt": 1}},
    "tags": {"kind": "bag", "delimiter": "|"},
    "price": {"kind": "dense", "transform": "log"},
    "age": {"kind": "bucket", "bins": 4},
    "liked": {"kind": "history", "user": "user", "of": "item", "last": 3, "outcome": "any"},
}


@dataclass(frozen=True)
class Exported:
    """A log, its dataset, an exported student and its scores of the log, by example_id."""

    log: Path
    dataset: Dataset
    student: Path
    scores: dict[int, float]


def scores(path: Path) -> dict[int, float]:
    table = pq.read_table(path)
    return dict(zip(table["example_id"].to_pylist(), table["probability"].to_pylist(), strict=True))


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Read only."""
    import torch

    from recdistill.config.models import Student
    from recdistill.export import export_student, score
    from recdistill.models.dlrm import DLRM
    from recdistill.models.frozen import save_model
    from recdistill.models.shape import shape_of
    from recdistill.models.size import solve

    root, rng, rows = tmp_path_factory.mktemp("exported"), np.random.default_rng(0), 120
    table = {
        "id": np.arange(rows) + 7000,
        "when": np.sort(rng.integers(0, 4 * 86_400, rows)) + 1_700_006_400,
        "label": rng.integers(0, 2, rows),
        "user": [f"u{n}" for n in rng.integers(0, 30, rows)],
        "item": [f"i{n}" for n in rng.integers(0, 60, rows)],
        "tags": ["|".join(f"t{n}" for n in rng.integers(0, 9, size)) for size in rng.integers(0, 4, rows)],
        "price": rng.random(rows),
        "age": rng.integers(0, 90, rows),
    }
    pq.write_table(pa.table(table), root / "log.parquet")
    section = {
        "log": {"paths": [str(root / "log.parquet")]},
        "example_id": "id",
        "time": {"column": "when", "unit": "s"},
        "split": {"by": "days", "validation": 1, "test": 1},
        "features": FEATURES,
    }
    dataset = ingest(Section.model_validate(section), root / "dataset")
    settings = Student(top=[4], bottom=[], compression=2.5, dims=[4])
    whole = shape_of(settings, 4, dataset.schema, None)
    (shape,) = solve(settings, dataset.schema, 2 * whole.parameters())
    torch.manual_seed(0)
    save_model(DLRM(shape).eval(), root / "trained")
    (root / "student").mkdir()
    export_student(root / "trained", dataset, root / "student")
    score(root / "student", [root / "log.parquet"], root / "scores.parquet")
    return Exported(root / "log.parquet", dataset, root / "student", scores(root / "scores.parquet"))
