"""Nights of a small service from end to end: what is taken over, a bad night, a broken teacher, a crash in each stage.

The long form, two weeks of it, is `tests/benchmarks/two_weeks.py`.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from recdistill import cli
from recdistill.clicklog.schema import Dataset
from recdistill.config import Job
from recdistill.config.job import Method
from recdistill.config.load import load_job
from recdistill.files import read_json
from recdistill.models.shape import Shape
from recdistill.models.trainer import position_of
from recdistill.nightly.night import night, whole_night
from recdistill.nightly.registry import registry
from recdistill.stages import Stages
from recdistill.teachers.shards import TeacherCache

JOB = Path(__file__).parents[2] / "pipelines" / "jobs" / "nightly.yaml"
FIRST, SECOND, THIRD = "2026-01-04", "2026-01-05", "2026-01-06"


def by_hand(day: str, service: str) -> None:
    """A night in a process of its own."""
    whole_night(load_job(JOB), day, Path(service))


def answers(run: Path, name: str) -> dict[str, pd.Series]:
    """What a teacher said about each part, raw, by row."""
    cache = TeacherCache(run / "stages" / "cache" / name, Dataset(run / "stages" / "ingest"))
    names = [f"{shard.part}.{shard.version}" for shard in cache.manifest.shards]
    return {
        part: pq.read_table(cache.root / f"{part}.parquet").to_pandas().set_index("example_id")["logit"]
        for part in names
    }


def test_days_that_were_scored_are_not_scored_again(three_nights: tuple[Path, list]) -> None:
    service, verdicts = three_nights
    first, second, third = (verdict.night["teacher_forwards"] for verdict in verdicts)
    assert first["reused"] == 0 and first["full"] == 2 * 4 * 3000 == first["computed"] + first["saved"]
    assert first["saved"] == pytest.approx(
        first["full"] * 0.5 * 0.5, rel=0.02
    )  # half of what was said of the train days
    for forwards in (second, third):  # of new days all is asked, since their rows are held out
        assert forwards["full"] == 2 * 5 * 3000 and forwards["computed"] == 2 * 3000
        assert forwards["reused"] == forwards["full"] - forwards["computed"] - forwards["saved"]
    # Days that were once held out have all their answers, and the days before them leave one by one.
    spared: Counter[str] = Counter()
    for name in ("foundation", "content"):
        for shard in read_json(service / "nights" / FIRST / "stages" / "cache" / name / "manifest.json")["shards"]:
            spared[shard["part"].split("/")[0]] += shard["eligible"] - shard["rows"]
    *_, newest = (count for _, count in sorted(spared.items()) if count)
    assert (second["saved"], third["saved"]) == (first["saved"], newest) and 0 < newest < first["saved"]
    nights = {
        shard["night"]
        for shard in read_json(service / "nights" / THIRD / "stages" / "cache" / "content" / "manifest.json")["shards"]
    }
    assert nights == {FIRST, SECOND, THIRD}


def test_what_was_reused_is_what_would_have_been_said(service: Path, job: Job, tmp_path: Path) -> None:
    """Vocabularies moved in between; a teacher's view of a row did not. Who is asked is another night's choice."""
    run = service / "nights" / SECOND
    then = {name: answers(run, name) for name in ("foundation", "content")}
    moved = Dataset(run / "stages" / "ingest"), Dataset(service / "nights" / FIRST / "stages" / "ingest")
    assert moved[0].vocabulary_path("user").read_bytes() != moved[1].vocabulary_path("user").read_bytes()
    shutil.rmtree(run)
    shutil.rmtree(service / "shelf")
    night(job, SECOND, service, "cache")
    for name, said in then.items():
        again = answers(run, name)
        assert again.keys() == said.keys()
        shared = 0
        for part in said:
            both = said[part].index.intersection(again[part].index)
            np.testing.assert_allclose(again[part][both], said[part][both], atol=1e-5)
            shared += len(both)
        assert shared > 0.6 * sum(map(len, said.values()))


def test_two_nights_teachers_never_share_a_cache(three_nights: tuple[Path, list]) -> None:
    service = three_nights[0]
    taught = {
        path.parent.name: read_json(path)["fingerprint"]
        for path in (service / "nights" / FIRST / "stages" / "teach" / "foundation").glob("*/teacher.json")
    }
    for day in (FIRST, SECOND, THIRD):
        manifest = read_json(service / "nights" / day / "stages" / "cache" / "foundation" / "manifest.json")
        assert {name: version["fingerprint"] for name, version in manifest["versions"].items()} == taught


@pytest.mark.parametrize("place", ["distill/diverse/seed-0", "route/routes/importance", "route/routes/missed"])
def test_student_and_routers_begin_at_those_before(three_nights: tuple[Path, list], place: str) -> None:
    """Their first loss is lower than that of the night that began at nothing, on the same settings."""
    nights = three_nights[0] / "nights"
    of_night = {FIRST: "random", SECOND: "before"} if place.startswith("route") else {FIRST: "", SECOND: ""}
    first, second = (
        position_of(nights / day / "stages" / place / begun / "training").losses[0] for day, begun in of_night.items()
    )
    assert second < first - 0.02


def test_a_nights_students_are_of_one_shape(service: Path, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though another would suit `alone` better: the next night's tables begin at these."""

    def size(stages: Stages) -> dict[Method, Shape]:
        shape = stages.fitting()[0]
        return {"alone": shape.model_copy(update={"dim": 2}), "diverse": shape}

    monkeypatch.setattr(Stages, "size", size)
    folder = night(job, FIRST, service, upto="distill")
    dims = [read_json(path)["shape"]["dim"] for path in folder.glob("*/*/model.json")]
    assert dims == [4, 4]


