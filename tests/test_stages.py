"""The whole way through, at a small size: log in, report and student out; run again, changed, and killed."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file

from recdistill import cli
from recdistill.clicklog.schema import Dataset
from recdistill.config.models import Teachers
from recdistill.distill.train import Asked
from recdistill.export import score
from recdistill.files import finish, made_from, read_json, write_json
from recdistill.models.clusters import CLUSTERS
from recdistill.models.frozen import load_model
from recdistill.stages import STAGES
from tests.jobs import over_simulated

LOG = "rows: 6000, days: 5, users: 60, items: 40, domains: 2, negative_keep_rate: 0.5"
JOB = (
    over_simulated("small", LOG, true_probability="true_probability")
    + """\
teachers:
  regime: prequential
  members:
    foundation:
      {kind: dlrm, dim: 16, bottom: [8], top: [16, 8], dropout: 0.1, train: {epochs: 2, batch_size: 256}}
    domain:
      {kind: dlrm, dim: 8, top: [8], features: [user, item], rows: {domain: ["domain-0"]}, train: {epochs: 1}}
    trees:
      {kind: sklearn, params: {max_iter: 10}}
student: {top: [8], compression: 4, dims: [4, 8]}
distill:
  methods: [alone, mean, diverse]
  seeds: [0, 1]
  train: {epochs: 2, batch_size: 256, checks_per_epoch: 2}
  diverse: {question_width: 8}
evaluate: {resamples: 100, slices: [domain]}
workers: 1
"""
)


Go = Callable[..., list[str]]


def by_hand(job: str, out: str) -> None:
    """The command line, in a process of its own."""
    sys.argv = ["recdistill", "run", job, "--out", out, "--quiet"]
    cli.main()


def times(folder: Path) -> dict[str, int]:
    """When each file below a folder was written."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def edit(path: Path, **values: Any) -> None:
    """Changes a result as if it had come out so."""
    write_json(path, {**read_json(path), **values})
    finish(path.parent, str(made_from(path.parent)))


def without_timings(report: Path) -> dict[str, Any]:
    found = read_json(report)
    assert set(found.pop("timings")) >= {"simulate", "ingest", "teach", "cache", "distill"}
    return found


