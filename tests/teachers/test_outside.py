from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recdistill.clicklog.columns import vectors
from recdistill.clicklog.schema import SPLITS, Dataset
from recdistill.clicklog.vectors import binary_field, vectors_to_binary
from recdistill.config.models import FileTeacher
from recdistill.errors import UserError
from recdistill.files import file_sha256, fingerprint
from recdistill.teachers.codes import decode
from recdistill.teachers.outside import VERSION, import_outside
from recdistill.teachers.shards import CachedVersion, CacheManifest, Shard, TeacherCache, shard_path

Imported = tuple[int, CachedVersion, list[Shard]]


def labels(dataset: Dataset, split: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """Ids and labels of a split's rows, or of all."""
    table = pa.concat_tables(
        pq.read_table(part.path, columns=["example_id", "label"], partitioning=None)
        for name in (SPLITS if split is None else [split])
        for part in dataset.parts(name)
    )
    return table["example_id"].to_numpy(), table["label"].to_numpy()


def logits_of(dataset: Dataset, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Every row's id and a logit that knows something, in random order."""
    ids, label = labels(dataset)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(ids))
    return ids[order], (2 * label - 1 + rng.normal(size=len(ids)))[order]


def write(path: Path, ids: np.ndarray, logit: Any, embedding: Any = None, **columns: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = {"example_id": ids, "logit": logit, **({} if embedding is None else {"embedding": embedding}), **columns}
    pq.write_table(pa.table(table), path)
    return str(path)


def spec(*paths: str, **changes: Any) -> FileTeacher:
    return FileTeacher(kind="file", paths=list(paths), **changes)


def opened(dataset: Dataset, out: Path, imported: Imported) -> TeacherCache:
    """What `import_outside` gave, as a cache."""
    dim, version, shards = imported
    manifest = CacheManifest(
        teacher="llm", dim=dim, dataset=dataset.fingerprint, versions={VERSION: version}, shards=shards
    )
    (out / "manifest.json").write_text(manifest.model_dump_json())
    return TeacherCache(out, dataset)


def joined(cache: TeacherCache, dataset: Dataset) -> dict[int, tuple[float | None, np.ndarray | None]]:
    """What the cache says about each row of the dataset: calibrated logit and embedding, by id."""
    found = {}
    for part in dataset.parts():
        table = pq.read_table(part.path, columns=["example_id"], partitioning=None)
        table = cache.join(part, table, np.ones(len(table), bool))
        found_here: list[np.ndarray | None] = [None] * len(table)
        if cache.dim:
            values = vectors(table["embedding.llm"], table.schema.field("embedding.llm"))
            found_here = list(decode(values.of(torch.arange(len(table)))).numpy())
        rows = zip(table["example_id"].to_pylist(), table["logit.llm"].to_pylist(), found_here, strict=True)
        found.update({example: (logit, vector) for example, logit, vector in rows})
    return found


def as_lists(values: np.ndarray) -> pa.Array:
    return pa.array(list(values), pa.list_(pa.float32()))


def as_fixed_lists(values: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.astype(np.float64).reshape(-1)), values.shape[1])


@pytest.mark.parametrize("form", [as_lists, as_fixed_lists, "binary"])
def test_answers_are_joined_by_id_whatever_the_order_and_the_form(
    tiny_dataset: Dataset, tmp_path: Path, form: Any
) -> None:
    ids, logit = logits_of(tiny_dataset)
    vectors = np.random.default_rng(1).normal(size=(len(ids), 5)).astype(np.float32)
    for number, at in enumerate(np.array_split(np.arange(len(ids)), 3)):
        path = tmp_path / "log" / f"{number}.parquet"
        if form == "binary":
            schema = pa.schema(
                [("example_id", pa.int64()), ("logit", pa.float64()), binary_field("embedding", "float32", 5)]
            )
            arrays = [pa.array(ids[at]), pa.array(logit[at]), vectors_to_binary(vectors[at])]
            path.parent.mkdir(exist_ok=True)
            pq.write_table(pa.Table.from_arrays(arrays, schema=schema), path, row_group_size=100)
        else:
            write(path, ids[at], logit[at], form(vectors[at]))
    out = tmp_path / "out"
    imported = import_outside("llm", spec(str(tmp_path / "log" / "*.parquet")), tiny_dataset, out)
    dim, version, shards = imported
    assert dim == 5
    assert [shard.part for shard in shards] == [part.key for part in tiny_dataset.parts()]
    cache = opened(tiny_dataset, out, imported)
    cache.verify()
    found = joined(cache, tiny_dataset)
    assert len(found) == len(ids)
    for example, raw, vector in zip(ids, logit.astype(np.float32), vectors.astype(np.float16), strict=True):
        assert found[example][0] == pytest.approx(version.slope * raw + version.intercept, abs=1e-5)
        np.testing.assert_allclose(found[example][1], vector, atol=np.ptp(vector.astype(np.float32)) / 500)


def test_shards_hold_the_logit_as_it_was_said_in_the_order_of_the_part(tiny_dataset: Dataset, tmp_path: Path) -> None:
    ids, logit = logits_of(tiny_dataset)
    _, _, shards = import_outside("llm", spec(write(tmp_path / "a.parquet", ids, logit)), tiny_dataset, tmp_path)
    part = tiny_dataset.parts()[2]
    shard = pq.read_table(shard_path(tmp_path, part.key, shards[2].version), partitioning=None)
    assert shard.column_names == ["example_id", "logit"]
    assert shard["example_id"].equals(pq.read_table(part.path, partitioning=None)["example_id"])
    said = dict(zip(ids.tolist(), logit.astype(np.float32).tolist(), strict=True))
    assert shard["logit"].to_pylist() == [said[example] for example in shard["example_id"].to_pylist()]
    assert not (tmp_path / ".scratch").exists()


def test_absent_rows_stay_absent_and_unknown_ones_are_left_out(tiny_dataset: Dataset, tmp_path: Path) -> None:
    ids, logit = logits_of(tiny_dataset)
    kept = np.arange(len(ids)) % 3 > 0
    answered = pa.array(logit, mask=np.arange(len(ids)) % 5 == 0)
    table = pa.table({"example_id": ids, "logit": answered}).filter(pa.array(kept))
    strange = pa.table({"example_id": np.arange(100) + 10**12, "logit": np.zeros(100)})
    pq.write_table(pa.concat_tables([strange, table]), tmp_path / "a.parquet")
    imported = import_outside("llm", spec(str(tmp_path / "a.parquet")), tiny_dataset, tmp_path / "out")
    assert imported[0] == 0
    found = joined(opened(tiny_dataset, tmp_path / "out", imported), tiny_dataset)
    expected = {
        example for example, row in zip(ids.tolist(), range(len(ids)), strict=True) if row % 3 > 0 and row % 5 > 0
    }
    assert {example for example, (said, _) in found.items() if said is not None} == expected
    assert sum(shard.rows for shard in imported[2]) == len(expected)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1000), share=st.floats(0.05, 1), files=st.integers(1, 4))
