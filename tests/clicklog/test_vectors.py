from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recdistill.clicklog.vectors import binary_field, binary_to_vectors, vectors_to_binary


@settings(max_examples=50)
@given(rows=st.integers(0, 20), dim=st.integers(1, 9), dtype=st.sampled_from(["float16", "float32"]), data=st.data())
def test_vectors_round_trip(
    tmp_path_factory: pytest.TempPathFactory, rows: int, dim: int, dtype: str, data: st.DataObject
) -> None:
    values = np.random.default_rng(rows).normal(size=(dim, rows)).astype(dtype).T  # not contiguous
    schema = pa.schema([binary_field("v", dtype, dim)])
    path = tmp_path_factory.mktemp("vectors") / "v.parquet"
    pq.write_table(pa.Table.from_arrays([vectors_to_binary(values)], schema=schema), path)
    table = pq.read_table(path)
    start = data.draw(st.integers(0, rows))
    column = table["v"].combine_chunks().slice(start)
    np.testing.assert_array_equal(binary_to_vectors(column, table.schema.field("v")), values[start:])


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_columns_of_a_wider_array_keep_their_width(rows: int) -> None:
    wide = np.arange(3 * rows, dtype=np.float16).reshape(rows, 3)
    column = vectors_to_binary(wide[:, 1:])
    assert column.type.byte_width == 4
    np.testing.assert_array_equal(binary_to_vectors(column, binary_field("v", "float16", 2)), wide[:, 1:])
