"""A whole job on logs of growing length: seconds a row, and the most memory that each stage ever holds.

    OMP_NUM_THREADS=1 python tests/benchmarks/growth.py --rows 200000 --times 1 10 --repeats 1
    OMP_NUM_THREADS=1 python tests/benchmarks/growth.py --rows 100000 --times 1 10 30 --repeats 1

Each stage is a process of its own, set up as a worker is, on a simulated log whose users and items are always as many.
Memory is its largest resident set, files that it maps included. Parts, and the sample of validation rows that teachers
are calibrated on, have an eighth of their usual rows, and DuckDB an eighth of its room, so that the shortest log fills
as many blocks as are ever in memory at once: what is left to grow is what grows with the log. Seconds are those that
the run puts down, processor seconds are less those of a run that finds everything done.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from timing import Result, Sample, Times, options

from recdistill.files import read_json
from recdistill.parallel import ONE_THREAD

STAGES = ("simulate", "ingest", "teach", "cache", "distill", "evaluate")
FLAT = ("ingest", "cache", "distill", "evaluate")
JOB = """\
name: growth
dataset:
  simulate: {{rows: {rows}, days: 10, users: 500, items: 300, domains: 4}}
  example_id: example_id
  time: {{column: time, unit: ms}}
  true_probability: true_probability
  split: {{by: days, validation: 1, test: 2}}
  features:
    domain, hour, user, age, country, device, item, category, brand: {{kind: single}}
    tags, query: {{kind: bag}}
    price, user_views, user_clicks, item_views, item_clicks: {{kind: dense, transform: log}}
    clicked: {{kind: history, user: user, of: item, last: 10}}
teachers:
  regime: out_of_fold
  folds: 2
  members:
    foundation: {{kind: dlrm, dim: 16, top: [64, 32], train: &train {{batch_size: 2048, epochs: 1}}}}
    context: {{kind: dlrm, dim: 8, top: [32, 16], features: [hour, user, age, country, device], train: *train}}
student: {{compression: 10, dims: [4], top: [16]}}
distill: {{methods: [alone, diverse], seeds: [0], train: *train}}
evaluate: {{resamples: 200, slices: [domain]}}
workers: 1
"""
IN_SMALL_PARTS = """
import recdistill.clicklog.schema as schema
schema.PART_ROWS >>= 3
schema.ROW_GROUP_ROWS >>= 3
import recdistill.teachers.calibration as calibration
calibration.SAMPLE_ROWS >>= 3
import recdistill.clicklog.scratch as scratch
scratch._MEMORY = "64MB"
from recdistill.cli import main
main()
"""


def main() -> None:
    times = {"type": int, "nargs": "+", "default": [1, 10, 30], "help": "lengths of the log, in --rows"}
    arguments = options(__doc__, rows=100_000, times=times)
    result = Result("growth", "rows", arguments)
    sizes = {f"{factor}x": factor * arguments.rows for factor in arguments.times}
    found: dict[str, dict[str, list[tuple[Sample, float]]]] = {stage: {s: [] for s in sizes} for stage in STAGES}
    for _ in range(arguments.repeats):
        for size, rows in sizes.items():
            for stage, measured in run_job(rows).items():
                found[stage][size].append(measured)
    whole: Times = {size: [_sum(turn) for turn in _turns(found, size)] for size in sizes}
    first, *others = sizes

    result.say(f"## Seconds for a million rows ({first} is {arguments.rows:,} rows)")
    rows_of_table = [
        [stage, *(_seconds([s for s, _ in turns]) for turns in of.values())] for stage, of in found.items()
    ]
    result.table(["stage", *sizes], [*rows_of_table, ["all", *map(_seconds, whole.values())]])
    for size in others:
        result.compare(whole, size, first, 1.1, of="time")

    result.say("## Largest resident set, MB")
    most = {
        stage: {size: median(peak for _, peak in turns) for size, turns in of.items()} for stage, of in found.items()
    }
    result.table(["stage", *sizes], [[stage, *(f"{peak:.0f}" for peak in of.values())] for stage, of in most.items()])
    for size in others:
        grown = {stage: most[stage][size] / most[stage][first] for stage in FLAT}
        met = "met" if max(grown.values()) <= 1.1 else "**missed**"
        told = ", ".join(f"{stage} {ratio:.2f}" for stage, ratio in grown.items())
        result.say(f"**{size} / {first}**, memory: {told}; target at most 1.1, {met}.")
    result.write()


def run_job(rows: int) -> dict[str, tuple[Sample, float]]:
    """Per stage, its rows and seconds, and the megabytes that its process held."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "job.yaml").write_text(JOB.format(rows=rows), encoding="utf-8")
        used = {stage: run_stage(stage, folder) for stage in STAGES}
        idle, _ = run_stage(STAGES[-1], folder)
        clock = read_json(folder / "run" / "timings.json")
    found = {}
    for stage, (cpu, peak) in used.items():
        found[stage] = Sample(rows, clock[stage]["seconds"], max(cpu - idle, 1e-3)), peak
        print(f"{rows} rows, {stage}: {clock[stage]['seconds']:.1f} s, {peak:.0f} MB", file=sys.stderr)
    return found


def run_stage(stage: str, folder: Path) -> tuple[float, float]:
    """Processor seconds, and the most megabytes, of a process that runs a stage."""
    command = [
        sys.executable,
        "-c",
        IN_SMALL_PARTS,
        stage,
        str(folder / "job.yaml"),
        "--out",
        str(folder / "run"),
        "-q",
    ]
    environment = {**os.environ, **ONE_THREAD, "TMPDIR": str(folder)}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, (stage, status)
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1000


def _turns(found: dict[str, dict[str, list[tuple[Sample, float]]]], size: str) -> list[list[Sample]]:
    """Per repetition, all stages."""
    return [[sample for sample, _ in turn] for turn in zip(*(of[size] for of in found.values()), strict=True)]


def _sum(stages: list[Sample]) -> Sample:
    return Sample(stages[0].units, sum(s.wall for s in stages), sum(s.cpu for s in stages))


def _seconds(samples: list[Sample]) -> str:
    return f"{median(sample.wall / sample.units for sample in samples) * 1e6:.2f}"


if __name__ == "__main__":
    main()
