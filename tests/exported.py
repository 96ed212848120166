"""A small log with every kind of feature, and an untrained student of it, exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from recdistill.clicklog.batches import Rows, batches
from recdistill.clicklog.ingest import ingest
from recdistill.clicklog.schema import SPLITS
from recdistill.config.dataset import Dataset as Section
from recdistill.config.models import Student
from recdistill.export import export_student, score
from recdistill.models.dlrm import DLRM
from recdistill.models.frozen import save_model
from recdistill.models.shape import shape_of
from recdistill.models.size import solve

FEATURES = {
    "user": {"kind": "single", "min_count": 2},
    "item": {"kind": "single"},
    "tags": {"kind": "bag", "delimiter": "|"},
    "price": {"kind": "dense", "transform": "log"},
    "liked": {"kind": "history", "user": "user", "of": "item", "last": 3},
}


def raw_table(rows: int = 400) -> pa.Table:
    rng = np.random.default_rng(0)
    return pa.table(
        {
            "id": np.arange(rows) + 7000,
            "when": np.sort(rng.integers(0, 6 * 86_400, rows)) + 1_700_006_400,
            "label": rng.integers(0, 2, rows),
            "user": [f"u{n}" for n in rng.integers(0, 30, rows)],
            "item": [f"i{n}" for n in rng.integers(0, 60, rows)],
            "tags": ["|".join(f"t{n}" for n in rng.integers(0, 9, size)) or None for size in rng.integers(0, 4, rows)],
            "price": [None if x < 0.1 else float(np.round(x * 50, 3)) for x in rng.random(rows)],
        }
    )


class Exported:
    """A log, its dataset, a student with tables that are cut, and its export."""

    def __init__(self, root: Path, student: Student | None = None, **section: Any) -> None:
        self.root, self.raw = root, root / "log.parquet"
        root.mkdir(exist_ok=True)
        pq.write_table(raw_table(), self.raw)
        spec = {
            "log": {"paths": [str(self.raw)]},
            "example_id": "id",
            "time": {"column": "when", "unit": "s"},
            "split": {"by": "days", "validation": 1, "test": 1},
            "features": FEATURES,
            **section,
        }
        self.dataset = ingest(Section.model_validate(spec), root / "dataset")
        student = student or Student(top=[8], bottom=[4], compression=2.5, dims=[4])
        whole = shape_of(student, (student.dims or [4])[0], self.dataset.schema, None)
        torch.manual_seed(int(section.get("negative_keep_rate", 1) * 100))
        *_, shape = solve(student, self.dataset.schema, 2 * whole.parameters(), whole.known)
        self.model = DLRM(shape).eval()
        if shape.clusters:
            least = min(table.rows - table.own for table in shape.tables if table.clustered)
            self.model.row_map.sharing.fill(torch.randint(0, least, (sum(self.model.row_map.sharing.clustered),)))
        assert self.model.row_map is not None
        save_model(self.model, root / "trained")
        self.folder = root / "student"
        self.folder.mkdir()
        export_student(root / "trained", self.dataset, self.folder)

    def own_logits(self) -> dict[int, float]:
        """The model's logits of the ingested rows, by example_id."""
        out: dict[int, float] = {}
        for split in SPLITS:
            for batch in batches(self.dataset, Rows(split), 100):
                out |= dict(zip(batch.example_id.tolist(), self.model(batch)[0].tolist(), strict=True))
        return out

    def scored(self, *logs: Path) -> dict[int, float]:
        out = self.root / "scores.parquet"
        score(self.folder, list(logs), out)
        table = pq.read_table(out)
        assert table.schema.names == ["example_id", "probability"]
        assert table.schema.types == [pa.int64(), pa.float32()]
        return dict(zip(table["example_id"].to_pylist(), table["probability"].to_pylist(), strict=True))