def test_any_subset_in_any_order_comes_back(
    tiny_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory, seed: int, share: float, files: int
) -> None:
    folder = tmp_path_factory.mktemp("any")
    ids, logit = logits_of(tiny_dataset, seed)
    rng = np.random.default_rng(seed)
    chosen = rng.random(len(ids)) < share
    chosen[np.flatnonzero(np.isin(ids, labels(tiny_dataset, "validation")[0]))[:5]] = True
    ids, logit = ids[chosen], logit[chosen]
    paths = [
        write(folder / f"{number}.parquet", ids[at], logit[at])
        for number, at in enumerate(np.array_split(np.arange(len(ids)), files))
    ]
    imported = import_outside("llm", spec(*paths), tiny_dataset, folder / "out")
    found = joined(opened(tiny_dataset, folder / "out", imported), tiny_dataset)
    said = {example: logit for example, (logit, _) in found.items() if logit is not None}
    assert said.keys() == set(ids.tolist())
    version = imported[1]
    expected = version.slope * logit.astype(np.float32) + version.intercept
    np.testing.assert_allclose([said[example] for example in ids.tolist()], expected, atol=1e-4)


def test_logits_are_calibrated_on_validation_rows(tiny_dataset: Dataset, tmp_path: Path) -> None:
    ids, label = labels(tiny_dataset)
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 1.5, len(ids))
    held_out = np.isin(ids, labels(tiny_dataset, "validation")[0])
    calibrated = np.where(held_out, 2 * label - 1 + rng.normal(size=len(ids)), truth)
    slopes = []
    for scale, name in [(1.0, "a"), (4.0, "b")]:
        path = write(tmp_path / f"{name}.parquet", ids, calibrated * scale + 3)
        slopes.append(import_outside("llm", spec(path), tiny_dataset, tmp_path / name)[1])
    assert slopes[0].slope == pytest.approx(2, rel=0.3), "the log-odds of labels +-1 with noise 1"
    assert slopes[1].slope == pytest.approx(slopes[0].slope / 4, rel=1e-3)
    assert slopes[0].intercept + 3 * slopes[0].slope == pytest.approx(
        slopes[1].intercept + 3 * slopes[1].slope, abs=1e-3
    )


