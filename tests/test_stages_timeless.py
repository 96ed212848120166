"""The whole way through for rows that have no time: teachers score the folds that they have not seen."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from recdistill import cli
from recdistill.clicklog.schema import Dataset
from recdistill.files import file_sha256, read_json

JOB = """\
name: timeless
dataset:
  log: {paths: "%s"}
  split: {by: random, validation: 0.2, test: 0.2}
  features:
    user, item: {kind: single}
    age: {kind: dense}
teachers:
  regime: out_of_fold
  folds: 2
  foundation: first
  members:
    first: {kind: dlrm, dim: 8, top: [8], train: {epochs: 2, batch_size: 128}}
    second: {kind: dlrm, dim: 8, top: [8], seed: 1, train: {epochs: 2, batch_size: 128}}
    weekday: {kind: dlrm, dim: 4, top: [8], features: [user], train: {epochs: 1}}
student: {top: [4], compression: 2, dims: [4]}
distill: {methods: [alone, single], seeds: [0], train: {epochs: 2, batch_size: 128}}
evaluate: {resamples: 100}
workers: 1
"""


def times(folder: Path) -> dict[str, int]:
    """When each file below a folder was written."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def timeless(tmp_path: Path) -> str:
    """A job over rows that have no time."""
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, 20, 900), rng.integers(0, 15, 900)
    taste = rng.normal(size=(20, 15)) * 2
    label = rng.random(900) < 1 / (1 + np.exp(-taste[user, item]))
    rows = [f"{u},{i},{u % 7},{int(y)}" for u, i, y in zip(user, item, label, strict=True)]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,age,label", *rows]))
    return JOB % (tmp_path / "log.csv")


def test_rows_without_a_time_are_taught_out_of_fold(
    timeless: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "job.yaml").write_text(timeless)
    command = ["recdistill", "run", str(tmp_path / "job.yaml"), "--out", str(tmp_path / "run"), "--quiet", "--json"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 0
    report = json.loads(capsys.readouterr().out)
    assert report == read_json(tmp_path / "run" / "report.json")
    assert report["regime"] == "out_of_fold" and report["models"].keys() >= {"alone", "single", "first", "weekday"}
    taught = sorted(path.name for path in (tmp_path / "run" / "stages" / "teach" / "first").iterdir())
    assert taught == ["final", "fold-0", "fold-1"]
    assert report["teacher_forwards"]["saved"] == 0


def test_another_foundation_of_the_same_size_is_another_job(
    timeless: str, tmp_path: Path, run_text: Callable[..., list[str]]
) -> None:
    run_text(timeless, tmp_path / "run")
    before, reported = times(tmp_path / "run" / "stages"), read_json(tmp_path / "run" / "report.json")
    run_text(timeless, tmp_path / "run", "teachers.foundation=second")
    after, now = times(tmp_path / "run" / "stages"), read_json(tmp_path / "run" / "report.json")
    assert now["gap"] != reported["gap"] and now["models"]["single"] != reported["models"]["single"]
    assert now["models"]["alone"] == reported["models"]["alone"]
    changed = {tuple(path.split("/")[:2]) for path in after if after[path] != before.get(path)}
    assert {stage for stage, _ in changed} == {"distill", "evaluate", "export"}
    assert ("distill", "alone") not in changed


def test_recombined_rows_reach_every_student_but_the_one_alone(
    timeless: str, tmp_path: Path, run_text: Callable[..., list[str]]
) -> None:
    run_text(timeless, tmp_path / "run")
    students = tmp_path / "run" / "stages" / "distill"
    before = {name: file_sha256(students / name / "seed-0" / "test.parquet") for name in ("alone", "single")}
    change = "distill.recombine={rows: 1.5, groups: [[item]]}"
    said = run_text(timeless, tmp_path / "run", change)
    assert {"recombine", "label", "distill: 1 of 2"} <= set(said)
    after = {name: file_sha256(students / name / "seed-0" / "test.parquet") for name in ("alone", "single")}
    assert after["alone"] == before["alone"] and after["single"] != before["single"]
    made = Dataset(tmp_path / "run" / "stages" / "recombine")
    forwards = read_json(tmp_path / "run" / "report.json")["teacher_forwards"]
    assert forwards["computed"] == 3 * (made.rows() + 900) > 3 * 900 and forwards["saved"] == 0
    again = [text for text in run_text(timeless, tmp_path / "run", change) if not text.startswith(" ")]
    assert "label: up to date" in again and all(text.endswith("up to date") for text in again)


def test_a_router_spares_teachers_and_what_is_spared_would_have_been_left_out(
    timeless: str, tmp_path: Path, run_text: Callable[..., list[str]]
) -> None:
    """A sparse cache teaches what the full one does when the same pairs are left out of it.

    To the byte, where a row's answer does not depend on which rows are scored with it. On some processors the last bit
    of a product does, if its rows are no whole number of vectors, as behind an interaction of three dots here.
    """
    timeless = timeless.replace("dim: 8,", "dim: 8, interaction: none,")
    text = timeless.replace("[alone, single]", "[alone, diverse]").replace(
        "distill: {", "distill: {recombine: {rows: 1.5, groups: [[item]]}, "
    )
    run_text(text, tmp_path / "full", "teachers.route={keep: 0.5, curve: [0.4, 0.6]}")
    said = run_text(text, tmp_path / "sparse", "teachers.route={keep: 0.6}")
    assert "route" in said
    one, two = (tmp_path / name / "stages" for name in ("full", "sparse"))
    left_out, sparse = one / "curve" / "saved-0.4" / "seed-0", two / "distill" / "diverse" / "seed-0"
    assert file_sha256(left_out / "test.parquet") == file_sha256(sparse / "test.parquet")
    assert file_sha256(one / "distill" / "diverse" / "seed-0" / "test.parquet") != file_sha256(sparse / "test.parquet")

    full, report = (read_json(tmp_path / name / "report.json") for name in ("full", "sparse"))
    assert full["teacher_forwards"]["saved"] == 0 == full["curve"][0]["saved"] and report["curve"] == []
    passes = report["teacher_forwards"]
    assert passes["full"] == full["teacher_forwards"]["full"] == passes["computed"] + passes["saved"]
    assert passes["held_out"] == full["teacher_forwards"]["held_out"] > 0
    share = passes["saved"] / (passes["full"] - passes["held_out"])
    assert share == pytest.approx(full["curve"][1]["saved"]) == pytest.approx(0.4, abs=0.06)
    everything_itself_and_others = [0.0, 0.4, 0.5, 0.6]
    assert [point["aimed"] for point in full["curve"]] == everything_itself_and_others
    assert full["curve"][0]["against_full"]["ne"]["mean"] == 0 and full["curve"][2]["saved"] > full["curve"][1]["saved"]
    assert full["curve"][2]["recovered"] == {m: full["gap_recovered"]["diverse"][m] for m in ("auc", "ne")}
    assert full["heard"] == pytest.approx(1 - full["curve"][2]["saved"]) and report["heard"] == pytest.approx(1 - share)
    assert not [name for name in full["models"] if "saved" in name]
    assert "How many teacher passes it takes" in (tmp_path / "full" / "report.html").read_text()
    again = [text for text in run_text(text, tmp_path / "sparse", "teachers.route={keep: 0.6}") if text[0] != " "]
    assert again and all(text.endswith("up to date") for text in again)
