"""The student alone: what serving needs, and no trace of who taught it.

student/model.json           its shape
student/weights.safetensors  its numbers
student/schema.json          what its features mean
student/vocabulary/          the values behind its ids
student/check.parquet        rows and the logits it gave for them when it was exported
"""

from __future__ import annotations

import itertools
import json
import math
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from recdistill.clicklog.batches import Block
from recdistill.clicklog.encode import POSITION, encode_log, raw_log
from recdistill.clicklog.match import with_sources
from recdistill.clicklog.schema import Dataset, Schema, read_schema
from recdistill.clicklog.scratch import Scratch
from recdistill.clicklog.typed import Counts
from recdistill.errors import UserError
from recdistill.files import atomic, file_sha256
from recdistill.models.dlrm import DLRM
from recdistill.models.frozen import load_model
from recdistill.models.sharding import device
from recdistill.progress import Progress, silent
from recdistill.remote import Remote

CHECK_ROWS = 256
TOLERANCE = 1e-4
"""Logits of the check may differ by this much: other processors add in another order."""
BATCH = 8192
SCORES = pa.schema([("example_id", pa.int64()), ("probability", pa.float32())])
EXPECTED, FILES = "expected_logit", b"files"


def export_student(trained: Path, dataset: Dataset, out: Path) -> None:
    """Writes the student of a `distill` unit into the work folder `out`, then scores its own check once."""
    for name in ("model.json", "weights.safetensors"):
        shutil.copyfile(trained / name, out / name)
    shutil.copyfile(dataset.root / "schema.json", out / "schema.json")
    if (dataset.root / "vocabulary").exists():
        shutil.copytree(dataset.root / "vocabulary", out / "vocabulary", dirs_exist_ok=True)
    model = load_model(out)
    table = pq.ParquetFile(dataset.parts("test")[0].path).read_row_group(0).slice(0, CHECK_ROWS)
    table = table.select(["example_id", *with_sources(dataset.schema, model.shape.features)])
    logit = _logits(model, table, dataset.schema)
    check = table.append_column(EXPECTED, pa.array(logit.numpy(), pa.float32()))
    with atomic(out / "check.parquet") as partial:
        about = {FILES: json.dumps(_digests(out))}
        pq.write_table(check.replace_schema_metadata(about), partial, write_page_checksum=True, write_statistics=False)
    open_student(out)


def open_student(folder: Path) -> tuple[DLRM, Schema]:
    """The student in `folder` and its schema, after it has scored its check.

    Raises `UserError` when it does not give the logits that it gave when it was exported.
    """
    if not (folder / "model.json").exists():
        inside = folder / "student"
        meant = f"did you mean {inside}?" if inside.exists() else "expected one such as runs/demo/student"
        raise UserError(f"{folder}: is no exported student, for it has no model.json: {meant}")
    model, schema = load_model(folder).at_once(), read_schema(folder)
    path = folder / "check.parquet"
    if not path.exists():
        raise UserError(f"{path}: not there; a student's folder holds it, so copy the whole folder")
    try:
        table = pq.read_table(path, partitioning=None, page_checksum_verification=True)
        same = json.loads((table.schema.metadata or {}).get(FILES, b"0")) == _digests(folder)
        expected = torch.from_numpy(table[EXPECTED].to_numpy().copy())
        worst = float((_logits(model, table, schema) - expected).abs().max())
    except Exception as error:  # whatever a file that is none of ours leads to
        raise UserError(
            f"{path}: damaged, or not of this student ({error}); copy the whole folder again, or export again"
        ) from None
    if not same:
        raise UserError(f"{folder}: its schema or a vocabulary is not the one that it was exported with; export again")
    if not worst <= TOLERANCE:
        raise UserError(
            f"{folder}: the student's logits differ by up to {worst:.2g} from those of its export (check.parquet); "
            "its files were changed or belong to different exports: export again"
        )
    return model.to(device()), schema


def score(
    student: Path, logs: Sequence[str | Path | Remote], out: Path, progress: Progress = silent
) -> dict[str, float]:
    """Writes `example_id` and `probability` (float32) of each row of a raw log, in its order, to `out`, as Parquet.

    Probabilities speak about true traffic: where negatives were sampled with keep-rate w, the sampled log's odds are
    the true odds over w, so log w is added to the logit.

    Returns:
        Of single features, the share of rows with a value that no training row had.
    """
    model, schema = open_student(student)
    shift = math.log(schema.negative_keep_rate)
    counts: Counts = Counter()
    tables = encode_log(student, raw_log(student, [str(path) for path in logs]), positions=True, counts=counts)
    done = 0

    def scored() -> Iterator[pa.Table]:
        nonlocal done
        for table in tables:
            probability = torch.sigmoid(_logits(model, table, schema) + shift)
            kept = table.select([name for name in ("example_id", POSITION) if name in table.column_names])
            yield kept.add_column(1, "probability", pa.array(probability.numpy(), pa.float32()))
            done += table.num_rows
            progress.update("score", done, done + 1, f"{done:,} rows")
        progress.update("score", done, done)

    with atomic(out) as partial, pq.ParquetWriter(partial, SCORES) as writer:
        for table in _in_the_logs_order(scored()):
            writer.write_table(table.select(SCORES.names).cast(SCORES))
    single = [feature.name for feature in schema.sparse if feature.kind == "single"]
    return {name: counts["unseen", name] / done for name in single} if done else {}


def _in_the_logs_order(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Rows that histories had put into the order of time, as they stood in the log."""
    first = next(tables, None)
    if first is None:
        return
    tables = itertools.chain([first], tables)
    if POSITION not in first.column_names:
        yield from tables
        return
    with tempfile.TemporaryDirectory() as folder, Scratch(Path(folder) / "scratch") as scratch:
        scratch.write(first.schema, (batch for table in tables for batch in table.to_batches()))
        yield from scratch.stream(f'SELECT * FROM rows ORDER BY "{POSITION}"')


def _digests(folder: Path) -> dict[str, str]:
    """Checksums of what ids are made with: without these files' own ids, logits say nothing."""
    files = [folder / "schema.json", *sorted((folder / "vocabulary").glob("*"))]
    return {path.name: file_sha256(path) for path in files}


@torch.no_grad()
def _logits(model: DLRM, table: pa.Table, schema: Schema) -> torch.Tensor:
    """Logits float32 [N] of encoded rows."""
    block = Block(table.select(["example_id", *model.shape.features]), schema)
    where = next(model.parameters()).device
    parts = [
        model(block.cut(start, min(start + BATCH, block.rows)).to(where))[0].cpu()
        for start in range(0, block.rows, BATCH)
    ]
    return torch.cat(parts)
