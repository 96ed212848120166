"""The stage `route`: routers learn from what teachers say about some rows, and are heard about all others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recdistill import progress, ranks
from recdistill.clicklog.batches import Batch, Rows, read_blocks
from recdistill.clicklog.schema import SPLITS, Dataset, Part, SplitName
from recdistill.config.models import Train
from recdistill.distill.asked import Committee, answered, asked_anyway
from recdistill.distill.combine import LEAST as LEAST_IMPORTANT
from recdistill.distill.combine import Heard, fitted
from recdistill.distill.left_out import missed, thinned, worth
from recdistill.distill.mixture import mixture
from recdistill.distill.router import Importance, Missed, R, train_router
from recdistill.distill.train import train_alone
from recdistill.distill.warm import Start, begin_at
from recdistill.files import read_json, write_json
from recdistill.models.frozen import WEIGHTS
from recdistill.models.sharding import device
from recdistill.models.untrained import Untrained
from recdistill.teachers.protocol import SCORING_BATCH
from recdistill.teachers.routes import count_route, finish_routes, route_path, write_route
from recdistill.teachers.shelf import Shelf

LEAST, MOST = 2.0**-20, 1.0
"""Nats by which a teacher that knows a row is missed, as routes hold it: in their float16, 0 means that it does not.
It is the most where everybody was asked already."""
ROUTERS = ("importance", "missed")
"""Names of their folders."""
ALONE = "alone"
"""Name of the folder of the student that has learned clicks alone."""
WIDTH = 64
"""Hidden width of the gates whose words are compared."""
WORTH = "worth.json"


def route(
    folder: Path,
    mark: str,
    committee: Committee,
    recombined: Path | None,
    shelf: Shelf | None,
    student: Untrained,
    settings: Train,
    seed: int,
    start: Start | None = None,
) -> None:
    """The unit of the stage `route`: a folder of routes for each split, `unlabelled` for recombined rows."""

    def make(work: Path) -> None:
        said = answered(committee, shelf, recombined)
        routers = train_routers(committee, *said, student, settings, seed, start, work)
        for split in SPLITS:
            routers.write(Dataset(committee.dataset), split, work / split)
        if recombined is not None:
            routers.write(Dataset(recombined), "unlabelled", work / "unlabelled")

    ranks.once(folder, mark, make)


def starts(start: Start | None) -> dict[str, Start]:
    """Where each router begins, of an earlier night's folder; nowhere if another version of recdistill made that."""
    found = {} if start is None else {name: [*(start.folder / name).glob(f"*/{WEIGHTS}")] for name in ROUTERS}
    if start is None or not all(found.values()):
        return {}
    return {name: replace(start, folder=weights.parent) for name, (weights, *_) in found.items()}


def worth_of(folder: Path) -> dict[str, Any] | None:
    """Of a folder of routes: `rows`, and of `teachers` what `combine.worth` found of each on them.

    None where an earlier version of recdistill made that.
    """
    return read_json(folder / WORTH) if (folder / WORTH).exists() else None


