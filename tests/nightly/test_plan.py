from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recdistill.clicklog.schema import Schema, Sparse, Table
from recdistill.config import Job
from recdistill.config.dataset import Files
from recdistill.config.models import Teachers
from recdistill.errors import UserError
from recdistill.files import write_json
from recdistill.models.shape import shape_of
from recdistill.models.size import _cut
from recdistill.nightly.judge import lineage
from recdistill.nightly.plan import by_day, changed, derive, files_mark, night_folder, plan, teaching

DAYS = [f"2026-01-{day:02d}" for day in range(1, 11)]


@pytest.fixture
def there(job: Job, tmp_path: Path) -> Job:
    """The job on ten days of (empty) files; without histories."""
    folder = tmp_path / "log"
    folder.mkdir()
    for day in DAYS:
        (folder / f"day={day}.parquet").touch()
    features = {name: feature for name, feature in job.dataset.features.items() if name != "clicked"}
    gates = job.service.gates.model_copy(update={"drifting": []})
    changes = {"simulate": None, "log": Files(paths=[str(folder / "*.parquet")]), "features": features}
    service = job.service.model_copy(update={"train_days": 3, "teach_every": 3, "gates": gates})
    return job.model_copy(update={"dataset": job.dataset.model_copy(update=changes), "service": service})


def judged(service: Path, job: Job, day: str, teachers: str, blocked: str | None = None, bad_day: bool = False) -> None:
    files = files_mark([source.path for source in by_day(job)[day]])
    record: dict[str, Any] = {
        "blocked": blocked,
        "bad_day": bad_day,
        "lineage": {"teachers": {"night": teachers, "job": teaching(job)}, "files": files},
    }
    write_json(service / "nights" / day / "night.json", record)


def test_the_first_night_takes_over_nothing(there: Job, tmp_path: Path) -> None:
    made = plan(there, "2026-01-06", tmp_path)
    assert (made.train, made.validation, made.day) == (DAYS[1:4], DAYS[4], DAYS[5])
    assert (made.teachers, made.begin, made.start, made.earlier) == ("2026-01-06", None, None, [])


def test_histories_read_every_earlier_day(there: Job, job: Job, tmp_path: Path) -> None:
    features = {**there.dataset.features, "clicked": job.dataset.features["clicked"]}
    there = there.model_copy(update={"dataset": there.dataset.model_copy(update={"features": features})})
    assert plan(there, "2026-01-06", tmp_path).earlier == DAYS[:1]


def test_teachers_serve_their_time(there: Job, tmp_path: Path) -> None:
    judged(tmp_path, there, "2026-01-05", "2026-01-05")
    made = plan(there, "2026-01-07", tmp_path)
    assert (made.teachers, made.begin, made.start) == ("2026-01-05", None, "2026-01-05")
    judged(tmp_path, there, "2026-01-07", "2026-01-05")
    made = plan(there, "2026-01-08", tmp_path)
    assert (made.teachers, made.begin, made.start) == ("2026-01-08", "2026-01-05", "2026-01-07")


def test_other_teachers_are_asked_for(there: Job, tmp_path: Path) -> None:
    judged(tmp_path, there, "2026-01-05", "2026-01-05")
    teachers = there.teachers.model_copy(update={"folds": 3})
    made = plan(there.model_copy(update={"teachers": teachers}), "2026-01-06", tmp_path)
    assert (made.teachers, made.begin, made.start) == ("2026-01-06", None, "2026-01-05")


def test_nothing_is_taken_over_from_a_blocked_night(there: Job, tmp_path: Path) -> None:
    judged(tmp_path, there, "2026-01-04", "2026-01-04")
    judged(tmp_path, there, "2026-01-05", "2026-01-05", blocked="ne")
    made = plan(there, "2026-01-06", tmp_path)
    assert (made.teachers, made.start, made.skipped) == ("2026-01-04", "2026-01-04", [])


def test_a_bad_day_is_not_learned_from(there: Job, tmp_path: Path) -> None:
    judged(tmp_path, there, "2026-01-05", "2026-01-05", blocked="rows", bad_day=True)
    made = plan(there, "2026-01-07", tmp_path)
    assert (made.train, made.validation, made.skipped) == ([DAYS[1], DAYS[2], DAYS[3]], DAYS[5], ["2026-01-05"])


def test_later_nights_are_none_of_its_business(there: Job, tmp_path: Path) -> None:
    judged(tmp_path, there, "2026-01-09", "2026-01-09")
    made = plan(there, "2026-01-06", tmp_path)
    assert made.start is None and made.teachers == "2026-01-06"


def test_a_missing_day_is_said(there: Job, tmp_path: Path) -> None:
    by_day(there)["2026-01-04"][0].path.unlink()
    made = plan(there, "2026-01-06", tmp_path)
    assert made.missing == ["2026-01-04"] and made.train == DAYS[:3]
    with pytest.raises(UserError, match="day 2026-01-04: the log has no file of it; it has 9 days"):
        plan(there, "2026-01-04", tmp_path)
    with pytest.raises(UserError, match="day 2026-01-02: a night needs two earlier days"):
        plan(there, "2026-01-02", tmp_path)


def test_a_plan_is_made_once(there: Job, tmp_path: Path) -> None:
    made = plan(there, "2026-01-08", tmp_path)
    judged(tmp_path, there, "2026-01-07", "2026-01-07")
    assert plan(there, "2026-01-08", tmp_path) == made


