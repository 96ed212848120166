"""The teacher cache's contract: shards, manifest, and the join back onto the dataset.

`<teacher>/day=D/part-<split>-NNNNN.<version>.parquet` is a shard (see `shard_file`); `<teacher>/manifest.json` is
written last. Rows may be absent: absent is not zero.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from recdistill.clicklog.batches import Columns
from recdistill.clicklog.parts import read_part
from recdistill.clicklog.schema import PART_KEY, Count, Dataset, Name, Part, SplitName
from recdistill.clicklog.vectors import placed_vectors
from recdistill.errors import UserError
from recdistill.files import atomic, file_sha256, fingerprint, read_json
from recdistill.teachers.codes import EXTRA
from recdistill.teachers.shard_file import ELIGIBLE, NIGHT, ShardFile
from recdistill.teachers.versions import Seen
from recdistill.teachers.windows import EMBEDDED, Windows

CONTRACT: Literal[2] = 2
"""Raised when what shards and manifest hold is changed."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class CachedVersion(_Record):
    """One version of a teacher: who it is, what it had seen, and how its logit is read."""

    fingerprint: str
    learned_from: str
    seen: Seen
    slope: float
    intercept: float
    """Calibrated logit = slope * logit + intercept, fitted on validation rows (Platt 1999)."""


class Shard(_Record):
    """One file of the cache."""

    part: Annotated[str, Field(pattern=PART_KEY)]
    """`Part.key` of the dataset part that it answers for."""
    split: SplitName
    version: Name
    rows: Count
    eligible: Count
    """Rows that would be answered if all were asked: more than `rows` where a router spared some."""
    sha256: str
    night: str = ""
    """When it was computed, where answers are kept from night to night (see `shelf`)."""


class CacheManifest(_Record):
    """What a teacher's cache holds and for which dataset."""

    version: Literal[2] = CONTRACT
    teacher: Name
    dim: Count
    dtype: Literal["uint8"] = "uint8"
    dataset: str
    versions: dict[str, CachedVersion]
    shards: list[Shard]

    @model_validator(mode="after")
    def _fits_together(self) -> CacheManifest:
        keys = {(shard.part, shard.version) for shard in self.shards}
        if len(keys) < len(self.shards) or not {version for _, version in keys} <= set(self.versions):
            raise ValueError("a shard is there twice, or of no known version")
        return self


def shard_path(root: Path, part: str, version: str) -> Path:
    """Where the answers of one version for one part are."""
    return root / f"{part}.{version}.parquet"


def shard_of(path: Path, part: Part, version: str) -> Shard:
    """What the manifest says about a shard that was written."""
    file = pq.ParquetFile(path)
    about = file.schema_arrow.metadata
    return Shard(
        part=part.key,
        split=part.split,
        version=version,
        rows=file.metadata.num_rows,
        eligible=int(about[ELIGIBLE]),
        sha256=file_sha256(path),
        night=about[NIGHT].decode(),
    )


