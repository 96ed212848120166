"""The simulated log: what is in it, that it is the same every time, and that nothing gives the label away."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score

from recdistill.clicklog import simulate as module
from recdistill.clicklog.ingest import ingest
from recdistill.clicklog.schema import ROW_GROUP_ROWS
from recdistill.clicklog.simulate import FEATURES, simulate
from recdistill.clicklog.world import World
from recdistill.config.base import expand
from recdistill.config.dataset import Dataset, Simulation
from recdistill.config.load import load_job
from recdistill.errors import UserError
from recdistill.files import file_sha256
from recdistill.progress import Progress

DEMO = Path(__file__).parents[2] / "pipelines" / "jobs" / "demo.yaml"
SMALL = Simulation(rows=3_000, days=4)


def read(spec: Simulation, out: Path) -> pd.DataFrame:
    simulate(spec, out)
    log = pd.concat([pq.read_table(path).to_pandas() for path in sorted(out.glob("day=*.parquet"))], ignore_index=True)
    return log.assign(day=(log.time // 86_400_000) - log.time.min() // 86_400_000)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: file_sha256(path) for path in folder.iterdir()}


def bits(p: pd.Series) -> np.ndarray:
    return np.log(p / (1 - p)).to_numpy()


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The default world, with fewer rows."""
    return read(Simulation(rows=60_000), tmp_path_factory.mktemp("log"))


def assert_calibrated(log: pd.DataFrame) -> None:
    """In each tenth of rows by `true_probability`, clicks are as many as it says, within four standard errors."""
    tenth = pd.qcut(log.true_probability, 10, labels=False)
    for _, rows in log.groupby(tenth):
        p = rows.true_probability
        assert abs(rows.label.sum() - p.sum()) < 4 * np.sqrt((p * (1 - p)).sum())


# What is in a log.


def test_a_log_has_the_columns_that_features_name(log):
    features = {name for key in FEATURES for name in expand(key)} - {"clicked"}
    assert set(log.columns) == features | {"example_id", "time", "label", "true_probability", "day"}
    spec = Dataset.model_validate(
        {
            "log": {"paths": "x.parquet"},
            "time": {"column": "time", "unit": "ms"},
            "split": {"by": "days", "validation": 1, "test": 2},
            "features": FEATURES,
        }
    )
    assert set(spec.features) == features | {"clicked"}


def test_rows_are_named_in_order_of_time_and_spread_over_days(log):
    assert log.example_id.tolist() == list(range(60_000))
    assert log.time.is_monotonic_increasing
    assert log.day.value_counts().to_dict() == dict.fromkeys(range(10), 6_000)
    moment = pd.to_datetime(log.time, unit="ms")
    assert (moment.dt.hour == log.hour).all() and (moment.dt.day_of_week == log.weekday).all()
    assert moment.iloc[0].date().isoformat() == "2026-01-01"
    assert log.hour.nunique() == 24 and log.weekday.nunique() == 7
    night, evening = (log.hour == 3).mean(), (log.hour == 20).mean()
    assert evening > 5 * night


def test_bags_hold_each_value_once_and_gaps_are_there(log):
    assert all(len(set(bag)) == len(bag) for name in ("tags", "query") for bag in log[name].head(5_000))
    assert log.tags.str.len().min() == 1 and log.tags.str.len().max() == 5
    assert 0.1 < (log["query"].str.len() == 0).mean() < 0.3
    for column, gaps in (("age", 0.1), ("brand", 0.05), ("price", 0.02)):
        assert 0 < log[column].isna().mean() < 3 * gaps
    assert log.drop(columns=["age", "brand", "price"]).notna().all(axis=None)
    assert (log.price.dropna() > 0).all()


def test_domains_differ_in_click_rate_and_share_users_and_items_in_part(log):
    rates = log.groupby("domain").label.mean()
    assert rates.to_numpy() == pytest.approx(np.linspace(0.15, 0.3, 4), abs=0.03)
    for column in ("user", "item"):
        seen = [set(log.loc[log.domain == f"domain-{d}", column]) for d in (0, 1)]
        shared = len(seen[0] & seen[1]) / len(seen[0] | seen[1])
        assert 0.2 < shared < 0.95
        most = log[column].value_counts()
        assert most.iloc[0] > 5 * most.median()


def test_true_probability_is_calibrated(log):
    assert_calibrated(log)
    assert log.label.mean() == pytest.approx(log.true_probability.mean(), abs=0.006)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_perfect_model_would_be_good_but_not_sure(seed, tmp_path):
    log = read(Simulation(rows=40_000, seed=seed), tmp_path)
    assert 0.15 < log.label.mean() < 0.27
    assert 0.82 < roc_auc_score(log.label, log.true_probability) < 0.89
    rate = log.label.mean()
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    assert 0.6 < log_loss(log.label, log.true_probability) / entropy < 0.8


