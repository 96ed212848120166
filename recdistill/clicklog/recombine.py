"""Rows that nobody was shown: rows of the log with some of their features taken from other rows.

A user in a context, before an item that was shown to somebody else. They have no label, but teachers can say what they
think of them, so a student can learn from more rows than there are impressions. What it learns there is the teachers'
function and not the labels: a patient student of a fixed teacher (Beyer et al., arXiv 2106.05237) on inputs as Tang
and Wang (arXiv 1809.07428) have them, items that a user did not meet.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from recdistill.clicklog.parts import read_part, write_part
from recdistill.clicklog.schema import PART_ROWS, Dataset, Manifest, PartRecord, SplitName, write_dataset
from recdistill.config.job import Recombine
from recdistill.progress import Progress, silent


def recombine(
    dataset: Dataset,
    settings: Recombine,
    out: Path,
    progress: Progress = silent,
    split: SplitName = "train",
) -> Dataset:
    """Writes a dataset of recombined rows, its only split `unlabelled`, into the folder `out`.

    Each part of `split` gives `settings.rows` times its rows. A row starts as a random one of the part; then one or
    more of the groups of features, every choice of groups alike, come from other random rows of the same part: the same
    day, so that the times fit. Labels are not read. The result follows from dataset, settings and split alone.
    """
    schema = dataset.schema
    features = [*(column.name for column in schema.dense), *(sparse.name for sparse in schema.sparse)]
    records: list[PartRecord] = []
    parts = dataset.parts(split)
    written: dict[str, int] = {}
    for done, part in enumerate(parts):
        shown = read_part(part, features).combine_chunks()
        random = np.random.default_rng([settings.seed, done])
        for rows in _pieces(round(part.rows * settings.rows)):
            made = _recombined(shown, settings, rows, random)
            ids = np.arange(rows, dtype=np.int64) + len(records) * PART_ROWS
            index = written.get(part.day, 0)
            written[part.day] = index + 1
            records.append(
                write_part(out, part.day, "unlabelled", index, made.add_column(0, "example_id", pa.array(ids)))
            )
        progress.update("recombine", done + 1, len(parts))
    write_dataset(out, schema, Manifest(parts=records))
    return Dataset(out)


def _pieces(rows: int) -> Iterator[int]:
    while rows > 0:
        yield min(rows, PART_ROWS)
        rows -= PART_ROWS


def _recombined(shown: pa.Table, settings: Recombine, rows: int, random: np.random.Generator) -> pa.Table:
    choices = list(itertools.product([False, True], repeat=len(settings.groups)))[1:]
    swapped = np.array(choices)[random.integers(0, len(choices), rows)]
    base = random.integers(0, shown.num_rows, rows)
    at = {name: base for name in shown.column_names}
    for place, group in enumerate(settings.groups):
        source = np.where(swapped[:, place], random.integers(0, shown.num_rows, rows), base)
        at.update(dict.fromkeys(group, source))
    return pa.table({name: shown[name].take(pa.array(at[name])) for name in shown.column_names})
