"""From a log to a job that ingest, and then the models, take as it is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recdistill.clicklog.ingest import ingest
from recdistill.clicklog.schema import Dataset
from recdistill.config.base import expand
from recdistill.config.load import load_job
from recdistill.errors import UserError
from recdistill.init import sample
from recdistill.init.draft import MOST_BUCKETS, draft
from recdistill.init.jobfile import LINES, _ranges, render
from recdistill.init.sample import ROWS
from recdistill.init.sizes import choose_second, choose_teacher
from recdistill.models.shape import shape_of
from recdistill.models.size import solve

from .conftest import columns

rng = np.random.default_rng(3)


@pytest.fixture
def through(tmp_path: Path) -> Callable[..., tuple[Dataset, str]]:
    """Log to draft to job file to dataset; also sizes the student as `run` would."""

    def go(*paths: Path | str, label: str | None = None, shorten: int | None = None) -> tuple[Dataset, str]:
        given = [str(path) for path in paths]
        text = render(draft(given, label), given, tmp_path / "job.yaml")
        (tmp_path / "job.yaml").write_text(text)
        assert len(text.splitlines()) < LINES
        job = load_job(tmp_path / "job.yaml")
        dataset = ingest(job.dataset, tmp_path / "dataset")
        foundation = job.teachers.members["foundation"]
        shape = shape_of(foundation, foundation.dim, dataset.schema, None)
        assert solve(job.student, dataset.schema, shape.parameters())
        return dataset, text

    return go


Through = Callable[..., tuple[Dataset, str]]
Log = Callable[..., Path]


def kinds(dataset: Dataset) -> dict[str, str]:
    found = {feature.name: feature.source["kind"] for feature in dataset.schema.sparse}
    return found | {column.name: "dense" for column in dataset.schema.dense}


@pytest.mark.parametrize("name", ["log.csv", "log.tsv", "log.csv.gz", "log.tsv.zst", "log.parquet"])
def test_every_format_gives_a_job_that_ingest_takes(log: Log, through: Through, name: str) -> None:
    dataset, text = through(log(name))
    assert kinds(dataset) == {
        "user_id": "single",
        "item_id": "single",
        "price": "dense",
        "price_bucket": "bucket",
        "tags": "bag",
        "clicked": "history",
        "clicked_item_id": "dense",  # users come back to items
    }
    assert "crosses: {kind: dlrm, interaction: cross, dim: 8," in text
    assert "split: {by: user_order, user: user_id, validation: 0.1, test: 0.1}" in text


def test_days_split_by_days(log: Log, through: Through) -> None:
    dataset, text = through(log(timestamp=1_767_225_600 + np.arange(600) * 864))
    assert "split: {by: days, validation: 1, test: 1}" in text and len(dataset.days) == 6


def test_as_many_days_are_held_out_as_hold_a_tenth(log: Log, through: Through) -> None:
    dataset, text = through(log(timestamp=1_767_225_600 + np.arange(600) * 8640))
    assert "split: {by: days, validation: 6, test: 6}" in text and len(dataset.days) == 60


def test_many_short_days_are_no_unit(log: Log, through: Through) -> None:
    text = through(log(timestamp=1_767_225_600 + np.arange(600) * 10_800))[1]
    assert "split: {by: user_order, user: user_id, validation: 0.1, test: 0.1}" in text


def test_the_days_of_a_long_text_are_seen(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "ROWS", 120)  # a fifth of six days
    found = draft([str(log(timestamp=1_767_225_600 + np.arange(600) * 864))])
    assert (found.split.by, found.split.validation, found.split.test) == ("days", 1, 1)


@pytest.mark.parametrize(
    ("drop", "time", "by"),
    [
        (("user_id",), np.arange(600), "time"),
        (("user_id",), rng.permutation(600), "time"),
        (("timestamp", "user_id"), None, "random"),
    ],
)
def test_a_log_without_days_is_split_otherwise(log: Log, through: Through, drop: Any, time: Any, by: str) -> None:
    more = {} if time is None else {"timestamp": 1_767_225_600 + time}
    assert f"split: {{by: {by}," in through(log(drop=drop, **more))[1]


def test_odd_names_become_features(log: Log, through: Through) -> None:
    odd = {"a b": 1, "c, d": 2, "naïve": 3, "1st": 4, "weight": -1, "x..y": 5, "time": 6, "null": 7, "e: f": 8, "": 9}
    values = {name: rng.integers(0, 5, 600) - (name == "weight") for name in odd}
    dataset, _ = through(log(**values))
    # A column without a name is left out; a bucket and a match are there, too.
    assert len(kinds(dataset)) == 7 + len(odd) - 1


def test_only_numbers_become_buckets_too(log: Log, through: Through) -> None:
    dataset, _ = through(log(drop=("user_id", "item_id", "tags"), heat=rng.normal(size=600)))
    assert sorted(kinds(dataset).values()) == ["bucket", "bucket", "dense", "dense"]
    assert any(table.encoding == "bucket" for table in dataset.schema.tables)


@pytest.mark.parametrize("drop", [(), ("user_id",)])
def test_small_committees_give_two_answers_a_row(log: Log, through: Through, drop: tuple[str, ...]) -> None:
    through(path := log(drop=drop))
    job = load_job(path.parent / "job.yaml")
    assert [*job.teachers.members] == ["foundation", "crosses", "trees"] and job.teachers.keep == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("rows", "fields", "dim"),
    [(10_000, 4, 8), (500_000, 4, 64), (500_000, 40, 8), (500_000, 300, 4), (500_000, 999, 4)],
)
def test_crosses_are_no_wider_than_they_can_afford(rows: int, fields: int, dim: int) -> None:
    foundation = choose_teacher(rows)
    second = choose_second(foundation, fields)
    assert second.dim == dim and second.interaction == "cross" != foundation.interaction
    assert fields * dim <= 512 or dim == 4


def test_a_column_that_is_called_like_a_bucket_is_none(log: Log, through: Through) -> None:
    dataset, text = through(log(price_bucket=rng.integers(0, 5, 600)))
    assert kinds(dataset)["price_bucket"] == "single" and "bins" not in text


def test_very_many_numbers_are_no_buckets(log: Log, through: Through) -> None:
    dataset, _ = through(log(**{f"x{number}": rng.normal(size=600) for number in range(MOST_BUCKETS)}))
    assert "bucket" not in kinds(dataset).values()


def test_a_thousand_columns_fit_on_a_page(log: Log, tmp_path: Path) -> None:
    words = [a + b + c for a in "abcdefgh" for b in "abcdef" for c in "abcdef"]
    names = [*(f"f{number}" for number in range(700)), *(f"{word}_of_some_length" for word in words)]
    path = str(log(**{name: rng.integers(0, 3, 600) for name in names}))
    text = render(draft([path]), [path], tmp_path / "job.yaml")
    assert len(text.splitlines()) < LINES and "f0..f699" in text


def test_many_files_are_named_by_one_glob(log: Log, through: Through, tmp_path: Path) -> None:
    paths = [log(f"day-{number}.parquet") for number in range(4)]
    assert f'paths: "{tmp_path}/day-*.parquet"' in through(*paths)[1]
    log("day-9.parquet")
    assert "day-*" not in render(draft(list(map(str, paths))), list(map(str, paths)), tmp_path / "job.yaml")


def test_files_of_one_name_are_named_by_one_glob(log: Log, through: Through, tmp_path: Path) -> None:
    """Two such files, each by its path, would not be told apart."""
    for day in ("dt=2026-01-01", "dt=2026-01-02"):
        (tmp_path / day).mkdir()
    paths = [log(f"dt=2026-01-0{number}/part-0.parquet") for number in (1, 2)]
    assert f'paths: "{tmp_path}/dt=2026-01-0*/part-0.parquet"' in through(*paths)[1]


def test_doubts_stand_in_the_job(log: Log, through: Through) -> None:
    path = log(session_size=rng.integers(1, 5, 600))
    text = through(path)[1]
    found = draft([str(path)])
    assert found.doubts and all(f"# - {doubt}" in text for doubt in found.doubts)
    assert "# left out: session_size (known only afterwards)" in text


def test_comments_make_room_for_features(log: Log, tmp_path: Path) -> None:
    odd = {f"odd name {letter}": rng.integers(0, 5, 600) for letter in "abcdefghijklmnopqrst"}
    doubtful = {
        "weight": 1.0,
        "x": rng.integers(100, 999, 600),
        "y_count_or_id": rng.poisson(3, 600) * rng.poisson(2, 600),
        "a_revenue": rng.random(600),
        "click": np.where(rng.random(600) < 0.97, 1, 0),
    }
    useless = {"same": 1, "none": None, "uuid": [f"{n:032x}" for n in range(600)], "started": 1_767_225_600_000}
    path = str(log(**odd, **doubtful, **useless))
    found = draft([path])
    text = render(found, [path], tmp_path / "job.yaml")
    assert len(text.splitlines()) < LINES and text.count("odd name") == len(odd)
    assert "more, which init printed" in text and len(found.doubts) > 4


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"label": rng.integers(0, 2, 200)}, "nothing is left to learn from"),
        ({"label": rng.integers(0, 2, 200), "a": 1}, "a: always the same"),
        ({"label": [0, 1] * 10, "a": range(20)}, "20 rows; expected 100 or more"),
    ],
)
def test_what_no_job_can_be_made_of_is_one_sentence(tmp_path: Path, columns: dict[str, Any], said: str) -> None:
    pd.DataFrame(columns).to_csv(tmp_path / "log.csv", index=False)
    with pytest.raises(UserError, match=said):
        draft([str(tmp_path / "log.csv")])


def test_a_log_sorted_by_its_label_is_pointed_at(log: Log) -> None:
    found = draft([str(log(label=np.arange(600) // 300))])
    assert any("sorted by its label" in doubt for doubt in found.doubts)


@given(st.lists(st.from_regex(r"[a-z]{1,2}[0-9]{0,3}", fullmatch=True), unique=True))
def test_short_names_spell_out_to_the_same(names: list[str]) -> None:
    assert (expand(_ranges(names)) if names else []) == names


SETS = {
    "frappe": ["frappe/impressions.parquet"],
    "movielens-100k": ["movielens-100k/ratings.csv"],
    "movielens-1m": ["movielens-1m/ratings.parquet"],
    "criteo-10k": ["criteo-10k/criteo_10k.tsv.gz"],
    "globo": ["globo/*.parquet"],
}


@pytest.fixture
def real(shared_data: Callable[[str], Path]) -> Callable[[str], list[str]]:
    def paths(name: str) -> list[str]:
        root = shared_data(name).parent
        return [str(path) for pattern in SETS[name] for path in sorted(root.glob(pattern))]

    return paths


def test_the_shipped_sample(through: Through) -> None:
    dataset, text = through(Path(__file__).parents[2] / "data" / "sample" / "clicks.csv.gz")
    assert "true_probability: true_probability" in text and "split: {by: days, validation: 1, test: 1}" in text
    found = kinds(dataset)
    assert {found[name] for name in ("tags", "query")} == {"bag"}
    assert {found[name] for name in ("price", "user_views", "item_clicks")} == {"dense"}
    assert {found[name] for name in ("domain", "hour", "weekday", "user", "item")} == {"single"}


@pytest.mark.parametrize("name", ["movielens-100k", "criteo-10k"])
def test_small_real_logs_go_through(real: Callable[[str], list[str]], through: Through, name: str) -> None:
    dataset, text = through(*real(name))
    if name == "criteo-10k":
        numbers = {f"I{n}": "dense" for n in range(1, 14)} | {f"I{n}_bucket": "bucket" for n in range(1, 14)}
        assert kinds(dataset) == numbers | {f"C{n}": "single" for n in range(1, 27)}
    else:
        assert "{column: rating, at_least: 4}" in text
        assert (kinds(dataset)["liked"], kinds(dataset)["disliked"]) == ("history", "history")


def test_large_real_logs_are_understood(real: Callable[[str], list[str]], tmp_path: Path) -> None:
    globo = draft(real("globo"))
    suspicious = {choice.column for choice in globo.choices if choice.suspicious}
    assert suspicious == {"neg_type", "session_size"} and not suspicious & set(globo.features)
    assert not {"session_id", "session_start", "hour"} & set(globo.features)
    assert globo.split.by == "days" and globo.roles.subjects == {"user": "user_id", "item": "article_id"}
    frappe = draft(real("frappe"))
    assert frappe.split.by == "random" and {choice.kind.kind for choice in frappe.features.values()} == {"single"}
    movies = draft(real("movielens-1m"))
    assert movies.split.by == "user_order" and movies.roles.time.unit == "order"
    for found, name in ((globo, "globo"), (frappe, "frappe"), (movies, "movielens-1m")):
        render(found, real(name), tmp_path / "job.yaml")


def test_the_sample_is_bounded(real: Callable[[str], list[str]]) -> None:
    for name in ("movielens-1m", "globo"):
        assert draft(real(name)).sample.table.num_rows <= 1.01 * ROWS


def test_ratings_give_two_histories(log: Log, through: Through) -> None:
    dataset, text = through(log(drop=("label",), rating=rng.integers(1, 6, 600), liked=rng.integers(100, 400, 600)))
    assert {name for name, kind in kinds(dataset).items() if kind == "history"} == {"liked_before", "disliked"}
    assert (
        "disliked: {kind: history, user: user_id, of: item_id, last: 20, outcome: negative, matches: [item_id]}" in text
    )
    assert "liked_before: {kind: history" in text


def test_what_items_have_in_common_is_matched(log: Log, through: Through) -> None:
    """A genre, whose texts are cut, and a maker; not a title, nor what is the moment's, nor a name that is taken.

    Items themselves, too, where users come back to them.
    """
    item = columns()["item_id"]
    more = {
        "genres": [("a|b", "b|c", "c|d", "a|d")[n % 4] for n in item],
        "maker": [f"m{n % 9}" for n in item],
        "title": [f"t{n}" for n in item],
        "colour": [f"c{n % 5}" for n in item],
        "clicked_colour": rng.choice(["x", "y"], 600),
        "size": item % 6 + 0.5,
    }
    dataset, text = through(log(**more))
    assert "matches: [item_id, genres, maker, size_bucket]}" in " ".join(text.split())  # the line is folded
    found = {column.name: column.history for column in dataset.schema.dense if column.history}
    before = {f"clicked_{name}": f"clicked_{name}_before" for name in ("genres", "maker", "size_bucket")}
    assert found == {"clicked_item_id": "clicked"} | before
    _, text = through(
        log(item_id=pd.Series(columns()["user_id"]).groupby(columns()["user_id"]).cumcount(), drop=("tags",))
    )
    assert "kind: history" in text and "matches" not in text
    _, text = through(log(drop=("timestamp",), **more))
    assert "matches" not in text


def test_a_history_does_not_take_the_labels_name(log: Log, through: Through) -> None:
    dataset, _ = through(log(drop=("label",), clicked=rng.integers(0, 2, 600)))
    assert kinds(dataset)["clicked_before"] == "history"


def test_looking_at_a_log_does_not_import_torch() -> None:
    code = "import sys, recdistill.init.draft, recdistill.init.jobfile, recdistill.evaluate.compare_page; "
    code += "assert not {'torch', 'sklearn', 'duckdb'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