def test_no_column_gives_the_label_away(log):
    """A value's click rate in the first half of days, as a score for the second, stays far behind the best."""
    first = log.day < 5
    best = roc_auc_score(log.label[~first], log.true_probability[~first])
    for column in set(log.columns) - {"label", "true_probability", "day", "time", "example_id"}:
        values = log[column]
        if (
            values.dtype.kind == "f" or values.nunique(dropna=False) > 1_000
            if column not in ("tags", "query")
            else False
        ):
            values = pd.qcut(values, 50, duplicates="drop").astype(str)
        table = pd.DataFrame({"value": values, "label": log.label, "row": log.index}).explode("value").fillna("none")
        rates = table[first.loc[table.index]].groupby("value").label.mean()
        score = table.value.map(rates).fillna(log.label.mean()).groupby(table.row).mean()
        auc = roc_auc_score(log.label[~first], score[~first])
        assert 0.45 < auc < best - 0.1, (column, auc)


def test_newcomers_arrive_with_counters_at_zero(log):
    for column, first_ids in (("user", 500), ("item", 300)):
        arrival = log[log[column] > first_ids].groupby(column).day.transform("min")
        fresh = log.loc[arrival.index][arrival == log.day[arrival.index]]
        assert 0 < len(arrival) < 0.2 * len(log)
        counts = fresh.groupby(column)[[f"{column}_views", f"{column}_clicks"]].min()
        assert (counts.iloc[:3] == 0).all(axis=None)
        assert (log[f"{column}_clicks"] <= log[f"{column}_views"]).all()


# The same every time.


def test_the_same_settings_give_the_same_bytes_and_another_seed_other_rows(tmp_path):
    for name in ("a", "b"):
        simulate(SMALL, tmp_path / name)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    other = read(SMALL.model_copy(update={"seed": 1}), tmp_path / "c")
    assert (other.item != read(SMALL, tmp_path / "a").item).mean() > 0.5


def test_a_killed_run_goes_on_to_the_same_files(tmp_path, monkeypatch):
    simulate(SMALL, tmp_path / "straight")
    monkeypatch.setattr(module, "CHUNK_ROWS", 400)
    whole = module._table
    calls = 0

    def stops(*arguments):
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return whole(*arguments)

    out = tmp_path / "killed"
    straight = tmp_path / "straight-in-chunks"
    simulate(SMALL, straight)
    monkeypatch.setattr(module, "_table", stops)
    with pytest.raises(KeyboardInterrupt):
        simulate(SMALL, out)
    assert [path.name for path in out.iterdir()] == ["day=2026-01-01.parquet"]
    (out / ".day=2026-01-02.parquet.partial").write_bytes(b"what a kill -9 leaves")
    kept = (out / "day=2026-01-01.parquet").stat().st_mtime_ns
    simulate(SMALL, out)
    assert digests(out) == digests(straight)
    assert (out / "day=2026-01-01.parquet").stat().st_mtime_ns == kept


def test_any_missing_day_is_written_again(tmp_path):
    simulate(SMALL, tmp_path)
    before = digests(tmp_path)
    (tmp_path / "day=2026-01-03.parquet").unlink()
    simulate(SMALL, tmp_path)
    assert digests(tmp_path) == before


@pytest.mark.parametrize("change", [{"seed": 5}, {"days": 3}, {"rows": 3_001}, {"drift": 0.2}])
def test_another_simulations_folder_is_refused(change, tmp_path):
    simulate(SMALL, tmp_path)
    before = digests(tmp_path)
    with pytest.raises(UserError, match=r"day=2026-01-0.\.parquet: not a day of this simulation"):
        simulate(SMALL.model_copy(update=change), tmp_path)
    assert digests(tmp_path) == before


