from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from recdistill import cli, parallel
from recdistill.clicklog.schema import Dataset
from recdistill.config import Job
from recdistill.config.load import load_job
from recdistill.config.models import DlrmTeacher
from recdistill.errors import UserError
from recdistill.models import sharding
from recdistill.models.dlrm import DLRM
from recdistill.models.shape import shape_of
from recdistill.models.sharding import quiet, shard
from recdistill.models.size import solve
from recdistill.models.task import ClickModel
from recdistill.plan import plan_job

pytestmark = pytest.mark.usefixtures("on_cpus")
JOB = """\
name: planned
dataset:
  simulate: {rows: 1000, days: 3, users: 60, items: 40, domains: 2}
  time: {column: time, unit: ms}
  split: {by: days, validation: 1, test: 1}
  features:
    user, item: {kind: single}
    tags: {kind: bag}
    price: {kind: dense}
    clicked: {kind: history, user: user, of: item, last: 5}
teachers:
  regime: out_of_fold
  members:
    foundation: {kind: dlrm, dim: 16, bottom: [8], top: [32, 8]}
    users: {kind: dlrm, dim: 8, top: [8], features: [user]}
    trees: {kind: sklearn}
student: {top: [8], compression: 4, dims: [4, 8]}
"""
DECLARED = """\
name: declared
dataset:
  log: {paths: "log/*.csv"}
  time: {column: when, unit: s}
  split: {by: order, validation: 0.1, test: 0.1}
  features:
    user: {kind: single, hash: {size: 1000000}}
    friend: {kind: bag, share: user}
    item: {kind: single, max_values: 5000}
    age: {kind: bucket, bins: 10}
    ages: {kind: history, user: user, of: age}
    same_age: {kind: match, of: ages}
    price: {kind: dense}
teachers:
  regime: out_of_fold
  members:
    foundation: {kind: dlrm, dim: 64, train: {batch_size: 4096}}
"""


@pytest.fixture(autouse=True)
def nothing_by_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharding, "_by_rows", set())


