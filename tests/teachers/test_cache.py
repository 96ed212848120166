from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from recdistill.clicklog.batches import Batch, Rows, batches
from recdistill.clicklog.schema import Dataset
from recdistill.clicklog.vectors import binary_to_vectors
from recdistill.config.models import Teachers
from recdistill.errors import UserError
from recdistill.files import file_sha256, read_json
from recdistill.models.task import normalised_entropy
from recdistill.teachers import cache as caching
from recdistill.teachers import calibration, shards
from recdistill.teachers.cache import cache_version
from recdistill.teachers.codes import EXTRA, decode
from recdistill.teachers.protocol import open_teacher
from recdistill.teachers.shards import TeacherCache, joined, shard_path
from recdistill.teachers.versions import FINAL, versions
from recdistill.teachers.windows import Windows
from recdistill.teachers.work import cache_teacher, domain_of

School = Any
TRAIN = Rows("train")


def shard(cache: TeacherCache, part: str, version: str) -> dict[int, tuple[float, np.ndarray]]:
    """What a shard says, by example_id."""
    table = pq.read_table(shard_path(cache.root, part, version), partitioning=None)
    codes = binary_to_vectors(table["embedding"].combine_chunks(), table.schema.field("embedding"))
    vectors = decode(torch.from_numpy(codes.copy())).numpy()
    return {
        number: (logit, vector)
        for number, logit, vector in zip(
            table["example_id"].to_pylist(), table["logit"].to_pylist(), vectors, strict=True
        )
    }


def every(table: pa.Table) -> np.ndarray:
    """All rows' embeddings."""
    return np.ones(len(table), bool)


def spread(table: pa.Table) -> pa.Table:
    """The same with a vector in every row, null where there is none."""
    wide = {f.name: f.type.value_type for f in table.schema if pa.types.is_dictionary(f.type)}
    for name, plain in wide.items():
        table = table.set_column(table.column_names.index(name), name, table[name].cast(plain))
    return table


def said(teacher: Any, dataset: Dataset, rows: Rows) -> dict[int, tuple[float, np.ndarray]]:
    """The teacher's own logit and embedding of the rows meant, by example_id."""
    out = {}
    for batch in batches(dataset, rows, 333, features=teacher.features):
        logit, embedding = teacher.score(batch)
        numbers = batch.example_id.tolist()
        out.update(zip(numbers, zip(logit.tolist(), embedding.numpy(), strict=True), strict=True))
    return out


def opened(school: School, name: str) -> TeacherCache:
    return TeacherCache(school.root / "cache" / name, school.dataset)


def read(school: School, name: str, rows: Rows = TRAIN, **options: Any) -> list[Batch]:
    join = joined([opened(school, name)], Windows(1, np.random.default_rng(0)))
    return list(batches(school.dataset, rows, 500, join=join, **options))


@pytest.mark.parametrize("name", ["foundation", "expert"])
def test_shards_hold_what_the_versions_say(school: School, name: str) -> None:
    cache, tables = opened(school, name), {part.key: part for part in school.dataset.parts()}
    for version in school.versions(name):
        teacher = open_teacher(school.folder(name, version.name))
        for rows in version.scores:
            expected, found = said(teacher, school.dataset, rows), {}
            for part in rows.parts(school.dataset):
                assert part.key in tables
                found.update(shard(cache, part.key, version.name))
            assert found.keys() == expected.keys()
            for number, (logit, vector) in expected.items():
                assert found[number][0] == pytest.approx(logit, abs=1e-6)
                if version.name == "final":
                    np.testing.assert_allclose(found[number][1], vector, atol=np.ptp(vector) / 500 + 1e-6)


def test_other_versions_speak_in_the_final_ones_space(school: School) -> None:
    """After alignment a fold's embedding is nearer to the final version's than it was."""
    final, fold = (open_teacher(school.folder("foundation", name)) for name in ("final", "fold-0"))
    rows = school.versions("foundation")[0].scores[0]
    part = rows.parts(school.dataset)[0]
    target, raw = said(final, school.dataset, rows), said(fold, school.dataset, rows)
    moved = shard(opened(school, "foundation"), part.key, "fold-0")

    def distance(vectors: dict[int, tuple[float, np.ndarray]]) -> float:
        return float(np.mean([np.square(vectors[number][1] - target[number][1]).mean() for number in moved]))

    assert distance(moved) < 0.5 * distance(raw)


