from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from recdistill.config import Job
from recdistill.config.load import MAX_BYTES, dump_job, load_job
from recdistill.errors import UserError

EACH = (
    "distill.recombine={others: each}",
    "teachers.members.ids.features=[user]",
    "teachers.members.foundation.features=[user]",
)
Complain = Callable[..., list[str]]


@pytest.fixture
def complaints(tmp_path: Path, job_text: str) -> Complain:
    """What is said about the valid job after one piece of it was replaced, one sentence a line, without the folder."""

    def complain(old: str = "", new: str = "", overrides: tuple[str, ...] = ()) -> list[str]:
        assert old in job_text
        path = tmp_path / "job.yaml"
        path.write_text(job_text.replace(old, new, 1))
        with pytest.raises(UserError) as caught:
            load_job(path, overrides)
        return str(caught.value).replace(f"{tmp_path}/", "").splitlines()

    return complain


def test_a_job_is_read_with_defaults_and_short_forms(job_file: Path) -> None:
    job = load_job(job_file)
    assert job.name == "tiny"
    assert list(job.dataset.features) == ["user", "C1", "C2", "C3", "age"]
    assert job.student.compression == 38


def test_a_dumped_job_reads_back_to_itself(job_file: Path, tmp_path: Path) -> None:
    job = load_job(job_file, ["distill.train.dense_rate=1e-5", "dataset.log.nulls=['~', 'no', '']"])
    (tmp_path / "dumped.yaml").write_text(dump_job(job))
    assert load_job(tmp_path / "dumped.yaml") == job


RECOMBINED = {
    "{groups: [[C1, age]]}": [["C1", "age", "age_bucket"]],
    "{groups: [[user], [C1..C3]]}": [["user", "seen"], ["C1", "C2", "C3"]],
    "{groups: [[age_bucket, C2]], others: each}": [
        ["age_bucket", "C2", "age"],
        ["user", "seen"],
        ["C1"],
        ["C3"],
    ],
    "{others: each}": [["user", "seen"], ["C1"], ["C2"], ["C3"], ["age", "age_bucket"]],
}


@pytest.mark.parametrize(("settings", "groups"), RECOMBINED.items())
def test_features_of_one_column_are_recombined_together(job_file: Path, settings: str, groups: list[list[str]]) -> None:
    seen = "seen: {kind: history, user: user, of: C1}"
    again = "again: {kind: match, of: seen}"  # which is no group's: it is counted anew
    features = f"user: {{kind: single}}, {seen}, {again}, C1..C3: {{kind: single}}, age: {{kind: dense, bins: 5}}"
    job = load_job(
        job_file,
        [
            f"dataset.features={{{features}}}",
            "dataset.time={column: time, unit: s}",
            f"distill.recombine={settings}",
        ],
    )
    assert job.distill.recombine is not None
    found = job.distill.recombine.over(job.dataset.features)
    assert (found.groups, found.others, found.rows) == (groups, "stay", 2.0)


def test_a_match_is_in_no_group(complaints: Complain) -> None:
    features = "user: {kind: single}, seen: {kind: history, user: user, of: C1}, C1..C3: {kind: single}"
    said = complaints(
        overrides=(
            f"dataset.features={{{features}, again: {{kind: match, of: seen}}}}",
            "dataset.time={column: time, unit: s}",
            "distill.recombine={groups: [[C1, again]]}",
        )
    )
    assert "'again' is worked out anew for every row; leave it out" in " ".join(said)


def test_more_columns_than_groups_share_them(job_file: Path) -> None:
    job = load_job(job_file, ["dataset.features={C1..C150: {kind: single}, user: {kind: single}}", *EACH])
    assert job.distill.recombine is not None
    groups = job.distill.recombine.over(job.dataset.features).groups
    assert len(groups) == 62 and groups[0] == ["C1", "C63", "C125"]
    assert sorted(name for group in groups for name in group) == sorted(job.dataset.features)