@pytest.fixture(scope="module")
def finished(run_text: Go, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run straight through. Read only."""
    folder = tmp_path_factory.mktemp("finished")
    run_text(JOB, folder / "run")
    return folder / "run"


@pytest.fixture
def go(run_text: Go) -> Go:
    """Runs the small job: `go(out, *changes, upto="export")`; gives what its stages said."""
    return partial(run_text, JOB)


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """The same run, to go on with."""
    shutil.copytree(finished, tmp_path / "run", symlinks=True)
    return tmp_path / "run"


STAT = {"mean", "low", "high"}


def test_the_report_is_complete(finished: Path) -> None:
    report, dataset = read_json(finished / "report.json"), Dataset(finished / "stages" / "ingest")
    assert report["version"] == 1 and report["seeds"] == [0, 1]
    assert report["dataset"]["fingerprint"] == dataset.fingerprint
    assert report["dataset"]["rows"] == {split: dataset.rows(split) for split in ("train", "validation", "test")}
    students, teachers = {"alone", "mean", "diverse"}, {"foundation", "domain", "trees"}
    assert students | teachers <= report["models"].keys()
    for model in report["models"].values():
        for metric in ("auc", "ne", "calibration"):
            assert model[metric].keys() >= STAT
    assert {name for name in teachers if report["models"][name]["coverage"] < 1} == {"domain"}
    assert report["worth"]["teachers"].keys() == teachers and report["worth"]["rows"] > 100
    params = report["params"]
    assert (
        params["compression"] == pytest.approx(params["foundation"] / params["student"]) and params["compression"] > 4
    )
    assert [entry["total"] for entry in report["account"]] == [params["foundation"], params["student"]]
    foundation, student = report["account"]
    looked_up = sum(table.rows for table in dataset.schema.tables)
    clustered = sum(table["clustered"] for table in read_json(finished / "student" / "model.json")["shape"]["tables"])
    assert "ids" not in foundation and sum(student["ids"].values()) == looked_up
    assert student["ids"]["likeness"] == clustered and min(student["ids"]["each"], student["ids"]["hash"]) > 0
    assert report["gap"].keys() >= {"auc", "ne"}
    assert report["gap_recovered"].keys() == {"mean", "diverse"}
    forwards = report["teacher_forwards"]
    assert forwards["full"] == forwards["computed"] < 3 * dataset.rows() and forwards["saved"] == 0
    assert report["slices"] and set(report["timings"]) >= {"simulate", "ingest", "teach", "cache", "distill"}


def test_what_a_run_leaves(finished: Path) -> None:
    assert (finished / "report.html").read_text().startswith("<!DOCTYPE html>")
    for stage in set(STAGES) - {"teach", "cache", "distill"}:
        assert (finished / "stages" / stage / "_SUCCESS").exists(), stage
    units = {str(path.parent.relative_to(finished / "stages")) for path in finished.glob("stages/*/*/*/_SUCCESS")}
    seeds = {f"distill/{method}/seed-{seed}" for method in ("alone", "mean", "diverse") for seed in (0, 1)}
    assert units >= seeds | {"teach/foundation/final", "teach/domain/final", "teach/trees/final"}
    assert not [path for path in finished.rglob("*") if ".work-" in path.name or ".partial" in path.name]


def test_students_and_routers_share_rows_as_their_clusters_say(finished: Path) -> None:
    stages = finished / "stages"
    clusters = load_file(stages / "cluster" / "dim-8-clustered" / CLUSTERS)
    students = [stages / "size" / method / "dim-8-clustered" / "seed-0" for method in ("alone", "mean")]
    routers = [path.parent for path in (stages / "route" / "routes").glob("*/*/model.json")]
    assert len(routers) >= 2
    for folder in (*students, *routers):
        model = load_model(folder)
        said = np.concatenate([clusters[table.name] for table in model.shape.tables if table.clustered])
        np.testing.assert_array_equal(model.row_map.sharing.cluster(torch.arange(len(said))).numpy(), said)


def test_who_hears_teachers_and_who_does_not_have_the_size_that_suits_them(copy: Path, go: Go) -> None:
    trials = copy / "stages" / "size"
    assert {path.parent.parent.name for path in trials.glob("*/*/seed-0/model.json")} == {
        "dim-4",
        "dim-8",
        "dim-8-clustered",
    }
    for alone, taught in (("dim-4", "dim-8-clustered"), ("dim-8", "dim-4")):
        for method, best in (("alone", alone), ("mean", taught)):
            for folder in (trials / method).iterdir():
                edit(folder / "seed-0" / "training.json", validation_ne=0.5 + (folder.name != best))
        go(copy)
        for method, best in (("alone", alone), ("mean", taught), ("diverse", taught)):
            shape = read_json(trials / ("alone" if method == "alone" else "mean") / best / "seed-0" / "model.json")[
                "shape"
            ]
            found = [read_json(path)["shape"] for path in copy.glob(f"stages/distill/{method}/*/model.json")]
            assert found == [shape, shape]
        models = read_json(copy / "report.json")["models"]
        assert models["alone"]["parameters"] != models["mean"]["parameters"] == models["diverse"]["parameters"]
        assert read_json(copy / "report.json")["params"]["student"] == models["mean"]["parameters"]
        assert read_json(copy / "student" / "model.json")["shape"]["dim"] == int(taught.split("-")[1])


def test_who_hears_teachers_and_who_does_not_have_what_suits_them(copy: Path, go: Go) -> None:
    """Their shares of unknown ids, and features that are left out."""
    changes = ("student.dims=[8]", "student.unknowns=[0, 0.5]", "student.without=[[user]]", "distill.seeds=[0]")
    go(copy, *changes)
    trials = copy / "stages" / "size"
    rests = ("", "-without-1", "-clustered", "-without-1-clustered")
    for method, best in (("alone", "dim-8-unknown-0.5"), ("mean", "dim-8-unknown-0-without-1")):
        tried = {path.name for path in (trials / method).glob("dim-8-unknown-*")}
        assert tried == {f"dim-8-unknown-{share}{rest}" for share in ("0", "0.5") for rest in rests}
        for name in tried:
            edit(trials / method / name / "seed-0" / "training.json", validation_ne=0.5 + (name != best))
    go(copy, *changes)
    models = {
        name: copy / "stages" / "distill" / name / "seed-0" / "model.json" for name in ("alone", "mean", "diverse")
    }
    shapes = {name: read_json(path)["shape"] for name, path in models.items()}
    found = {name: (shape["unknown"], "user" in shape["sparse"]) for name, shape in shapes.items()}
    assert found == {"alone": (0.5, True), "mean": (0.0, False), "diverse": (0.0, False)}
    assert read_json(copy / "report.json")["without"] == [{"methods": ["mean", "diverse"], "features": ["user"]}]


def test_answers_are_put_together_of_training_days_where_teachers_go_from_day_to_day(
    copy: Path, go: Go, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, sampled = [], Asked.sampled
    monkeypatch.setattr(Asked, "sampled", lambda self, split: asked.append(split) or sampled(self, split))
    go(copy, "distill.seeds=[2]", "student.dims=[8]", upto="distill")
    assert asked == ["validation", "train"] * 2  # of mean and diverse


@pytest.mark.parametrize(
    ("regime", "seen", "foretell"),
    [
        ("prequential", "unseen", True),
        ("later_days", "unseen", True),
        ("prequential", "in_sample", False),
        ("out_of_fold", "unseen", False),
        ("in_sample", "unseen", False),
    ],
)
def test_training_rows_foretell_where_teachers_had_not_seen_their_days(regime: str, seen: str, foretell: bool) -> None:
    members = {"foundation": {"kind": "file", "paths": "answers.parquet", "parameters": 9, "seen": seen}}
    assert Teachers.model_validate({"regime": regime, "members": members}).foretell == foretell


def test_a_teacher_learns_at_the_rate_that_did_best(copy: Path, go: Go) -> None:
    rates, taught = "teachers.members.foundation.embedding_rates=[0.05, 0.5]", copy / "stages" / "teach" / "foundation"
    before = read_json(taught / "final" / "teacher.json")["fingerprint"]  # it learned at 0.05
    trials = copy / "stages" / "tune_teachers" / "foundation"
    go(copy, rates, upto="teach")
    assert {path.parent.name: path.name for path in trials.glob("*/*") if path.name != "_SUCCESS"} == {
        f"rate-{rate}": "teacher.json" for rate in ("0.05", "0.5")
    }
    assert read_json(trials / "rate-0.05" / "teacher.json")["validation_ne"] < 1
    for best, same in ((0.05, True), (0.5, False)):
        for rate in (0.05, 0.5):
            edit(trials / f"rate-{rate}" / "teacher.json", validation_ne=0.5 + (rate != best))
        go(copy, rates, upto="teach")
        assert (read_json(taught / "final" / "teacher.json")["fingerprint"] == before) is same


def test_the_student_is_the_best_of_those_that_were_taught(copy: Path, go: Go) -> None:
    distilled = copy / "stages" / "distill"
    edit(distilled / "alone" / "seed-0" / "training.json", validation_ne=0.1)
    edit(distilled / "mean" / "seed-1" / "training.json", validation_ne=0.2)
    go(copy)
    weights = [folder / "weights.safetensors" for folder in (copy / "student", distilled / "mean" / "seed-1")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_the_student_scores_a_raw_log(finished: Path, tmp_path: Path) -> None:
    logs = sorted((finished / "stages" / "simulate").glob("day=*.parquet"))
    score(finished / "student", logs, tmp_path / "scores.parquet")
    scores = pq.read_table(tmp_path / "scores.parquet")
    ids = [number for log in logs for number in pq.read_table(log, partitioning=None)["example_id"].to_pylist()]
    assert sorted(scores["example_id"].to_pylist()) == sorted(ids)
    best = min(
        (finished / "stages" / "distill").glob("[md]*/*/training.json"), key=lambda p: read_json(p)["validation_ne"]
    )
    test = pq.read_table(best.parent / "test.parquet")
    expected = dict(zip(test["example_id"].to_pylist(), test["logit"].to_numpy(), strict=True))
    for number, p in zip(scores["example_id"].to_pylist(), scores["probability"].to_numpy(), strict=True):
        if number in expected:  # true traffic has twice the negatives that the log has
            assert np.log(p / (1 - p)) == pytest.approx(expected[number] + np.log(0.5), abs=1e-3)


def test_scores_stand_in_the_logs_order(finished: Path, tmp_path: Path) -> None:
    """Whatever order of time its rows have, which is what they are encoded in."""
    log = pq.read_table(sorted((finished / "stages" / "simulate").glob("day=*.parquet"))[0], partitioning=None)
    mixed = np.random.default_rng(0).permutation(log.num_rows)
    found = []
    for name, rows in (("one", log), ("two", log.take(mixed))):
        pq.write_table(rows, tmp_path / f"{name}.parquet")
        score(finished / "student", [tmp_path / f"{name}.parquet"], tmp_path / f"{name}-scores.parquet")
        scores = pq.read_table(tmp_path / f"{name}-scores.parquet")
        assert scores["example_id"].to_pylist() == rows["example_id"].to_pylist()
        found.append(scores["probability"].to_numpy())
    np.testing.assert_allclose(found[0][mixed], found[1], rtol=1e-5)


def test_run_again_does_nothing(copy: Path, go: Go) -> None:
    before = times(copy / "stages")
    said = go(copy)
    assert [text for text in said if not text.startswith(" ")] == [
        f"{stage}: up to date" for stage in (*STAGES[:3], "cluster", "route", STAGES[3], "size", *STAGES[4:])
    ]
    assert times(copy / "stages") == before


def test_what_changed_is_done_again_and_what_depends_on_it(copy: Path, finished: Path, go: Go) -> None:
    before = times(copy / "stages")
    go(copy, "distill.soft_weight=0.3")
    after = times(copy / "stages")
    assert before.keys() == after.keys()
    changed = {name for name in after if after[name] != before[name]}
    assert {name.split("/")[0] for name in changed} == {"size", "distill", "evaluate", "export"}
    assert {name.split("/")[1] for name in changed if name.startswith("size")} == {"mean"}
    assert {name.split("/")[1] for name in changed if name.startswith("distill")} == {"mean", "diverse"}
    models, then = (read_json(folder / "report.json")["models"] for folder in (copy, finished))
    assert models["mean"] != then["mean"] and models["alone"] == then["alone"]


@pytest.mark.parametrize("change", ["teachers.members.trees.params.max_iter=5", "teachers.members.domain.seed=1"])
def test_a_changed_teacher_is_the_only_one_taught_again(copy: Path, go: Go, change: str) -> None:
    name, before = change.split(".")[2], times(copy / "stages")
    go(copy, change, upto="cache")
    after = times(copy / "stages")
    changed = {tuple(path.split("/")[:2]) for path in after if after[path] != before.get(path)}
    assert changed == {("teach", name), ("route", "routes"), ("cache", name)}


def test_another_expert_is_no_reason_to_train_who_does_not_hear_it_again(copy: Path, go: Go) -> None:
    methods = "distill.methods=[alone, single, mean]"
    go(copy, methods, upto="distill")
    before = times(copy / "stages")
    go(copy, methods, "teachers.members.domain.seed=1", upto="distill")
    after = times(copy / "stages")
    changed = {tuple(path.split("/")[:2]) for path in after if after[path] != before.get(path)}
    assert changed == {("teach", "domain"), ("cache", "domain"), ("distill", "mean")}


def test_another_regime_teaches_again(copy: Path, go: Go) -> None:
    before = read_json(copy / "stages" / "teach" / "domain" / "final" / "teacher.json")
    go(copy, "teachers.regime=later_days", upto="teach")
    assert read_json(copy / "stages" / "teach" / "domain" / "final" / "teacher.json") != before


def test_killed_three_times_and_resumed_is_straight_through(
    finished: Path, tmp_path: Path, go: Go, kill_at: Callable[..., None], one_thread: None
) -> None:
    (tmp_path / "job.yaml").write_text(JOB)
    for pattern, count in [
        (r"/teach/foundation/.*position\.json$", 3),
        (r"/cache/\.domain.*/part-.*\.parquet$", 4),
        (r"/distill/diverse/.*position\.json$", 6),
    ]:
        kill_at(pattern, count, __file__, "by_hand", tmp_path / "job.yaml", tmp_path / "run")
        assert not (tmp_path / "run" / "report.json").exists()
    go(tmp_path / "run")
    assert without_timings(tmp_path / "run" / "report.json") == without_timings(finished / "report.json")
    for file in ("student/weights.safetensors", "stages/distill/alone/seed-1/test.parquet"):
        assert (tmp_path / "run" / file).read_bytes() == (finished / file).read_bytes()
    assert not [path for path in (tmp_path / "run").rglob("*") if ".work-" in path.name or ".partial" in path.name]


def test_side_by_side_is_one_after_the_other(finished: Path, tmp_path: Path, go: Go) -> None:
    shutil.copytree(finished / "stages" / "simulate", tmp_path / "run" / "stages" / "simulate")
    shutil.copyfile(finished / "lock", tmp_path / "run" / "lock")
    go(tmp_path / "run", "workers=2", "teachers.members.trees.params.max_iter=2", upto="teach")
    for name in ("foundation", "domain"):
        one, two = (folder / "stages" / "teach" / name for folder in (finished, tmp_path / "run"))
        assert read_json(one / "final" / "teacher.json") == read_json(two / "final" / "teacher.json")


def test_rows_of_the_newest_day_are_recombined_for_who_has_not_learned_from_it(copy: Path, go: Go) -> None:
    go(copy, "distill.recombine={rows: 1.0, groups: [[item]]}", upto="cache")
    newest = Dataset(copy / "stages" / "ingest").days[-2]  # the last one is the test
    assert Dataset(copy / "stages" / "recombine").days == [newest]
    for name in ("foundation", "domain", "trees"):
        shards = read_json(copy / "stages" / "label" / name / "manifest.json")["shards"]
        assert {(shard["version"], shard["part"].split("/")[0]) for shard in shards} == {("final", f"day={newest}")}
