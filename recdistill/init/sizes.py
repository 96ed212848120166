"""How large the models are: a foundation that a laptop trains in minutes, and a student that fits 38 times into it."""

from __future__ import annotations

from collections import Counter

import numpy as np

from recdistill.clicklog.schema import DenseColumn, Schema, Sparse, Table
from recdistill.config.dataset import Bag, Bucket, Dense, Single
from recdistill.config.job import Tune
from recdistill.config.models import DlrmTeacher, Student, Train
from recdistill.errors import UserError
from recdistill.evaluate.metrics import Array
from recdistill.init.features import Choice
from recdistill.init.profile import Profile
from recdistill.models.shape import shape_of
from recdistill.models.size import solve

_COMPRESSIONS = (38, 20, 10, 5, 2)
_SHAPES = ({"top": [16]}, {"top": [16], "interaction": "none"}, {"top": [8], "interaction": "none"})
_TRAINED = 0.7
"""The share of the rows that at least trains."""
SEEN, LEAST_EPOCHS, MOST_EPOCHS, CHECKS = 8_000_000, 2, 30, 8
"""Rows that a student learns from at most, over all epochs; bounds of these; checks that there are at least."""
RATES = [0.02, 0.1]
"""Rates of tables that models are tried with: logs want one or the other, and lose much by the wrong one."""
TRIED = 2_000_000
"""Rows of a log for which to try rates takes too long."""
WIDTH = 512
"""Of what enters a layer of crosses, at most, but for logs of more than 128 features."""
NEWEST = 4.0
"""Recombined rows for each row of the validation days, where only these are recombined."""
MANY = 0.1
"""Rows of a table, beside those of the one that it follows from, that are worth having back (MovieLens-1M, in
tests/benchmarks/LEDGER.md)."""
_MARGIN = 1.2
"""The whole log may hold fewer frequent values than the sample promises."""


def choose_teacher(rows: int) -> DlrmTeacher:
    """The foundation for a log of about so many rows."""
    dim, top, batch = 128, [256, 128], 4096
    if rows < 1_000_000:
        batch = 2048
    if rows < 200_000:
        dim, top, batch = 64, [128, 64], 1024
    if rows < 20_000:
        dim, top, batch = 16, [64, 32], 256
    train = {"batch_size": batch, "epochs": 5, "checks_per_epoch": 4, "patience": 3}
    spec = {"kind": "dlrm", "dim": dim, "top": top, "dropout": 0.2, "train": train}
    return DlrmTeacher.model_validate({**spec, "embedding_rates": RATES if rows < TRIED else []})


def choose_second(foundation: DlrmTeacher, fields: int) -> DlrmTeacher:
    """A teacher that sees what the foundation sees, of so many features, and goes about it in another way.

    Two that err in different places are a better committee than one and an expert that sees less of a row
    (tests/benchmarks/LEDGER.md). A layer of crosses has as many parameters as its input's width, squared: that is
    bounded.
    """
    dim = min(foundation.dim // 2, 1 << max(4, WIDTH // fields).bit_length() - 1)  # a power of two
    return foundation.model_copy(update={"interaction": "cross", "dim": dim, "dropout": 0.4})


def choose_training(rows: int) -> tuple[Train, Tune]:
    """How a student learns a log of about so many rows: until it learns no more, or has seen some millions of them.

    Rates, and epochs at that rate, are what students of the ready jobs were found to want: fewer leave a small student
    far from what it can be (tests/benchmarks/LEDGER.md).
    """
    epochs = min(MOST_EPOCHS, max(LEAST_EPOCHS, round(SEEN / rows)))
    batch = 256 if rows < 20_000 else 1024 if rows < 2_000_000 else 4096
    train = Train(
        batch_size=batch,
        epochs=epochs,
        checks_per_epoch=max(1, CHECKS // epochs),
        patience=3,
        embedding_rate=RATES[-1],
        dense_rate=3e-3,
    )
    return train, Tune(trials=len(RATES), embedding_rate=RATES) if rows < TRIED else Tune()


def choose_recombined(rows: int) -> float:
    """Recombined rows for each training row: the shorter a log is, the more is learned from them."""
    return 4.0 if rows < 20_000 else 2.0 if rows < 500_000 else 1.0


def choose_student(
    features: dict[str, Choice], columns: dict[str, Profile], teacher: DlrmTeacher
) -> tuple[Student, list[str]]:
    """The first student that the size solver can build, 38 times smaller if it can be, and doubts.

    Raises:
        UserError: not even one of half the foundation's size can be built.
    """
    schema = _schema(features, columns)
    budget = int(shape_of(teacher, teacher.dim, schema, None).parameters() / _MARGIN)
    for compression in _COMPRESSIONS:
        for shape in _SHAPES:
            student = Student.model_validate({"compression": compression, **shape})
            try:
                solve(student, schema, budget)
            except UserError:
                continue
            said = f"the student is {compression} times smaller than its foundation: the log is too small for 38"
            return student, [] if compression == _COMPRESSIONS[0] else [said]
    raise UserError("the log has too few different values for a student smaller than its teacher; expected more ids")


def choose_without(features: dict[str, Choice], columns: dict[str, Profile], owned: dict[str, list[str]]) -> list[str]:
    """What a student that has too few rows for all may do better without.

    Of what follows from a feature, by that one's name, those whose tables take many rows beside it.
    """
    rows = {table.name: table.rows for table in _schema(features, columns).tables}
    least = {owner: MANY * rows[owner] for owner in owned if owner in rows}  # a number has no table
    return list(dict.fromkeys(name for owner in least for name in owned[owner] if rows.get(name, 0) >= least[owner]))


def _schema(features: dict[str, Choice], columns: dict[str, Profile]) -> Schema:
    """What ingest would find at least: values that are frequent enough in the sample."""
    sparse, dense, tables = [], [], []
    for name, choice in features.items():
        kind, column = choice.kind, columns[choice.column]
        if isinstance(kind, Dense):
            dense.append(DenseColumn(name=name, mean=0, std=1, source={}))
            continue
        shared = getattr(kind, "share", None)
        sparse.append(Sparse(name=name, kind="single", table=shared or name, source={}))
        if shared:
            continue
        if isinstance(kind, Bucket):
            rows = min(kind.bins, column.distinct) + 1
        else:
            assert isinstance(kind, Single | Bag)
            counts = _counts(column, getattr(kind, "delimiter", None))
            rows = int(np.sum(_TRAINED * counts >= kind.min_count)) + 2
        tables.append(Table(name=name, rows=rows, encoding="vocabulary"))
    return Schema(sparse=sparse, dense=dense, tables=tables)


def _counts(column: Profile, delimiter: str | None) -> Array:
    """How often each piece of a column's values is there."""
    total: Counter[str] = Counter()
    for pieces, count in zip(column.cut(delimiter), np.bincount(column.codes[column.codes >= 0]), strict=True):
        for piece in pieces:
            total[piece] += int(count)
    return np.array([*total.values()])
