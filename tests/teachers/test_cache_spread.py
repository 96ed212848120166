from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from recdistill.spread import Work
from recdistill.teachers.cache import cache_version

School = Any


def elsewhere(shards: Sequence[Any], work: Work) -> list[Any]:
    """As on another machine, which begins at the end, and does one shard twice."""
    there = pickle.loads(pickle.dumps(work))
    results = {at: there(at) for at in reversed(shards)}
    results[shards[0]] = there(shards[0])
    return [results[at] for at in shards]


@pytest.mark.parametrize("name", ["foundation", "expert"])
def test_shards_do_not_depend_on_who_scores_them(school: School, tmp_path: Path, name: str, one_thread: None) -> None:
    for version in school.versions(name):
        made = {}
        for where in ("here", "there"):
            options = {} if where == "here" else {"spread": elsewhere}
            folder = school.folder(name).parent
            made[where] = cache_version(name, folder, version, school.dataset, tmp_path / where, **options)
        assert made["here"] == made["there"] and made["here"][1]
        for path in (tmp_path / "here").rglob("*.parquet"):
            assert path.read_bytes() == (tmp_path / "there" / path.relative_to(tmp_path / "here")).read_bytes()


def test_a_scorer_travels_without_its_teacher(school: School, tmp_path: Path) -> None:
    sent = []

    def watch(shards: Sequence[Any], work: Work) -> list[Any]:
        sent.append(pickle.dumps(work))
        return [work(shard) for shard in shards]

    folder = school.folder("foundation")
    (final,) = (version for version in school.versions("foundation") if version.name == "final")
    cache_version("foundation", folder.parent, final, school.dataset, tmp_path, spread=watch)
    (weights,) = (path.read_bytes() for path in folder.glob("*.safetensors"))
    assert weights[-64:] not in sent[0] and pickle.loads(sent[0])(0) == pickle.loads(sent[0])(0)