def test_a_damaged_day_is_refused(tmp_path):
    (tmp_path / "day=2026-01-02.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match=r"day=2026-01-02\.parquet: not a day of this simulation"):
        simulate(SMALL, tmp_path)


# Drift, sampling, sizes.


def daily_views(log: pd.DataFrame) -> pd.DataFrame:
    return log.groupby(["day", "item"]).size().unstack(fill_value=0)


def test_drift_moves_popularity_and_turns_items_over(tmp_path):
    shape = {"rows": 40_000, "days": 5, "items": 60}
    worlds = {
        drift: daily_views(read(Simulation(drift=drift, **shape), tmp_path / str(drift))) for drift in (0, 0.1, 1)
    }
    alike = {drift: np.corrcoef(np.sqrt(log.iloc[0]), np.sqrt(log.iloc[-1]))[0, 1] for drift, log in worlds.items()}
    assert alike[0] > 0.97
    assert alike[1] < alike[0] - 0.2
    assert alike[1] < alike[0.1] <= 1
    assert worlds[0].columns.max() <= 60 < worlds[0.1].columns.max() < worlds[1].columns.max()


def test_negatives_are_dropped_at_the_rate_asked_for_and_the_probability_follows(tmp_path):
    full = read(Simulation(rows=40_000, days=3), tmp_path / "full").set_index("example_id")
    part = read(Simulation(rows=40_000, days=3, negative_keep_rate=0.25), tmp_path / "part").set_index("example_id")
    assert set(full.index[full.label == 1]) == set(part.index[part.label == 1])
    negatives = (full.label == 0).sum()
    assert abs((part.label == 0).sum() - 0.25 * negatives) < 4 * np.sqrt(0.25 * 0.75 * negatives)
    assert bits(part.true_probability) == pytest.approx(bits(full.true_probability[part.index]) + np.log(4), abs=1e-9)
    assert_calibrated(part)
    same = part.columns.drop("true_probability")
    pd.testing.assert_frame_equal(part[same], full.loc[part.index, same])


def test_memory_does_not_grow_with_rows(monkeypatch):
    monkeypatch.setattr(module, "CHUNK_ROWS", 2_000)

    def peak(rows: int) -> int:
        spec = Simulation(rows=rows, days=3)
        world = World(spec)
        tracemalloc.start()
        for _, table in module._chunks(spec, world):
            assert table.num_rows <= 2_000
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(90_000) < 1.2 * peak(9_000)


def test_a_row_group_is_a_chunk(tmp_path, monkeypatch):
    assert module.CHUNK_ROWS == ROW_GROUP_ROWS
    monkeypatch.setattr(module, "CHUNK_ROWS", 300)
    simulate(SMALL, tmp_path)
    file = pq.ParquetFile(tmp_path / "day=2026-01-01.parquet")
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [300, 300, 150]


@pytest.mark.parametrize(
    "spec",
    [Simulation(rows=100, days=3, users=2, items=2, domains=1), Simulation(rows=500, days=3, domains=64, drift=1)],
)
def test_the_smallest_and_the_most_divided_worlds(spec, tmp_path):
    log = read(spec, tmp_path)
    assert len(log) == spec.rows
    assert log.true_probability.between(0, 1, inclusive="neither").all()


def test_a_job_reads_what_was_written_and_hears_of_it(tmp_path):
    class Heard(Progress):
        calls: list[tuple[float, float]] = []

        def update(self, task: str, done: float, total: float, note: str = "") -> None:
            self.calls.append((done, total))

    folder = tmp_path / "log [1]"
    files = simulate(SMALL, folder, heard := Heard())
    done = [call[0] for call in heard.calls]
    assert done == sorted(done) and done.count(3_000) == 1 and done[-1] == 3_000
    spec = load_job(DEMO).dataset.model_copy(update={"log": files, "simulate": None})
    dataset = ingest(spec, tmp_path / "dataset")
    assert dataset.rows() == 3_000
    assert dataset.schema.has_true_probability and dataset.schema.has_time
    assert len(dataset.days) == 4 and dataset.rows("test") == 1_500


def test_the_demo_job_spells_the_features_out():
    text = DEMO.read_text()
    assert text.startswith("#") and "recdistill run pipelines/jobs/demo.yaml" in text.split("\nname:")[0]
    spec = load_job(DEMO).dataset
    features = Dataset.model_validate({**spec.model_dump(exclude={"features"}), "features": FEATURES}).features
    assert {name: feature for name, feature in spec.features.items() if name in features} == features
    assert spec.true_probability == "true_probability" and spec.example_id == "example_id"


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=50))
def test_hours_keep_the_order_and_lie_in_a_day(quantiles):
    hours = module._hours(np.sort(quantiles))
    assert (np.diff(hours) >= 0).all() and hours.min() >= 0 and hours.max() < 24


@pytest.mark.parametrize(
    "wrong", [{"first_day": "yesterday"}, {"first_day": "9999-12-31"}, {"seed": -1}, {"rows": 10}, {"drift": 1.5}]
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Simulation(**wrong)


def test_speed(tmp_path):
    start = time.process_time()
    simulate(Simulation(rows=100_000, days=3), tmp_path)
    seconds = time.process_time() - start
    print(f"\n{100_000 / seconds:,.0f} rows/s")
    assert seconds < 20