def test_a_number_with_bins_is_a_bucket_too(job_file: Path, tmp_path: Path) -> None:
    numbers = "N1..N2: {kind: dense, bins: 7}, age: {kind: dense, column: years, bins: 9}, user: {kind: single}"
    seen = "teachers.members.ids={kind: dlrm, features: 'user, N1_bucket..N2_bucket', dim: 4}"
    job = load_job(job_file, [f"dataset.features={{{numbers}}}", seen, "teachers.members.foundation.features=[user]"])
    found = {name: (each.kind, getattr(each, "column", None)) for name, each in job.dataset.features.items()}
    assert found == {
        "N1": ("dense", None),
        "N1_bucket": ("bucket", "N1"),
        "N2": ("dense", None),
        "N2_bucket": ("bucket", "N2"),
        "age": ("dense", "years"),
        "age_bucket": ("bucket", "years"),
        "user": ("single", None),
    }
    assert job.dataset.features["age_bucket"].bins == 9
    assert job.teachers.members["ids"].features == ["user", "N1_bucket", "N2_bucket"]
    (tmp_path / "dumped.yaml").write_text(dump_job(job))
    assert load_job(tmp_path / "dumped.yaml") == job


HISTORY = "time: {column: t, unit: s}\n  features:\n    liked: {kind: history, user: who, of: user, "


def test_matches_of_a_history_are_counted_of_hidden_ones(job_file: Path, tmp_path: Path) -> None:
    """And who names no features does not see these."""
    job_file.write_text(
        job_file.read_text().replace("features:\n", f"{HISTORY}outcome: any, matches: 'user, C1'}}\n", 1)
    )
    job = load_job(job_file, ["dataset.features.cut={kind: bucket, column: age}"])
    features = job.dataset.features
    assert list(features)[:4] == ["liked", "liked_user", "liked_C1_before", "liked_C1"]
    before, shown = features["liked_C1_before"], [name for name in features if name != "liked_C1_before"]
    assert (before.of, before.user, before.outcome, before.hidden) == ("C1", "who", "any", True)
    assert (features["liked_user"].of, features["liked_C1"].of) == ("liked", "liked_C1_before")
    members = job.teachers.members
    assert members["foundation"].features == job.student.features == shown
    assert members["ids"].features == ["user"]
    (tmp_path / "dumped.yaml").write_text(dump_job(job))
    assert load_job(tmp_path / "dumped.yaml") == job
    named = load_job(job_file, ["student.features=[user, liked_C1_before]"])
    assert named.student.features == ["user", "liked_C1_before"]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "features:\n",
            f"{HISTORY}matches: [C11]}}\n",
            "job.yaml:6: dataset.features: feature 'liked' matches 'C11', which is no single, bag or bucket",
        ),
        (
            "features:\n",
            f"{HISTORY}matches: [age]}}\n",
            "job.yaml:6: dataset.features: feature 'liked' matches 'age', which is no single, bag or bucket",
        ),
        (
            "features:\n",
            f"{HISTORY}matches: [C1, C1]}}\n",
            "job.yaml:7: dataset.features.liked.matches: names a feature twice",
        ),
        (
            "features:\n",
            f"{HISTORY}matches: [user]}}\n    liked_user: {{kind: single}}\n",
            "job.yaml:6: dataset.features: feature 'liked_user' is given twice: it comes of the `matches` of",
        ),
        (
            "min_count",
            "min_cuont",
            "job.yaml:6: dataset.features.user.min_cuont: there is no such setting; did you mean",
        ),
        (
            "min_count: 2",
            "min_count: two",
            "job.yaml:6: dataset.features.user.min_count: expected a whole number, came 'two'",
        ),
        (
            "age: {kind: dense}",
            "age: {kind: dense, bins: 5}\n    age_bucket: {kind: single}",
            "job.yaml:5: dataset.features: feature 'age_bucket' is given twice: it comes of the `bins` of 'age' too",
        ),
        (
            "age: {kind: dense}",
            "age: {kind: dense, bins: 1}",
            "job.yaml:8: dataset.features.age.bins: expected at least 2, came 1",
        ),
        (
            "age: {kind: dense}",
            f"{'a' * 100}: {{kind: dense, bins: 2}}",
            f"job.yaml:5: dataset.features: feature '{'a' * 100}' has a name too long for its `bins`",
        ),
        ("min_count: 2", "min_count: 0", "job.yaml:6: dataset.features.user.min_count: expected at least 1, came 0"),
        (
            "C1..C3: {kind: single",
            "C1..C3: {kind: singel",
            "job.yaml:7: dataset.features.C1..C3.kind: expected 'single', ",
        ),
        ("kind: dense", "colum: x", "job.yaml:8: dataset.features.age: expected `kind`: one of 'single', 'bag', "),
        ("by: random", "by: randum", "job.yaml:4: dataset.split.by: expected 'days', 'random', "),
        ("teachers:", "teacher:", "job.yaml:9: teacher: there is no such setting; did you mean 'teachers'?"),
        ("name: tiny", "name: [a, b]", "job.yaml:1: name: expected text, came a list of 2"),
        ("name: tiny", "name: 2 tiny", "job.yaml:1: name: expected a name of letters, "),
        ("name: tiny", "name: 7", "job.yaml:1: name: expected text, came 7; put it in quotes"),
        ("name: tiny\n", "", "job.yaml:1: name: is missing"),
        (
            "features: [user]",
            "features: [usr]",
            "job.yaml:13: teachers.members.ids: no feature 'usr' in dataset.features; ",
        ),
        ("regime: out_of_fold", "regime: later_days", "job.yaml:10: teachers.regime: later_days needs dataset.split"),
        ("test: 0.1", "test: 0.95", "job.yaml:4: dataset.split: with `by: random`, validation + test are fractions"),
        ("log: {paths", "log: {path", "job.yaml:3: dataset.log.paths: is missing"),
    ],
)
def test_a_mistake_is_named_with_line_key_and_what_was_meant(
    complaints: Complain, old: str, new: str, expected: str
) -> None:
    assert any(line.strip().startswith(expected) for line in complaints(old, new)), complaints(old, new)


