"""The size solver: from a compression ratio to table sizes, every parameter counted."""

from __future__ import annotations

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


def solve(student: Student, schema: Schema, foundation_parameters: int) -> list[Shape]:
    """The students that fit into `foundation_parameters / compression` parameters, one for each of `student.dims`.

    They are in the order of their dimensions, the narrowest first; of each dimension one with all features, then one
    for each of `student.without`, and of each of these one for each of `student.unknowns`, the largest first.

    Each has a row for every id if it can; if not, its largest tables are cut to one common height, and the ids beyond
    it share rows by hash. Only then is there any that leaves features out. Which is best is a question for data.

    Raises `UserError` with the account when none fits, whatever its tables.
    """
    budget = int(foundation_parameters / student.compression)
    shapes = [shape_of(student, dim, schema, student.features) for dim in sorted(set(student.dims or DIMS))]
    fitting = [cut for shape in shapes if (cut := _shrink(shape, budget)) is not None]
    if not fitting:
        account = ", ".join(f"{place} {count:,}" for place, count in _cut(shapes[0], LEAST).account().items())
        raise UserError(
            f"student: {budget:,} parameters (the foundation's over student.compression) are too few even with {LEAST} "
            f"rows a table ({account}); make student.top or student.bottom narrower, use interaction: none, "
            "drop features, or lower student.compression"
        )
    chosen = fitting if student.dims else _likely(fitting)
    chosen = [one for shape in chosen for one in (shape, *_without(student, shape, schema, budget))]
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


def _without(student: Student, shape: Shape, schema: Schema, budget: int) -> list[Shape]:
    """The same without features, where it has no row for every id."""
    if _is_whole(shape):
        return []
    rest = [[name for name in shape.features if name not in names] for names in student.without]
    cut = [_shrink(shape_of(student, shape.dim, schema, features), budget) for features in rest]
    return [one for one in cut if one is not None and len(one.features) < len(shape.features)]


def _shrink(shape: Shape, budget: int) -> Shape | None:
    """The shape with tables as high as the budget allows, or None where not even the lowest fit."""
    if shape.parameters() <= budget:
        return shape
    if _cut(shape, LEAST).parameters() > budget:
        return None
    low, high = LEAST, max(table.rows for table in shape.tables)
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (middle, high) if _cut(shape, middle).parameters() <= budget else (low, middle)
    return _cut(shape, low)


def _cut(shape: Shape, height: int) -> Shape:
    tables = [
        table
        if table.rows <= height
        else TableShape(
            name=table.name,
            features=table.features,
            rows=height,
            source_rows=table.source_rows,
            own=max(1, int(height * OWN)),
        )
        for table in shape.tables
    ]
    return shape.model_copy(update={"tables": tables})
