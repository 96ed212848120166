from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recdistill.clicklog.schema import DenseColumn, Schema, Sparse, Table
from recdistill.config.models import Architecture, Student
from recdistill.errors import UserError
from recdistill.models.dlrm import DLRM
from recdistill.models.shape import Shape, shape_of
from recdistill.models.size import left_out, solve


def make_schema(rows: list[int], dense: int, shared: bool = False) -> Schema:
    """A table and a feature for each of `rows`; with `shared`, one more feature looks up the first table."""
    names = [f"f{number}" for number in range(len(rows))]
    features = [*zip(names, names, strict=True), *([("again", "f0")] if shared else [])]
    return Schema(
        sparse=[Sparse(name=name, kind="bag", table=table, source={}) for name, table in features],
        dense=[DenseColumn(name=f"d{number}", mean=0.0, std=1.0, source={}) for number in range(dense)],
        tables=[Table(name=name, rows=size, encoding="hash") for name, size in zip(names, rows, strict=True)],
    )


schemas = st.builds(
    make_schema, st.lists(st.integers(2, 60), min_size=1, max_size=4), st.integers(0, 3), shared=st.booleans()
)
widths = st.lists(st.integers(1, 12), min_size=1, max_size=3)
layouts: dict[str, Any] = {
    "bottom": st.lists(st.integers(1, 12), max_size=2),
    "interaction": st.sampled_from(["dot", "cross", "none"]),
    "cross_layers": st.integers(1, 3),
    "top": widths,
    "dropout": st.sampled_from([0.0, 0.5]),
}


def real(shape: Shape) -> int:
    return sum(value.numel() for value in DLRM(shape).state_dict().values())


@settings(max_examples=60)
@given(schema=schemas, layout=st.builds(Architecture, **layouts), dim=st.sampled_from([1, 2, 4, 8]))
def test_every_parameter_is_counted(schema: Schema, layout: Architecture, dim: int) -> None:
    shape = shape_of(layout, dim, schema, None)
    model = DLRM(shape)
    assert shape.parameters() == real(shape)
    places = {"tables": model.embeddings, "bottom": model.bottom, "interaction": model.cross}
    counted = {
        place: sum(value.numel() for value in part.parameters()) if part is not None else 0
        for place, part in places.items()
    }
    assert {place: shape.account()[place] for place in places} == counted


@settings(max_examples=60)
@given(
    schema=schemas,
    dims=st.lists(st.sampled_from([1, 2, 4, 8, 12]), min_size=1, max_size=4),
    compression=st.floats(1, 100),
    layout=st.fixed_dictionaries(layouts),
    foundation=st.integers(100, 200_000),
    known=st.dictionaries(st.sampled_from(["f0", "f1", "f2"]), st.integers(0, 60)),
)
def test_the_solver_never_exceeds_its_budget(
    schema: Schema, dims: list[int], compression: float, layout: dict[str, Any], foundation: int, known: dict[str, int]
) -> None:
    known = {table.name: min(table.rows, known.get(table.name, 0)) for table in schema.tables}
    student = Student(compression=compression, dims=dims, **layout)
    fitting = [dim for dim in sorted(set(dims)) if lowest(student, dim, schema) <= int(foundation / compression)]
    if not fitting:
        with pytest.raises(UserError, match="are too few even with 2 rows a table"):
            solve(student, schema, foundation, known)
        return
    shapes = solve(student, schema, foundation, known)
    assert [shape.dim for shape in shapes if not shape.clusters] == fitting
    for at, shape in enumerate(shapes):
        if shape.clusters:  # after the one without
            assert shapes[at - 1].model_copy(update={"tables": shape.tables}) == shape
        assert foundation / real(shape) >= compression
        for table, source in zip(shape.tables, schema.tables, strict=True):
            assert 2 <= table.rows <= table.source_rows == source.rows
            assert table.own == table.rows if table.rows == table.source_rows else 1 <= table.own < table.rows
            shares = known[table.name] > table.own and shape.dim > 1 and table.rows < table.source_rows
            assert (table.clustered > 0) == (shares and shape.clusters > 0)
            assert table.clustered <= max(0, known[table.name] - table.own)


def lowest(student: Student, dim: int, schema: Schema) -> int:
    """Parameters with two rows a table."""
    shape = shape_of(student, dim, schema, None)
    tables = [table.model_copy(update={"rows": min(2, table.rows)}) for table in shape.tables]
    return shape.model_copy(update={"tables": tables}).parameters()


SCHEMA = make_schema([1000, 100, 10], 2)


def test_a_student_has_a_row_for_every_id_where_it_can() -> None:
    foundation = 10 * shape_of(Student(), 8, SCHEMA, None).parameters()
    small, large = solve(Student(compression=10, dims=[8, 4]), SCHEMA, foundation)
    assert (small.dim, large.dim) == (4, 8)
    assert all(table.rows == table.source_rows for shape in (small, large) for table in shape.tables)
    small, large = solve(Student(compression=10.01, dims=[4, 8]), SCHEMA, foundation)
    assert small.tables[0].rows == 1000 > large.tables[0].rows > 900


