"""Filling the teacher cache against the bare forward pass over batches that are in memory already.

    OMP_NUM_THREADS=1 python tests/benchmarks/scoring.py [--rows 1048576]

A log of Criteo's shape (13 numbers, 26 ids), scored by two untrained foundations: the default one, and that of the
Frappe job on an eighth of the rows. `cache_version` opens the teacher, reads parts, makes batches, scores, codes
embeddings, writes shards with their checksums, and calibrates itself on validation rows, which are one for 32 others
and so are scored twice.
"""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from timing import Result, Side, interleaved, options

from recdistill.clicklog.batches import Rows, batches
from recdistill.clicklog.parts import write_part
from recdistill.clicklog.schema import (
    PART_ROWS,
    Dataset,
    DenseColumn,
    Manifest,
    Schema,
    Sparse,
    SplitName,
    Table,
    write_dataset,
)
from recdistill.config.models import DlrmTeacher
from recdistill.files import write_json
from recdistill.models.dlrm import DLRM
from recdistill.models.frozen import save_model
from recdistill.models.shape import shape_of
from recdistill.teachers.cache import cache_version
from recdistill.teachers.protocol import SCORING_BATCH, open_teacher
from recdistill.teachers.versions import FINAL, Version

DENSE, SPARSE, IDS = 13, 26, 5000
DAY = "2026-01-01"
SMALL, LARGE = DlrmTeacher(kind="dlrm"), DlrmTeacher(kind="dlrm", dim=256, top=[512, 256])


def main() -> None:
    arguments = options(__doc__, rows=1 << 20)
    torch.set_num_threads(1)
    result = Result("scoring", "rows", arguments)
    for teacher, rows in ((SMALL, arguments.rows), (LARGE, arguments.rows // 8)):
        with tempfile.TemporaryDirectory() as folder:
            sides = prepare(teacher, rows, Path(folder))
            times = interleaved(sides, arguments.repeats)
        result.say(f"## A foundation of dim {teacher.dim}, top MLP {teacher.top}; {rows:,} rows")
        result.speeds(times)
        result.compare(times, "cache_version", "forward pass", 0.85)
    result.write()


def prepare(spec: DlrmTeacher, rows: int, folder: Path) -> dict[str, Side]:
    """Writes a log and a teacher as training would leave it, its numbers as they were drawn."""
    dataset = write_log(folder / "dataset", rows)
    torch.manual_seed(0)
    digest = save_model(DLRM(shape_of(spec, spec.dim, dataset.schema, None)), folder / "teacher" / FINAL)
    write_json(folder / "teacher" / FINAL / "teacher.json", {"kind": "dlrm", "fingerprint": digest})
    version = Version(FINAL, Rows("train"), (Rows("train"), Rows("validation")), seen="in_sample")
    teacher, turn = open_teacher(folder / "teacher" / FINAL), itertools.count()
    ready = [batch for rows in version.scores for batch in batches(dataset, rows, SCORING_BATCH)]

    def fill() -> float:
        _, shards = cache_version("foundation", folder / "teacher", version, dataset, folder / f"cache-{next(turn)}")
        return sum(shard.rows for shard in shards)

    def forward() -> float:
        for batch in ready:
            teacher.score(batch)
        return dataset.rows()

    return {"cache_version": fill, "forward pass": forward}


def write_log(root: Path, rows: int) -> Dataset:
    """Random rows, and one for validation for every 32."""
    rng, records = np.random.default_rng(0), []
    splits: dict[SplitName, int] = {"train": rows, "validation": max(2, rows // 32)}
    for split, count in splits.items():
        for index, start in enumerate(range(0, count, PART_ROWS)):
            size = min(PART_ROWS, count - start)
            columns = {
                "example_id": rng.permutation(size) + start,
                "label": (rng.random(size) < 0.3).astype(np.float32),
            }
            columns |= {f"I{k}": rng.normal(size=size).astype(np.float32) for k in range(DENSE)}
            columns |= {f"C{k}": (IDS * rng.random(size) ** 3).astype(np.int64) for k in range(SPARSE)}
            records.append(write_part(root, DAY, split, index, pa.table(columns)))
    schema = Schema(
        dense=[DenseColumn(name=f"I{k}", mean=0, std=1, source={}) for k in range(DENSE)],
        sparse=[Sparse(name=f"C{k}", kind="single", table=f"C{k}", source={}) for k in range(SPARSE)],
        tables=[Table(name=f"C{k}", rows=IDS, encoding="hash", salt=0) for k in range(SPARSE)],
    )
    write_dataset(root, schema, Manifest(parts=records))
    return Dataset(root)


if __name__ == "__main__":
    main()
