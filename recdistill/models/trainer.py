"""The training loop: every teacher and every student goes through it.

At each check the model is judged on validation rows, and everything that decides what comes next (weights, both
optimizers, position) is written with torch.distributed.checkpoint; random states follow from seed and position. A
killed run goes on from its last check to the same result. The best check is what remains.
"""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.distributed.checkpoint as dcp
from pydantic import BaseModel, ConfigDict
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException

from recdistill import progress, ranks
from recdistill.clicklog.batches import Batch
from recdistill.config.models import Train
from recdistill.errors import UserError
from recdistill.files import fingerprint, finish, made_from, read_record, verify, write_json
from recdistill.models.epochs import Epochs, Stream
from recdistill.models.sharding import quiet, shard
from recdistill.models.steps import Steps
from recdistill.models.task import Task

Module = TypeVar("Module", bound=nn.Module)
Trained = TypeVar("Trained", bound=Task)


class Position(BaseModel):
    """How far a training has come, and how well it did at each check."""

    model_config = ConfigDict(frozen=True)
    epoch: int = 0
    step: int = 0
    """Batches of this epoch that were learned from."""
    checks: list[float] = []
    """Validation NE at each check; lower is better."""
    losses: list[float] = []
    """Mean training loss before each check."""
    finished: bool = False

    @property
    def best(self) -> int:
        """Index of the best check."""
        return min(range(len(self.checks)), key=self.checks.__getitem__)

    @property
    def fingerprint(self) -> str:
        """What the marker of its newest check says."""
        return fingerprint(self.model_dump())


def fit(
    task: Trained,
    epoch_batches: Stream,
    steps_per_epoch: int,
    validate: Callable[[Trained], float],
    settings: Train,
    work: Path,
    seed: int,
    label: str,
    start: Path | None = None,
    measure: str = "validation NE",
) -> Position:
    """Trains `task`, and leaves its best check in `work`.

    `epoch_batches(generator)` yields one epoch in an order that the generator decides; `validate(task)` gives
    the `measure`, less being better. `steps_per_epoch` decides after how many batches a check is due; an epoch may turn
    out shorter, and then has fewer checks. `load_best` then fills an unsharded copy of the task. `start` is the `work`
    of an earlier training of the same task: its last weights and optimizer state are where this one begins. Several
    ranks call this alike: each reads the same batches and learns from rows of its own.

    Raises `UserError` when a loss is not finite, before it reaches a table, when validation NE is not, and when what it
    would go on from is damaged.
    """
    with quiet():
        model, optimizer = shard(task, settings)
    task = cast(Trained, model.module)
    position = _resume(work, model, optimizer)
    if start is not None and not position.checks and not _resume(start, model, optimizer).checks:
        raise UserError(
            f"{label}: its start {start} holds no checkpoint any more; remove {start.parent.parent} and train all again"
        )

    def tell(at: Position, learned: int = 0) -> None:
        """How far it is, `learned` batches after its last check; how well it does there, or at its best in the end."""
        step = min(at.step + learned, steps_per_epoch - 1)  # an epoch ends with its check, not with its last batch
        done = settings.epochs if at.finished else at.epoch + max(0, step) / max(1, steps_per_epoch)
        note = f"{measure} {at.checks[at.best if at.finished else -1]:.4f}" if at.checks else ""
        progress.current().update(label, done, settings.epochs, note)

    def watched(some: Iterable[Batch]) -> Iterator[Batch]:
        for number, batch in enumerate(some):
            tell(position, number)
            yield batch

    per_check = max(1, math.ceil(steps_per_epoch / settings.checks_per_epoch))
    steps, stream = Steps(model, task, optimizer), cast(Iterator[Batch] | None, None)
    with Epochs(epoch_batches, seed, steps_per_epoch, settings.batch_size, settings.epochs) as epochs:
        while not position.finished:
            torch.manual_seed(_seed(seed, position))
            if stream is None:
                stream = epochs.read(position.epoch, position.step)
            to_the_end = position.step // per_check >= settings.checks_per_epoch - 1
            some = stream if to_the_end else itertools.islice(stream, per_check)
            losses = steps.learn(watched(some), label, position.epoch + 1, position.step)
            if not losses and position.step == 0:
                raise UserError(f"{label}: there are no rows to train on; look at the split and the teacher's `rows`")
            following = next(stream, None)
            last_of_epoch = following is None
            stream = None if following is None else itertools.chain([following], stream)
            model.eval()
            with torch.no_grad():
                ne = validate(task)
            if not math.isfinite(ne):
                raise UserError(
                    f"{label}: its {measure} is {ne}: there are no validation rows for it, all of them have the "
                    "same label, or its logits are not finite; widen dataset.split.validation, or the teacher's `rows`"
                )
            position = _advance(position, ne, losses, last_of_epoch, settings)
            _save(work, model, optimizer, position)
            tell(position)
    return position


