"""The maps of ingest: whoever does them, wherever and in whatever order, the dataset is the same to the byte."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from recdistill.clicklog.ingest import ingest
from recdistill.clicklog.schema import Dataset
from recdistill.errors import UserError
from recdistill.spread import Work, in_processes

Logs = Any
Small = Callable[..., dict[str, Any]]


def elsewhere(shards: Sequence[Any], work: Work, given: list[int]) -> list[Any]:
    """As on two other machines, which get shards in another order, and one of them twice."""
    given.append(len(shards))
    there = [pickle.loads(pickle.dumps(work)) for _ in range(2)]
    results = {at: there[at % 2](pickle.loads(pickle.dumps(shards[at]))) for at in reversed(range(len(shards)))}
    again = len(shards) // 2
    results[again] = there[(again + 1) % 2](shards[again])
    return [results[at] for at in range(len(shards))]


def content(dataset: Dataset) -> dict[str, bytes]:
    return {
        str(path.relative_to(dataset.root)): path.read_bytes() for path in dataset.root.rglob("*") if path.is_file()
    }


def split_log(logs: Logs, raw: dict[str, Any], pieces: int, order: list[int]) -> list[str]:
    """A log in several files, read in some order."""
    rows = len(raw["id"])
    edges = [rows * piece // pieces for piece in range(pieces + 1)]
    names = []
    for piece in order:
        part = {name: values[edges[piece] : edges[piece + 1]] for name, values in raw.items()}
        names.append(str(logs.write(part, f"part-{piece}.csv" if piece % 2 else f"part-{piece}.csv.gz")))
    return names


ORDER = {"column": "when", "unit": "order"}


@pytest.mark.parametrize(
    ("changes", "apart", "order"),
    [
        ({"features": None}, False, [2, 0, 3, 1]),
        ({}, True, [0, 1, 2, 3]),
        ({}, True, [0, 2, 1, 3]),
        ({"split": {"by": "order", "validation": 0.2, "test": 0.2}}, True, [3, 2, 1, 0]),
        ({"split": {"by": "random", "validation": 0.2, "test": 0.2, "seed": 3}}, True, [0, 1, 2, 3]),
        ({"split": {"by": "user_order", "user": "user", "validation": 0.2, "test": 0.2}}, True, [1, 0, 2, 3]),
        ({"split": {"by": "order", "validation": 0.2, "test": 0.2}, "time": ORDER}, False, [2, 0, 3, 1]),
        ({"split": {"by": "order", "validation": 0.2, "test": 0.2}, "time": None}, False, [2, 0, 3, 1]),
    ],
)
def test_the_dataset_does_not_depend_on_who_makes_it(
    logs: Logs, small: Small, features: dict[str, Any], changes: dict[str, Any], apart: bool, order: list[int]
) -> None:
    histories = changes.get("features", 0) is None
    kept = features if histories else {name: kind for name, kind in features.items() if name != "liked"}
    spec = logs.section(split_log(logs, small(400), 4, order), **{**changes, "features": kept})
    here, given = ingest(spec, logs.folder / "here"), list[int]()
    there = ingest(spec, logs.folder / "there", spread=partial(elsewhere, given=given))
    assert content(there) == content(here)
    # Files are read apart; days are encoded apart where no row needs earlier ones.
    assert given == [4, len(here.days) if apart else 1] and (not apart or len(here.days) > 4)


def test_processes_make_the_same(logs: Logs, small: Small, features: dict[str, Any]) -> None:
    del features["liked"]
    spec = logs.section(split_log(logs, small(), 3, [1, 0, 2]), features=features)
    here = ingest(spec, logs.folder / "here")
    assert content(ingest(spec, logs.folder / "there", spread=partial(in_processes, workers=2))) == content(here)


def test_files_without_rows_and_bad_cells_are_told_alike(logs: Logs, small: Small, tmp_path: Path) -> None:
    spread = partial(elsewhere, given=[])
    names = split_log(logs, small(), 3, [0, 1, 2])
    empty = logs.write({name: values[:0] for name, values in small(3).items()}, "part-empty.csv")
    spec = logs.section([names[0], str(empty), *names[1:]])
    assert content(ingest(spec, tmp_path / "a", spread=spread)) == content(ingest(spec, tmp_path / "b"))
    with pytest.raises(UserError, match=r"part-empty\.csv: the log has no rows"):
        ingest(logs.section([str(empty)]), tmp_path / "a", spread=spread)
    bad = small(3)
    bad["clicked"][1] = 7
    path = logs.write(bad, "part-bad.csv")
    with pytest.raises(UserError, match=r"part-bad\.csv, row 2, column 'clicked'"):
        ingest(logs.section([*names, str(path)]), tmp_path / "a", spread=spread)
