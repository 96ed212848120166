"""Rows that nobody was shown: rows of the log with some of their features taken from other rows.

A user in a context, before an item that was shown to somebody else. They have no label, but teachers can say what they
think of them, so a student can learn from more rows than there are impressions. What it learns there is the teachers'
function and not the labels: a patient student of a fixed teacher (Beyer et al., arXiv 2106.05237) on inputs as Tang
and Wang (arXiv 1809.07428) have them, items that a user did not meet.

What changes places decides what such rows are worth. An item with all that is its own is best, for so its user and its
moment are as they were. What moves, such as how often an item was clicked in the last hour, is not its own where days
bring new items: in the log old items have low counts, a student goes by the item alone, and is wrong on the day on
which an old one is read again, which no row of the validation day tells. So such counts change places by themselves
(measured on Globo, a day and two ahead). Where it is not known what an item is, columns that follow from one another
stay together, and each such group comes from another row with even odds, as attributes do in Bucila, Caruana and
Niculescu-Mizil's MUNGE ("Model compression", KDD 2006); from one other row together they are worth less. Measured on
Frappe, with and without the names of its columns, and on Criteo's log (all in tests/benchmarks/LEDGER.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from recdistill.clicklog.match import with_matches
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
    day, so that the times fit. `settings` are those that `Recombine.over` gives. Labels are not read. The result
    follows from dataset, settings and split alone.
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
            made = with_matches(_recombined(shown, settings, rows, random), schema)
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
    count = len(settings.groups)
    choice = random.integers(0, (1 << count) - 1, rows) + 1
    base = random.integers(0, shown.num_rows, rows)
    made = {}
    for place, group in enumerate(settings.groups):
        elsewhere = choice >> (count - 1 - place) & 1 == 1
        source = pa.array(np.where(elsewhere, random.integers(0, shown.num_rows, rows), base))
        made.update({name: shown[name].take(source) for name in group})
    stay = pa.array(base)
    return pa.table({name: made[name] if name in made else shown[name].take(stay) for name in shown.column_names})
