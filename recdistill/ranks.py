"""Several processes that train each model together: who this one is, and what all of them do at once.

torchrun starts them, or `launch.py` does for a job with `launch.ranks`. The first rank leads: it walks the stages,
holds the run folder and writes files. The others follow: they take part in every unit of work that the leader calls. A
process that was started alone leads nobody, and everything here costs it nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from recdistill import files
from recdistill.parallel import launched

Item = TypeVar("Item")
Result = TypeVar("Result")
Value = TypeVar("Value")

PATIENCE = timedelta(days=30)
"""How long a rank waits for another that works alone: a rank that died is not waited for, torchrun ends the job."""
_waiting: dist.ProcessGroup | None = None
"""The group in which ranks wait for each other: of the processors, also where the ranks compute on GPUs."""


def join() -> None:
    """Joins the group that torchrun made, or makes a group of one that opens no port; once."""
    global _waiting
    if dist.is_initialized():
        return
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if not launched():
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        return
    if backend == "nccl":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group(backend)
    _waiting = dist.new_group(backend="gloo", timeout=PATIENCE)


def count() -> int:
    """How many ranks there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which one this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def leads() -> bool:
    """Whether this is the first rank, which alone writes what is no checkpoint."""
    return rank() == 0


def share(value: Any) -> Any:
    """The leader's value, in every rank; whatever the others gave is ignored."""
    if count() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, group=_waiting)
    return box[0]


def gather(value: Value) -> list[Value]:
    """Every rank's value, in every rank, in order of ranks."""
    if count() == 1:
        return [value]
    box: list[Any] = [None] * count()
    dist.all_gather_object(box, value, group=_waiting)
    return box


def wait() -> None:
    """Returns when every rank has come here."""
    if count() > 1:
        dist.barrier(group=_waiting)


def mean(value: Tensor) -> Tensor:
    """The mean over ranks of a tensor that each of them has, without gradient."""
    if count() == 1:
        return value.detach()
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / count()


def total(values: Sequence[float]) -> list[float]:
    """Sums over ranks, float64: the same numbers in every rank."""
    if count() == 1:
        return list(values)
    sums = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(sums, group=_waiting)
    return sums.tolist()


def deal(items: Sequence[Item], work: Callable[[Sequence[Item]], Iterable[Result]]) -> list[Result]:
    """Deals items out to ranks, each of which does the `work` for its own; all results, in the order of items."""
    done = gather(list(work(items[rank() :: count()])))
    return [done[at % count()][at // count()] for at in range(len(items))]


def once(folder: Path, inputs: str, make: Callable[[Path], None]) -> None:
    """`files.once` by all ranks together: the leader looks and moves, every rank calls `make(work)`."""

    def work_together(work: Path | None) -> None:
        work = share(work)
        if work is not None:
            make(work)
            wait()

    if not (leads() and files.once(folder, inputs, work_together)):
        work_together(None)
    wait()


def together(function: Callable[..., Result], *args: Any) -> Result:
    """Calls `function(*args)` in every rank, and returns the leader's result; only the leader may call this."""
    share((function, args))
    return function(*args)


def follow() -> None:
    """What every rank but the leader does: whatever the leader calls `together`, until it calls `dismiss`."""
    while (call := share(None)) is not None:
        function, args = call
        function(*args)


def dismiss() -> None:
    """Lets the followers go."""
    share(None)
