"""The whole way through with teachers that are known by their answers alone, and over logs whose values change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recdistill.clicklog.schema import Dataset
from recdistill.export import score
from recdistill.files import file_sha256, read_json
from recdistill.models.shape import module_name

Go = Callable[..., list[str]]

JOB = """\
name: outside
dataset:
  log: {paths: "%s"}
  split: {by: random, validation: 0.2, test: 0.2}
  features:
    user, item: {kind: single}
teachers:
  regime: out_of_fold
  folds: 2
  members:
    foundation: {kind: dlrm, dim: 8, top: [8], train: {epochs: 2, batch_size: 128}}
    other: {kind: dlrm, dim: 4, top: [8], features: [user], train: {epochs: 1, batch_size: 128}}
student: {top: [4], compression: 2, dims: [4], share: hash}
distill:
  methods: [alone, single, mean, hint]
  recombine: {rows: 1.5, groups: [[item]]}
  seeds: [0]
  train: {epochs: 2, batch_size: 128}
evaluate: {resamples: 100}
workers: 1
"""


def write_log(path: Path, name: str = "i{:02}") -> str:
    """A log of 900 rows whose items are called by `name`; the job over it."""
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, 20, 900), rng.integers(0, 15, 900)
    label = rng.random(900) < 1 / (1 + np.exp(-2 * rng.normal(size=(20, 15))[user, item]))
    rows = [f"u{u},{name.format(i)},{int(y)}" for u, i, y in zip(user, item, label, strict=True)]
    path.write_text("\n".join(["user,item,label", *rows]))
    return JOB % path


def answer(dataset: Dataset, path: Path) -> None:
    """Answers with embeddings about every row, by somebody outside."""
    ids = np.concatenate([pq.read_table(p.path, partitioning=None)["example_id"].to_numpy() for p in dataset.parts()])
    vectors = np.random.default_rng(1).normal(size=(len(ids), 4)).astype(np.float32)
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 4)
    pq.write_table(pa.table({"example_id": ids, "logit": vectors[:, 0], "embedding": embedding}), path)


def student(folder: Path, method: str) -> str:
    return file_sha256(folder / "stages" / "distill" / method / "seed-0" / "test.parquet")


def test_a_teacher_that_moves_outside_leaves_no_answers_behind(tmp_path: Path, run_text: Go, one_thread: None) -> None:
    job = write_log(tmp_path / "log.csv")
    used, fresh = tmp_path / "used", tmp_path / "fresh"
    run_text(job, used, upto="distill")
    answer(Dataset(used / "stages" / "ingest"), tmp_path / "answers.parquet")
    outside = f"teachers.members.other={{kind: file, paths: {tmp_path / 'answers.parquet'}}}"
    for folder in (used, fresh):
        run_text(job, folder, outside, upto="distill")
    assert (used / "stages" / "label" / "other").exists()  # of when it could be asked
    for method in ("single", "mean", "hint"):
        assert student(used, method) == student(fresh, method)


def test_nobody_learns_of_recombined_rows_that_nobody_labels(tmp_path: Path, run_text: Go, one_thread: None) -> None:
    job = write_log(tmp_path / "log.csv")
    run_text(job, tmp_path / "run", upto="ingest")
    answer(Dataset(tmp_path / "run" / "stages" / "ingest"), tmp_path / "answers.parquet")
    told = f"{{kind: file, parameters: 2000, seen: in_sample, paths: {tmp_path}/answers.parquet}}"
    outside = f"teachers.members.foundation={told}"
    run_text(job, tmp_path / "run", outside)
    mean = student(tmp_path / "run", "mean")
    training = read_json(tmp_path / "run" / "stages" / "distill" / "single" / "seed-0" / "training.json")
    assert min(training["losses"]) > 0.3  # no step without anything to learn
    single = student(tmp_path / "run", "single")
    run_text(job, tmp_path / "run", outside, "distill.recombine.rows=3")
    assert student(tmp_path / "run", "single") == single and student(tmp_path / "run", "mean") != mean
    report = read_json(tmp_path / "run" / "report.json")
    assert report["in_sample"] == ["foundation"] and any("seen: in_sample" in text for text in report["warnings"])
    assert "had not seen, but for foundation." in (tmp_path / "run" / "report.html").read_text()
    run_text(job, tmp_path / "run", outside.replace("in_sample", "unseen"), "distill.recombine.rows=3")
    assert not read_json(tmp_path / "run" / "report.json")["in_sample"]


def test_values_that_are_spelled_anew_reach_the_student(tmp_path: Path, run_text: Go) -> None:
    plain = "distill={methods: [alone], seeds: [0], train: {epochs: 1}}"
    run_text(write_log(tmp_path / "log.csv"), tmp_path / "run", plain)
    before = Dataset(tmp_path / "run" / "stages" / "ingest").fingerprint
    run_text(write_log(tmp_path / "log.csv", "item-{:02}"), tmp_path / "run", plain)
    assert Dataset(tmp_path / "run" / "stages" / "ingest").fingerprint != before
    unseen = score(tmp_path / "run" / "student", [str(tmp_path / "log.csv")], tmp_path / "scores.parquet")
    assert unseen == {"user": 0, "item": 0}
    write_log(tmp_path / "other.csv")
    assert score(tmp_path / "run" / "student", [str(tmp_path / "other.csv")], tmp_path / "other.parquet")["item"] == 1
    scored = pq.read_table(tmp_path / "scores.parquet").to_pandas()
    tested = pq.read_table(tmp_path / "run" / "stages" / "distill" / "alone" / "seed-0" / "test.parquet").to_pandas()
    both = tested.merge(scored, on="example_id", suffixes=("", "_scored"))
    assert len(both) == len(tested)
    np.testing.assert_allclose(1 / (1 + np.exp(-both["logit"])), both["probability"], atol=1e-5)


def test_columns_may_be_called_like_parts_of_a_module(tmp_path: Path, run_text: Go) -> None:
    plain = "distill={methods: [alone, single, diverse], seeds: [0], train: {epochs: 1}}"
    job = write_log(tmp_path / "log.csv").replace("user", "type").replace("item", "item.id")
    log = (tmp_path / "log.csv").read_text()
    (tmp_path / "log.csv").write_text(log.replace("user,item,label", "type,item.id,label", 1))
    run_text(job, tmp_path / "run", plain, "student.share=null")
    score(tmp_path / "run" / "student", [str(tmp_path / "log.csv")], tmp_path / "scores.parquet")
    assert pq.read_table(tmp_path / "scores.parquet").num_rows == 900
    assert [module_name(name) for name in ("user", "type", "item.id")] == ["user", "/type", "/item/id"]
