"""Rows a second of a student's training, from Parquet to a checkpoint, against peers.

    python -m venv PEERS && PEERS/bin/pip install fuxictr deepctr-torch
    RECDISTILL_PEERS=PEERS/bin/python OMP_NUM_THREADS=1 python tests/benchmarks/student_training.py

One epoch over a simulated log: ten features of one id, five dense ones, tables with a row for every id. All models have
the same sizes and batches, one thread each, and learn by Adagrad (tables) and Adam or Adagrad (the rest). `recdistill`
is the real path: `trainer.fit` over `clicklog.batches`. `plain PyTorch` is given the same reader. `FuxiCTR` and
`DeepCTR-Torch` run their own loops in the environment whose interpreter is named, with their own loaders, from memory;
`FuxiCTR, batches in memory` has its batches made before the clock starts. `vectors of 2` is ours with vectors narrower
than the four numbers that a row of fbgemm's tables has at least.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from material import DENSE, DIM, SINGLE, simulated, student, train
from plain import PlainDLRM, train_plain
from timing import Result, Sample, Side, interleaved, options

from recdistill.clicklog.batches import Rows, batches, read_blocks
from recdistill.clicklog.schema import Dataset
from recdistill.config.models import Train
from recdistill.models.shape import Shape

PEERS = {
    "FuxiCTR": "fuxictr",
    "FuxiCTR, batches in memory": "fuxictr-in-memory",
    "DeepCTR-Torch": "deepctr",
}


def main() -> None:
    """Measures, and writes the page."""
    peers = os.environ.get("RECDISTILL_PEERS", "")
    arguments = options(__doc__, 1_000_000, peers={"default": peers, "help": "an interpreter that has the peers"})
    torch.set_num_threads(1)
    result, settings = Result("student_training", "rows", arguments), Train(epochs=1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        dataset = simulated(arguments.rows, folder / "run")
        shape, narrow = (student(dataset, [*SINGLE, *DENSE], dim) for dim in (DIM, 2))
        result.say(
            f"{dataset.rows('train'):,} rows, batches of {settings.batch_size}, dim {shape.dim}, top MLP {shape.top}, "
            f"{sum(table.rows for table in shape.tables):,} table rows, {shape.parameters():,} parameters."
        )

        def plain() -> int:
            generator = np.random.default_rng(0)
            stream = batches(dataset, Rows("train"), 1024, shuffle=generator, features=shape.features)
            return train_plain(PlainDLRM(shape), stream, settings)

        sides: dict[str, Side] = {
            "recdistill": lambda: train(dataset, shape, settings),
            "vectors of 2": lambda: train(dataset, narrow, settings),
            "plain PyTorch": plain,
        }
        if arguments.peers:
            export(dataset, shape, settings.batch_size, folder / "peers")
            with running(arguments.peers, folder / "peers") as theirs:
                times = interleaved({**sides, **theirs}, arguments.repeats)
        else:
            result.say("The peers were left out: no interpreter that has them was named (`--peers`).")
            times = interleaved(sides, arguments.repeats)
    result.speeds(times)
    result.compare(times, "recdistill", "plain PyTorch", target=1.5)
    result.compare(times, "vectors of 2", "recdistill", target=1.25, of="time")
    for peer in PEERS:
        if peer in times:
            result.compare(times, "recdistill", peer, target=2)
    result.write()


def export(dataset: Dataset, shape: Shape, batch_size: int, folder: Path) -> None:
    """The training rows as the peers read them; a missing id is 0."""
    folder.mkdir()
    whole = [block.cut(0, block.rows) for block in read_blocks(dataset, Rows("train"), features=shape.features)]
    columns: dict[str, np.ndarray] = {}
    for name in shape.sparse:
        columns[name] = np.concatenate([batch.sparse[name].to_padded_dense(1)[:, 0].numpy() for batch in whole])
    for at, name in enumerate(shape.dense):
        columns[name] = np.concatenate([batch.dense[:, at].numpy() for batch in whole])
    columns["label"] = np.concatenate([batch.label.numpy() for batch in whole])
    np.savez(folder / "rows.npz", **columns)
    np.savez(folder / "few.npz", **{name: values[:batch_size] for name, values in columns.items()})
    spec = {
        "sparse": {name: table.rows for table in shape.tables for name in table.features},
        "dense": shape.dense,
        "dim": shape.dim,
        "bottom": shape.bottom,
        "top": shape.top,
        "batch_size": batch_size,
        "rows": len(columns["label"]),
    }
    (folder / "spec.json").write_text(json.dumps(spec))


@contextmanager
def running(interpreter: str, folder: Path) -> Iterator[dict[str, Side]]:
    """The peers as sides, each a process that waits for its turns."""
    script = str(Path(__file__).parent / "peers.py")
    processes = {
        name: subprocess.Popen(
            [interpreter, script, str(folder), peer],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / f"{peer}.log").open("w"),
            text=True,
        )
        for name, peer in PEERS.items()
    }
    try:
        yield {name: turn_of(process) for name, process in processes.items()}
    finally:
        for process in processes.values():
            process.kill()
            process.wait()


def turn_of(process: subprocess.Popen) -> Side:
    """One epoch in another process, which measures itself."""

    def turn() -> Sample:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        return Sample(*json.loads(process.stdout.readline()))

    return turn


if __name__ == "__main__":
    main()
