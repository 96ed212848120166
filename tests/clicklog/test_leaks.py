"""What training must never see: the future, a row's own label, anything of validation and test rows."""

from __future__ import annotations

import pytest

ORDER = {"column": "when", "unit": "order"}
BY_USER = {"by": "user_order", "user": "user", "validation": 0.2, "test": 0.2}


def learned(dataset):
    """Everything that ingest learned, as bytes and as JSON."""
    files = {path.name: path.read_bytes() for path in (dataset.root / "vocabulary").iterdir()}
    return files, dataset.schema.model_dump_json()


@pytest.mark.parametrize(
    "split",
    [
        {"by": "days", "validation": 1, "test": 1},
        {"by": "random", "validation": 0.2, "test": 0.2},
        {"by": "order", "validation": 0.2, "test": 0.2},
        BY_USER,
    ],
)
def test_validation_and_test_rows_teach_nothing(logs, small, read, split):
    table = small()
    dataset = logs.ingest(table, split=split)
    rows = read(dataset)
    held_out = {
        row["example_id"] for row in rows.select(["example_id", "split"]).to_pylist() if row["split"] != "train"
    }
    assert len(held_out) >= 60
    other = {name: list(values) for name, values in table.items()}
    for at, id_ in enumerate(table["id"]):
        if id_ in held_out:
            other["item"][at] = 777 + at
            other["tags"][at] = "never|seen"
            other["price"][at] = 1e6
            other["age"][at] = 5000
            other["clicked"][at] = 1 - table["clicked"][at]
            if split["by"] != "user_order":
                other["user"][at] = f"stranger {at}"
    changed = logs.ingest(other, "changed", split=split)
    assert learned(changed) == learned(dataset)
    assert read(changed)["example_id"].to_pylist() == rows["example_id"].to_pylist()
    features = [name for name in rows.column_names if name != "liked"]
    assert read(changed, "train").select(features).equals(read(dataset, "train").select(features))
    assert 0 in read(changed, "test")["item"].to_pylist()


def test_training_rows_do_teach(logs, small):
    table = small()
    changed = {**table, "item": [777, *table["item"][1:]], "price": [1e6, *table["price"][1:]]}
    one, two = learned(logs.ingest(table, features=PLAIN)), learned(logs.ingest(changed, "changed", features=PLAIN))
    assert one[0] != two[0] and one[1] != two[1]


PLAIN = {"item": {"kind": "single"}, "price": {"kind": "dense"}}


def histories(table, last, wanted):
    """Each row's history by looking at all pairs of rows: raw items, newest first."""
    rows = list(zip(table["user"], table["when"], table["item"], table["clicked"], strict=True))
    out = []
    for user, when, _, _ in rows:
        before = [
            (time, at) for at, (who, time, _, label) in enumerate(rows) if who == user and time < when and wanted(label)
        ]
        out.append([rows[at][2] for _, at in sorted(before, reverse=True)][:last])
    return out


OUTCOMES = {"positive": lambda label: label == 1, "negative": lambda label: label == 0, "any": lambda label: True}


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("order", ["sorted", "backwards"])
def test_histories_are_what_came_strictly_before(logs, small, read, outcome, order):
    table = small(250, days=4)
    table["when"] = [when // 7_200_000 * 7_200_000 for when in table["when"]]
    if order == "backwards":
        table = {name: values[::-1] for name, values in table.items()}
    history = {"kind": "history", "user": "user", "of": "item", "last": 4, "outcome": outcome}
    dataset = logs.ingest(
        table,
        split={"by": "random", "validation": 0.1, "test": 0.1},
        features={"item": {"kind": "single", "hash": {"size": 2**40}}, "past": history},
    )
    rows = read(dataset)
    past = dict(zip(rows["example_id"].to_pylist(), rows["past"].to_pylist(), strict=True))
    item = dict(zip(rows["example_id"].to_pylist(), rows["item"].to_pylist(), strict=True))
    id_of = {raw: item[row] for row, raw in zip(table["id"], table["item"], strict=True)}
    expected = [[id_of[raw] for raw in raws] for raws in histories(table, 4, OUTCOMES[outcome])]
    assert [past[row] for row in table["id"]] == expected
    assert max(map(len, expected)) == 4


def test_neither_a_rows_own_label_nor_a_later_one_reaches_its_history(logs, small, read):
    table = small(300)
    first = read(logs.ingest(table))
    at = 200
    moment = table["when"][at]
    labels = [
        1 - label if when >= moment else label for when, label in zip(table["when"], table["clicked"], strict=True)
    ]
    second = read(logs.ingest({**table, "clicked": labels}, "flipped"))
    until = sum(when <= moment for when in table["when"])
    assert at < until < 300
    assert second["liked"].slice(0, until).equals(first["liked"].slice(0, until))
    assert not second["liked"].slice(until).equals(first["liked"].slice(until))
