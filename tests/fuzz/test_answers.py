"""What outside teachers said, of any type and with any damage: imported as it was said, or refused."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from recdistill.clicklog.schema import Dataset
from recdistill.config.models import FileTeacher
from recdistill.teachers.outside import VERSION, import_outside
from recdistill.teachers.shards import CacheManifest, TeacherCache, shard_path
from tests.fuzz.conftest import Exported
from tests.fuzz.harness import EDITS, attempt, fuzz, spoil_file
from tests.fuzz.test_types import FLOATS, TYPES

NAMES = ["example_id", "logit", "embedding"]
METADATA = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([b"float32", b"float32", b"float16", b"object", b"V2", b"\xff", b"", b"i2"]),
        "dim": st.sampled_from([b"1", b"1", b"2", b"2", b"0", b"-1", b"\xc2\xb2", b"9" * 5000, b"\xff", b"x"]),
    }
)


def ids_of(dataset: Dataset) -> list[int]:
    tables = [pq.read_table(part.path, columns=["example_id"], partitioning=None) for part in dataset.parts()]
    return [example for table in tables for example in table["example_id"].to_pylist()]


def imported(dataset: Dataset, path: Path, out: Path) -> list[int] | None:
    """The ids that were answered, after the cache that came of it was read and checked."""
    spec = FileTeacher(kind="file", paths=[str(path)])
    found = attempt(import_outside, "outside", spec, dataset, out)
    if found is None:
        return None
    dim, version, shards = found
    manifest = CacheManifest(
        teacher="outside", dim=dim, dataset=dataset.fingerprint, versions={VERSION: version}, shards=shards
    )
    (out / "manifest.json").write_text(manifest.model_dump_json())
    cache = TeacherCache(out, dataset)
    cache.verify()
    answered = []
    for shard in shards:
        table = pq.read_table(shard_path(out, shard.part, shard.version), partitioning=None)
        assert np.isfinite(table["logit"].to_numpy()).all()
        answered += table["example_id"].to_pylist()
    assert np.isfinite([version.slope, version.intercept]).all()
    return answered


def written(path: Path, ids: list[int], **changes: Any) -> dict[str, Any]:
    """A file of answers that is well, but for the columns that are given."""
    rng = np.random.default_rng(0)
    vectors = pa.array(rng.random((len(ids), 2)).tolist(), pa.list_(pa.float32()))
    columns = {
        "example_id": pa.array(ids),
        "logit": pa.array(rng.normal(size=len(ids))),
        "embedding": vectors,
        **changes,
    }
    pq.write_table(pa.table(columns), path)
    return columns


@fuzz(40)
@given(data=st.data(), name=st.sampled_from(NAMES), kind=st.sampled_from(list(TYPES)))
def test_a_column_of_any_type(exported: Exported, data: st.DataObject, name: str, kind: pa.DataType) -> None:
    ids = ids_of(exported.dataset)
    few = data.draw(st.lists(st.none() | TYPES[kind], min_size=6, max_size=6))
    storage = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    cells = pa.array((few * len(ids))[: len(ids)], pa.int32() if kind == pa.date32() else storage)
    with tempfile.TemporaryDirectory() as folder:
        written(Path(folder) / "a.parquet", ids, **{name: cells if kind != pa.date32() else cells.cast(kind)})
        imported(exported.dataset, Path(folder) / "a.parquet", Path(folder) / "out")


@fuzz(30)
@given(metadata=METADATA, width=st.sampled_from([2, 4, 4, 8, 3]))
def test_vectors_of_any_description(exported: Exported, metadata: dict[str, bytes], width: int) -> None:
    ids = ids_of(exported.dataset)
    field = pa.field("embedding", pa.binary(width), metadata=metadata)
    schema = pa.schema([("example_id", pa.int64()), ("logit", pa.float64()), field])
    arrays = [pa.array(ids), pa.array([0.5] * len(ids)), pa.array([b"\x00" * width] * len(ids), pa.binary(width))]
    with tempfile.TemporaryDirectory() as folder:
        pq.write_table(pa.Table.from_arrays(arrays, schema=schema), Path(folder) / "a.parquet")
        imported(exported.dataset, Path(folder) / "a.parquet", Path(folder) / "out")


@fuzz(30)
@given(
    logits=st.lists(FLOATS | st.none() | st.floats(), min_size=4, max_size=4),
    order=st.randoms(use_true_random=False),
    strange=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3),
)
def test_answers_are_those_that_were_said(
    exported: Exported, logits: list[float | None], order: Any, strange: list[int]
) -> None:
    known = ids_of(exported.dataset)
    ids = [*known, *strange]
    order.shuffle(ids)
    said = pa.array((logits * len(ids))[: len(ids)], pa.float64())
    with tempfile.TemporaryDirectory() as folder:
        written(Path(folder) / "a.parquet", ids, logit=said)
        found = imported(exported.dataset, Path(folder) / "a.parquet", Path(folder) / "out")
    if found is not None:
        numbers = said.to_pylist()
        answered = {example for example, number in zip(ids, numbers, strict=True) if number is not None}
        assert sorted(found) == sorted(answered & set(known))
        assert np.isfinite([number for number in numbers if number is not None]).all()


@fuzz(40)
@given(edits=EDITS)
def test_changed_bytes(exported: Exported, edits: list[tuple[str, float, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.parquet"
        written(path, ids_of(exported.dataset))
        spoil_file(path, edits)
        imported(exported.dataset, path, Path(folder) / "out")
