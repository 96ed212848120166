"""Answers made by hand, and a small committee that has been taught and cached."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn
from torchrec import KeyedJaggedTensor

from recdistill.clicklog.batches import Batch
from recdistill.clicklog.columns import whole
from recdistill.clicklog.schema import SPLITS, Dataset
from recdistill.config.job import Distill
from recdistill.config.models import FileTeacher, Student, Teachers, Train
from recdistill.distill import aligner
from recdistill.distill.asked import Askable, Committee
from recdistill.distill.committee import Member
from recdistill.distill.routing import route
from recdistill.distill.train import Materials
from recdistill.models.shape import shape_of
from recdistill.models.untrained import Untrained
from recdistill.teachers.codes import encode
from recdistill.teachers.protocol import Upper
from recdistill.teachers.routes import Routed
from recdistill.teachers.versions import chains, versions
from recdistill.teachers.work import cache_teacher, domain_of, teach_chain

TRAIN = {"batch_size": 256, "epochs": 2, "embedding_rate": 0.1, "dense_rate": 0.01}
NAMES = ("foundation", "expert", "llm", "rule")


class Answering(Upper):
    """Frozen layers of nobody in particular; `asked` collects how many rows each call had."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim, self.answer_dim = dim, 3
        self.asked: list[int] = []
        self.layer = nn.Linear(dim, 3)
        self.requires_grad_(False)

    def forward(self, z: Tensor) -> Tensor:
        self.asked.append(len(z))
        return self.layer(z).relu()


@pytest.fixture
def every_batch_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one of several."""
    monkeypatch.setattr(aligner, "EVERY", 1)


@pytest.fixture
def members() -> list[Member]:
    """One that answers questions, one that is known by its embedding, one by its logit alone."""
    torch.manual_seed(1)
    return [Member("deep", 5, Answering(5)), Member("llm", 12), Member("rule", 0)]


@pytest.fixture
def deep() -> list[Member]:
    """Three members that all answer questions, and count them."""
    torch.manual_seed(1)
    return [Member(name, 5, Answering(5)) for name in ("deep", "llm", "rule")]


@pytest.fixture
def answered(members: list[Member]) -> Callable[..., Batch]:
    """Gives a batch with answers: `answered(rows, seed)`; on the last row nobody answers, on the first all do."""

    def make(rows: int = 40, seed: int = 0) -> Batch:
        rng = torch.Generator().manual_seed(seed)
        present = torch.rand(rows, len(members), generator=rng) < 0.6
        present[0], present[-1] = True, False
        extra, embeddings = {}, {}
        for number, member in enumerate(members):
            here = present[:, number]
            extra[f"logit.{member.name}"] = torch.randn(rows, generator=rng) * here
            extra[f"logit.{member.name}?"] = here
            if member.dim:
                codes = torch.from_numpy(encode(torch.randn(rows, member.dim, generator=rng).numpy())) * here[:, None]
                embeddings[f"embedding.{member.name}"] = whole(codes)
        return Batch(
            dense=torch.zeros(rows, 0),
            sparse=KeyedJaggedTensor(keys=[], values=torch.zeros(0).long(), lengths=torch.zeros(0).int()),
            label=(torch.rand(rows, generator=rng) < 0.4).float(),
            weight=torch.randint(1, 4, (rows,), generator=rng).float(),
            example_id=torch.arange(rows),
            extra=extra,
            vectors=embeddings,
        )

    return make


def write_outside(dataset: Dataset, folder: Path) -> dict[str, str]:
    """Files of two outside teachers: `llm` answers half of the rows, `rule` all of them and has no embedding."""
    rng, paths = np.random.default_rng(3), {name: str(folder / f"{name}.parquet") for name in ("llm", "rule")}
    rows = pa.concat_tables(pq.read_table(part.path, partitioning=None) for part in dataset.parts())
    signal = 2.0 * rows["label"].to_numpy() - 1
    logit = (signal + rng.normal(0, 1.5, len(rows))).astype(np.float32)
    some = rng.random(len(rows)) < 0.5
    vectors = (logit[:, None] * rng.normal(size=12) + rng.normal(size=(len(rows), 12))).astype(np.float32)
    table = pa.table({"example_id": rows["example_id"], "logit": logit, "embedding": vectors.tolist()})
    pq.write_table(table.filter(pa.array(some)), paths["llm"])
    noise = rng.normal(0, 2, len(rows)).astype(np.float32)
    pq.write_table(pa.table({"example_id": rows["example_id"], "logit": logit + noise}), paths["rule"])
    return paths


@pytest.fixture(scope="session")
def materials(tiny_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Materials:
    """A foundation, a domain expert, and two outside teachers; two folds. Read only."""
    root = tmp_path_factory.mktemp("committee")
    torch.set_num_threads(1)
    dlrm: dict[str, Any] = {"kind": "dlrm", "bottom": [8], "top": [16, 8], "dim": 8, "train": TRAIN}
    expert = {**dlrm, "features": ["user", "tags"], "rows": {"item": ["i1", "i2", "i3"]}}
    paths = write_outside(tiny_dataset, root)
    outside = {name: FileTeacher(kind="file", paths=[path]) for name, path in paths.items()}
    members = {"foundation": {**dlrm, "dropout": 0.3}, "expert": expert, **outside}
    teachers = Teachers.model_validate({"regime": "out_of_fold", "folds": 2, "members": members})
    for name, member in teachers.members.items():
        domain = domain_of(member, tiny_dataset)
        every = [version.within(domain) for version in versions(teachers, tiny_dataset)]
        for chain in [] if isinstance(member, FileTeacher) else chains(every):
            folder = root / "teach" / name / chain[-1].name
            teach_chain(folder, "mark", member, name, tiny_dataset.root, chain)
        cache_teacher(root / "cache" / name, "mark", member, name, root / "teach", tiny_dataset.root, every)
    student = Untrained(shape_of(Student(top=[6], bottom=[]), 4, tiny_dataset.schema, None))
    asked = [
        Askable(name, versions(teachers, tiny_dataset)[-1].within(domain_of(teachers.members[name], tiny_dataset)))
        for name in NAMES[:2]
    ]
    committee = Committee(tiny_dataset.root, root / "teach", asked, [root / "cache" / name for name in NAMES[2:]])
    route(root / "routes", "mark", committee, None, None, student, Train(**TRAIN), 0)
    routed = Routed({split: root / "routes" / split for split in SPLITS}, 0.7)
    return Materials(tiny_dataset.root, root / "teach", root / "cache", NAMES, student, routed=routed)


@pytest.fixture
def quick() -> Distill:
    """Settings of a short training."""
    return Distill.model_validate({"train": TRAIN, "diverse": {"question_width": 8, "teacher_dim": 4}})
