"""What a job costs: bytes and seconds as functions, checked against runs of three sizes.

    OMP_NUM_THREADS=1 python tests/benchmarks/cost.py --rows 300000
    python tests/benchmarks/cost.py --scale

A stage's seconds are a fixed part and a part for each row that it has to do with (`work`), and so are the dataset's
bytes for each byte before compression. Both parts are measured on two small logs; then logs of 1, 3 and 10 times
`--rows` are predicted, and run. The cache's bytes follow from its contract alone. Seconds are of the processor, in one
process of one thread, so that they do not depend on who else is there. `--scale` prints the arithmetic of
`pipelines/SCALE.md` instead.
"""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import pyarrow.compute as pc
import pyarrow.parquet as pq
from growth import JOB
from timing import Result, options

from recdistill.clicklog.schema import SPLITS, Dataset, DenseColumn, Schema, Sparse
from recdistill.config import Job
from recdistill.config.load import load_job
from recdistill.runs import Run as open_run
from recdistill.stages import run_job
from recdistill.teachers.calibration import SAMPLE_ROWS
from recdistill.teachers.codes import EXTRA

STAGES = ("ingest", "teach", "cache", "distill")
FLOAT, ID = 4, 8
FACTORS = (1, 3, 10)
CHANGES = (
    "dataset.true_probability=null",
    "teachers.members.foundation.top=[128,64]",
    "teachers.members.context.top=[64,32]",
    "student.dims=[8]",
)
"""What is otherwise than in the job of `growth.py`: larger models, and no column that `evaluate` alone reads."""


def row_bytes(schema: Schema, bag: float) -> float:
    """A row of the dataset before compression; `bag` is how many ids a bag has on average."""
    columns = ID + FLOAT + (ID if schema.has_time else 0) + FLOAT * len(schema.dense)
    return columns + sum(ID if feature.kind == "single" else FLOAT + ID * bag for feature in schema.sparse)


def cache_bytes(rows: float, widths: list[int], keep: float = 1.0, number: float = 1) -> float:
    """Answers of a committee whose embeddings are so wide (0: none), `number` bytes each, to a share of all pairs."""
    return sum(rows * keep * (ID + FLOAT + (width * number + EXTRA if width else 0)) for width in widths)


def model_bytes(tables: float, dim: int, dense: float) -> float:
    """A model in training: tables, with Adagrad's number for each row; all else, with its gradient and AdamW's two."""
    return FLOAT * (tables + tables / dim) + 4 * FLOAT * dense


def machines(total: float, each: float) -> int:
    """How many have room for it."""
    return math.ceil(total / each)


def work(job: Job, rows: dict[str, int]) -> dict[str, float]:
    """How many rows each stage has to do with, given the rows of each split.

    With k folds, k versions of a teacher learn from (k - 1) / k of the training rows and the final one from all: k
    times all. Every row is scored once; each version also scores the validation sample that it is calibrated on, and
    for each but the final one that scores it again, to align their embeddings.
    """
    members, everything, folds = job.teachers.members.values(), sum(rows.values()), job.teachers.folds
    sample = min(SAMPLE_ROWS, rows["validation"])
    students = len(job.distill.methods) * len(job.distill.seeds)
    return {
        "ingest": everything,
        "teach": folds * rows["train"] * sum(member.train.epochs for member in members),
        "cache": len(members) * (everything + (2 * folds + 1) * sample),
        "distill": students * job.distill.train.epochs * rows["train"],
    }


@dataclass(frozen=True)
class Run:
    """What was found of a run, and the work that it is laid to, under the same names."""

    rows: int
    work: dict[str, float]
    found: dict[str, float]

    def line(self, other: Run, name: str) -> tuple[float, float]:
        """Of the straight line through this run and another: its value for no work, and what it gains for each unit."""
        gain = (other.found[name] - self.found[name]) / (other.work[name] - self.work[name])
        return self.found[name] - gain * self.work[name], gain