class TeacherCache:
    """A finished cache of one teacher, checked against the dataset that it is read beside.

    Raises `UserError` when its manifest is damaged or it was made for another dataset; both fingerprints are named.
    """

    def __init__(self, root: Path, dataset: Dataset) -> None:
        self.root = root
        record = read_json(root / "manifest.json")
        if isinstance(record, dict) and isinstance(version := record.get("version"), int) and version != CONTRACT:
            raise UserError(
                f"{root}: a cache of version {version}, and this release reads version {CONTRACT}; remove it and "
                "make it again"
            )
        try:
            self.manifest = CacheManifest.model_validate(record)
        except ValidationError as error:
            raise UserError(f"{root / 'manifest.json'}: not a cache manifest ({error.errors()[0]['msg']})") from None
        if self.manifest.dataset != dataset.fingerprint:
            raise UserError(
                f"{root}: this cache answers for dataset {self.manifest.dataset}, and {dataset.root} is dataset "
                f"{dataset.fingerprint}; make the cache again for this dataset"
            )

    @property
    def name(self) -> str:
        """The teacher's name."""
        return self.manifest.teacher

    @property
    def dim(self) -> int:
        """Width of the embedding; 0 where there is none."""
        return self.manifest.dim

    @cached_property
    def fingerprint(self) -> str:
        """Changes with any byte of any shard and with any calibration."""
        return fingerprint(self.manifest.model_dump())

    def rows(self, split: SplitName | None = None) -> int:
        """Answers in the cache."""
        return sum(shard.rows for shard in self.manifest.shards if split is None or shard.split == split)

    def verify(self) -> None:
        """Reads every shard once and compares checksums; a `UserError` names the first that differs."""
        for shard in self.manifest.shards:
            path = shard_path(self.root, shard.part, shard.version)
            if not path.exists():
                raise UserError(f"{path}: this shard of the cache is missing; remove {self.root} and make it again")
            if file_sha256(path) != shard.sha256:
                raise UserError(f"{path}: its bytes are not those that were written; remove it and cache again")

    @cached_property
    def _by_part(self) -> dict[str, list[Shard]]:
        out: dict[str, list[Shard]] = {}
        for shard in self.manifest.shards:
            out.setdefault(shard.part, []).append(shard)
        return out

    def join(
        self, part: Part, table: pa.Table, embedded: np.ndarray | None = None, match: Match | None = None
    ) -> pa.Table:
        """Adds `logit.<teacher>` (calibrated, null where absent) to a part's table.

        With `embedded` (bool [N], which rows) also `embedding.<teacher>`, as coded, where a row is meant and answered;
        of the others nothing is read but what lies in one row group with these.
        """
        shards = self._by_part.get(part.key, [])
        files = [ShardFile(shard_path(self.root, one.part, one.version), one.rows, self.dim) for one in shards]
        answered: list[np.ndarray] = [np.zeros(0, np.int64)]
        said: list[np.ndarray] = [np.zeros(0, np.float32)]
        for file, shard in zip(files, shards, strict=True):
            ids, logit = file.answers()
            version = self.manifest.versions[shard.version]
            answered.append(ids)
            said.append(version.slope * logit + version.intercept)
        here, there = (match or Match()).of(table["example_id"].to_numpy(), np.concatenate(answered))
        logits, absent = np.zeros(len(table), np.float32), np.ones(len(table), bool)
        logits[here], absent[here] = np.concatenate(said)[there], False
        table = table.append_column(f"logit.{self.name}", pa.array(logits, pa.float32(), mask=absent))
        if embedded is None or not self.dim:
            return table
        meant, place = embedded[here], np.full(len(table), -1, np.int32)
        codes, place[here[meant]] = _codes(files, there[meant], self.dim)
        return table.append_column(*placed_vectors(f"embedding.{self.name}", codes, place))


def joined(caches: list[TeacherCache], embedded: Windows | None = None) -> Columns:
    """Adds every teacher's columns to a part's table, and `EMBEDDED` if embeddings of some rows are read."""

    def join(part: Part, table: pa.Table) -> pa.Table:
        some, match = None if embedded is None else embedded.of(table.num_rows), Match()
        for cache in caches:
            table = cache.join(part, table, some, match)
        return table if some is None else table.append_column(EMBEDDED, pa.array(some))

    return join


def write_test_logits(cache: TeacherCache, dataset: Dataset, path: Path) -> None:
    """Writes `example_id` and the calibrated `logit` (null where absent) of the test rows, in the dataset's order."""
    schema = pa.schema([("example_id", pa.int64()), ("logit", pa.float32())])
    with atomic(path) as partial, pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        for part in dataset.parts("test"):
            rows = read_part(part, ["example_id"])
            said = cache.join(part, rows)
            writer.write_table(said.rename_columns(["example_id", "logit"]).cast(schema))


def _codes(files: list[ShardFile], rows: np.ndarray, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Coded embeddings [K, dim + EXTRA], and where in them those of `rows` (int64 [n]) are; of all files end to end."""
    codes, place, begin, read = [np.zeros((0, dim + EXTRA), np.uint8)], np.zeros(len(rows), np.int64), 0, 0
    for file in files:
        own = (rows >= begin) & (rows < begin + file.rows)
        found, at = file.codes(rows[own] - begin)
        place[own] = read + at
        codes.append(found)
        begin, read = begin + file.rows, read + len(found)
    return codes[1] if len(codes) == 2 else np.concatenate(codes), place


class Match:
    """Finds rows among answered ones. Teachers of the same folds answered the same rows: those are found once."""

    def __init__(self) -> None:
        self._of: tuple[np.ndarray, np.ndarray] | None = None
        self._found: tuple[np.ndarray, np.ndarray]

    def of(self, ids: np.ndarray, answered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions in `ids` and in `answered` (int64) of the rows that both have."""
        if self._of is None or not all(map(np.array_equal, self._of, (ids, answered))):
            self._of, self._found = (ids, answered), _match(ids, answered)
        return self._found


def _match(ids: np.ndarray, answered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if np.array_equal(ids, answered):
        every = np.arange(len(ids))
        return every, every
    there = pc.index_in(pa.array(ids), value_set=pa.array(answered))
    return np.flatnonzero(np.asarray(there.is_valid())), there.drop_null().to_numpy()
