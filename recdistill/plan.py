"""What a job's models take before anything starts: tables, their shards, bytes of each rank, and whether they fit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from recdistill import parallel
from recdistill.clicklog.schema import DenseColumn, Schema, Sparse, Table, read_schema
from recdistill.config import Job
from recdistill.config.dataset import Bag, Bucket, History, Number, Single
from recdistill.config.models import DlrmTeacher, FileTeacher
from recdistill.errors import UserError
from recdistill.files import SUCCESS
from recdistill.models.dlrm import DLRM
from recdistill.models.shape import Shape, shape_of
from recdistill.models.sharding import cut_by_rows, device, memory, plan_for, quiet
from recdistill.models.size import left_out, solve

FLOAT = 4
DENSE_COPIES = 4
"""Of a dense weight: itself, its gradient, Adam's two moments."""


def plan_job(job: Job, run: Path | None, world: int) -> dict[str, Any]:
    """The account of every model that the job trains under `world` ranks of this machine.

    Table sizes are those of the dataset in the run folder, or what the job declares (hash, bins, max_values).

    Raises `UserError` when neither tells them all.
    """
    cut_by_rows(job.launch.row_wise)
    schema = _ingested(job, run) or _declared(job)
    models = [_account(name, shape, batch, world) for name, shape, batch in _shapes(job, schema)]
    return {
        "ranks": world,
        "device": device().type,
        "memory": memory(world),
        "fits": all(model["fits"] for model in models),
        "models": models,
    }


def _shapes(job: Job, schema: Schema) -> Iterator[tuple[str, Shape, int]]:
    """Each model's name, shape and global batch size."""
    counts, known = {}, dict[str, int]()
    for name, member in job.teachers.members.items():
        if isinstance(member, DlrmTeacher):
            shape = shape_of(member, member.dim, schema, member.features)
            counts[name] = shape.parameters()
            if name == job.teachers.foundation:
                known = shape.known
            yield name, shape, member.train.batch_size
        elif isinstance(member, FileTeacher):
            counts[name] = member.parameters
    students = {}  # a share of unknown ids changes no size
    for shape in solve(job.student, schema, counts[job.teachers.foundation], known):
        told, gone = [f"student, dim {shape.dim}"], left_out(job.student, shape)
        told += [f"without {', '.join(gone)}"] if gone else []
        told += ["ids clustered"] if shape.clusters else []
        students[", ".join(told)] = shape
    for name, shape in students.items():
        yield name, shape, job.distill.train.batch_size


def _account(name: str, shape: Shape, batch_size: int, world: int) -> dict[str, Any]:
    """A model's tables with their shards, each rank's bytes, and whether they fit; `why` not, if the planner says so.

    A rank holds most while it trains, or at the beginning, when the model is there as it was built, whole, beside the
    rank's shards of it; on a machine with GPUs the whole one is in the machine's own memory.
    Rows are those that are stored, several narrow vectors to one.
    """
    whole = FLOAT * shape.parameters()
    found = {"model": name, "parameters": shape.parameters(), "whole": whole}
    try:
        with quiet():
            placed = plan_for(DLRM(shape, torch.device("meta")), world, world, batch_size).plan["embeddings"]
    except UserError as error:
        return {**found, "tables": [], "bytes": [], "fits": False, "why": str(error)}
    tables = []
    for table in shape.tables:
        cut = placed[table.module]
        rows = [0] * world
        for rank, shard in zip(cut.ranks, cut.sharding_spec.shards, strict=True):
            rows[rank] += shard.shard_sizes[0]
        stored = shape.height(table)
        tables.append({"table": table.name, "rows": stored, "sharding": cut.sharding_type, "rows_of_rank": rows})
    each = [_bytes(shape, tables, batch_size, world, rank) for rank in range(world)]
    state = max(sum(one.values()) - one["batch"] for one in each)
    training = max(sum(one.values()) for one in each)
    beside, room = (state, memory(world)) if device().type == "cpu" else (0, parallel.memory() // world)
    fits = training <= memory(world) and beside + whole <= room
    return {**found, "tables": tables, "bytes": each, "fits": fits}


def _bytes(shape: Shape, tables: list[dict[str, Any]], batch_size: int, world: int, rank: int) -> dict[str, int]:
    """What one rank holds while it trains, by purpose; tables are under row-wise Adagrad: one number a row."""
    features = {table.name: sum(len(shape.keys(name)) for name in table.features) for table in shape.tables}
    rows = sum(table["rows_of_rank"][rank] for table in tables)
    looked_up = sum(features[table["table"]] for table in tables if table["rows_of_rank"][rank])
    dense = shape.parameters() - shape.account()["tables"] - shape.clusters
    return {
        "tables": FLOAT * rows * shape.width,
        "optimizer": FLOAT * rows,
        "dense": FLOAT * (DENSE_COPIES * dense + shape.clusters),
        "batch": _batch_bytes(shape, batch_size, world, looked_up),
    }


def _batch_bytes(shape: Shape, batch_size: int, world: int, looked_up: int) -> int:
    """An estimate of what a step holds: each activation of this rank's rows and its gradient, and the vectors that this
    rank looks up for everybody's. Bags are taken to have one id.
    """
    widths = len(shape.dense) + sum(shape.bottom) + 2 * shape.flat + shape.interacted + sum(shape.top) + 1
    if shape.interaction == "cross":
        widths += 2 * shape.cross_layers * shape.flat
    own, ids = -(-batch_size // world), 8 * len(shape.sparse)
    return own * (2 * FLOAT * widths + ids) + 2 * FLOAT * batch_size * looked_up * shape.width


def _ingested(job: Job, run: Path | None) -> Schema | None:
    """The schema of a finished ingest; a `UserError` when it is that of other features."""
    folder = None if run is None else run / "stages" / "ingest"
    if folder is None or not (folder / SUCCESS).exists():
        return None
    schema = read_schema(folder)
    names = {part.name for part in schema.sparse} | {part.name for part in schema.dense}
    if names != set(job.dataset.features):
        changed = ", ".join(sorted(names ^ set(job.dataset.features)))
        raise UserError(f"{folder}: was ingested with other features than the job has now ({changed}); ingest again")
    return schema


def _declared(job: Job) -> Schema:
    """A schema with the most rows that each table may have by the job itself."""
    sparse, dense, tables, unknown = [], [], [], []
    for name, feature in job.dataset.features.items():
        if isinstance(feature, Number):
            dense.append(DenseColumn(name=name, mean=0.0, std=1.0, source={}))
            continue
        shared = feature.of if isinstance(feature, History) else getattr(feature, "share", None)
        kind = "bag" if isinstance(feature, Bag | History) else "single"
        sparse.append(Sparse(name=name, kind=kind, table=shared or name, source={}))
        if shared is None:
            assert isinstance(feature, Single | Bag | Bucket)
            rows = _most_rows(feature)
            tables.append(Table(name=name, rows=rows or 0, encoding="vocabulary"))
            unknown += [] if rows else [name]
    if unknown:
        raise UserError(
            f"the log has not been read, so nobody knows how many ids there are of {', '.join(unknown)}: `recdistill "
            "ingest JOB.yaml --out RUN` first, then `recdistill plan JOB.yaml --out RUN`; or give them max_values or a "
            "hash"
        )
    return Schema(sparse=sparse, dense=dense, tables=tables)


def _most_rows(feature: Single | Bag | Bucket) -> int | None:
    if isinstance(feature, Bucket):
        return feature.bins + 1
    most = feature.hash.size if feature.hash is not None else feature.max_values
    return None if most is None else most + 1
