from __future__ import annotations

import pytest

from recdistill.errors import UserError

LOG = {"uid": [1, 2, 3, 1, None, 9] * 4, "clicked": [0, 1] * 12}
BASE = {"example_id": None, "time": None, "split": {"by": "order", "validation": 0.25, "test": 0.25}}
USERS = {"id": [3, 1, 2], "city": ["x", "y", None], "score": [30.5, 10.5, 20.5]}
SIDE = {"city": {"kind": "single"}, "score": {"kind": "dense", "standardise": False}}


def ingest(logs, users, features=SIDE, join=(), name="users.csv", log=LOG):
    side = logs.write(users, name)
    join = {"paths": [str(side)], "on": "uid", "key": "id", **dict(join)}
    return logs.ingest(log, joins=[join], features=features, **BASE)


@pytest.mark.parametrize("name", ["users.csv", "users.parquet", "users.tsv.gz"])
def test_rows_are_joined_and_missing_keys_counted(logs, read, name):
    dataset = ingest(logs, USERS, name=name)
    assert read(dataset)["score"].to_pylist() == [10.5, 20.5, 30.5, 10.5, 0, 0] * 4
    city = read(dataset)["city"].to_pylist()
    assert city[0] == city[3] and len({city[0], city[2]}) == 2 and city[1] is city[4] is city[5] is None
    assert dataset.manifest.counts["unmatched"] == {name: 8}
    assert dataset.manifest.counts["missing"] == {"city": 12, "score": 8}


def test_keys_are_compared_as_text_whatever_their_type(logs, read):
    floats = {**LOG, "uid": [None if uid is None else float(uid) for uid in LOG["uid"]]}
    assert read(ingest(logs, USERS, log=floats))["score"].to_pylist()[:3] == [10.5, 20.5, 30.5]


def test_a_column_of_one_side_table_can_key_the_next(logs, read):
    first = logs.write(USERS, "users.csv")
    second = logs.write({"city": ["x", "y"], "size": [7, 8]}, "cities.csv")
    joins = [{"paths": [str(first)], "on": "uid", "key": "id"}, {"paths": [str(second)], "on": "city"}]
    size = {"size": {"kind": "dense", "standardise": False}}
    assert read(logs.ingest(LOG, joins=joins, features=size, **BASE))["size"].to_pylist()[:3] == [8, 0, 7]


def test_the_label_may_come_from_a_side_table(logs, read):
    rates = {"id": [1, 2, 3, 9], "rate": [1, 2, 3, 4]}
    log = {**LOG, "uid": [uid or 9 for uid in LOG["uid"]]}
    side = logs.write(rates, "rates.csv")
    dataset = logs.ingest(
        log,
        joins=[{"paths": [str(side)], "on": "uid", "key": "id"}],
        label={"column": "rate", "at_least": 3},
        features={"uid": {"kind": "single"}},
        **BASE,
    )
    assert read(dataset)["label"].to_pylist()[:6] == [0, 0, 1, 0, 1, 1]


@pytest.mark.parametrize(
    ("users", "join", "message"),
    [
        ({**USERS, "id": [3, 3, 2]}, {}, r"users.csv: 2 rows have id '3'; expected one row a key"),
        (USERS, {"key": "uid"}, r"users.csv: there is no column 'uid'; it has id, city, score; `key` names the one"),
        (USERS, {"take": ["town"]}, r"users.csv: there is no column 'town'; it has id, city, score$"),
        (USERS, {"take": ["city"]}, r"log.parquet: there is no column 'score'"),
        ({**USERS, "score": ["1", "2", "x"]}, {}, r"users.csv joined to .*log.parquet, row 2, column 'score': is 'x'"),
    ],
)
def test_mistakes(logs, users, join, message):
    with pytest.raises(UserError, match=message):
        ingest(logs, users, join=join)


def test_a_column_in_two_places_must_be_chosen(logs):
    with pytest.raises(UserError, match=r"column 'score' is in the log and users.csv; say with `take`"):
        ingest(logs, USERS, log={**LOG, "score": [1.0] * 24})


def test_later_files_of_a_side_table_must_have_its_columns(logs):
    logs.write(USERS, "users1.csv")
    logs.write({"id": [7], "city": ["z"]}, "users2.csv")
    with pytest.raises(UserError, match=r"users2.csv: there is no column 'score', which other files"):
        logs.ingest(
            LOG,
            joins=[{"paths": [f"{logs.folder}/users*.csv"], "on": "uid", "key": "id"}],
            features=SIDE,
            **BASE,
        )