@pytest.mark.parametrize(
    ("old", "new", "meant"),
    [("min_count", "min_cuont", "min_count"), ("kind: dense", "kind: denze", "dense"), ("[user]", "[usre]", "user")],
)
def test_the_nearest_valid_name_is_offered(complaints: Complain, old: str, new: str, meant: str) -> None:
    assert complaints(old, new)[0].endswith(f"did you mean {meant!r}?")


def test_a_name_like_no_other_gets_the_list_of_valid_ones(complaints: Complain) -> None:
    assert "expected one of column, min_count, " in complaints("min_count", "zzz")[0]


def test_all_mistakes_are_told_at_once_in_order_of_lines(complaints: Complain) -> None:
    lines = complaints("name: tiny", "name: 7\ndistil: {}\nevaluate: {confidence: 2}\ndistill: {seeds: [0, x]}")
    assert lines[0] == "job.yaml: 4 mistakes"
    assert [line.split(": ")[0].strip() for line in lines[1:]] == [f"job.yaml:{line}" for line in (1, 2, 3, 4)]


def test_one_mistake_under_a_short_form_is_told_once(complaints: Complain) -> None:
    assert len(complaints("C1..C3: {kind: single", "C1..C3: {kind: single, hash: 3")) == 1


def test_overrides_change_settings(job_file: Path) -> None:
    job = load_job(
        job_file,
        [
            "distill.tune.trials=3",
            "distill.seeds=[4, 5]",
            "distill.seeds.1=6",
            "dataset.features.user.min_count=9",
            "teachers.members.ids.features=[C1]",
            "student.dims=[8, 4]",
        ],
    )
    assert job.distill.tune.trials == 3
    assert job.distill.seeds == [4, 6]
    assert job.student.dims == [8, 4]
    assert job.dataset.features["user"].min_count == 9
    assert job.teachers.members["ids"].features == ["C1"]


