"""The router learns on validation rows who is worth asking, and says it of every other row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from recdistill.clicklog.batches import Rows, batches
from recdistill.clicklog.schema import SPLITS, Dataset
from recdistill.config.models import Student, Train
from recdistill.distill import router as routers
from recdistill.distill.router import Askable, Committee, Router, route, train_router
from recdistill.distill.train import Materials
from recdistill.distill.warm import Start
from recdistill.models.shape import shape_of
from recdistill.models.trainer import position_of
from recdistill.teachers.routes import Routes, route_path
from recdistill.teachers.versions import FINAL, Version

SETTINGS = Train(batch_size=64, epochs=12, patience=12, embedding_rate=0.2, dense_rate=0.02)


class Teacher:
    """Knows the label on rows of even items, and nothing on others; or the other way round."""

    dim = 0
    features = ("item",)

    def __init__(self, parity: int) -> None:
        self.parity = parity

    def score(self, batch):
        assert batch.sparse.keys() == ["item"] and not batch.dense.shape[1]  # what it reads, and nothing else
        item = batch.sparse["item"].to_padded_dense(1)[:, 0].long()
        right = (item % 2) == self.parity
        generator = torch.Generator().manual_seed(self.parity)
        noise = torch.randn(len(batch), generator=generator)
        return torch.where(right, 6 * batch.label - 3, 3 * noise), torch.zeros(len(batch), 0)


def version(domain: tuple = ()) -> Version:
    """A final version."""
    return Version(FINAL, Rows("train", domain=domain), ())


def test_who_is_right_becomes_important(tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routers, "open_teacher", lambda folder: Teacher(int(folder.parent.name[-1])))
    asked = [Askable("knows-0", version()), Askable("knows-1", version())]
    committee = Committee(tiny_dataset.root, tmp_path, asked, [])
    shape = shape_of(Student(top=[8]), 4, tiny_dataset.schema, ["item", "user"])
    found = train_router(committee, None, shape, SETTINGS, 0, None, tmp_path / "work").eval()
    for batch in batches(tiny_dataset, Rows("test"), 4096):
        item = batch.sparse["item"].to_padded_dense(1)[:, 0].long()
        with torch.no_grad():
            importance = found.importance(batch, torch.ones(len(batch), 2).bool())
        assert importance[item % 2 == 0, 0].mean() > 0.8 and importance[item % 2 == 1, 1].mean() > 0.8


def test_routes_know_domains_and_every_row(materials: Materials, tmp_path: Path) -> None:
    dataset = Dataset(materials.dataset)
    items = (1, 2, 3)
    asked = [Askable("foundation", version()), Askable("expert", version((("item", items),)))]
    committee = Committee(dataset.root, materials.teachers, asked, [])
    args = (committee, None, None, materials.shape, replace_epochs(1), 0)
    route(tmp_path / "routes", "mark", *args)
    routes = Routes(tmp_path / "routes" / "train")
    rows = pairs = 0
    for part in dataset.parts("train"):
        table = pq.read_table(route_path(routes.root, part.key), partitioning=None)
        shown = pq.read_table(part.path, columns=["example_id", "item"], partitioning=None)
        np.testing.assert_array_equal(table["example_id"].to_numpy(), shown["example_id"].to_numpy())
        foundation, expert = (table[name].to_numpy().astype(np.float64) for name in ("foundation", "expert"))
        known = np.isin(shown["item"].to_numpy(), items)
        np.testing.assert_array_equal(expert > 0, known)
        np.testing.assert_allclose(foundation + expert, 1, atol=2e-3)
        rows, pairs = rows + len(known), pairs + int(known.sum())
    assert routes.pairs(1.0) == (rows + pairs, rows + pairs) and rows == dataset.rows("train")
    kept = (tmp_path / "routes" / "_SUCCESS").stat().st_mtime_ns
    route(tmp_path / "routes", "mark", *args)
    assert (tmp_path / "routes" / "_SUCCESS").stat().st_mtime_ns == kept


def test_nobody_who_knows_a_row_leaves_its_importances_zero(materials: Materials) -> None:
    torch.manual_seed(0)
    made = Router(materials.shape, 2)
    batch = next(batches(Dataset(materials.dataset), Rows("test"), 10))
    knows = torch.tensor([[True, True]] * 5 + [[False, True]] * 4 + [[False, False]])
    importance = made.importance(batch, knows)
    assert importance.sum(1).tolist() == pytest.approx([1.0] * 9 + [0.0]) and (importance[~knows] == 0).all()
    extra = {"said": torch.randn(10, 2) * knows, "knows": knows}
    assert made(replace(batch, extra=extra)).isfinite()


def replace_epochs(epochs: int) -> Train:
    """Shorter settings."""
    return SETTINGS.model_copy(update={"epochs": epochs})


def test_answers_from_files_are_weighed_beside_those_that_are_asked_for(materials: Materials, tmp_path: Path) -> None:
    """`llm` sees the label through noise and answers half of the rows, `rule` sees it through more noise."""
    answered = [materials.caches / name for name in ("llm", "rule")]
    committee = Committee(materials.dataset, materials.teachers, [Askable("foundation", version())], answered)
    route(tmp_path / "routes", "mark", committee, None, None, materials.shape, replace_epochs(6), 0)
    for split in SPLITS:
        routes = Routes(tmp_path / "routes" / split)
        assert (routes.teachers, routes.askable) == (["foundation", "llm", "rule"], ["foundation"])
        rows = Dataset(materials.dataset).rows(split)
        assert routes.pairs(0.5) == (rows, rows)
    (part,) = Dataset(materials.dataset).parts("test")[:1]
    ids = pq.read_table(part.path, columns=["example_id"], partitioning=None)["example_id"].to_numpy()
    mean = routes.importance(part, ids).mean(axis=0)
    assert mean[1] > mean[2] > 0


def test_a_router_begins_at_an_earlier_one(materials: Materials, tmp_path: Path) -> None:
    committee = Committee(
        materials.dataset, materials.teachers, [], [materials.caches / "llm", materials.caches / "rule"]
    )
    route(tmp_path / "one", "mark", committee, None, None, materials.shape, replace_epochs(4), 0)
    start = Start(tmp_path / "one", materials.dataset, method=True)
    train_router(committee, None, materials.shape, replace_epochs(1), 5, start, tmp_path / "work")
    train_router(committee, None, materials.shape, replace_epochs(1), 5, None, tmp_path / "cold")
    warm, cold = (position_of(tmp_path / name / "training") for name in ("work", "cold"))
    assert warm.losses[0] < cold.losses[0]
