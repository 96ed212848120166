"""The router learns on validation rows who is worth asking, and says it of every other row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from recdistill.clicklog.batches import Rows, batches
from recdistill.clicklog.recombine import recombine
from recdistill.clicklog.schema import SPLITS, Dataset
from recdistill.config.job import Recombine
from recdistill.config.models import Student, Train
from recdistill.distill import asked as asking
from recdistill.distill import routing
from recdistill.distill.asked import Askable, Committee, answered, asked_anyway
from recdistill.distill.mixture import Mixture
from recdistill.distill.router import Importance, Missed, every_second
from recdistill.distill.routing import Routers, route, starts, train_routers, worth_of
from recdistill.distill.train import Materials, train_alone
from recdistill.distill.warm import Start
from recdistill.models.shape import shape_of
from recdistill.models.task import validation_ne
from recdistill.models.trainer import position_of
from recdistill.models.untrained import Untrained
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


def test_who_is_right_becomes_important(
    make_dataset: Callable[..., Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, settings = make_dataset(rows=12_000), SETTINGS.model_copy(update={"batch_size": 256})
    monkeypatch.setattr(asking, "open_teacher", lambda folder: Teacher(int(folder.parent.name[-1])))
    asked = [Askable("knows-0", version()), Askable("knows-1", version())]
    committee = Committee(dataset.root, tmp_path, asked, [])
    student = Untrained(shape_of(Student(top=[8]), 4, dataset.schema, ["item", "user"]))
    found = train_routers(committee, *answered(committee, None, None), student, settings, 0, None, tmp_path / "work")
    for batch in batches(dataset, Rows("test"), 4096):
        item = batch.sparse["item"].to_padded_dense(1)[:, 0].long()
        importance = found.say(batch)[0]
        assert importance[item % 2 == 0, 0].mean() > 0.8 and importance[item % 2 == 1, 1].mean() > 0.8


def test_routes_know_domains_and_every_row(materials: Materials, tmp_path: Path) -> None:
    dataset = Dataset(materials.dataset)
    items = (1, 2, 3)
    asked = [Askable("foundation", version()), Askable("expert", version((("item", items),)))]
    committee = Committee(dataset.root, materials.teachers, asked, [])
    args = (committee, None, None, materials.student, replace_epochs(1), 0)
    route(tmp_path / "routes", "mark", *args)
    routes = Routes(tmp_path / "routes" / "train")
    rows = pairs = 0
    for part in dataset.parts("train"):
        table = pq.read_table(route_path(routes.root, part.key), partitioning=None)
        shown = pq.read_table(part.path, columns=["example_id", "item"], partitioning=None)
        np.testing.assert_array_equal(table["example_id"].to_numpy(), shown["example_id"].to_numpy())
        known = np.isin(shown["item"].to_numpy(), items)
        for kind in ("importance", "missed"):
            columns = (f"{kind}.{name}" for name in ("foundation", "expert"))
            foundation, expert = (table[column].to_numpy().astype(np.float64) for column in columns)
            np.testing.assert_array_equal(expert > 0, known)
            assert (foundation > 0).all() and foundation.max() <= 1
            if kind == "importance":
                np.testing.assert_allclose(foundation + expert, 1, atol=2e-3)
        rows, pairs = rows + len(known), pairs + int(known.sum())
    assert routes.pairs(1.0) == (rows + pairs, rows + pairs) and rows == dataset.rows("train")
    kept = (tmp_path / "routes" / "_SUCCESS").stat().st_mtime_ns
    route(tmp_path / "routes", "mark", *args)
    assert (tmp_path / "routes" / "_SUCCESS").stat().st_mtime_ns == kept


def test_who_does_not_know_a_row_neither_counts_nor_is_missed_there(materials: Materials) -> None:
    torch.manual_seed(0)
    one = Importance(materials.student, Mixture(torch.tensor([1.0, 0.0]), 1.2, 0.1))
    two = Missed(materials.student, torch.tensor([0.02, 0.01]))
    batch = next(batches(Dataset(materials.dataset), Rows("test"), 10))
    knows = torch.tensor([[True, True]] * 5 + [[False, True]] * 4 + [[False, False]])
    importance, missed = one.forecast(batch, knows), two.forecast(batch, knows)
    assert importance.sum(1).tolist() == pytest.approx([1.0] * 9 + [0.0]) and (importance[~knows] == 0).all()
    assert (missed[~knows] == 0).all() and (missed[knows] > 0).all()
    for router, name in ((one, "said"), (two, "missed")):
        column = torch.rand(10, 2)
        loss = router(replace(batch, extra={name: column, "knows": knows}))
        other = torch.where(knows, column, torch.tensor(9.0))
        assert loss.isfinite() and loss == router(replace(batch, extra={name: other, "knows": knows}))


def trained(names: list[str], dataset: Dataset, settings: Train, out: Path) -> Routers:
    """The routers of teachers with these names."""
    committee = Committee(dataset.root, out, [Askable(name, version()) for name in names], [])
    student = Untrained(shape_of(Student(top=[8]), 4, dataset.schema, ["item", "user"]))
    return train_routers(committee, *answered(committee, None, None), student, settings, 0, None, out / "work")


def test_what_cannot_be_learned_is_said_the_same_of_every_row(
    tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`knows-1` is right more often than `knows-0`, whatever the row: there is nothing about rows to learn."""
    monkeypatch.setattr(asking, "open_teacher", lambda folder: Noisy(4.0 if folder.parent.name == "knows-0" else 1.0))
    wild = SETTINGS.model_copy(update={"epochs": 1, "dense_rate": 0.5})
    found = trained(["knows-0", "knows-1"], tiny_dataset, wild, tmp_path)
    importance, missed = found.say(next(batches(tiny_dataset, Rows("test"), 4096)))
    assert (importance == importance[0]).all() and importance[0, 1] > importance[0, 0]
    assert missed[:, 1].mean() > 4 * missed[:, 0].mean()