def test_an_override_finds_names_with_dots(tmp_path: Path, job_text: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(job_text.replace("age:", "user.age:"))
    job = load_job(path, ["dataset.features.user.age.transform=log"])
    assert job.dataset.features["user.age"].transform == "log"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "distill.trian.epochs=3",
            "--set distill.trian.epochs=3: distill.trian: there is no such setting; did you mean 'train'?",
        ),
        ("evaluate.confidence=2", "--set evaluate.confidence=2: evaluate.confidence: expected less than 1.0, came 2"),
        ("evaluate.slices=[C9]", "--set evaluate.slices=[C9]: evaluate.slices: no feature 'C9'"),
        ("evaluate.slices=[age]", "--set evaluate.slices=[age]: evaluate.slices: 'age' has no single values to report"),
        (
            "teachers.members.mean={kind: sklearn}",
            "--set teachers.members.mean={kind: sklearn}: teachers.members.mean: reports call something else 'mean'",
        ),
        (
            "teachers.members.committee={kind: sklearn}",
            "--set teachers.members.committee={kind: sklearn}: teachers.members.committee: reports call something else",
        ),
        (
            "distill.recombine={rows: 1}",
            "--set distill.recombine={rows: 1}: distill.recombine: give `groups`, or `others: each`: else no row "
            "would be new",
        ),
        (
            "student.without=['user, C1..C3']",
            "--set student.without=['user, C1..C3']: student.without: needs at least one feature that is not dense",
        ),
        ("student.without=[C1, C9]", "--set student.without=[C1, C9]: student.without: no feature 'C9'"),
        (
            "student.without=[[user], [user]]",
            "--set student.without=[[user], [user]]: student: expected sets of features in `without`, none of them",
        ),
        ("name", "--set name: expected KEY=VALUE"),
        ("=3", "--set =3: expected KEY=VALUE"),
        ("name.x=3", "--set name.x=3: 'x' is asked of a single value"),
        ("name=[1", "--set name=[1:1: not readable as YAML"),
        (
            "teachers.members.ids.features.7=x",
            "--set teachers.members.ids.features.7=x: '7' is no position in a list of 1",
        ),
    ],
)
def test_a_mistaken_override_is_named(complaints: Complain, override: str, expected: str) -> None:
    assert complaints(overrides=(override,))[0].startswith(expected)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "expected a job of `key: value` lines"),
        (b"- a\n- b\n", "expected a job of `key: value` lines"),
        (b"\xff\xfe\x00", "not text in UTF-8"),
        (b"#" * (MAX_BYTES + 1), "larger than"),
    ],
)
def test_a_file_that_is_no_job_is_refused(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=what):
        load_job(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no\.yaml: there is no such job file"):
        load_job(tmp_path / "no.yaml")
    with pytest.raises(UserError, match="cannot be read as a job file"):
        load_job(tmp_path)


def test_reading_a_job_does_not_import_torch() -> None:
    import subprocess
    import sys

    code = "import sys, recdistill.cli; sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_default_is_spelled_out(job_file: Path) -> None:
    assert "compression: 38" in dump_job(load_job(job_file))
    assert set(Job.model_fields) <= {line.split(":")[0] for line in dump_job(load_job(job_file)).splitlines()}


@pytest.mark.parametrize(
    ("foundation", "said"),
    [
        (
            "{kind: sklearn}",
            "the foundation 'foundation' must be one of the members, of kind dlrm or file; "
            "`teachers.foundation` names it",
        ),
        ("{kind: file, paths: a.parquet}", "the foundation 'foundation' must say how many `parameters` it has"),
        ("{kind: dlrm, rows: {user: [a]}}", "the foundation 'foundation' must answer every row: give it no `rows`"),
    ],
)
def test_who_may_be_the_foundation(complaints: Complain, foundation: str, said: str) -> None:
    [sentence] = complaints("foundation: {kind: dlrm}", f"foundation: {foundation}")
    assert sentence == f"job.yaml:9: teachers: {said}"


def test_a_foundation_may_be_known_by_its_answers_alone(job_file: Path) -> None:
    outside = "teachers.members.foundation={kind: file, paths: a.parquet, parameters: 380}"
    job = load_job(job_file, [outside])
    assert job.teachers.members["foundation"].model_dump()["parameters"] == 380


@pytest.mark.parametrize(
    ("more", "asked", "keep"), [(0, "", 1.0), (1, "", 2 / 3), (2, "", 0.5), (4, "", 0.5), (0, "keep: 0.4", 0.4)]
)
def test_small_committees_give_two_answers_a_row(job_file: Path, more: int, asked: str, keep: float) -> None:
    others = [f"teachers.members.more{number}={{kind: sklearn}}" for number in range(more)]
    assert load_job(job_file, [f"teachers.route={{{asked}}}", *others]).teachers.keep == pytest.approx(keep)


def test_a_seed_of_teachers_is_every_members_that_has_none(job_file: Path, tmp_path: Path) -> None:
    members = {"trees": "{kind: sklearn}", "own": "{kind: dlrm, seed: 7}", "outside": "{kind: file, paths: a.parquet}"}
    more = [f"teachers.members.{name}={member}" for name, member in members.items()]
    said = {"foundation": 3, "ids": 3, "trees": 3, "own": 7, "outside": None}
    job = load_job(job_file, ["teachers.seed=3", *more])
    assert {name: getattr(member, "seed", None) for name, member in job.teachers.members.items()} == said
    (tmp_path / "dumped.yaml").write_text(dump_job(job))
    assert load_job(tmp_path / "dumped.yaml") == job
    plain = load_job(job_file, more)
    assert plain.teachers.members["foundation"] != job.teachers.members["foundation"]
    assert load_job(job_file, ["teachers.seed=0", *more]) == plain


@pytest.mark.parametrize("seed", ["-1", "many", "[1]"])
def test_such_a_seed_is_refused_once(complaints: Complain, seed: str) -> None:
    [sentence] = complaints(overrides=(f"teachers.seed={seed}",))
    assert "teachers.seed" in sentence