def test_a_night_run_again_is_the_same_night(service: Path, job: Job) -> None:
    before = {path: path.stat().st_mtime_ns for path in service.rglob("stages/**/*") if path.is_file()}
    assert whole_night(job, THIRD, service).outcome == "champion"
    assert {path: path.stat().st_mtime_ns for path in service.rglob("stages/**/*") if path.is_file()} == before


def test_corrupted_labels_are_caught_and_not_learned_from(
    service: Path, job: Job, corrupt: Callable[[Path, str], None]
) -> None:
    corrupt(service, "2026-01-07")
    verdict = whole_night(job, "2026-01-07", service)
    assert verdict.outcome == "blocked" and "champion_ne: the unchanged champion's NE went from" in verdict.why
    assert registry(service)["champion"]["day"] == THIRD
    verdict = whole_night(job, "2026-01-08", service)
    days = verdict.night["lineage"]["days"]
    assert days["skipped"] == ["2026-01-07"] and days["validation"] == THIRD and "2026-01-07" not in days["train"]
    assert verdict.night["lineage"]["start"] == THIRD and verdict.outcome == "promoted"


def test_a_broken_teacher_is_caught(service: Path) -> None:
    """Its learning rate was multiplied by a thousand."""
    broken = load_job(JOB, ["teachers.members.foundation.train.dense_rate=1.0", "student.compression=6"])
    verdict = whole_night(broken, "2026-01-07", service)
    assert verdict.outcome == "blocked" and "is it broken, or too old?" in verdict.why
    assert registry(service)["champion"]["day"] == THIRD
    assert not verdict.night["bad_day"]  # the day itself is fine


CRASHES = [
    (r"/stages/ingest$", 1),
    (r"/teach/content/.*position\.json$", 2),
    (r"/route/.*position\.json$", 2),
    (r"/cache/\.foundation.*\.parquet$", 3),
    (r"/distill/diverse/.*position\.json$", 2),
    (r"/stages/evaluate$", 1),
    (r"/stages/export$", 1),
    (r"/models/[^/.]*$", 1),
    (r"/champion\.json$", 1),
]


def test_a_crash_in_each_stage_heals_in_the_next_run(
    three_nights: tuple[Path, list], tmp_path: Path, job: Job, kill_at: Callable[..., None], one_thread: None
) -> None:
    whole, service = three_nights[0], tmp_path / "service"
    shutil.copytree(whole / "log", service / "log")
    for pattern, count in CRASHES:
        kill_at(pattern, count, __file__, "by_hand", FIRST, service)
        assert registry(service)["champion"] is None
    assert whole_night(job, FIRST, service).outcome == "promoted"
    known = registry(service)
    assert known["champion"]["model"] == registry(whole)["history"][0]["model"]  # named after its weights
    assert len(known["history"]) == 1


def test_changed_teachers_are_taught_beside_those_of_another_night(service: Path) -> None:
    theirs = service / "nights" / FIRST / "stages" / "teach"
    before = {path: path.stat().st_mtime_ns for path in theirs.rglob("*")}
    ours = service / "nights" / SECOND / "stages" / "teach"
    assert ours.is_symlink() and ours.resolve() == theirs.resolve()
    night(load_job(JOB, ["teachers.members.content.seed=1"]), SECOND, service, "teach")
    assert not ours.is_symlink() and (ours / "content" / "final" / "teacher.json").exists()
    assert {path: path.stat().st_mtime_ns for path in theirs.rglob("*")} == before
    night(load_job(JOB), SECOND, service, "teach")
    assert ours.is_symlink() and ours.resolve() == theirs.resolve()


def test_the_command_line(service: Path) -> None:
    go = CliRunner()
    text = ["--set", "service.gates.calibration=0.000001"]
    found = go.invoke(cli.app, ["nightly", str(JOB), "--day", THIRD, "--out", str(service), "-q"])
    assert found.exit_code == 0 and f"{THIRD}: champion: serves already" in found.output
    found = go.invoke(cli.app, ["rollback", str(service), "--why", "a test"])
    assert found.exit_code == 0 and "champion: 2026-01-05" in found.output
    found = go.invoke(cli.app, ["nightly", str(JOB), "--day", THIRD, "--out", str(service), "-q", *text])
    assert found.exit_code == 3 and "FAILED  calibration" in found.output
    found = go.invoke(cli.app, ["promote", str(service), "--day", FIRST])
    assert found.exit_code == 0 and "older than the champion of 2026-01-05" in found.output
    found = go.invoke(cli.app, ["registry", str(service)])
    assert "rolled back: a test" in found.output and "blocked: calibration" in found.output
    assert found.output.endswith(f"champion: 2026-01-05, {service / registry(service)['champion']['model']}\n")
