"""A teacher known only by what it said: its Parquet files become a teacher cache.

Rows come in any order, in any number of files, and are joined to the dataset by `example_id` on disk, so that memory
holds one part of the dataset however many there are. Rows that the files lack are absent from the cache; rows that the
dataset lacks are counted and left out.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from recdistill import progress
from recdistill.clicklog.parts import read_part
from recdistill.clicklog.schema import Dataset, Part
from recdistill.clicklog.scratch import Scratch
from recdistill.clicklog.vectors import binary_to_vectors
from recdistill.config.models import FileTeacher
from recdistill.errors import UserError
from recdistill.files import file_sha256, fingerprint
from recdistill.teachers.answers import Answers
from recdistill.teachers.calibration import SAMPLE_ROWS, calibrate
from recdistill.teachers.codes import encode
from recdistill.teachers.shard_file import write_shard
from recdistill.teachers.shards import CachedVersion, Shard, shard_of, shard_path

VERSION = "file"
"""The one version of such a teacher; it stands where others have their final one."""


def import_outside(name: str, spec: FileTeacher, dataset: Dataset, out: Path) -> tuple[int, CachedVersion, list[Shard]]:
    """Writes the shards of an outside teacher into `out`: width of its embedding, its version, its shards.

    A log that keeps each negative with probability w has the odds p / ((1 - p) w): its log-odds are higher by
    -log w. So a logit learned under w_teacher is moved by log w_teacher - log w_dataset, then calibrated on
    validation rows.

    Raises:
        UserError: see `Answers`; or an `example_id` is there twice, none is the dataset's, or none is of a validation
            row, so that the logit cannot be calibrated.
    """
    answers = Answers(spec.paths)
    shift = math.log(spec.negative_keep_rate) - math.log(dataset.schema.negative_keep_rate)
    parts = dataset.parts()
    held_out = _ValidationSample(dataset)
    shards: list[Shard] = []
    with Scratch(out / ".scratch") as scratch:
        scratch.write(answers.schema, answers.read(shift))
        for at, table in _by_part(scratch, parts):
            shards.append(_write(name, answers, parts[at], table, out))
            held_out.add(parts[at], table)
            progress.current().update(f"cache {name}", at, len(parts))
        [(given,)] = scratch.run("SELECT count(*) FROM rows")
    matched = sum(shard.rows for shard in shards)
    if not matched:
        raise UserError(
            f"teacher {name!r}: none of the {given} rows with a logit in {_shown(answers)} has an example_id of the "
            "dataset; were they made for another one? dataset.example_id names the log's column of ids"
        )
    slope, intercept = held_out.calibrate(name)
    note = f"{matched} of {dataset.rows()} rows have an answer; {given - matched} answers are for other rows"
    progress.current().update(f"cache {name}", 1, 1, note)
    version = CachedVersion(
        fingerprint=fingerprint(sorted(file_sha256(source.path) for source in answers.sources)),
        learned_from=f"unknown: it came as {_shown(answers)}",
        seen=spec.seen,
        slope=slope,
        intercept=intercept,
    )
    return answers.dim, version, shards


class _ValidationSample:
    """Validation rows that were answered, at most about `SAMPLE_ROWS` of them, to calibrate a logit on."""

    def __init__(self, dataset: Dataset) -> None:
        self._columns = ["label", *(["weight"] if dataset.schema.has_weight else [])]
        self._fraction = SAMPLE_ROWS / max(1, dataset.rows("validation"))
        self._random = np.random.default_rng(0)
        self._taken: list[pa.Table] = []

    def add(self, part: Part, answers: pa.Table) -> None:
        """Takes some of a part's answers, if it is a validation part."""
        if part.split != "validation":
            return
        answers = answers.filter(pa.array(self._random.random(len(answers)) < self._fraction))
        said = read_part(part, self._columns).take(answers["row"])
        self._taken.append(said.append_column("logit", answers["logit"]))

    def calibrate(self, name: str) -> tuple[float, float]:
        """Slope and intercept; see `cache.calibrate`."""
        if not any(len(taken) for taken in self._taken):
            raise UserError(
                f"teacher {name!r}: its files answer for no validation row, so its logit cannot be calibrated; let it "
                "score validation rows as well"
            )
        rows = pa.concat_tables(self._taken)
        weight = rows["weight"].to_numpy() if "weight" in self._columns else np.ones(len(rows), np.float32)
        return calibrate(rows["logit"].to_numpy(), rows["label"].to_numpy(), weight)


def _by_part(scratch: Scratch, parts: list[Part]) -> Iterator[tuple[int, pa.Table]]:
    """Answers of each part that has any, in its rows' order: `part` and `row` say where in the dataset they belong."""
    files = ", ".join("'" + str(part.path).replace("'", "''") + "'" for part in parts)
    held: list[pa.Table] = []
    for table in scratch.stream(
        "SELECT rows.*, file_index AS part, file_row_number AS row FROM rows JOIN "
        f"read_parquet([{files}], file_row_number = true, hive_partitioning = false) AS dataset "
        "ON rows.example_id = dataset.example_id ORDER BY part, row"
    ):
        part = table["part"].to_numpy()
        edges = [0, *(np.flatnonzero(np.diff(part)) + 1).tolist(), len(part)]
        for start, end in itertools.pairwise(edges):
            piece = table.slice(start, end - start)
            if held and held[0]["part"][0] != piece["part"][0]:
                yield held[0]["part"][0].as_py(), pa.concat_tables(held)
                held = []
            held.append(piece)
    if held:
        yield held[0]["part"][0].as_py(), pa.concat_tables(held)


def _write(name: str, answers: Answers, part: Part, table: pa.Table, out: Path) -> Shard:
    example_id = table["example_id"].to_numpy()
    twice = np.diff(table["row"].to_numpy()) == 0
    if twice.any():
        raise UserError(
            f"teacher {name!r}: example_id {example_id[np.argmax(twice)]} is more than once in {_shown(answers)}; "
            "expected one row an example"
        )
    codes = None
    if answers.dim:
        column = table["embedding"].combine_chunks().cast(answers.schema.field("embedding").type)
        codes = encode(binary_to_vectors(column, answers.schema.field("embedding")))
    path = shard_path(out, part.key, VERSION)
    write_shard(path, example_id, table["logit"].to_numpy(), codes)
    return shard_of(path, part, VERSION)


def _shown(answers: Answers) -> str:
    names = [source.path.name for source in answers.sources]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more files" if len(names) > 3 else "")
