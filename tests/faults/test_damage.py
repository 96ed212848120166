"""Files that are damaged or lost, at rest and in the middle of a run: one sentence, and what it advises helps."""

from __future__ import annotations

import re
import shutil
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from recdistill.files import read_json, write_json
from tests.faults.conftest import Straight
from tests.faults.hurts import damage, damage_at, die_at_path, forget
from tests.faults.victims import End, Server

HOWS = ("flip", "cut", "gone")
PART = "ingest/day=2026-01-02/part-train-00000.parquet"
SHARD = "cache/foundation/day=2026-01-02/part-train-00000.until-2026-01-01.parquet"
AT_REST = [
    *((PART, how) for how in HOWS),
    (SHARD, "flip"),
    (SHARD, "gone"),
    ("ingest/manifest.json", "flip"),
    ("ingest/schema.json", "flip"),
    ("ingest/vocabulary/item.parquet", "flip"),
    ("cache/trees/manifest.json", "flip"),
    ("teach/foundation/until-2026-01-01/weights.safetensors", "flip"),
    ("teach/foundation/final/weights.safetensors", "cut"),
    ("teach/trees/final/classifier.skops", "flip"),
    ("tune/diverse/trial-1/seed-0/training.json", "flip"),
    ("export/weights.safetensors", "flip"),
]


def told(end: End, path: Path) -> None:
    """One sentence that names the file, and nothing else."""
    assert (end.code, end.out, end.err.count("\n")) == (2, "", 1), end
    assert end.err.startswith("recdistill: ") and str(path) in end.err, end


def advised(end: End) -> Path:
    """The folder that is to be removed."""
    found = re.search(r"remove (?:the folder )?(/\S+) and", end.err)
    assert found, end
    return Path(found[1])


@pytest.fixture
def out(straight: Straight, tmp_path: Path) -> Path:
    return straight.copy(tmp_path / "run")


@pytest.mark.parametrize(("file", "how"), AT_REST)
def test_a_damaged_file_is_told_and_can_be_made_again(
    server: Server, straight: Straight, out: Path, file: str, how: str
) -> None:
    damage(out / "stages" / file, how)
    command = ["run", straight.job, "--out", out, "--quiet", "--json"]
    told(server.run(*command), out / "stages" / file)
    if how == "gone":
        shutil.rmtree(advised(server.run(*command)))
        assert server.run(*command).code == 0
        assert straight.differs(out) == []


def test_a_marker_that_is_gone_costs_work_and_nothing_else(server: Server, straight: Straight, out: Path) -> None:
    for marker in ("ingest/_SUCCESS", "cache/trees/_SUCCESS", "teach/foundation/until-2026-01-01/_SUCCESS"):
        (out / "stages" / marker).unlink()
    assert server.run("run", straight.job, "--out", out, "--quiet", "--json").code == 0
    assert straight.differs(out) == []


@pytest.mark.parametrize(("file", "how"), [(PART, "flip"), (PART, "gone"), (SHARD, "cut")])
def test_a_file_that_is_damaged_while_it_is_needed_is_told(
    server: Server, straight: Straight, out: Path, file: str, how: str
) -> None:
    stage = "teach" if file == PART else "tune"
    forget(out, stage)
    hurt = partial(damage_at, stage, out / "stages" / file, how)
    command = ["run", straight.job, "--out", out, "--quiet", "--json"]
    told(server.run(*command, hurts=[hurt]), out / "stages" / file)


def test_a_damaged_checkpoint_is_told(server: Server, straight: Straight, out: Path) -> None:
    forget(out, "distill")
    command = ["run", straight.job, "--out", out, "--quiet", "--json"]
    hurt = partial(die_at_path, r"/distill/diverse/.*/position\.json$", 2)
    assert server.run(*command, hurts=[hurt]).code == -9
    [training] = out.glob("stages/distill/diverse/.seed-0.work-*/training")
    for name in ("position.json", "check-0/.metadata", "check-0/__0_0.distcp"):
        whole = (training / name).read_bytes()
        damage(training / name, "flip")
        end = server.run(*command)
        told(end, training / name)
        (training / name).write_bytes(whole)
    position = read_json(training / "position.json")
    write_json(training / "position.json", {**position, "checks": [position["checks"][0] / 2]})
    told(server.run(*command), training / "position.json")
    write_json(training / "position.json", position)
    damage(training / "check-0" / "__0_0.distcp", "gone")
    shutil.rmtree(advised(server.run(*command)))
    assert server.run(*command).code == 0
    assert straight.differs(out) == []


def test_a_teacher_whose_start_is_gone_is_not_trained_without_it(server: Server, straight: Straight, out: Path) -> None:
    forget(out, "cache")
    command = ["cache", straight.job, "--out", out, "--quiet"]
    shutil.rmtree(out / "stages" / "teach" / "foundation" / "until-2026-01-02")
    end = server.run(*command)
    told(end, out / "stages" / "teach" / "foundation" / "until-2026-01-01" / "training")
    shutil.rmtree(advised(end))
    assert server.run(*command).code == 0
    assert straight.differs(out, "teach") == straight.differs(out, "cache") == []


def among_values(path: Path) -> float:
    """Where the middle of the last column's values is, as a part of the file: a page's header may change unread."""
    group = pq.ParquetFile(path).metadata.row_group(0)
    last = group.column(group.num_columns - 1)
    begin = last.dictionary_page_offset or last.data_page_offset
    return (last.data_page_offset + begin + last.total_compressed_size) / 2 / path.stat().st_size


@pytest.mark.parametrize("name", ["vocabulary/item.parquet", "schema.json", "weights.safetensors", "check.parquet"])
def test_a_damaged_student_does_not_score(server: Server, straight: Straight, tmp_path: Path, name: str) -> None:
    student = tmp_path / "student"
    shutil.copytree(straight.out / "student", student)
    damage(student / name, "flip", among_values(student / name) if name == "check.parquet" else 0.5)
    log = straight.out / "stages" / "simulate" / "day=2026-01-05.parquet"
    end = server.run("score", student, log, "--out", tmp_path / "scores.parquet", "--quiet")
    told(end, student)
    assert not (tmp_path / "scores.parquet").exists()


def test_a_damaged_report_is_written_again(server: Server, straight: Straight, out: Path) -> None:
    for name, how in (("report.json", "gone"), ("report.html", "flip")):
        damage(out / name, how)
    assert server.run("run", straight.job, "--out", out, "--quiet", "--json").code == 0
    assert straight.differs(out) == []
    assert (out / "report.html").read_bytes() == (straight.out / "report.html").read_bytes()


def test_damaged_times_are_told(server: Server, straight: Straight, out: Path) -> None:
    forget(out, "export")
    path = out / "timings.json"
    path.write_text(path.read_text().replace("seconds", "secondz", 1))
    command = ["run", straight.job, "--out", out, "--quiet", "--json"]
    told(server.run(*command), path)
    path.unlink()
    assert server.run(*command).code == 0