class Routers:
    """Both routers of a committee."""

    def __init__(self, committee: Committee, importance: Importance, missed: Missed) -> None:
        self.committee, self.importance, self.missed = committee, importance.eval(), missed.eval()

    @torch.no_grad()
    def say(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Importance, and nats by which teachers would be missed, float32 [B, n] each; 0 where one does not know."""
        knows = self.committee.knows(batch)
        importance = self.importance.forecast(batch, knows).clamp_min(LEAST_IMPORTANT) * knows
        return importance, self.missed.forecast(batch, knows).clamp(LEAST, MOST) * knows

    def write(self, dataset: Dataset, split: SplitName, out: Path) -> None:
        """Writes the routes of a split's rows into `out`; files that are there already are kept."""
        rows, names = Rows(split), self.committee.names
        parts, asked = rows.parts(dataset), [teacher.name for teacher in self.committee.asked]
        anyway = asked_anyway(dataset) if split == "unlabelled" else None
        self.importance, self.missed = self.importance.to(device()), self.missed.to(device())

        def write(at: int) -> np.ndarray:
            path = route_path(out, parts[at].key)
            if not path.exists():
                ids, importance, nats = self._of(dataset, rows, parts[at])
                if anyway is not None:
                    were = anyway(ids)
                    nats[were] = MOST * (nats[were] > 0)
                write_route(path, names, ids, importance, nats)
            progress.current().update(f"route {split}", at + 1, len(parts))
            return count_route(path, asked)

        counts = ranks.deal(range(len(parts)), partial(map, write))
        if ranks.leads():
            finish_routes(out, names, asked, np.sum(counts, axis=0))

    def _of(self, dataset: Dataset, rows: Rows, part: Part) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`example_id` [N], and importance and nats missed, float32 [N, n] each, of a part's rows."""
        nobody = np.zeros((0, len(self.committee.names)), np.float32)
        ids, said = [np.zeros(0, np.int64)], [(nobody, nobody)]
        for block in read_blocks(dataset, rows, parts=[part]):
            for start in range(0, block.rows, SCORING_BATCH):
                batch = block.cut(start, min(start + SCORING_BATCH, block.rows)).to(device())
                ids.append(batch.example_id.cpu().numpy())
                importance, wanted = self.say(batch)
                said.append((importance.cpu().numpy(), wanted.cpu().numpy()))
        weights, nats = (np.concatenate(values) for values in zip(*said, strict=True))
        return np.concatenate(ids), weights, nats


def train_routers(
    committee: Committee,
    rows: list[Batch],
    recombined: list[Batch],
    student: Untrained,
    settings: Train,
    seed: int,
    start: Start | None,
    out: Path,
) -> Routers:
    """Both routers, trained in `out` on rows with what was `said` and who `knows` them.

    Who is right is learned of `rows`, who would be missed of `recombined` ones too, for that takes no label. They begin
    at an earlier night's, of which `start` is the folder, or where is better of a student alone and random numbers.
    """
    dataset, before = Dataset(committee.dataset), starts(start)
    said, knows, label, weight = _columns(rows)
    known = mixture(said, knows, label, weight)
    alone = None if before else train_alone(dataset, student, settings, seed, "route alone", out / ALONE)

    def train(name: str, build: Callable[[], R]) -> R:
        def begin(place: str, router: R) -> None:
            if alone is None:
                begin_at(router, router.student, before[name], dataset)
            elif place == ALONE:
                router.student.load_state_dict(alone.state_dict())

        places = ("before",) if alone is None else (ALONE, "random")
        begins = {place: partial(begin, place) for place in places}
        return train_router(name, build, begins, rows, settings, seed, out / name)

    importance = train("importance", lambda: Importance(student, known))
    heard = _heard(importance, rows)
    fit = partial(fitted, WIDTH, seed)
    gate, askable = fit(thinned(heard, seed)), len(committee.asked)
    rows = _missing(rows, missed(heard, gate, askable))
    if recombined:
        rows += _missing(recombined, missed(_heard(importance, recombined), gate, askable))
    wanted = torch.cat([batch.extra["missed"] for batch in rows])
    told = torch.cat([batch.extra["knows"] * batch.weight[:, None] for batch in rows])
    usual = ((told * wanted).sum(0) / told.sum(0).clamp_min(1e-9)).clamp_min(LEAST)
    wanting = train("missed", lambda: Missed(student, usual))
    of_each = dict(zip(committee.names, worth(heard, fit), strict=False))  # by all ranks: gates are fitted together
    if ranks.leads():
        write_json(out / WORTH, {"rows": len(label[1::2]), "teachers": of_each})
    return Routers(committee, importance, wanting)


def _columns(rows: list[Batch]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What was said about rows, who knows them, their labels and weights."""
    said, knows = (torch.cat([batch.extra[name] for batch in rows]) for name in ("said", "knows"))
    label, weight = (torch.cat([getattr(batch, name) for batch in rows]) for name in ("label", "weight"))
    return said, knows, label, weight


def _heard(importance: Importance, rows: list[Batch]) -> Heard:
    said, knows, label, weight = _columns(rows)
    return Heard(said, knows, _forecast(importance, rows), label, weight)


def _missing(rows: list[Batch], nats: Tensor) -> list[Batch]:
    """Rows with the nats by which each teacher is missed there, float32 [N, n]."""
    parts = nats.split([len(batch) for batch in rows])
    return [replace(batch, extra={**batch.extra, "missed": part}) for batch, part in zip(rows, parts, strict=True)]


@torch.no_grad()
def _forecast(router: Importance | Missed, rows: list[Batch]) -> Tensor:
    """What a router says of rows, float32 [N, n]."""
    place = router.head.weight.device
    return torch.cat([router.forecast(b.to(place), b.extra["knows"].to(place)).cpu() for b in rows])
