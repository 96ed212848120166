"""A step of embedding tables: sums of bags, their gradient, row-wise Adagrad; `recdistill.models.tables` and fbgemm's.

`here` is what a training on this processor does: the step of `recdistill.models.tables` (`ours`), or fbgemm's.

    OMP_NUM_THREADS=1 python tests/benchmarks/tables.py

Thirteen features of one id, each with a table; ids are drawn evenly, so that nearly every one is another row. `fbgemm,
means` has fbgemm take the mean of each bag, as TorchRec's mean pooling does. `--rows` is that of one table.
"""

from __future__ import annotations

import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_common import PoolingMode
from timing import Result, Side, interleaved, options

from recdistill.models.tables import Tables, group, ours_is_faster

FEATURES = 13
SETTINGS = [(1024, 8), (8192, 8), (8192, 64)]
"""Batch and dimension."""


def main() -> None:
    """Measures, and writes the page."""
    arguments = options(__doc__, 100_000, steps={"type": int, "default": 20, "help": "in each turn"})
    torch.set_num_threads(1)
    result = Result("tables", "ids", arguments)
    for batch, dim in SETTINGS:
        ids = torch.randint(arguments.rows, (FEATURES * batch,), generator=torch.Generator().manual_seed(0))
        offsets, gradient = torch.arange(len(ids) + 1), torch.randn(batch, FEATURES * dim)

        def steps(look_up: object, ids=ids, offsets=offsets, gradient=gradient) -> Side:
            def step() -> int:
                for _ in range(arguments.steps):
                    look_up(ids, offsets).backward(gradient)
                return arguments.steps * len(ids)

            return step

        rows, names = [arguments.rows] * FEATURES, [str(number) for number in range(FEATURES)]
        sides = {
            "here": steps(Tables(group(rows, dim), names, ours_is_faster())),
            "ours": steps(Tables(group(rows, dim), names, ours=True)),
            "fbgemm": steps(group(rows, dim)),
            "fbgemm, means": steps(group(rows, dim, PoolingMode.MEAN)),
        }
        times = interleaved(sides, arguments.repeats)
        result.say(f"## Batches of {batch:,}, dim {dim}, {arguments.rows:,} rows a table")
        result.speeds(times)
        result.compare(times, "here", "fbgemm", target=1)
        result.compare(times, "ours", "fbgemm", target=1)
    result.write()


if __name__ == "__main__":
    main()
