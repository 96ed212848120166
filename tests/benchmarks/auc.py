"""The exact AUC against scikit-learn's: in one call, and over chunks that two accumulators took and merged.

OMP_NUM_THREADS=1 python tests/benchmarks/auc.py [--rows 10000000]
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sklearn.metrics import roc_auc_score
from timing import Result, Side, interleaved, options

from recdistill.evaluate.metrics import AucAccumulator, auc

CHUNK = 1 << 18
WAYS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "one call": auc,
    "merged chunks": lambda label, score: merged(label, score),
    "scikit-learn": lambda label, score: float(roc_auc_score(label, score)),
}


def main() -> None:
    arguments = options(__doc__, rows=10_000_000)
    result = Result("auc", "rows", arguments)
    rng = np.random.default_rng(0)
    score = rng.normal(-2, 1, arguments.rows).astype(np.float32)
    label = rng.random(arguments.rows) < 1 / (1 + np.exp(-score))
    compare(result, "float32 logits", label, score, arguments.repeats)
    compare(result, "logits rounded to a hundredth", label, score.round(2), arguments.repeats)
    result.write()


def compare(result: Result, kind: str, label: np.ndarray, score: np.ndarray, repeats: int) -> None:
    """Times all ways on the same rows, and refuses values that are not the same."""
    found: dict[str, float] = {}

    def side(way: str) -> Side:
        def run() -> float:
            found[way] = WAYS[way](label, score)
            return len(score)

        return run

    times = interleaved({way: side(way) for way in WAYS}, repeats)
    apart = max(abs(value - found["scikit-learn"]) for value in found.values())
    assert apart <= 1e-12, found
    result.say(f"## {len(score):,} rows, {kind}")
    result.speeds(times)
    for way in ("one call", "merged chunks"):
        result.compare(times, way, "scikit-learn", 3)
    result.say(f"They differ by {apart:.1e} at most (1e-12 is allowed).")


def merged(label: np.ndarray, score: np.ndarray) -> float:
    """Chunks dealt to two accumulators, as two processes would have them."""
    two = [AucAccumulator(), AucAccumulator()]
    for number, start in enumerate(range(0, len(score), CHUNK)):
        two[number % 2].update(label[start : start + CHUNK], score[start : start + CHUNK])
    two[0].merge(two[1])
    return two[0].compute()


if __name__ == "__main__":
    main()