def test_calibration_follows_the_weights(make_dataset: Callable[..., Dataset], tmp_path: Path) -> None:
    dataset = make_dataset(weighted=True)
    part = dataset.parts("validation")[0]
    rows = pq.read_table(part.path, partitioning=None)
    label, weight = rows["label"].to_numpy(), rows["weight"].to_numpy()
    path = write(tmp_path / "a.parquet", rows["example_id"].to_numpy(), np.tile([0.0, 1e-9], len(rows))[: len(rows)])
    version = import_outside("llm", spec(path), dataset, tmp_path / "out")[1]
    rate = np.average(label, weights=weight)
    assert version.intercept == pytest.approx(np.log(rate / (1 - rate)), abs=1e-3)
    assert abs(rate - label.mean()) > 1e-3


def test_a_logit_moves_from_the_teachers_sampling_to_the_datasets(
    make_dataset: Callable[..., Dataset], tmp_path: Path
) -> None:
    dataset = make_dataset(keep_rate=0.25)
    ids, logit = logits_of(dataset)
    path = write(tmp_path / "a.parquet", ids, logit)
    _, _, shards = import_outside("llm", spec(path, negative_keep_rate=0.5), dataset, tmp_path / "out")
    shard = pq.read_table(shard_path(tmp_path / "out", shards[0].part, VERSION), partitioning=None)
    said = dict(zip(ids.tolist(), logit.tolist(), strict=True))
    moved = [z - said[example] for example, z in zip(*(shard[c].to_pylist() for c in shard.column_names), strict=True)]
    # Of 100 clicks and 900 others a log that keeps half has odds 100 : 450, one that keeps a quarter 100 : 225.
    np.testing.assert_allclose(moved, np.log(100 / 225) - np.log(100 / 450), atol=1e-5)


def test_the_version_says_what_is_known(tiny_dataset: Dataset, tmp_path: Path) -> None:
    ids, logit = logits_of(tiny_dataset)
    half = len(ids) // 2
    paths = [
        write(tmp_path / "a.parquet", ids[:half], logit[:half]),
        write(tmp_path / "b.parquet", ids[half:], logit[half:]),
    ]
    version = import_outside("llm", spec(*paths, seen="in_sample"), tiny_dataset, tmp_path / "one")[1]
    assert version.seen == "in_sample"
    assert "a.parquet, b.parquet" in version.learned_from
    assert version.fingerprint == fingerprint(sorted(file_sha256(Path(path)) for path in paths))
    turned = import_outside("llm", spec(*paths[::-1]), tiny_dataset, tmp_path / "two")[1]
    assert (turned.fingerprint, turned.seen) == (version.fingerprint, "unseen")


def test_importing_again_gives_the_same_bytes(tiny_dataset: Dataset, tmp_path: Path) -> None:
    ids, logit = logits_of(tiny_dataset)
    path = write(tmp_path / "a.parquet", ids, logit, as_lists(np.random.default_rng(0).normal(size=(len(ids), 3))))
    (tmp_path / "one" / ".scratch").mkdir(parents=True)
    (tmp_path / "one" / ".scratch" / "typed-00000-00000.parquet").write_text("what a killed run left")
    first = import_outside("llm", spec(path), tiny_dataset, tmp_path / "one")
    assert import_outside("llm", spec(path), tiny_dataset, tmp_path / "one") == first


def test_values_that_float16_does_not_have_are_clipped(tiny_dataset: Dataset, tmp_path: Path) -> None:
    ids, logit = logits_of(tiny_dataset)
    vectors = np.tile([[1e6, -1e6]], (len(ids), 1))
    imported = import_outside(
        "llm", spec(write(tmp_path / "a.parquet", ids, logit, as_lists(vectors))), tiny_dataset, tmp_path
    )
    _, vector = joined(opened(tiny_dataset, tmp_path, imported), tiny_dataset)[int(ids[0])]
    np.testing.assert_allclose(vector, [65504, -65504], rtol=1e-6)