def test_a_version_may_be_wider_than_the_final_one(
    school: School, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trees stop when they do, and each stage is a number of their embedding."""
    open_it = open_teacher

    class Wider:
        def __init__(self, folder: Path) -> None:
            self._teacher = open_it(folder)
            self.dim, self.features = self._teacher.dim + 1, self._teacher.features

        def score(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
            logit, embedding = self._teacher.score(batch)
            return logit, torch.cat([embedding, logit[:, None]], dim=1)

    monkeypatch.setattr(
        "recdistill.teachers.cache.open_teacher",
        lambda folder: (open_it if folder.name == "final" else Wider)(folder),
    )
    version = school.versions("foundation")[0]
    _, shards = cache_version("foundation", school.folder("foundation").parent, version, school.dataset, tmp_path)
    for made in shards:
        path = shard_path(tmp_path, made.part, made.version)
        assert pq.read_schema(path).field("embedding").type.byte_width == 16 + EXTRA


def test_joined_answers_are_calibrated_and_absent_where_nobody_answered(school: School) -> None:
    cache = opened(school, "expert")
    domain = domain_of(school.teachers.members["expert"], school.dataset)
    by_fold = {version.name: version for version in school.versions("expert")}
    answered = 0
    for batch in read(school, "expert", shuffle=np.random.default_rng(0)):
        present, logit = batch.extra["logit.expert?"], batch.extra["logit.expert"]
        items = [bag.tolist() for bag in batch.sparse["item"].to_dense()]
        assert present.tolist() == [item[0] in domain[0][1] for item in items]
        assert not logit[~present].any() and not batch.vectors["embedding.expert"].of((~present).nonzero()[:, 0]).any()
        answered += int(present.sum())
    assert answered == cache.rows("train") > 100
    for name, version in by_fold.items():
        how = cache.manifest.versions[name]
        expected = said(open_teacher(school.folder("expert", name)), school.dataset, version.scores[0])
        for batch in read(school, "expert", version.scores[0]):
            for number, value in zip(batch.example_id.tolist(), batch.extra["logit.expert"].tolist(), strict=True):
                assert value == pytest.approx(how.slope * expected[number][0] + how.intercept, abs=1e-5)


def test_calibration_does_not_make_validation_worse(school: School) -> None:
    stream = read(school, "foundation", Rows("validation"))
    teacher = open_teacher(school.folder("foundation"))
    raw = normalised_entropy((teacher.score(batch)[0], batch) for batch in stream)
    assert normalised_entropy((batch.extra["logit.foundation"], batch) for batch in stream) < raw


def test_who_scores_a_day_of_its_own_is_calibrated_on_it(
    make_school: Callable[..., School], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it has enough rows of either label; the final version, which scores all later days, on validation rows."""
    school = make_school("prequential", "foundation")
    for enough, own in ((20, True), (10**6, False)):
        monkeypatch.setattr(caching, "ENOUGH", enough)
        found = school.cache("foundation", tmp_path / str(enough)).manifest.versions
        for version in school.versions("foundation"):
            rows = version.scores[0] if own and version.name != FINAL else Rows("validation")
            logit, label, weight = [], [], []
            teacher = open_teacher(school.folder("foundation", version.name))
            for batch in batches(school.dataset, rows, 333):
                logit.append(teacher.score(batch)[0])
                label.append(batch.label)
                weight.append(batch.weight)
            slope, intercept = calibration.calibrate(*(torch.cat(v).numpy() for v in (logit, label, weight)))
            how = found[version.name]
            assert (how.slope, how.intercept) == (pytest.approx(slope, abs=1e-4), pytest.approx(intercept, abs=1e-4))


def test_the_manifest_tells_where_everything_comes_from(school: School) -> None:
    cache = opened(school, "foundation")
    manifest = cache.manifest
    assert (manifest.teacher, manifest.dim, manifest.dataset) == ("foundation", 16, school.dataset.fingerprint)
    for name, version in manifest.versions.items():
        assert version.fingerprint == read_json(school.folder("foundation", name) / "teacher.json")["fingerprint"]
        assert version.seen == "unseen" and version.learned_from.startswith("Rows(split='train'")
    assert sum(entry.rows for entry in manifest.shards) == cache.rows() == school.dataset.rows()
    assert cache.rows("test") == school.dataset.rows("test")
    for entry in manifest.shards:
        path = shard_path(cache.root, entry.part, entry.version)
        assert file_sha256(path) == entry.sha256 and pq.read_metadata(path).num_rows == entry.rows
    written = {str(path.relative_to(cache.root)) for path in cache.root.rglob("*.parquet")}
    assert written == {f"{entry.part}.{entry.version}.parquet" for entry in manifest.shards}
    cache.verify()


def test_in_sample_answers_are_marked(make_school: Callable[..., School]) -> None:
    school = make_school("in_sample", "expert")
    assert {version.seen for version in school.cache("expert").manifest.versions.values()} == {"in_sample"}


def test_a_teacher_with_no_validation_row_cannot_be_calibrated(
    make_dataset: Callable[..., Dataset], school: School, tmp_path: Path
) -> None:
    dataset = make_dataset(rows=40, days=4)
    domain = (("item", (39,)),)
    teachers = Teachers.model_validate({"regime": "in_sample", "members": {"foundation": {"kind": "dlrm"}}})
    (version,) = versions(teachers, dataset)
    folder = school.folder("expert").parent
    with pytest.raises(UserError, match="teacher 'expert': no validation rows in its domain"):
        cache_version("expert", folder, version.within(domain), dataset, tmp_path)


@pytest.mark.parametrize("kind", ["logit", "embedding"])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_teacher_that_gives_no_number_cannot_teach(
    school: School, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, split: str
) -> None:
    teacher, version = open_teacher(school.folder("foundation")), school.versions("foundation")[-1]
    rows = Rows(split)
    bad = next(batches(school.dataset, rows, 10)).example_id[3]

    class Broken:
        dim, features = teacher.dim, teacher.features

        def score(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
            said = dict(zip(("logit", "embedding"), (value.clone() for value in teacher.score(batch)), strict=True))
            said[kind][batch.example_id == bad] = torch.nan
            return said["logit"], said["embedding"]

    monkeypatch.setattr("recdistill.teachers.cache.open_teacher", lambda folder: Broken())
    asked = dataclasses.replace(version, scores=(rows,))
    with pytest.raises(UserError, match=f"teacher 'foundation': its {kind} is not finite for some rows"):
        cache_version("foundation", school.folder("foundation").parent, asked, school.dataset, tmp_path)


def spoil(path: Path, at: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.fixture
def cache(school: School, tmp_path: Path) -> TeacherCache:
    """A copy of the foundation's cache, to be spoilt."""
    shutil.copytree(school.root / "cache" / "foundation", tmp_path / "cache")
    return TeacherCache(tmp_path / "cache", school.dataset)


def test_another_dataset_is_refused_by_both_names(
    cache: TeacherCache, school: School, make_dataset: Callable[..., Dataset]
) -> None:
    other = make_dataset(seed=1)
    with pytest.raises(UserError) as error:
        TeacherCache(cache.root, other)
    assert school.dataset.fingerprint in str(error.value) and other.fingerprint in str(error.value)
    assert str(cache.root) in str(error.value)


def test_a_flipped_byte_is_found_by_verify_and_by_reading(cache: TeacherCache, school: School) -> None:
    entry = next(entry for entry in cache.manifest.shards if entry.split == "train")
    part = next(part for part in school.dataset.parts("train") if part.key == entry.part)
    path = shard_path(cache.root, entry.part, entry.version)
    table = pq.read_table(part.path, partitioning=None)
    spoil(path, at=path.stat().st_size // 3)
    with pytest.raises(UserError, match=rf"{path.name}: its bytes are not those that were written"):
        cache.verify()
    with pytest.raises(UserError, match=rf"{path.name}: this shard of the cache is damaged"):
        cache.join(part, table, every(table))


def test_a_missing_shard_is_named(cache: TeacherCache, school: School) -> None:
    part = school.dataset.parts("test")[0]
    path = shard_path(cache.root, part.key, "final")
    path.unlink()
    with pytest.raises(UserError, match=rf"{path.name}: this shard of the cache is missing"):
        cache.verify()
    with pytest.raises(UserError, match=path.name):
        cache.join(part, pq.read_table(part.path, partitioning=None))


def test_a_cache_of_another_version_is_refused(cache: TeacherCache, school: School) -> None:
    record = read_json(cache.root / "manifest.json")
    (cache.root / "manifest.json").write_text(json.dumps({**record, "version": 1}))
    with pytest.raises(UserError, match="a cache of version 1, and this release reads version 2; remove it"):
        TeacherCache(cache.root, school.dataset)


@pytest.mark.parametrize("text", ["{}", "[1]", '{"version": 2}', "no json"])
def test_a_damaged_manifest_is_refused(cache: TeacherCache, school: School, text: str) -> None:
    (cache.root / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest.json: not"):
        TeacherCache(cache.root, school.dataset)


def test_answers_are_joined_by_example_id_and_never_by_position(cache: TeacherCache, school: School) -> None:
    part = school.dataset.parts("train")[1]
    table = pq.read_table(part.path, partitioning=None)
    before = spread(cache.join(part, table, every(table)))
    for version in ("fold-0", "fold-1"):
        path = shard_path(cache.root, part.key, version)
        answers = pq.read_table(path, partitioning=None)
        order = np.random.default_rng(0).permutation(len(answers))
        pq.write_table(answers.take(order), path, write_page_checksum=True)
    assert spread(cache.join(part, table, every(table))).equals(before)
    turned = table.take(np.arange(len(table))[::-3])
    assert spread(cache.join(part, turned, every(turned))).equals(before.take(np.arange(len(table))[::-3]))


def test_rows_that_teachers_of_the_same_folds_answered_are_found_once(
    cache: TeacherCache, school: School, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, match = [], shards._match
    monkeypatch.setattr(shards, "_match", lambda *ids: found.append(1) or match(*ids))  # type: ignore[func-returns-value]
    part = school.dataset.parts("train")[1]
    table = joined([cache, cache, cache])(part, pq.read_table(part.path, partitioning=None))
    assert len(found) == 1 and table.column(-1).equals(table.column(-3)) and table.column(-1).null_count < len(table)


def cache_by_hand(taught: str, root: str, out: str, teachers: str) -> None:
    """What a process of its own does until it is killed."""
    torch.set_num_threads(1)
    fill(Path(taught), Path(root), Path(out), json.loads(teachers))


def fill(taught: Path, root: Path, out: Path, settings: dict[str, Any]) -> None:
    dataset, teachers = Dataset(root), Teachers.model_validate(settings)
    member, found = teachers.members["foundation"], versions(teachers, dataset)
    cache_teacher(out / "foundation", "m", member, "foundation", taught, dataset.root, found)


def test_killed_half_way_and_resumed_is_straight_through(
    school: School, tmp_path: Path, kill_at: Callable[..., None], one_thread: None
) -> None:
    taught, root = school.root / "teach", school.dataset.root
    settings = school.teachers.model_dump(mode="json")
    arguments = (taught, root, tmp_path / "killed", json.dumps(settings))
    kill_at(r"part-train.*\.parquet$", 8, __file__, "cache_by_hand", *arguments)
    work = tmp_path / "killed" / ".foundation.work-m"
    kept = {path: path.stat().st_mtime_ns for path in work.rglob("day=*/part*.parquet")}
    assert len(kept) == 7 and not (tmp_path / "killed" / "foundation").exists()
    fill(taught, root, tmp_path / "killed", settings)
    fill(taught, root, tmp_path / "straight", settings)
    for path, mtime in kept.items():
        assert (tmp_path / "killed" / "foundation" / path.relative_to(work)).stat().st_mtime_ns == mtime
    killed, straight = (TeacherCache(tmp_path / name / "foundation", school.dataset) for name in ("killed", "straight"))
    killed.verify()
    assert killed.manifest == straight.manifest == opened(school, "foundation").manifest
    assert killed.fingerprint == straight.fingerprint


def test_the_sample_does_not_follow_the_order_of_the_log(
    tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = np.concatenate([b.example_id.numpy() for b in batches(tiny_dataset, Rows("train"), 500, features=[])])
    assert len(everything) > 1000
    monkeypatch.setattr(calibration, "SAMPLE_ROWS", len(everything) // 5)
    drawn = np.concatenate([b.example_id.numpy() for b in calibration.sample(tiny_dataset, Rows("train"), [], None)])
    places = np.flatnonzero(np.isin(everything, drawn))
    assert len(places) == len(drawn) and np.array_equal(everything[places], drawn)
    one_of = -(-len(everything) // (len(everything) // 5))
    assert abs(len(drawn) - len(everything) / one_of) < 4 * np.sqrt(len(everything) / one_of)
    assert np.all(np.bincount(places % one_of, minlength=one_of) > len(drawn) / one_of / 2)

    monkeypatch.setattr(calibration, "SAMPLE_ROWS", len(everything))
    whole = np.concatenate([b.example_id.numpy() for b in calibration.sample(tiny_dataset, Rows("train"), [], None)])
    assert np.array_equal(whole, everything)

    few = calibration.drawn(tiny_dataset, Rows("train"), 1 / 16)(everything)
    assert abs(few.sum() - len(few) / 16) < 4 * np.sqrt(len(few) / 16)
