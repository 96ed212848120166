"""The size solver: from a compression ratio to a student's dimension and table sizes, every parameter counted."""

from __future__ import annotations

from recdistill.clicklog.schema import Schema
from recdistill.config.models import Student
from recdistill.errors import UserError
from recdistill.models.shape import Shape, TableShape, shape_of

STEP = 4
"""Fused embedding kernels take dimensions that are multiples of four."""
OWN = 0.75
"""Share of a shrunk table's rows that the most frequent ids keep to themselves."""


def solve(student: Student, schema: Schema, foundation_parameters: int) -> Shape:
    """The largest student of this architecture with at most `foundation_parameters / compression` parameters.

    A row for every id and the largest dimension that fits; if not even the smallest fits, the largest tables are cut
    to one common height, and the ids beyond it share rows by hash.

    Raises `UserError` with the account when no table size fits.
    """
    budget = int(foundation_parameters / student.compression)
    if student.dim is not None:
        return _shrink(shape_of(student, student.dim, schema, student.features), budget)
    best = None
    dim = STEP
    while (shape := shape_of(student, dim, schema, student.features)).parameters() <= budget:
        best = shape
        dim += STEP
    return best or _shrink(shape_of(student, STEP, schema, student.features), budget)


def _shrink(shape: Shape, budget: int) -> Shape:
    if shape.parameters() <= budget:
        return shape
    low, high = 2, max(table.rows for table in shape.tables)
    if _cut(shape, low).parameters() > budget:
        account = ", ".join(f"{place} {count:,}" for place, count in _cut(shape, low).account().items())
        raise UserError(
            f"student: {budget:,} parameters (the foundation's over student.compression) are too few even with two "
            f"rows a table ({account}); make student.top or student.bottom narrower, use interaction: none, "
            "drop features, or lower student.compression"
        )
    while low + 1 < high:
        middle = (low + high) // 2
        if _cut(shape, middle).parameters() <= budget:
            low = middle
        else:
            high = middle
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
