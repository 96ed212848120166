"""Calls a function in several real ranks: processes that one server forks, so that torch is imported once for all."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from contextlib import closing
from multiprocessing.connection import Connection
from typing import Any
from unittest import mock

from recdistill.errors import UserError
from recdistill.parallel import ONE_THREAD
from tests.cpus import NO_GPU

SECONDS = 300


def call(count: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """`function(*arguments)` in `count` ranks together: what each returned (no tensors), or its `UserError`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["recdistill.models.trainer"])
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ours, theirs = zip(*(context.Pipe() for _ in range(count)), strict=True)
    processes = [
        context.Process(target=_be, args=(rank, count, port, theirs[rank], function, arguments), daemon=True)
        for rank in range(count)
    ]
    with mock.patch.dict(os.environ, NO_GPU):  # of the server, which the first process starts
        for process, pipe in zip(processes, theirs, strict=True):
            process.start()
            pipe.close()
    try:
        assert all(pipe.poll(SECONDS) for pipe in ours), "a rank hangs"
        results = [pipe.recv() for pipe in ours]
        for process in processes:
            process.join(10)
        return results
    finally:
        for process in processes:
            process.kill()
            process.join()


def _be(rank: int, count: int, port: int, pipe: Connection, function: Callable[..., Any], arguments: Any) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    os.environ.update(ONE_THREAD, MASTER_ADDR="127.0.0.1", TORCH_CPP_LOG_LEVEL="ERROR")
    import torch

    from recdistill import ranks

    torch.set_num_threads(1)
    ranks.join()
    try:
        result = function(*arguments)
    except UserError as error:
        result = error
    pipe.send(result)
    ranks.wait()