def load_best(module: Module, work: Path) -> Module:
    """Fills `module`, unsharded, with the best check that `fit` left in `work`."""
    position = position_of(work)
    state = {"model": module.state_dict()}
    _load(state, work / f"check-{position.best}", alone=True)
    module.load_state_dict(state["model"])
    module.eval()
    return module


def position_of(work: Path) -> Position:
    """How far the training in `work` came.

    Raises:
        UserError: that is not what was written, or the newest checkpoint is missing.
    """
    path = work / "position.json"
    position = read_record(path, Position, "training's position")
    if made_from(work / f"check-{len(position.checks) - 1}") != position.fingerprint:
        raise UserError(f"{path}: damaged, or its newest checkpoint is not there; remove {work} and train again")
    return position


def _seed(seed: int, position: Position) -> int:
    """Decides what is drawn (dropout) until the next check; every rank draws for rows of its own."""
    follower = [ranks.rank()] if ranks.rank() else []
    return int(np.random.SeedSequence([seed, position.epoch, position.step, *follower]).generate_state(1)[0])


def _advance(position: Position, ne: float, losses: list[float], last_of_epoch: bool, settings: Train) -> Position:
    checks = [*position.checks, ne]
    epoch = position.epoch + last_of_epoch
    bad_in_a_row = len(checks) - 1 - min(range(len(checks)), key=checks.__getitem__)
    return Position(
        epoch=epoch,
        step=0 if last_of_epoch else position.step + len(losses),
        checks=checks,
        losses=[*position.losses, sum(losses) / max(1, len(losses))],
        finished=epoch >= settings.epochs or bad_in_a_row >= settings.patience,
    )


def _save(work: Path, model: nn.Module, optimizer: torch.optim.Optimizer, position: Position) -> None:
    """The checkpoint with its marker, the position that points at it; then what neither needs any more is removed."""
    newest = len(position.checks) - 1
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    with _plainly():
        dcp.save(state, checkpoint_id=work / f"check-{newest}")
    if ranks.leads():
        finish(work / f"check-{newest}", position.fingerprint)
        write_json(work / "position.json", position.model_dump())
        for folder in work.glob("check-*"):
            if folder.name not in (f"check-{newest}", f"check-{position.best}"):
                shutil.rmtree(folder)
    ranks.wait()  # whoever reads on finds the new position and its checkpoints


def _resume(work: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> Position:
    """Fills model and optimizer from the last check in `work`, by however many ranks it was written."""
    there = ranks.leads() and (work / "position.json").exists()
    position = ranks.share(position_of(work) if there else Position())
    if not position.checks:
        return position
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    _load(state, work / f"check-{len(position.checks) - 1}")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return position


def _load(state: dict[str, Any], folder: Path, alone: bool = False) -> None:
    """Fills the tensors in `state`, each rank its shards, or this process all of them `alone`.

    Raises `UserError` when the checkpoint is damaged or holds other tensors, such as tables that were cut by columns.
    """
    verify(folder, folder.parent)
    try:
        with _plainly():
            dcp.load(state, checkpoint_id=folder, no_dist=alone)
    except Exception as error:
        raise UserError(
            f"{folder}: this checkpoint holds other tensors, or tables that are neither whole nor cut by rows, and no "
            f"other cut can be undone ({str(error).splitlines()[0]}); remove {folder.parent} and train again"
        ) from error


@contextmanager
def _plainly() -> Iterator[None]:
    """Raises what a rank failed with, and not torch's collection of that, which is no `Exception`."""
    try:
        with quiet():
            yield
    except CheckpointException as error:
        raise next(iter(error.failures.values()))[0] from error
