"""Descriptions of datasets and of teacher caches with something else in them: they hold together, or are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recdistill.clicklog.encode import encode_log, raw_log
from recdistill.clicklog.schema import Dataset
from recdistill.config.models import FileTeacher
from recdistill.files import file_sha256
from recdistill.teachers.outside import VERSION, import_outside
from recdistill.teachers.shards import CacheManifest, TeacherCache, shard_path
from tests.fuzz.conftest import Exported
from tests.fuzz.harness import EDITS, attempt, fuzz, refused, spoil_file, spoilt
from tests.fuzz.test_answers import ids_of, written


@pytest.fixture(scope="module")
def cache(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a cache of the dataset. Read only."""
    root = tmp_path_factory.mktemp("cache")
    written(root / "said.parquet", ids_of(exported.dataset))
    spec = FileTeacher(kind="file", paths=[str(root / "said.parquet")])
    dim, version, shards = import_outside("outside", spec, exported.dataset, root)
    manifest = CacheManifest(
        teacher="outside", dim=dim, dataset=exported.dataset.fingerprint, versions={VERSION: version}, shards=shards
    )
    (root / "manifest.json").write_text(manifest.model_dump_json())
    return root


@contextmanager
def copied(folder: Path) -> Iterator[Path]:
    with TemporaryDirectory() as place:
        shutil.copytree(folder, Path(place) / "copy")
        yield Path(place) / "copy"


def opened(root: Path, log: Path) -> int:
    """What a dataset's descriptions are good for: its parts, and encoding a log as it was encoded."""
    dataset = Dataset(root)
    assert dataset.fingerprint and dataset.rows() >= 0
    for part in dataset.parts():
        assert root in part.path.resolve().parents, part.path
    for table in dataset.schema.tables:
        assert dataset.vocabulary_path(table.name).resolve().parent == (root / "vocabulary").resolve()
    return sum(table.num_rows for table in encode_log(root, raw_log(root, [str(log)])))


@fuzz(80)
@given(data=st.data(), name=st.sampled_from(["schema.json", "manifest.json"]))
def test_a_dataset_that_is_described_otherwise(exported: Exported, data: st.DataObject, name: str) -> None:
    with copied(exported.dataset.root) as root:
        (root / name).write_text(json.dumps(data.draw(spoilt(json.loads((root / name).read_text())))))
        attempt(opened, root, exported.log)


@fuzz(60)
@given(data=st.data(), edits=EDITS)
def test_a_dataset_with_changed_bytes(
    exported: Exported, data: st.DataObject, edits: list[tuple[str, float, bytes]]
) -> None:
    with copied(exported.dataset.root) as root:
        files = [root / "schema.json", root / "manifest.json", *sorted(root.glob("vocabulary/*"))]
        spoil_file(data.draw(st.sampled_from(files)), edits)
        attempt(opened, root, exported.log)


def joined(root: Path, dataset: Dataset, verify: bool) -> list[Any]:
    """What a cache says about every row of its dataset."""
    cache = TeacherCache(root, dataset)
    for shard in cache.manifest.shards:
        assert root in shard_path(root, shard.part, shard.version).resolve().parents
    if verify:
        cache.verify()
    said = []
    for part in dataset.parts():
        rows = pq.read_table(part.path, columns=["example_id"], partitioning=None)
        said += cache.join(part, rows, np.ones(len(rows), bool)).drop_columns("example_id").to_pylist()
    return said


@fuzz(80)
@given(data=st.data())
def test_a_cache_that_is_described_otherwise(exported: Exported, cache: Path, data: st.DataObject) -> None:
    with copied(cache) as root:
        manifest = json.loads((root / "manifest.json").read_text())
        (root / "manifest.json").write_text(json.dumps(data.draw(spoilt(manifest))))
        attempt(joined, root, exported.dataset, data.draw(st.booleans()))


@fuzz(60)
@given(data=st.data(), edits=EDITS)
def test_a_cache_with_changed_bytes(
    exported: Exported, cache: Path, data: st.DataObject, edits: list[tuple[str, float, bytes]]
) -> None:
    with copied(cache) as root:
        spoil_file(data.draw(st.sampled_from(sorted(root.glob("day=*/*")))), edits)
        said = attempt(joined, root, exported.dataset, True)
        assert said in (None, joined(cache, exported.dataset, True))


SHARDS = {
    "no logit": lambda table: table.drop_columns("logit"),
    "no ids": lambda table: table.drop_columns("example_id"),
    "no embedding": lambda table: table.drop_columns("embedding"),
    "texts": lambda table: table.set_column(1, "logit", pa.array(["a"] * len(table))),
    "wide ids": lambda table: table.set_column(0, "example_id", table["example_id"].cast(pa.float64())),
    "holes": lambda table: table.set_column(1, "logit", pa.nulls(len(table), pa.float32())),
    "narrow": lambda table: table.set_column(2, "embedding", pa.array([b"abc"] * len(table), pa.binary(3))),
    "no rows": lambda table: table.slice(0, 0),
    "twice": lambda table: pa.concat_tables([table, table]),
}


@pytest.mark.parametrize("how", SHARDS)
def test_a_shard_of_another_form(exported: Exported, cache: Path, how: str) -> None:
    """Its checksum in the manifest is its own, so that only what is in it speaks against it."""
    with copied(cache) as root:
        manifest = json.loads((root / "manifest.json").read_text())
        shard = manifest["shards"][0]
        path = shard_path(root, shard["part"], shard["version"])
        pq.write_table(SHARDS[how](pq.read_table(path, partitioning=None)), path)
        shard["sha256"] = file_sha256(path)
        (root / "manifest.json").write_text(json.dumps(manifest))
        refused(joined, root, exported.dataset, True)


@pytest.mark.parametrize("key", ["../x", "/etc/passwd", "day=2026-01-01/../../x", "day=../part-train-00000"])
@pytest.mark.parametrize("field", ["part", "version"])
def test_a_shard_outside_of_the_folder(exported: Exported, cache: Path, key: str, field: str) -> None:
    with copied(cache) as root:
        manifest = json.loads((root / "manifest.json").read_text())
        manifest["shards"][0][field] = key
        manifest["versions"][key] = manifest["versions"][VERSION]
        (root / "manifest.json").write_text(json.dumps(manifest))
        assert "pattern" in refused(TeacherCache, root, exported.dataset)


@pytest.mark.parametrize("day", ["../x", "/etc", "2026-01-01/../..", ""])
def test_a_part_outside_of_the_folder(exported: Exported, day: str) -> None:
    with copied(exported.dataset.root) as root:
        manifest = json.loads((root / "manifest.json").read_text())
        manifest["parts"][0]["day"] = day
        (root / "manifest.json").write_text(json.dumps(manifest))
        assert "pattern" in refused(Dataset, root)
