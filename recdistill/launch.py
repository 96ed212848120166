"""Starting several ranks of the same command, and being one of them; `ranks.py` has what they do together."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory

from recdistill.config.job import Job
from recdistill.errors import UserError
from recdistill.parallel import ONE_THREAD, die_with, launched, one_thread

GRACE_SECONDS = 5.0
"""How long a follower that failed waits, before it tells why."""
AGAIN = "run the same command again: what is finished is kept"


def must_start(job: Job) -> bool:
    """Whether this command is to be run by several processes, of which this is none yet."""
    return job.launch.ranks > 1 and not launched()


def start(ranks: int) -> int:
    """Runs this process's own command line in `ranks` processes, as torchrun would, and returns an exit code.

    Where one rank fails, the others are ended.

    Raises:
        UserError: a rank was killed, or there are fewer GPUs than ranks.
    """
    import torch
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if torch.cuda.is_available() and torch.cuda.device_count() < ranks:
        raise UserError(
            f"launch.ranks: {ranks}, and this machine has {torch.cuda.device_count()} GPUs, one for each rank"
        )
    for name, value in ONE_THREAD.items():
        os.environ.setdefault(name, value)
    logging.disable(logging.CRITICAL)  # a rank that fails has told why; how torch's launcher saw it helps nobody
    try:
        with TemporaryDirectory() as scratch:
            here = LaunchConfig(
                min_nodes=1,
                max_nodes=1,
                nproc_per_node=ranks,
                rdzv_backend="c10d",
                rdzv_endpoint="localhost:0",
                local_addr="localhost",
                max_restarts=0,
                logs_specs=DefaultLogsSpecs(log_dir=scratch),
            )
            elastic_launch(here, sys.executable)("-m", "recdistill", *sys.argv[1:])
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            name = signal.Signals(-failure.exitcode).name
            raise UserError(f"rank {rank} was ended by {name}, and the others with it; {AGAIN}") from None
        return failure.exitcode
    except SignalException as error:
        return 130 if error.sigval == signal.SIGINT else 128 + error.sigval
    return 0


@contextmanager
def in_ranks(job: Job) -> Iterator[bool]:
    """Whether this process is to do the work: one that was started alone is, and so is the leader of several ranks.

    A follower has done its part when it is told that it is not.

    Raises:
        UserError: another rank is gone.
    """
    if not launched():
        yield True
        return
    import torch.distributed as dist

    from recdistill import ranks
    from recdistill.models.sharding import cut_by_rows

    die_with(os.getppid())
    ranks.join()
    cut_by_rows(job.launch.row_wise)
    try:
        if ranks.leads():
            yield True
            ranks.dismiss()
        else:
            _follow()
            yield False
    except RuntimeError as error:
        if not _lost(error):
            raise
        raise UserError(f"another rank of this job has ended; {AGAIN}") from error
    dist.destroy_process_group()


def first_to_tell() -> None:
    """Returns at once in the leader, and after a moment in a follower that has failed.

    What goes wrong in one rank goes wrong in most: then the leader tells it, and torchrun ends this one meanwhile.
    """
    if launched() and os.environ["RANK"] != "0":
        time.sleep(GRACE_SECONDS)


def _follow() -> None:
    from recdistill import ranks

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the leader says that it was interrupted
    logging.getLogger().addHandler(logging.NullHandler())  # and logs what a library has to say
    logging.captureWarnings(True)
    with one_thread():
        ranks.follow()


def _lost(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, is that of a collective whose other end is gone."""
    import torch.distributed as dist

    if error is None:
        return False
    return isinstance(error, dist.DistError) or "gloo/transport" in str(error) or _lost(error.__cause__)