@pytest.fixture(scope="module")
def ingested(run_text: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a dataset. Read only."""
    out = tmp_path_factory.mktemp("ingested") / "run"
    run_text(JOB, out, upto="ingest")
    return out


def job_of(text: str, folder: Path, *changes: str) -> Job:
    path = folder / "job.yaml"
    path.write_text(text)
    return load_job(path, changes)


def test_the_tables_are_those_of_the_dataset(ingested: Path, tmp_path: Path) -> None:
    found = plan_job(job_of(JOB, tmp_path), ingested, 2)
    rows = {table.name: table.rows for table in Dataset(ingested / "stages" / "ingest").schema.tables}
    small = ["student, dim 4", "student, dim 8", "student, dim 8, ids clustered"]
    assert [model["model"] for model in found["models"]] == ["foundation", "users", *small]
    assert found["ranks"] == 2 and found["fits"]
    foundation, users, *students = found["models"]
    assert {table["table"]: table["rows"] for table in foundation["tables"]} == rows
    assert {table["table"]: table["rows"] for table in users["tables"]} == {"user": rows["user"]}
    for model in found["models"]:
        for table in model["tables"]:
            assert sum(table["rows_of_rank"]) == table["rows"] and len(table["rows_of_rank"]) == 2
    assert all(4 * student["parameters"] <= foundation["parameters"] for student in students)


@pytest.mark.parametrize("dim", [None, 2])
def test_the_bytes_are_those_that_a_rank_then_holds(ingested: Path, tmp_path: Path, dim: int | None) -> None:
    """Of the foundation, and of a student with two vectors to a row."""
    job = job_of(JOB, tmp_path, *([f"student.dims=[{dim}]"] if dim else []))
    found = plan_job(job, ingested, 1)["models"][-1 if dim else 0]
    planned = found["bytes"][0]
    member = job.teachers.members["foundation"]
    assert isinstance(member, DlrmTeacher)
    schema = Dataset(ingested / "stages" / "ingest").schema
    shape = solve(job.student, schema, found["parameters"] * 4)[0] if dim else shape_of(member, 16, schema, None)
    assert shape.parameters() == found["parameters"]
    assert [table["rows"] for table in found["tables"]] == [shape.height(table) for table in shape.tables]
    model = ClickModel(DLRM(shape))
    with quiet():
        sharded, optimizer = shard(model, member.train)
    tables = [value for value in sharded.state_dict().values() if hasattr(value, "local_shards")]
    assert planned["tables"] == sum(table.local_shards()[0].tensor.nbytes for table in tables)
    held = [value for state in optimizer.state_dict()["state"].values() for value in state.values()]
    sums = [value.local_shards()[0].tensor for value in held if hasattr(value, "local_shards")]
    assert planned["optimizer"] == sum(value.nbytes for value in sums)
    dense = [v for v in sharded.parameters() if isinstance(v, Tensor) and v.requires_grad]
    assert planned["dense"] == 4 * (sum(value.nbytes for value in dense) - planned["tables"])


def test_more_ranks_hold_less_each(tmp_path: Path) -> None:
    job = job_of(DECLARED, tmp_path, "launch.row_wise=[user]")
    whole, part = (plan_job(job, None, world)["models"][0]["bytes"] for world in (1, 4))
    assert len(part) == 4
    for name in ("tables", "optimizer"):
        assert sum(one[name] for one in part) == whole[0][name]
        assert max(one[name] for one in part) < 0.27 * whole[0][name]
    assert all(one["dense"] == whole[0]["dense"] and one["batch"] < whole[0]["batch"] for one in part)


def test_declared_sizes_need_no_dataset(tmp_path: Path) -> None:
    found = plan_job(job_of(DECLARED, tmp_path), None, 2)["models"][0]
    assert {table["table"]: table["rows"] for table in found["tables"]} == {"user": 1000001, "item": 5001, "age": 11}
    assert found["whole"] == 4 * found["parameters"] > 4 * 64 * 1005013


def test_a_student_that_may_do_without_features_is_shown_beside_the_whole_one(ingested: Path, tmp_path: Path) -> None:
    planned = job_of(
        JOB, tmp_path, "student.dims=[4]", "student.without=[tags]", "student.compression=10", "student.share=hash"
    )
    whole, less = plan_job(planned, ingested, 1)["models"][2:]
    assert (whole["model"], less["model"]) == ("student, dim 4", "student, dim 4, without tags")
    (gone,) = {table["table"] for table in whole["tables"]} - {table["table"] for table in less["tables"]}
    rows = [sum(table["rows"] for table in one["tables"] if table["table"] != gone) for one in (whole, less)]
    assert gone == "tags" and rows[0] < rows[1]  # its rows are others'


def test_unknown_sizes_ask_for_an_ingest(tmp_path: Path, ingested: Path) -> None:
    for run in (None, tmp_path / "nothing"):
        with pytest.raises(UserError, match="nobody knows how many ids there are of user, item, tags"):
            plan_job(job_of(JOB, tmp_path), run, 2)
    with pytest.raises(UserError, match=r"ingested with other features than the job has now \(cost, price\)"):
        plan_job(job_of(JOB.replace("price:", "cost:"), tmp_path), ingested, 2)


@pytest.mark.parametrize("gigabytes", [0.001, 0.6])
def test_what_does_not_fit_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gigabytes: float) -> None:
    """The planner finds no room for the tables; or there is room, but not for the whole model at the beginning."""
    monkeypatch.setattr(parallel, "memory", lambda: int(gigabytes * 2**30))
    found = plan_job(job_of(DECLARED, tmp_path), None, 2)
    foundation = found["models"][0]
    assert not found["fits"] and not foundation["fits"] and ("why" in foundation) == (gigabytes < 0.1)


def test_the_command_shows_it(
    tmp_path: Path, ingested: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job_of(JOB, tmp_path)

    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["recdistill", "plan", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return int(left.value.code or 0), capsys.readouterr().out

    arguments = (tmp_path / "job.yaml", "--out", ingested)
    code, text = call(*arguments, "--ranks", 2, "--json")
    assert code == 0 and json.loads(text)["ranks"] == 2
    code, text = call(*arguments, "--set", "launch.ranks=3")
    assert code == 0 and "3 x cpu" in text and "student, dim 8" in text and "tags" in text
    monkeypatch.setattr(parallel, "memory", lambda: 2**12)
    code, text = call(*arguments)
    assert code == 1 and "do not fit into 1 rank of 0.0 GiB" in text
