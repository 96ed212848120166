from __future__ import annotations

import shutil

import pyarrow as pa
import pytest

from recdistill.clicklog.encode import encode_log, raw_log
from recdistill.clicklog.schema import read_schema
from recdistill.config.dataset import Join
from recdistill.errors import UserError


def encode(root, path, joins=None) -> pa.Table:
    return pa.concat_tables(encode_log(root, raw_log(root, [str(path)]), joins))


def alone(dataset, folder):
    """What an exported student has: the schema and the vocabularies; the dataset itself is gone."""
    folder.mkdir()
    shutil.copy(dataset.root / "schema.json", folder)
    shutil.copytree(dataset.root / "vocabulary", folder / "vocabulary")
    shutil.rmtree(dataset.root)
    return folder


@pytest.mark.parametrize("name", ["again.parquet", "again.csv.gz"])
def test_the_same_log_is_encoded_as_ingest_did(logs, small, read, name):
    table = small()
    dataset = logs.ingest(table)
    expected = read(dataset).drop_columns(["split", "time"])
    student = alone(dataset, logs.folder / "student")
    assert encode(student, logs.write(table, name)).equals(expected)


def without(features, *names):
    return {name: feature for name, feature in features.items() if name not in names}


def test_a_log_without_outcomes_or_times_in_its_own_order(logs, small, features, read):
    table = small()
    dataset = logs.ingest(table, features=without(features, "liked"))
    expected = read(dataset).drop_columns(["split", "time", "label"])
    bare = {name: values[::-1] for name, values in table.items() if name not in ("clicked", "when")}
    got = encode(dataset.root, logs.write(bare, "bare.csv"))
    assert got.equals(expected.take(list(range(299, -1, -1))))


def test_values_never_seen_are_row_zero_and_gaps_are_gaps(logs, small, features):
    dataset = logs.ingest(small(), features=without(features, "liked"))
    new = {"id": [1, 2], "user": ["new", None], "item": [999, None], "tags": ["t1|new", None]}
    got = encode(dataset.root, logs.write({**new, "price": [None, 1e300], "age": [None, 1]}, "new.parquet"))
    assert got.column_names == ["example_id", "user", "item", "hashed", "tags", "price", "age"]
    rows = got.to_pylist()
    assert rows[0]["user"] == rows[0]["item"] == 0 and rows[0]["tags"][1] == 0 < rows[0]["tags"][0]
    assert rows[1] == {"example_id": 2, "user": None, "item": None, "hashed": None, "tags": [], "price": 0.0, "age": 1}


def test_histories_come_from_the_scored_log_and_unknown_outcomes_add_nothing(logs, small, read):
    table = small()
    dataset = logs.ingest(table)
    item = dict(zip(table["item"], read(dataset)["item"].to_pylist(), strict=True))
    rows = {name: values[:4] for name, values in table.items()}
    rows |= {"id": [1, 2, 3, 4], "user": ["u1"] * 4, "when": [40_000, 10_000, 20_000, 30_000]}
    got = encode(dataset.root, logs.write({**rows, "clicked": [None, 1, None, 1]}, "score.csv"))
    assert got["example_id"].to_pylist() == [2, 3, 4, 1]
    assert got["label"].to_pylist() == [1, None, 1, None]
    first, third = item[rows["item"][1]], item[rows["item"][3]]
    assert got["liked"].to_pylist() == [[], [first], [first], [third, first]]


def test_a_history_of_outcomes_needs_their_column(logs, small, features):
    table = small()
    dataset = logs.ingest(table)
    bare = logs.write({name: values for name, values in table.items() if name != "clicked"}, "bare.csv")
    with pytest.raises(UserError, match=r"bare.csv: there is no column 'clicked', which histories of positive or"):
        encode(dataset.root, bare)
    features["liked"] = {**features["liked"], "outcome": "any"}
    dataset = logs.ingest(table, features=features)
    assert max(map(len, encode(dataset.root, bare)["liked"].to_pylist())) == 3


def test_side_tables_may_be_others(logs, small, features, read):
    cities = {"user": [f"u{number}" for number in range(12)], "city": ["a", "b", "c"] * 4}
    side = logs.write(cities, "users.csv")
    dataset = logs.ingest(
        small(),
        joins=[{"paths": [str(side)], "on": "user"}],
        features={"city": {"kind": "single"}},
    )
    log = logs.write({"id": [1, 2], "user": ["u1", "x"]}, "score.csv")
    known = encode(dataset.root, log)["city"].to_pylist()
    assert known[0] > 0 and known[1] is None
    other = Join(paths=[str(logs.write({"user": ["x"], "city": ["b"]}, "other.csv"))], on="user")
    assert encode(dataset.root, log, [other])["city"].to_pylist() == [None, known[0]]


def test_a_headerless_log_keeps_its_settings(logs, small, tmp_path):
    path = tmp_path / "train.tsv"
    path.write_text("".join(f"{row % 2}\t{row % 5}\n" for row in range(40)))
    dataset = logs.ingest(
        path,
        log={"paths": [str(path)], "columns": "clicked, x"},
        example_id=None,
        time=None,
        split={"by": "order", "validation": 0.2, "test": 0.2},
        features={"x": {"kind": "single"}},
    )
    later = tmp_path / "later.tsv"
    later.write_text("1\t4\n\t9\n")
    got = encode(dataset.root, later)
    assert got["label"].to_pylist() == [1, None]
    assert got["x"].to_pylist()[1] == 0 < got["x"].to_pylist()[0]


def test_a_log_in_another_format_than_was_said(logs, small, features, read):
    table = small()
    path = logs.write(table, "log.csv").rename(logs.folder / "log.txt")
    log = {"paths": [str(path)], "format": "csv"}
    dataset = logs.ingest(path, log=log, features=without(features, "liked"))
    expected = read(dataset).drop_columns(["split", "time"])
    assert encode(dataset.root, path).equals(expected)
    assert encode(dataset.root, logs.write(table, "log.parquet")).equals(expected)


def test_a_schema_that_does_not_say_how_is_refused(logs, small, features):
    dataset = logs.ingest(small())
    schema = dataset.root / "schema.json"
    schema.write_text(read_schema(dataset.root).model_copy(update={"spec": {}}).model_dump_json())
    with pytest.raises(UserError, match=r"schema.json: does not say how its log was read"):
        raw_log(dataset.root, ["x.csv"])


def test_a_missing_vocabulary_is_named(logs, small):
    dataset = logs.ingest(small())
    dataset.vocabulary_path("user").unlink()
    with pytest.raises(UserError, match=r"user.parquet: the vocabulary cannot be read"):
        encode(dataset.root, logs.write(small(), "again.csv"))
