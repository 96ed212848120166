"""How much faster than scikit-learn the exact AUC is, and that it is the same.

Run by hand: `OMP_NUM_THREADS=1 python tests/benchmarks/auc.py [--rows N] [--write FILE]`. `--write` appends a JSON
line to a file.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from recdistill.evaluate.metrics import AucAccumulator, auc

CHUNK = 1 << 18


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    score = rng.normal(-2, 1, arguments.rows).astype(np.float32)
    label = rng.random(arguments.rows) < 1 / (1 + np.exp(-score))

    def streamed() -> float:
        ranks = AucAccumulator()
        for start in range(0, len(score), CHUNK):
            ranks.update(label[start : start + CHUNK], score[start : start + CHUNK])
        return ranks.compute()

    seconds, value = timed(lambda: auc(label, score))
    streamed_seconds, streamed_value = timed(streamed)
    theirs, expected = timed(lambda: roc_auc_score(label, score))
    result = {
        "rows": arguments.rows,
        "seconds": round(seconds, 3),
        "streamed_seconds": round(streamed_seconds, 3),
        "sklearn_seconds": round(theirs, 3),
        "ratio": round(theirs / seconds, 2),
        "streamed_ratio": round(theirs / streamed_seconds, 2),
        "difference": abs(value - expected),
        "streamed_difference": abs(streamed_value - expected),
    }
    print(json.dumps(result, indent=1))
    if arguments.write is not None:
        with arguments.write.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")


def timed(work: Callable[[], float]) -> tuple[float, float]:
    start = time.perf_counter()
    value = work()
    return time.perf_counter() - start, value


if __name__ == "__main__":
    main()
