"""Every way in which a log or its description cannot be used ends in one sentence."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from recdistill.clicklog import sources
from recdistill.clicklog.ingest import ingest
from recdistill.errors import UserError

DAY = 86_400_000
USER = {"user": {"kind": "single"}}
RANDOM = {"by": "random", "validation": 0.2, "test": 0.2}


def edit(**columns):
    """A change to a log: `column={row: value}` sets cells, `column=None` takes the column out."""

    def change(table):
        for name, cells in columns.items():
            if cells is None:
                table.pop(name)
            else:
                values = [cells.get(at, value) for at, value in enumerate(table[name])]
                mixed = {type(value) for value in values if value is not None} > {str}
                table[name] = [value if value is None else str(value) for value in values] if mixed else values
        return table

    return change


def same(table):
    return table


CASES = {
    "label is no 0 or 1": (
        edit(clicked={7: 2}), {},
        r"log.parquet, row 8, column 'clicked': is 2; expected 0 or 1, or a rule such as",
    ),
    "label is a word": (edit(clicked={7: "yes"}), {}, r"row 8, column 'clicked': is 'yes'; expected 0 or 1, or a rule"),
    "label is missing": (edit(clicked={7: None}), {}, r"row 8, column 'clicked': is missing; expected 0 or 1"),
    "label is missing under a rule": (
        edit(clicked={7: None}), {"label": {"column": "clicked", "at_least": 1}},
        r"row 8, column 'clicked': is missing; expected a number to compare with `at_least`",
    ),
    "training rows all alike": (
        same, {"label": {"column": "clicked", "at_least": 9}},
        r"all 185 training rows are negative; is the rule in `label` \('clicked'\) right\?",
    ),
    "no such column": (same, {"features": {"usr": {"kind": "single"}}}, r"no column 'usr'; did you mean 'user'"),
    "nothing near": (same, {"weight": "zzz"}, r"there is no column 'zzz'; it has id, when, clicked, user"),
    "no label": (same, {"label": {"column": "label"}}, r"there is no column 'label'"),
    "negative weight": (edit(price={3: -1.0}), {"weight": "price"}, r"column 'price': is -1.0; expected a weight"),
    "missing weight": (edit(price={0: None}), {"weight": "price"}, r"column 'price': is missing; expected a weight"),
    "infinite weight": (
        edit(price={n: 1.0 for n in range(300)} | {3: float("inf")}), {"weight": "price"},
        r"row 4, column 'price': is inf; expected a weight, finite and not negative",
    ),
    "no probability": (
        edit(age={n: 1 for n in range(300)} | {9: 2}), {"true_probability": "age", "features": USER},
        r"row 10, column 'age': is 2; expected a probability",
    ),
    "time is missing": (edit(when={5: None}), {}, r"row 6, column 'when': is missing; expected a time"),
    "wrong unit": (same, {"time": {"column": "when", "unit": "s"}}, r"between 1970 and 2200; is `unit: s` right\?"),
    "id is missing": (edit(id={5: None}), {}, r"row 6, column 'id': is missing; expected the row's id"),
    "id twice in a day": (
        edit(id={1: 1000}), {},
        r"example_id 1000 stands in 2 rows of day 2023-11-14; expected one row each \(column 'id'",
    ),
    "id twice": (
        edit(id={299: 1000}), {"time": None, "split": RANDOM, "features": USER}, r"example_id 1000 stands in 2 rows;",
    ),
    "number that is none": (edit(price={20: "1,5"}), {}, r"row 21, column 'price': is '1,5'; expected a number"),
    "bag without delimiter": (same, {"features": {"tags": {"kind": "bag"}}}, r"column 'tags': holds string, not lists"),
    "no user to split by": (
        edit(user={0: None}), {"split": {"by": "user_order", "user": "user", "validation": 0.1, "test": 0.1}},
        r"row 1, column 'user': is missing; expected a user, which `split` needs",
    ),
    "too few days": (
        same, {"split": {"by": "days", "validation": 3, "test": 3}},
        r"3 validation and 3 test days leave no day to train on: the log has 6 \(2023-\S+, .*, \.\.\.\); ask for fewer",
    ),
    "no test rows": (
        lambda table: {name: values[:8] for name, values in table.items()},
        {"split": {"by": "order", "validation": 0.2, "test": 0.1}},
        r"split: no test rows; the log is too small for `by: order` with these sizes",
    ),
    "no rows": (
        lambda table: {name: values[:0] for name, values in table.items()}, {},
        r"log.parquet: the log has no rows",
    ),
    "thin day": (same, {"minimum_rows_per_day": 50}, r"day 2023-11-15 has 40 rows; expected at least 50"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_one_sentence(logs, small, case):
    change, section, message = CASES[case]
    with pytest.raises(UserError, match=message) as caught:
        logs.ingest(change(small()), **section)
    assert "\n" not in str(caught.value)
    assert not (logs.folder / "dataset" / "manifest.json").exists()
    assert not (logs.folder / "dataset" / ".scratch").exists()


def test_a_dictionary_of_lists_is_no_single(logs, small):
    table = {**small(), "tags": [["a"]] * 300}
    with pytest.raises(UserError, match=r"column 'tags': holds list<.*>; a list is a feature of `kind: bag`"):
        logs.ingest(table, features={"tags": {"kind": "single"}})


def test_the_place_is_that_of_the_file(logs, small, monkeypatch):
    monkeypatch.setattr(sources, "BATCH_ROWS", 7)
    with pytest.raises(UserError, match=r"log.parquet, row 201, column 'price': is 'dear'"):
        logs.ingest(edit(price={200: "dear"})(small()))
    logs.write(small(), "log/1.csv")
    logs.write(edit(price={4: "dear"})(small()), "log/2.csv")
    with pytest.raises(UserError, match=r"log/2.csv, row 5, column 'price': is 'dear'"):
        logs.ingest([f"{logs.folder}/log/*.csv"])


def test_a_later_file_must_have_the_columns(logs, small):
    logs.write(small(), "log/1.csv")
    logs.write(edit(price=None)(small()), "log/2.csv")
    with pytest.raises(UserError, match=r"log/2.csv: there is no column 'price'"):
        logs.ingest([f"{logs.folder}/log/*.csv"])


def test_files_of_one_name_cannot_name_rows(logs, small):
    paths = [str(logs.write(small(), f"{folder}/log.csv")) for folder in "ab"]
    with pytest.raises(UserError, match=r"b/log.csv and .*a/log.csv: rows are named after their file, both 'log.csv'"):
        logs.ingest(paths, example_id=None)
    logs.ingest([f"{logs.folder}/*/log.csv"], example_id=None)


def test_the_dataset_does_not_go_over_its_log(logs, small):
    path = logs.write(small(), "log/log.csv")
    with pytest.raises(UserError, match=r"log.csv: lies in the folder .*/log that the dataset goes to"):
        ingest(logs.section(path), path.parent)
    assert path.exists()


def test_a_simulation_is_written_first(logs):
    section = logs.section({"clicked": [0]}).model_copy(update={"log": None})
    with pytest.raises(UserError, match=r"dataset.log: not given"):
        ingest(section, logs.folder / "out")


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"label": {"kind": "single", "column": "user"}}, r"'label' has a name that the dataset itself uses"),
        ({"target": {"kind": "dense", "column": "clicked"}}, r"'target' reads the label or the true probability"),
        (USER | {"other": {"kind": "single", "share": "user", "min_count": 2}}, r"'other' shares: give min_count"),
    ],
)
def test_features_that_cannot_be(logs, small, features, message):
    with pytest.raises(ValidationError, match=message):
        logs.section(small(), features=features)
