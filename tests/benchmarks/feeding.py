"""Rows a second from Parquet to batches of KeyedJaggedTensors, and how long the trainer waits for them.

    OMP_NUM_THREADS=1 python tests/benchmarks/feeding.py

`pyarrow` reads the same columns of the same files with one thread and does nothing with them. `batches` filters, joins
and cuts them, `batches, shuffled` also puts them into random order, as training does; one thread reads ahead. The rows
are those of a simulated log: ten features of one id (two with gaps), three of several, five dense ones.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from material import Stream, simulated, student, train
from timing import Result, interleaved, options

from recdistill.clicklog.batches import Rows, batches
from recdistill.config.models import Train


def main() -> None:
    """Measures, and writes the page."""
    arguments = options(__doc__, 1_000_000)
    torch.set_num_threads(1)
    result, settings = Result("feeding", "rows", arguments), Train(epochs=1)
    with tempfile.TemporaryDirectory() as folder:
        dataset = simulated(arguments.rows, Path(folder))
        shape, rows = student(dataset), dataset.rows("train")
        columns = ["example_id", "label", *shape.features]

        def scan() -> int:
            for part in dataset.parts("train"):
                pq.read_table(part.path, columns=columns, partitioning=None, use_threads=False)
            return rows

        def feed(shuffle: bool) -> int:
            generator = np.random.default_rng(0) if shuffle else None
            stream = batches(dataset, Rows("train"), settings.batch_size, shuffle=generator)
            return sum(len(batch) for batch in stream)

        sides = {"pyarrow": scan, "batches": lambda: feed(False), "batches, shuffled": lambda: feed(True)}
        times = interleaved(sides, arguments.repeats)
        waited: list[float] = []
        begun = time.perf_counter()
        train(dataset, shape, settings, lambda stream: watched(stream, waited))
        share = sum(waited) / (time.perf_counter() - begun)
    result.say(f"{rows:,} rows, batches of {settings.batch_size}.")
    result.speeds(times)
    result.compare(times, "batches", "pyarrow", target=0.5)
    result.compare(times, "batches, shuffled", "pyarrow", target=0.5)
    result.say(
        f"The trainer of a student (dim {shape.dim}) that learned from these rows waited for batches {share:.1%} "
        f"of its time, {waited[0]:.2f} s of {sum(waited):.2f} s of that for the first."
    )
    result.write()


def watched(stream: Stream, waited: list[float]) -> Stream:
    """The same batches; the seconds that each was waited for are added to a list."""
    while True:
        begun = time.perf_counter()
        batch = next(stream, None)
        waited.append(time.perf_counter() - begun)
        if batch is None:
            return
        yield batch


if __name__ == "__main__":
    main()