def test_where_it_cannot_the_largest_tables_are_cut() -> None:
    whole = shape_of(Student(), 4, SCHEMA, None).parameters()
    (shape,) = solve(Student(compression=1, dims=[4]), SCHEMA, whole - 4 * 600)
    assert [table.rows for table in shape.tables] == [400, 100, 10]
    assert [table.own for table in shape.tables] == [300, 100, 10]
    known = {"f0": 1000}
    hashed, shared = solve(Student(compression=1, dims=[4]), SCHEMA, whole - 4 * 600 + 300, known)
    for share, one in (("hash", hashed), ("likeness", shared)):
        assert solve(Student(compression=1, dims=[4], share=share), SCHEMA, whole - 4 * 600 + 300, known) == [one]
    assert shared.tables[0] == shape.tables[0].model_copy(update={"rows": 386, "own": 289, "clustered": 711})
    (shape,) = solve(Student(compression=1, dims=[4]), SCHEMA, whole - 4 * (950 + 50))
    assert [table.rows for table in shape.tables] == [50, 50, 10]


def test_where_no_dimension_is_named_the_likely_ones_are_tried() -> None:
    """From the widest that leaves a row for every id; four of them at most."""
    schema = make_schema([1000, 500], 0)
    for numbers, dims in (
        (800, [1, 2, 4, 8]),
        (1700, [1, 2, 4, 8]),
        (3300, [2, 4, 8, 16]),
        (13_000, [8, 16, 32, 64]),
        (99_999, [64]),
    ):
        shapes = solve(Student(compression=1, top=[4], interaction="none"), schema, numbers)
        assert [shape.dim for shape in shapes] == dims
    assert [shape.dim for shape in solve(Student(compression=1, dims=[4, 2]), schema, 99_999)] == [2, 4]
    shapes = solve(Student(compression=1, dims=[4, 2], unknown=0.1, unknowns=[0.3, 0.6, 0.3]), schema, 99_999)
    assert [(shape.dim, shape.unknown) for shape in shapes] == [(2, 0.6), (2, 0.3), (4, 0.6), (4, 0.3)]


def test_features_are_left_out_only_where_ids_would_go_without_a_row() -> None:
    student = Student(compression=1, dims=[2, 4], without=["f1, f2", ["f2"]], unknowns=[0.0, 0.1])
    enough = shape_of(student, 2, SCHEMA, None).parameters()
    found = [
        (shape.dim, shape.unknown, "f1" in shape.features, [table.rows for table in shape.tables])
        for shape in solve(student, SCHEMA, enough)
    ]
    assert found[0::2] == [(dim, 0.1, *rest) for dim, _, *rest in found[1::2]]
    (whole, first, both, one) = found[1::2]
    assert whole == (2, 0.0, True, [1000, 100, 10])
    assert first[0] == 4 and len(first[3]) == 3 and both[2:] == (False, [both[3][0]]) and one[2] and len(one[3]) == 2
    assert 1000 > both[3][0] > one[3][0] > first[3][0] > 100
    shapes = solve(student, SCHEMA, enough)
    assert [left_out(student, shape) for shape in shapes[::2]] == [[], [], ["f1", "f2"], ["f2"]]


def test_an_impossible_size_is_refused_with_the_account() -> None:
    with pytest.raises(UserError, match=r"10 parameters .* too few even with 2 rows a table \(tables 12, .*top"):
        solve(Student(compression=100), SCHEMA, 1000)


def test_features_choose_tables_and_columns() -> None:
    schema = make_schema([5, 6, 7], 2, shared=True)
    shape = shape_of(Architecture(), 4, schema, ["again", "f2", "d1"])
    assert [(table.name, table.features) for table in shape.tables] == [("f0", ["again"]), ("f2", ["f2"])]
    assert (shape.sparse, shape.dense, shape.features) == (["f2", "again"], ["d1"], ["d1", "f2", "again"])


def test_the_solver_keeps_to_the_students_features() -> None:
    for shape in solve(Student(features=["f1", "d0"], compression=1), SCHEMA, 10**6):
        assert shape.features == ["d0", "f1"]


@pytest.mark.parametrize("top", [[8], [8, 6], [8, 6, 4]])
def test_the_embedding_is_the_activation_in_the_middle(top: list[int]) -> None:
    shape = shape_of(Architecture(top=top), 4, SCHEMA, None)
    model = DLRM(shape)
    z = torch.zeros(3, shape.embedding_dim)
    assert shape.embedding_dim == {1: 8, 2: 8, 3: 6}[len(top)]
    assert model.upper(z)[1].shape == (3, top[-1])