def test_paths_may_name_an_environment_variable_and_files_may_be_empty(
    tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_ANSWERS", str(tmp_path / "answers"))
    ids, logit = logits_of(tiny_dataset)
    vectors = as_lists(np.ones((len(ids), 3)))
    write(tmp_path / "answers" / "a.parquet", ids[:0], logit[:0], vectors[:0])
    write(tmp_path / "answers" / "b.parquet", ids, logit, vectors)
    dim, _, shards = import_outside("llm", spec("${LLM_ANSWERS}/*.parquet"), tiny_dataset, tmp_path / "out")
    assert (dim, sum(shard.rows for shard in shards)) == (3, 3000)


def with_value(values: np.ndarray, at: int, value: Any) -> Any:
    changed: list[Any] = list(values)
    changed[at] = value
    return changed


BINARY = pa.array([b"1234"] * 3000, pa.binary(4))
MISTAKES: list[tuple[str, Callable[[np.ndarray, np.ndarray, Any], dict[str, Any]], str]] = [
    ("no id", lambda i, z, e: {"id": i, "logit": z}, "there is no column 'example_id'; it has id, logit"),
    ("no logit", lambda i, z, e: {"example_id": i, "score": z}, "there is no column 'logit'"),
    (
        "text id",
        lambda i, z, e: {"example_id": i.astype(str), "logit": z},
        "column 'example_id' is .*string; expected int64",
    ),
    (
        "float id",
        lambda i, z, e: {"example_id": i.astype(float), "logit": z},
        "column 'example_id' is double; expected int64",
    ),
    (
        "whole logit",
        lambda i, z, e: {"example_id": i, "logit": z.astype(int)},
        "column 'logit' is int64; expected float32",
    ),
    ("null id", lambda i, z, e: {"example_id": with_value(i, 6, None), "logit": z}, "row 7: example_id is null"),
    ("nan", lambda i, z, e: {"example_id": i, "logit": with_value(z, 1234, np.nan)}, "row 1235: logit is not a finite"),
    ("too large", lambda i, z, e: {"example_id": i, "logit": with_value(z, 3, 1e39)}, "row 4: logit is not a finite"),
    ("twice", lambda i, z, e: {"example_id": with_value(i, 1, i[0]), "logit": z}, "is more than once in a.parquet"),
    ("ragged", lambda i, z, e: e(with_value(np.ones((3000, 2)), 5, [1.0])), "row 6: embedding has not 2 numbers"),
    ("empty", lambda i, z, e: e(with_value(np.ones((3000, 2)), 0, [])), "row 1: embedding is empty"),
    ("no vector", lambda i, z, e: e(with_value(np.ones((3000, 2)), 5, None)), "row 6: embedding is null"),
    ("hole", lambda i, z, e: e(with_value(np.ones((3000, 2)), 5, [1.0, None])), "row 6: embedding holds a null"),
    ("inf", lambda i, z, e: e(with_value(np.ones((3000, 2)), 5, [1.0, np.inf])), "row 6: embedding is not finite"),
    ("words", lambda i, z, e: e([["a"]] * 3000), "column 'embedding' is list.*; expected lists of floats"),
    (
        "bytes",
        lambda i, z, e: {"example_id": i, "logit": z, "embedding": BINARY},
        "'embedding' is fixed_size_binary.*; expected .*`dtype` and `dim`",
    ),
    ("other ids", lambda i, z, e: {"example_id": i + 10**9, "logit": z}, "none of the 3000 rows .* has an example_id"),
]


@pytest.mark.parametrize(("make", "said"), [mistake[1:] for mistake in MISTAKES], ids=[name for name, *_ in MISTAKES])
def test_mistakes_are_named(tiny_dataset: Dataset, tmp_path: Path, make: Any, said: str) -> None:
    ids, logit = logits_of(tiny_dataset)

    def embedded(values: list[Any]) -> dict[str, Any]:
        return {"example_id": ids, "logit": logit, "embedding": pa.array(values)}

    pq.write_table(pa.table(make(ids, logit, embedded)), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=said) as error:
        import_outside("llm", spec(str(tmp_path / "a.parquet")), tiny_dataset, tmp_path / "out")
    assert "a.parquet" in str(error.value)


def test_files_of_one_teacher_must_agree(tiny_dataset: Dataset, tmp_path: Path) -> None:
    ids, logit = logits_of(tiny_dataset)
    for width, name in [(2, "a"), (3, "b")]:
        write(tmp_path / f"{name}.parquet", ids, logit, as_lists(np.ones((len(ids), width))))
    with pytest.raises(UserError, match=r"b\.parquet: its embedding has 3 numbers, and that of .*a\.parquet has 2"):
        import_outside("llm", spec(str(tmp_path / "*.parquet")), tiny_dataset, tmp_path / "out")


def test_an_id_in_two_files_is_found(tiny_dataset: Dataset, tmp_path: Path) -> None:
    ids, logit = logits_of(tiny_dataset)
    paths = [write(tmp_path / "a.parquet", ids, logit), write(tmp_path / "b.parquet", ids[7:8], logit[7:8])]
    with pytest.raises(UserError, match=rf"example_id {ids[7]} is more than once in a.parquet, b.parquet"):
        import_outside("llm", spec(*paths), tiny_dataset, tmp_path / "out")


def test_without_validation_rows_there_is_no_calibration(tiny_dataset: Dataset, tmp_path: Path) -> None:
    ids, _ = labels(tiny_dataset, "train")
    path = write(tmp_path / "a.parquet", ids, np.zeros(len(ids)))
    with pytest.raises(UserError, match="answer for no validation row, so its logit cannot be calibrated"):
        import_outside("llm", spec(path), tiny_dataset, tmp_path / "out")


def test_a_path_that_finds_nothing_is_named(tiny_dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere.*no file matches"):
        import_outside("llm", spec(str(tmp_path / "nowhere*.parquet")), tiny_dataset, tmp_path / "out")