def main() -> None:
    arguments = options(__doc__, rows=100_000, scale={"action": "store_true", "help": "the arithmetic alone"})
    result = Result("cost", "rows", arguments)
    if arguments.scale:
        at_scale(result)
        print("\n".join(result.lines[4:]))
        return
    with tempfile.TemporaryDirectory() as folder:
        measure(1000, Path(folder) / "warm-up")
        small = [
            middle([measure(arguments.rows // part, Path(folder) / f"{part}-{n}") for n in range(arguments.repeats)])
            for part in (8, 2)
        ]
        large = [measure(factor * arguments.rows, Path(folder) / f"times-{factor}") for factor in FACTORS]
    lines = {name: small[0].line(small[1], name) for name in ("dataset bytes", *STAGES)}
    result.say(
        f"Measured with {small[0].rows:,} and {small[1].rows:,} rows, medians of {arguments.repeats} runs; 1x is "
        f"{arguments.rows:,} rows."
    )
    table = [[stage, f"{lines[stage][0]:.2f}", f"{1 / lines[stage][1]:,.0f}"] for stage in STAGES]
    result.table(["stage", "seconds for no rows", "rows of its work in a processor second"], table)
    lines["cache bytes"] = 0.0, 1.0
    table = []
    for name, (begin, gain) in lines.items():
        pairs = [(begin + gain * run.work[name], run.found[name]) for run in large]
        table.append([name, *(f"{said:,.3g} / {is_:,.3g} = **{said / is_:.2f}**" for said, is_ in pairs)])
    result.table(["predicted / measured", *(f"{factor}x" for factor in FACTORS)], table)
    result.write()


def middle(runs: list[Run]) -> Run:
    """The same run several times: the median of each thing found."""
    return replace(runs[0], found={name: median(run.found[name] for run in runs) for name in runs[0].found})


def measure(rows: int, folder: Path) -> Run:
    """Runs the job on a log of so many rows."""
    folder.mkdir()
    (folder / "job.yaml").write_text(JOB.format(rows=rows))
    job, found = load_job(folder / "job.yaml", CHANGES), {}
    with open_run(folder / "run", job) as run:
        run_job(job, run, "simulate", run.progress)
        for stage in STAGES:
            begun = time.process_time()
            run_job(job, run, stage, run.progress)
            found[stage] = time.process_time() - begun
        dataset = Dataset(run.stage_folder("ingest"))
        parts = [part.path for part in dataset.parts()]
        shards = run.stage_folder("cache").rglob("*.parquet")
        found["cache bytes"] = sum(path.stat().st_size for path in shards)
    found["dataset bytes"] = sum(path.stat().st_size for path in parts)
    splits = {split: dataset.rows(split) for split in SPLITS}
    known = work(job, splits)
    known["dataset bytes"] = dataset.rows() * row_bytes(dataset.schema, _bag(dataset))
    widths = [member.top[max(1, len(member.top) - 1) - 1] for member in job.teachers.members.values()]
    known["cache bytes"] = cache_bytes(dataset.rows(), widths)
    return Run(rows, known, found)


def _bag(dataset: Dataset) -> float:
    """Ids of a bag on average, by the first training part."""
    names = [feature.name for feature in dataset.schema.sparse if feature.kind == "bag"]
    table = pq.read_table(dataset.parts("train")[0].path, columns=names, partitioning=None)
    return sum(pc.mean(pc.list_value_length(table[name])).as_py() for name in names) / len(names)


ROWS = 4e9
"""Impressions of a day."""
WIDTHS = [128] * 5
"""The committee's embeddings: the foundation's and four specialists'."""
DENSE, TABLES = 24e9, 76e9
"""The foundation's parameters: those that every row is multiplied with, and those that are looked up."""
CORES, INGESTS, COUNTS, SCORES, LEARNS, READS = 64, 150e3, 600e3, 37e3, 47e3, 780e3
"""A machine, and rows that one of its cores does in a second, as measured (see the page)."""
GPU_FLOPS, GPU_BYTES = 4e14, 56e9
"""Of one GPU: operations in a second that a large dense model gets, and memory that tables and weights may fill."""
NETWORK = 1e9
"""Bytes in a second from the object store to one machine."""
TERA, HOUR = 1e12, 3600


def at_scale(result: Result) -> None:
    """The day of 4 billion impressions, as `pipelines/SCALE.md` has it."""
    kept, numbers = (1.0, 0.7, 0.3), {"float32": 4, "float16": 2, "a byte": 1}
    table = [
        [name, *(f"{cache_bytes(ROWS, WIDTHS, keep, number) / TERA:.2f}" for keep in kept)]
        for name, number in numbers.items()
    ]
    result.table(["cache of a day, TB; a number takes", *(f"{keep:.0%} of pairs" for keep in kept)], table)
    schema = Schema(
        sparse=[Sparse(name=f"C{n}", kind="single", table=f"C{n}", source={}) for n in range(26)],
        dense=[DenseColumn(name=f"I{n}", mean=0, std=1, source={}) for n in range(13)],
        tables=[],
        has_time=True,
    )
    log, cache = ROWS * row_bytes(schema, 0), cache_bytes(ROWS, WIDTHS)
    small = (DENSE + TABLES) / 38
    table = [
        ["dataset, before compression", f"{log / TERA:.2f} TB"],
        ["ingest: its maps, one machine", _hours(ROWS, INGESTS * CORES)],
        ["ingest: vocabularies and means, one core", _hours(ROWS, COUNTS)],
        ["ingest: encoding with histories, one core", _hours(ROWS, INGESTS)],
        ["foundation: operations of one row", f"{2 * DENSE:.2g}"],
        ["foundation: rows of one GPU in a second", f"{GPU_FLOPS / (2 * DENSE):,.0f}"],
        ["foundation: answers to all rows, one GPU", _hours(2 * DENSE * ROWS, GPU_FLOPS)],
        ["foundation: learning all rows once, one GPU", _hours(3 * 2 * DENSE * ROWS, GPU_FLOPS)],
        ["foundation: memory in training", f"{model_bytes(TABLES, 128, DENSE) / TERA:.2f} TB"],
        ["foundation: GPUs by memory, in training", machines(model_bytes(TABLES, 128, DENSE), GPU_BYTES)],
        ["foundation: GPUs by memory, frozen, two bytes a parameter", machines(2 * (DENSE + TABLES), GPU_BYTES)],
        ["specialists: answers to all rows, one machine", _hours(4 * ROWS, SCORES * CORES)],
        ["dataset and cache over the network, once", _hours(log + cache, NETWORK)],
        ["student: parameters", f"{small / 1e9:.2f} billion"],
        ["student: memory in training", f"{model_bytes(small, 16, 1e6) / 1e9:.1f} GB"],
        ["student: learning all rows once, one machine", _hours(1.25 * ROWS, LEARNS * CORES)],
        ["student: the least while every rank reads every row", _hours(ROWS, READS)],
    ]
    result.table(["term", ""], table)


def _hours(amount: float, in_a_second: float) -> str:
    hours = amount / in_a_second / HOUR
    return f"{hours:,.0f} h" if hours >= 10 else f"{hours:.1f} h"


if __name__ == "__main__":
    main()
