"""The size solver: from a compression ratio to table sizes, every parameter counted."""

from __future__ import annotations

from collections.abc import Mapping

from recdistill.clicklog.schema import Schema
from recdistill.config.models import Student
from recdistill.errors import UserError
from recdistill.models.shape import Shape, TableShape, shape_of

DIMS, MOST = (1, 2, 4, 8, 16, 32, 64), 4
"""Dimensions to try where a job names none, and how many of them at most."""
LEAST = 2
"""Rows that a table keeps at least: one of its own for the most frequent id, one for all others."""
OWN = 0.75
"""Share of a shrunk table's rows that the most frequent ids keep to themselves."""
CLUSTERED = 0.5
"""Clustered ids that a shrunk table has at most for each number in its rows."""
NOTHING: Mapping[str, int] = {}


def solve(
    student: Student, schema: Schema, foundation_parameters: int, known: Mapping[str, int] = NOTHING
) -> list[Shape]:
    """The students that fit into `foundation_parameters / compression` parameters, one for each of `student.dims`.

    They are in the order of their dimensions, the narrowest first; of each dimension one with all features, then one
    for each of `student.without`, and of each of these one for each of `student.unknowns`, the largest first.

    Each has a row for every id if it can; if not, its largest tables are cut to one common height, and the ids beyond
    it share rows: by hash, and in one more shape by likeness, where the foundation has vectors of them, of the first
    `known[table]`. Only then is there any that leaves features out. Which is best is a question for data.

    Raises `UserError` with the account when none fits, whatever its tables.
    """
    budget, known = int(foundation_parameters / student.compression), NOTHING if student.share == "hash" else known
    shapes = [shape_of(student, dim, schema, student.features) for dim in sorted(set(student.dims or DIMS))]
    fitting = [cut for shape in shapes if (cut := _shrink(shape, budget, known)) is not None]
    if not fitting:
        account = ", ".join(f"{place} {count:,}" for place, count in _cut(shapes[0], LEAST).account().items() if count)
        raise UserError(
            f"student: {budget:,} parameters (the foundation's over student.compression) are too few even with {LEAST} "
            f"rows a table ({account}); make student.top or student.bottom narrower, use interaction: none, "
            "drop features, or lower student.compression"
        )
    chosen = fitting if student.dims else _likely(fitting)
    chosen = [one for shape in chosen for one in (shape, *_without(student, shape, schema, budget, known))]
    chosen = [one for shape in chosen for one in _ways(student, shape, schema, budget)]
    shares = sorted(set(student.unknowns or [student.unknown]), reverse=True)
    return [shape.model_copy(update={"unknown": share}) for shape in chosen for share in shares]


def left_out(student: Student, shape: Shape) -> list[str]:
    """Which of `student.without` a shape does without: the largest set, or nothing."""
    return max((names for names in student.without if not {*names} & {*shape.features}), key=len, default=[])


def _likely(fitting: list[Shape]) -> list[Shape]:
    """Without those narrower than another that has a row for every id, and without the widest of many."""
    whole = [at for at, shape in enumerate(fitting) if _is_whole(shape)]
    return fitting[max(whole, default=0) :][:MOST]


def _is_whole(shape: Shape) -> bool:
    """Whether it has a row for every id."""
    return all(table.rows == table.source_rows for table in shape.tables)


def _without(student: Student, shape: Shape, schema: Schema, budget: int, known: Mapping[str, int]) -> list[Shape]:
    """The same without features, where it has no row for every id."""
    if _is_whole(shape):
        return []
    rest = [[name for name in shape.features if name not in names] for names in student.without]
    cut = [_shrink(shape_of(student, shape.dim, schema, features), budget, known) for features in rest]
    return [one for one in cut if one is not None and len(one.features) < len(shape.features)]


def _ways(student: Student, shape: Shape, schema: Schema, budget: int) -> list[Shape]:
    """A shape, and before it one whose ids share rows by hash alone, where they do otherwise and may do either."""
    either = shape.clusters and student.share is None
    hashed = _shrink(shape_of(student, shape.dim, schema, shape.features), budget, NOTHING) if either else None
    return [shape] if hashed is None else [hashed, shape]


def _shrink(shape: Shape, budget: int, known: Mapping[str, int]) -> Shape | None:
    """The shape with tables as high as the budget allows, or None where not even the lowest fit."""
    if shape.parameters() <= budget:
        return shape
    if _cut(shape, LEAST, known).parameters() > budget:
        return _shrink(shape, budget, NOTHING) if known else None
    low, high = LEAST, max(table.rows for table in shape.tables)
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (middle, high) if _cut(shape, middle, known).parameters() <= budget else (low, middle)
    return _cut(shape, low, known)


def _cut(shape: Shape, height: int, known: Mapping[str, int] = NOTHING) -> Shape:
    tables = [
        table if table.rows <= height else _lowered(table, height, shape.dim, known.get(table.name, 0))
        for table in shape.tables
    ]
    return shape.model_copy(update={"tables": tables})


def _lowered(table: TableShape, height: int, dim: int, known: int) -> TableShape:
    """A table with fewer rows than ids. Where a row is one number, to say which one an id has would take as much."""
    own = max(1, int(height * OWN))
    clustered = max(0, min(known - own, int(CLUSTERED * height * dim))) if dim > 1 else 0
    return table.model_copy(update={"rows": height, "own": own, "clustered": clustered})