def test_of_teachers_that_agree_one_is_not_missed(
    tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that say the same can do without one of them, and not without the third, who knows what they do not."""
    monkeypatch.setattr(asking, "open_teacher", lambda folder: Part(folder.parent.name))
    found = trained(["one", "twin", "other"], tiny_dataset, SETTINGS, tmp_path)
    importance, missed = (said.mean(0) for said in found.say(next(batches(tiny_dataset, Rows("test"), 4096))))
    less, more = missed[:2].sort().values
    assert min(more, missed[2]) > 3 * less and importance.max() < 0.6
    told = worth_of(tmp_path / "work")
    assert told is not None and told["rows"] == tiny_dataset.rows("validation") // 2
    (one, _), (twin, _), (other, error) = (told["teachers"][name] for name in ("one", "twin", "other"))
    assert other > max(10 * error, 4 * one, 4 * twin)
    assert worth_of(tmp_path) is None


class Elsewhere(Teacher):
    """Of the log it says what the other one says; of rows that nobody was shown, even items are another matter."""

    def __init__(self, name: str) -> None:
        self.other = name == "other"

    def score(self, batch):
        item = batch.sparse["item"].to_padded_dense(1)[:, 0].long()
        alike = batch.label - 0.5 + torch.randn(len(batch), generator=torch.Generator().manual_seed(0))
        if self.other and not batch.labelled:
            alike = torch.where(item % 2 == 0, 6.0, alike)
        return alike, torch.zeros(len(batch), 0)


def test_who_would_be_missed_is_learned_of_rows_that_nobody_was_shown_too(
    tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "open_teacher", lambda folder: Elsewhere(folder.parent.name))
    made = recombine(tiny_dataset, Recombine(rows=8.0, groups=[["item"]]), tmp_path / "recombined")
    committee = Committee(tiny_dataset.root, tmp_path, [Askable("one", version()), Askable("other", version())], [])
    student = Untrained(shape_of(Student(top=[8]), 4, tiny_dataset.schema, ["item", "user"]))
    missed = {}
    for name, recombined in (("with", made.root), ("without", None)):
        route(tmp_path / name, "mark", committee, recombined, None, student, SETTINGS, 0)
        routes = Routes(tmp_path / name / "train")
        (part,) = tiny_dataset.parts("train")[:1]
        shown = pq.read_table(part.path, columns=["example_id", "item"], partitioning=None)
        nats = routes.forecasts(part, shown["example_id"].to_numpy())[1]
        even = shown["item"].to_numpy() % 2 == 0
        missed[name] = nats[even, 1].mean() / nats[~even, 1].mean()
    assert missed["with"] > 4 > 2 > missed["without"]

    ids, nats = [], []
    routes = Routes(tmp_path / "with" / "unlabelled")
    for part in made.parts("unlabelled"):
        ids.append(pq.read_table(part.path, columns=["example_id"], partitioning=None)["example_id"].to_numpy())
        nats.append(routes.forecasts(part, ids[-1])[1])
    everybody, anyway = (np.concatenate(nats) == 1).all(axis=1), asked_anyway(made)(np.concatenate(ids))
    assert everybody[anyway].all() and everybody[~anyway].mean() < 0.01 < anyway.mean()
    assert 0 < everybody.mean() < 0.1
    every, kept = routes.pairs(0.01)
    assert every == 2 * len(everybody) and kept == everybody.sum() + len(everybody)


class Part(Teacher):
    """Sees half of what decides: what both see, together, is the label."""

    def __init__(self, name: str) -> None:
        self.other = name == "other"

    def score(self, batch):
        noise = 3 * torch.randn(len(batch), generator=torch.Generator().manual_seed(0))
        half = 2 * batch.label - 1
        return half - noise if self.other else half + noise, torch.zeros(len(batch), 0)


class Noisy(Teacher):
    """Sees the label through noise, on every row alike."""

    def __init__(self, noise: float) -> None:
        self.noise = noise

    def score(self, batch):
        generator = torch.Generator().manual_seed(int(self.noise))
        return 2 * batch.label - 1 + self.noise * torch.randn(len(batch), generator=generator), torch.zeros(
            len(batch), 0
        )


def replace_epochs(epochs: int) -> Train:
    """Shorter settings."""
    return SETTINGS.model_copy(update={"epochs": epochs})


def test_answers_from_files_are_weighed_beside_those_that_are_asked_for(materials: Materials, tmp_path: Path) -> None:
    """`llm` sees the label through noise and answers half of the rows, `rule` sees it through more noise."""
    files = [materials.caches / name for name in ("llm", "rule")]
    committee = Committee(materials.dataset, materials.teachers, [Askable("foundation", version())], files)
    route(tmp_path / "routes", "mark", committee, None, None, materials.student, replace_epochs(6), 0)
    for split in SPLITS:
        routes = Routes(tmp_path / "routes" / split)
        assert (routes.teachers, routes.askable) == (["foundation", "llm", "rule"], ["foundation"])
        rows = Dataset(materials.dataset).rows(split)
        assert routes.pairs(0.5) == (rows, rows)
    (part,) = Dataset(materials.dataset).parts("test")[:1]
    ids = pq.read_table(part.path, columns=["example_id"], partitioning=None)["example_id"].to_numpy()
    mean = routes.forecasts(part, ids)[0].mean(axis=0)
    assert mean[1] > mean[2] > 0


def test_a_router_begins_at_an_earlier_one(materials: Materials, tmp_path: Path) -> None:
    """What one that learns next to nothing says is as good as what it began at."""
    committee = Committee(
        materials.dataset, materials.teachers, [], [materials.caches / "llm", materials.caches / "rule"]
    )
    args = answered(committee, None, None)
    train_routers(committee, *args, materials.student, replace_epochs(4), 0, None, tmp_path / "one")
    start = Start(tmp_path / "one", materials.dataset, method=True)
    still = SETTINGS.model_copy(update={"epochs": 1, "dense_rate": 1e-9, "embedding_rate": 1e-9})
    for name, at in (("warm", start), ("cold", None)):
        train_routers(committee, *args, materials.student, still, 5, at, tmp_path / name)
    for router, begin in starts(start).items():
        folders = (
            tmp_path / "warm" / router / "before",
            *(tmp_path / "cold" / router / at for at in ("alone", "random")),
        )
        before, warm, *cold = (position_of(folder / "training").checks for folder in (begin.folder, *folders))
        assert warm == [pytest.approx(min(before), rel=1e-4)] and warm not in cold
        both = (position_of(begin.folder.parent / at / "training").checks for at in ("alone", "random"))
        assert min(before) == min(map(min, both))  # the better of the two is kept
    assert not (tmp_path / "warm" / "alone").exists()


def test_the_first_routers_begin_at_a_student_alone(
    materials: Materials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []

    def remembered(name: str, build: Callable[[], Importance | Missed], begins: dict, *rest) -> Importance | Missed:
        for place, begin in begins.items():
            router = build()
            begin(router)
            begun.append((place, router.student))
        return router.constant()

    monkeypatch.setattr(routing, "train_router", remembered)
    committee = Committee(materials.dataset, materials.teachers, [], [materials.caches / "llm"])
    args, settings = answered(committee, None, None), replace_epochs(2)
    train_routers(committee, *args, materials.student, settings, 3, None, tmp_path)
    dataset = Dataset(materials.dataset)
    alone = train_alone(dataset, materials.student, settings, 3, "alone", tmp_path / "again")
    told = {place: set() for place in ("alone", "random")}
    for place, student in (*begun, ("alone", alone)):
        told[place].add(validation_ne(student, batches(dataset, Rows("validation"), 4096)))
    assert len(begun) == 4 and len(told["alone"]) == 1 and max(told["alone"]) < 0.98 < min(told["random"])


def test_routers_of_another_version_are_no_place_to_begin(materials: Materials, tmp_path: Path) -> None:
    """They were elsewhere."""
    committee = Committee(materials.dataset, materials.teachers, [], [materials.caches / "llm"])
    route(tmp_path / "one", "mark", committee, None, None, materials.student, replace_epochs(1), 0)
    start = Start(tmp_path / "one", materials.dataset, method=True)
    found = starts(start)
    assert [one.folder.parent.name for one in found.values()] == ["importance", "missed"] and starts(None) == {}
    assert all(one.fingerprint() and one.folder.name in ("alone", "random") for one in found.values())
    (found["missed"].folder / "weights.safetensors").rename(tmp_path / "one" / "missed" / "weights.safetensors")
    assert starts(start) == {}


def test_every_second_row_is_kept_back_wherever_batches_end(materials: Materials) -> None:
    (batch,) = [b.take(torch.arange(12)) for b in batches(Dataset(materials.dataset), Rows("validation"), 64)][:1]
    rows = [batch.take(torch.arange(*ends)) for ends in ((0, 3), (3, 4), (4, 5), (5, 12))]
    learn, judge = (torch.cat([b.example_id for b in every_second(rows, begin)]) for begin in (0, 1))
    assert torch.equal(learn, batch.example_id[::2]) and torch.equal(judge, batch.example_id[1::2])
    assert [len(b) for b in every_second(rows, 1)] == [1, 1, 4]  # none of them is empty
