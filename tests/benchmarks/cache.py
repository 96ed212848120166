"""The teacher cache against pyarrow writing and reading the same answers once, and against copying them in memory.

    OMP_NUM_THREADS=1 python tests/benchmarks/cache.py [--rows 262144] [--dim 256]

Speeds are megabytes of the answers as a teacher gives them: example_id, logit, embedding in float32. pyarrow's files
are the fastest that were found: fixed-size binary, no codec, no dictionary, no checksums. A shard has a checksum on
every page, and is flushed to the disk; pyarrow's files only where it says so.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from timing import Result, Side, interleaved, options

from recdistill.clicklog.columns import vectors
from recdistill.clicklog.schema import (
    NO_DAY,
    ROW_GROUP_ROWS,
    Dataset,
    Manifest,
    PartRecord,
    Schema,
    write_dataset,
)
from recdistill.clicklog.vectors import binary_field, vectors_to_binary
from recdistill.config.job import Diverse
from recdistill.files import file_sha256, write_json
from recdistill.teachers.codes import decode, encode
from recdistill.teachers.shard_file import write_shard
from recdistill.teachers.shards import CachedVersion, CacheManifest, TeacherCache, shard_of, shard_path
from recdistill.teachers.windows import Windows

FOLDS = 5
BATCH = 4096
READERS = ("join", "join of five folds", "and decoded by batches", "join of five folds, as `diverse` reads them")
MB = 1e6


def main() -> None:
    arguments = options(__doc__, rows=1 << 18, dim={"type": int, "default": 256})
    torch.set_num_threads(1)
    result = Result("cache", "MB", arguments)
    with tempfile.TemporaryDirectory() as folder:
        answers = Answers(arguments.rows, arguments.dim, Path(folder))
        result.say(f"## Writing a shard of {arguments.rows:,} rows, embedding of {arguments.dim} numbers")
        times = interleaved(answers.writing(), arguments.repeats)
        result.speeds(times)
        result.compare(times, "write_shard", "pyarrow, float32, flushed", 0.8)
        result.compare(times, "write_shard", "pyarrow, float32", 0.8)
        result.say("## Reading it back beside a part of the dataset")
        times = interleaved(answers.reading(), arguments.repeats)
        result.speeds(times)
        for ours in READERS[:2]:
            result.compare(times, ours, "pyarrow, float32", 0.8)
        result.say(
            "Decoding belongs to training; `hint` reads and decodes all embeddings, `diverse` reads a sixteenth and "
            "decodes few of those."
        )
        result.say("## Size")
        result.table(["file", "bytes a row", "of float32"], answers.sizes())
    result.write()


class Answers:
    """Random answers of one teacher to one part, in memory, in a cache and in files of pyarrow's."""

    def __init__(self, rows: int, dim: int, folder: Path) -> None:
        rng = np.random.default_rng(0)
        self.rows, self.dim, self.folder = rows, dim, folder
        self.ids = rng.permutation(rows).astype(np.int64)
        self.logit = rng.normal(size=rows).astype(np.float32)
        self.float32 = np.maximum(rng.normal(size=(rows, dim)).astype(np.float32), 0)
        self.float16 = torch.from_numpy(self.float32).half().numpy()
        self.fold = rng.integers(0, FOLDS, rows)
        self.megabytes = (8 + 4 + 4 * dim) * rows / MB
        record = PartRecord(day=NO_DAY, split="train", index=0, rows=rows, positives=0, sha256="")
        write_dataset(folder / "dataset", Schema(sparse=[], dense=[], tables=[]), Manifest(parts=[record]))
        self.dataset = Dataset(folder / "dataset")
        (self.part,) = self.dataset.parts()

    def writing(self) -> dict[str, Side]:
        return {
            "write_shard": lambda: self._done(self._shard("one", "final", slice(None))),
            "write_shard and its checksum": lambda: self._done(file_sha256(self._shard("one", "final", slice(None)))),
            "pyarrow, float32": lambda: self._done(self._pyarrow("float32", self.float32)),
            "pyarrow, float32, flushed": lambda: self._done(_flush(self._pyarrow("float32", self.float32))),
            "pyarrow, float16": lambda: self._done(self._pyarrow("float16", self.float16)),
            "memory copy": lambda: self._done([self.ids.copy(), self.logit.copy(), self.float32.copy()]),
        }

    def reading(self) -> dict[str, Side]:
        table = pa.table({"example_id": self.ids})
        whole = self._cache("one", {"final": slice(None)})
        folds = self._cache("folds", {f"fold-{k}": np.flatnonzero(self.fold == k) for k in range(FOLDS)})
        every, windows = np.ones(self.rows, bool), Windows(Diverse().questions, np.random.default_rng(0))
        both = (_decoded(cache.join(self.part, table, every)) for cache in (whole, folds))
        for start, (one, other) in zip(range(0, self.rows, BATCH), zip(*both, strict=True), strict=True):
            assert torch.equal(one, other)
            np.testing.assert_allclose(one.numpy(), self.float32[start : start + BATCH], atol=0.02)
        for name, values in (("float32", self.float32), ("float16", self.float16)):
            self._pyarrow(name, values)
        return {
            READERS[0]: lambda: self._done(whole.join(self.part, table, every)),
            READERS[1]: lambda: self._done(folds.join(self.part, table, every)),
            READERS[2]: lambda: self._done(list(map(len, _decoded(folds.join(self.part, table, every))))),
            READERS[3]: lambda: self._done(folds.join(self.part, table, windows.of(self.rows))),
            "pyarrow, float32": lambda: self._done(self._read("float32")),
            "pyarrow, float16": lambda: self._done(self._read("float16")),
            "memory copy": lambda: self._done([self.ids.copy(), self.logit.copy(), self.float32.copy()]),
        }

    def sizes(self) -> list[list[str]]:
        files = {
            "shard": shard_path(self.folder / "one", self.part.key, "final"),
            "pyarrow, float16": self.folder / "float16.parquet",
            "pyarrow, float32": self.folder / "float32.parquet",
        }
        largest = files["pyarrow, float32"].stat().st_size
        sizes = {name: path.stat().st_size for name, path in files.items()}
        return [[name, f"{size / self.rows:.1f}", f"{size / largest:.3f}"] for name, size in sizes.items()]

    def _done(self, _: object) -> float:
        return self.megabytes

    def _shard(self, cache: str, version: str, rows: slice | np.ndarray) -> Path:
        path = shard_path(self.folder / cache, self.part.key, version)
        write_shard(path, self.ids[rows], self.logit[rows], encode(self.float32[rows]))
        return path

    def _cache(self, name: str, versions: dict[str, slice | np.ndarray]) -> TeacherCache:
        shards = [shard_of(self._shard(name, version, rows), self.part, version) for version, rows in versions.items()]
        about = CachedVersion(fingerprint="", learned_from="", seen="unseen", slope=1, intercept=0)
        manifest = CacheManifest(
            teacher="foundation",
            dim=self.dim,
            dataset=self.dataset.fingerprint,
            versions=dict.fromkeys(versions, about),
            shards=shards,
        )
        write_json(self.folder / name / "manifest.json", manifest.model_dump())
        return TeacherCache(self.folder / name, self.dataset)

    def _pyarrow(self, name: str, values: np.ndarray) -> Path:
        path = self.folder / f"{name}.parquet"
        fields = [pa.field("example_id", pa.int64()), pa.field("logit", pa.float32())]
        arrays = [pa.array(self.ids), pa.array(self.logit), vectors_to_binary(values)]
        pq.write_table(
            pa.Table.from_arrays(arrays, schema=pa.schema([*fields, binary_field("embedding", name, self.dim)])),
            path,
            row_group_size=ROW_GROUP_ROWS,
            compression="none",
            use_dictionary=False,
            write_statistics=False,
        )
        return path

    def _read(self, name: str) -> pa.Table:
        return pq.read_table(self.folder / f"{name}.parquet", partitioning=None, use_threads=False)


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _decoded(table: pa.Table) -> Iterator[torch.Tensor]:
    name = "embedding.foundation"
    codes = vectors(table[name], table.schema.field(name))
    for rows in torch.arange(len(table)).split(BATCH):
        yield decode(codes.of(rows))


if __name__ == "__main__":
    main()