def test_other_teachers_are_another_plan(there: Job, tmp_path: Path) -> None:
    judged(tmp_path, there, "2026-01-05", "2026-01-05")
    assert plan(there, "2026-01-06", tmp_path).teachers == "2026-01-05"
    changed_job = there.model_copy(update={"teachers": there.teachers.model_copy(update={"folds": 3})})
    assert plan(changed_job, "2026-01-06", tmp_path).teachers == "2026-01-06"


def test_a_committee_of_another_seed_is_another_one(there: Job) -> None:
    def seeded(seed: int) -> Job:
        teachers = {**there.teachers.model_dump(exclude_unset=True), "seed": seed}
        return there.model_copy(update={"teachers": Teachers.model_validate(teachers)})

    assert teaching(seeded(0)) == teaching(there) != teaching(seeded(1))


def test_a_night_is_the_same_job_on_its_own_days(there: Job, tmp_path: Path) -> None:
    made = plan(there, "2026-01-06", tmp_path)
    tonight = derive(there, made, tmp_path)
    assert list(by_day(tonight)) == DAYS[1:6]
    split = tonight.dataset.split
    assert (split.by, split.train, split.validation, split.test) == ("days", 3, 1, 1)
    assert tonight.teachers == there.teachers and teaching(tonight) == teaching(there)


def test_a_night_goes_on_with_the_shape_of_the_one_before(there: Job, tmp_path: Path) -> None:
    judged(tmp_path, there, "2026-01-05", "2026-01-05")
    schema = Schema(
        sparse=[Sparse(name="item", kind="single", table="item", source={})],
        dense=[],
        tables=[Table(name="item", rows=9, encoding="hash")],
    )
    shape = shape_of(there.student, 2, schema, None).model_copy(update={"unknown": 0.6})
    record = {"version": 1, "shape": shape.model_dump(), "sha256": ""}
    write_json(night_folder(tmp_path, "2026-01-05") / "student" / "model.json", record)
    several = there.student.model_copy(update={"dims": [2, 4], "unknowns": [0.3, 0.6]})
    there = there.model_copy(update={"student": several})
    student = derive(there, plan(there, "2026-01-06", tmp_path), tmp_path).student
    assert (student.dims, student.unknown, student.unknowns, student.features) == ([2], 0.6, [], None)
    assert student.share is None
    for known, share in (({}, "hash"), ({"item": 9}, "likeness")):
        cut = _cut(shape, 5, known)
        write_json(
            night_folder(tmp_path, "2026-01-05") / "student" / "model.json", {**record, "shape": cut.model_dump()}
        )
        assert derive(there, plan(there, "2026-01-06", tmp_path), tmp_path).student.share == share
    several = several.model_copy(update={"without": [["user"], ["item"]]})
    there = there.model_copy(update={"student": several})
    student = derive(there, plan(there, "2026-01-06", tmp_path), tmp_path).student
    assert (student.features, student.without) == ([name for name in there.dataset.features if name != "user"], [])


def test_names_without_a_day_are_refused(there: Job, tmp_path: Path) -> None:
    (tmp_path / "log" / "all.parquet").touch()
    with pytest.raises(UserError, match=r"all.parquet: a night reads the log by day, and this path names none"):
        by_day(there)


def test_late_and_changed_days_are_found(there: Job, tmp_path: Path) -> None:
    assert changed(there, tmp_path) == {}
    for day in DAYS[4:8]:
        if day != "2026-01-06":
            judged(tmp_path, there, day, day)
    assert changed(there, tmp_path).keys() == {"2026-01-03", "2026-01-04", "2026-01-06"}
    path = by_day(there)["2026-01-07"][0].path
    path.write_text("more")
    assert changed(there, tmp_path).keys() == {"2026-01-03", "2026-01-04", "2026-01-06", "2026-01-07"}


def test_lineage_of_a_night(three_nights: tuple[Path, list], job: Job) -> None:
    from recdistill.config.load import load_job
    from recdistill.files import read_json
    from recdistill.nightly.plan import Plan

    service = three_nights[0]
    run = service / "nights" / "2026-01-05"
    planned = Plan.model_validate(read_json(service / "plans" / "2026-01-05.json"))
    found = lineage(load_job(run / "config.yaml"), run, planned)
    assert found["teachers"]["night"] == "2026-01-04" and found["teachers"]["fingerprints"].keys() == {
        "foundation",
        "content",
    }
    assert found["days"]["train"] == ["2026-01-01", "2026-01-02", "2026-01-03"] and found["start"] == "2026-01-04"
    assert found["method"] == "diverse" and len(found["code"]["sha256"]) == 16


def test_the_day_may_be_in_a_folders_name(there: Job, tmp_path: Path) -> None:
    for day in DAYS:
        (tmp_path / "other" / f"day={day}").mkdir(parents=True)
        (tmp_path / "other" / f"day={day}" / "part-0.parquet").touch()
    log = Files(paths=[str(tmp_path / "other" / "*" / "*.parquet")])
    there = there.model_copy(update={"dataset": there.dataset.model_copy(update={"log": log})})
    assert list(by_day(derive(there, plan(there, "2026-01-06", tmp_path), tmp_path))) == DAYS[1:6]
