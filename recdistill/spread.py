"""One function over many shards: here, in processes of this machine, or on a Ray cluster.

The function is an object that can be pickled: where it arrives it opens what it needs, once in each process. What it
writes is named after its shard, written under a temporary name and renamed, so that a shard which is done twice because
a machine died was done once. Results come in the order of shards, and whoever asked writes the manifest from them.
Machines share the run folder's disk.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from recdistill import progress
from recdistill.errors import UserError
from recdistill.parallel import cores, map_units, one_thread

if TYPE_CHECKING:
    from recdistill.config import Job

Work = Callable[[Any], Any]
"""From a shard to its result."""
Spread = Callable[[Sequence[Any], Work], list[Any]]
"""Does the work for every shard; results in the order of shards."""
RETRIES = 3
"""How often a shard is begun again whose worker died."""


def engine(job: Job) -> Spread:
    """What the job's `launch.engine` names."""
    return partial(in_processes, workers=job.workers) if job.launch.engine == "processes" else machines(job)


def machines(job: Job) -> Spread:
    """The same, for work that has one of this machine's processes already."""
    return on_ray if job.launch.engine == "ray" else in_turn


def in_turn(shards: Sequence[Any], work: Work) -> list[Any]:
    """One after the other, in this process."""
    return [work(shard) for shard in shards]


def in_processes(shards: Sequence[Any], work: Work, workers: int = 0) -> list[Any]:
    """In processes of one thread; `workers` as in `map_units`."""
    workers = min(workers or cores(), len(shards))
    if workers <= 1:
        return in_turn(shards, work)
    units = [(f"process {at + 1} of {workers}", (shards[at::workers], work)) for at in range(workers)]
    done = map_units(in_turn, units, workers, progress.current())
    return [done[at % workers][at // workers] for at in range(len(shards))]


def on_ray(shards: Sequence[Any], work: Work) -> list[Any]:
    """In processes of one thread, as many as the Ray cluster has processors, on whatever machines.

    The cluster is the one that RAY_ADDRESS names, or that runs on this machine; none is started.

    Raises:
        UserError: Ray is not installed, no cluster answers, the work raised one, or a shard's workers died each time.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        from ray.exceptions import RayActorError, RayTaskError
        from ray.util import ActorPool
    except ImportError:
        raise UserError("launch.engine: ray is not installed; pip install 'recdistill[ray]'") from None
    if not shards:
        return []
    try:
        ray.init("auto", ignore_reinit_error=True, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError:
        raise UserError(
            "launch.engine: no Ray cluster answers; start one with `ray start --head`, or name one in RAY_ADDRESS"
        ) from None
    worker = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=RETRIES)(_Worker)
    count = min(len(shards), max(1, int(ray.cluster_resources().get("CPU", 1))))
    actors = [worker.remote(work) for _ in range(count)]
    results: list[Any] = []
    try:
        for result in ActorPool(actors).map(lambda actor, shard: actor.do.remote(shard), shards):
            results.append(result)
            progress.current().update("ray", len(results), len(shards))
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(*error.cause.args) from None
        raise
    except RayActorError as error:
        said = str(error).splitlines()[0]
        raise UserError(
            f"a worker died {RETRIES + 1} times over the same work ({said}); is there memory for it?"
        ) from None
    finally:
        for actor in actors:
            ray.kill(actor)
    return results


class _Worker:
    def __init__(self, work: Work) -> None:
        self._work = work

    def do(self, shard: Any) -> Any:
        with one_thread():
            return self._work(shard)
