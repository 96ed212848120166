"""Small teachers on the tiny dataset, trained and cached as the stages do it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from recdistill.clicklog.schema import Dataset
from recdistill.config.models import Teachers
from recdistill.teachers.shards import TeacherCache
from recdistill.teachers.versions import Version, chains, versions
from recdistill.teachers.work import cache_teacher, domain_of, teach_chain

TRAIN = {"batch_size": 256, "epochs": 2, "embedding_rate": 0.1, "dense_rate": 0.01}
FOUNDATION: dict[str, Any] = {"kind": "dlrm", "dim": 8, "bottom": [8], "top": [16, 8], "dropout": 0.2, "train": TRAIN}
EXPERT: dict[str, Any] = {
    "kind": "dlrm",
    "dim": 4,
    "top": [8],
    "features": ["user", "item"],
    "rows": {"item": ["i1", "i2", "i3"]},
    "train": TRAIN,
}


class School:
    """A committee of `foundation` and `expert` (who knows three items) under one regime, in a folder."""

    def __init__(self, root: Path, dataset: Dataset, regime: str, **settings: Any) -> None:
        self.root, self.dataset = root, dataset
        members = {"foundation": FOUNDATION, "expert": EXPERT}
        self.teachers = Teachers.model_validate({"regime": regime, "members": members, **settings})

    def versions(self, name: str) -> list[Version]:
        """The versions of one member."""
        domain = domain_of(self.teachers.members[name], self.dataset)
        return [version.within(domain) for version in versions(self.teachers, self.dataset)]

    def folder(self, name: str, version: str = "final") -> Path:
        """Where a version is."""
        return self.root / "teach" / name / version

    def teach(self, name: str) -> None:
        """Trains every version."""
        for chain in chains(self.versions(name)):
            folder = self.folder(name, chain[-1].name)
            teach_chain(folder, "mark", self.teachers.members[name], name, self.dataset.root, chain)

    def cache(self, name: str, out: Path | None = None) -> TeacherCache:
        """Fills the cache, of this folder or another."""
        root = (out or self.root / "cache") / name
        cache_teacher(
            root,
            "mark",
            self.teachers.members[name],
            name,
            self.root / "teach",
            self.dataset.root,
            self.versions(name),
        )
        return TeacherCache(root, self.dataset)


@pytest.fixture(scope="session")
def make_school(tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Dataset) -> Callable[..., School]:
    """Gives a committee that has been taught: `make_school(regime, *names, **settings)`."""

    def make(regime: str, *names: str, **settings: Any) -> School:
        school = School(tmp_path_factory.mktemp("school"), tiny_dataset, regime, **settings)
        torch.set_num_threads(1)
        for name in names:
            school.teach(name)
        return school

    return make


@pytest.fixture(scope="session")
def school(make_school: Callable[..., School]) -> School:
    """Two folds and both members, taught and cached. Read only."""
    made = make_school("out_of_fold", "foundation", "expert", folds=2)
    made.cache("foundation")
    made.cache("expert")
    return made
