"""Two weeks of nights: students that begin at the day before's, against one trained once; bad nights and crashes.

    python tests/benchmarks/two_weeks.py simulator --out runs/two-weeks
    python tests/benchmarks/two_weeks.py globo --out runs/two-weeks-globo

The simulator's world drifts; the Globo log has eleven days, of which every tenth user is kept. On one night labels are
shuffled, on one the foundation is trained at a thousand times its rate, and every third night is killed at a random
moment and run again. `--cold` has every night begin at nothing. Prints a line a night, writes `nights.json`.
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recdistill.clicklog.schema import Dataset
from recdistill.clicklog.sources import find
from recdistill.config import Job
from recdistill.config.load import dump_job, load_job
from recdistill.files import read_json, write_json, write_text
from recdistill.nightly.duel import champion_predictions, judge
from recdistill.nightly.plan import by_day, night_folder, plan, settled
from recdistill.nightly.registry import registry
from recdistill.progress import silent

JOBS = Path(__file__).parents[2] / "pipelines" / "jobs"
SIMULATOR = [
    "dataset.simulate={rows: 85000, days: 17, users: 300, items: 200, domains: 2, drift: 0.2}",
    "service={train_days: 4, teach_every: 4, gates: {auc_loss: 0.02, ne_loss: 0.03, gap_recovered: -2, psi: 1, "
    "new_ids: 0.5, drifting: [user, item, clicked, user_clicks, item_clicks]}}",
]
GLOBO = [
    "teachers.route.curve=[]",
    "teachers.members.foundation.dim=16",
    "teachers.members.foundation.top=[64, 32]",
    "teachers.members.foundation.train.batch_size=1024",
    "teachers.members.popularity.train.batch_size=1024",
    "student.compression=5",
    "student.dims=[4]",
    "student.unknowns=[]",
    "distill={methods: [alone, diverse], seeds: [0], train: {batch_size: 1024, epochs: 4, patience: 1}}",
    "evaluate={resamples: 200}",
    "service={train_days: 3, teach_every: 3, gates: {auc_loss: 0.02, ne_loss: 0.03, gap_recovered: -2, psi: 5, "
    "new_ids: 1, champion_ne_rise: 0.15, resamples: 500}}",
    "workers=1",
]


def sample_globo(out: Path) -> None:
    """Every tenth user of each day, in files of the same names."""
    data = Path(os.environ.get("RECDISTILL_DATA", "../shared/data")) / "globo"
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(data.glob("day=*.parquet")):
        if not (out / path.name).exists():
            table = pq.read_table(path, partitioning=None)
            tenth = np.asarray(pc.cast(table["user_id"], pa.int64())) % 10 == 0
            pq.write_table(table.filter(pa.array(tenth)), out / path.name)


def shuffle_labels(job: Job, day: str) -> None:
    for source in by_day(job)[day]:
        table = pq.read_table(source.path, partitioning=None)
        column = job.dataset.label.column
        at = table.schema.get_field_index(column)
        label = pa.array(np.random.default_rng(0).permutation(table[column].to_numpy()))
        pq.write_table(
            table.set_column(at, table.schema.field(at), label.cast(table.schema.field(at).type)), source.path
        )


def run_night(job_file: Path, day: str, service: Path, overrides: list[str], kill_after: float | None = None) -> int:
    """The command line in a process of its own; killed after so many seconds."""
    command = [sys.executable, "-m", "recdistill", "nightly", str(job_file), "--day", day, "--out", str(service), "-q"]
    for text in overrides:
        command += ["--set", text]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        return process.wait(kill_after)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.wait()


def beside_the_first(service: Path, day: str, first: str) -> dict[str, float]:
    """The night's student and the one of the first night on the night's own rows; a difference above 0 is a gain."""
    run = night_folder(service, day)
    dataset, job = Dataset(run / "stages" / "ingest"), load_job(run / "config.yaml")
    assert job.dataset.log is not None
    logs = [source.path for source in find(job.dataset.log)]
    method = read_json(run / "night.json")["lineage"]["method"]
    ours = min(
        (run / "stages" / "distill" / method).glob("seed-*"),
        key=lambda f: read_json(f / "training.json")["validation_ne"],
    )
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        champion_predictions(service / first, logs, dataset, scratch / "once.parquet", scratch)
        judged = judge(dataset, [ours / "test.parquet", scratch / "once.parquet"], scratch, 500, 0.95)
    found = {"ne": judged.values[0]["ne"], "ne_once": judged.values[1]["ne"]}
    gain = judged.above("ne", 1, 0)
    found |= {"auc": judged.values[0]["auc"], "auc_once": judged.values[1]["auc"]}
    return {**found, "ne_gain": gain.value, "ne_gain_low": gain.low, "ne_gain_high": gain.high}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", choices=["simulator", "globo"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cold", action="store_true", help="every night begins at nothing")
    parser.add_argument("--calm", action="store_true", help="no bad nights, no crashes")
    options = parser.parse_args()
    service = options.out / "service"
    if options.data == "simulator":
        written = load_job(JOBS / "nightly.yaml", SIMULATOR)
    else:
        sample_globo(options.out / "log")
        paths = f'dataset.log.paths="{glob.escape(str(options.out.resolve()))}/log/day=*.parquet"'
        written = load_job(JOBS / "globo.yaml", [paths, *GLOBO])
    job_file = options.out / "job.yaml"
    options.out.mkdir(parents=True, exist_ok=True)
    write_text(job_file, dump_job(written))
    job = settled(written, service, silent)
    days = list(by_day(job))[3:]
    shuffled, broken = (None, None) if options.calm else (days[len(days) // 2], days[-2])
    chance, found = random.Random(0), []
    for number, day in enumerate(days):
        if day == shuffled:
            shuffle_labels(job, day)
        if options.cold:
            cold = plan(job, day, service).model_copy(update={"start": None, "begin": None})
            write_json(service / "plans" / f"{day}.json", cold.model_dump())
        overrides = ["teachers.members.foundation.train.dense_rate=1.0"] if day == broken else []
        if number % 3 == 1 and not options.calm:
            run_night(job_file, day, service, overrides, kill_after=chance.uniform(3, 8))
        status = run_night(job_file, day, service, overrides)
        record = read_json(night_folder(service, day) / "night.json")
        history = registry(service)["history"]
        first = next(entry["model"] for entry in history if entry["event"] == "promoted")
        line: dict[str, Any] = {"day": day, "status": status, "blocked": record["blocked"]}
        line |= {name: record["numbers"][name] for name in ("gap_ne", "gap_recovered_ne", "passes_saved")}
        line |= {"teachers": record["lineage"]["teachers"]["night"], **beside_the_first(service, day, first)}
        found.append(line)
        print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in line.items()}), flush=True)
        write_json(options.out / "nights.json", found)
    fine = [line for line in found[1:] if line["day"] not in (shuffled, broken)]
    for name in ("ne", "ne_once", "auc", "auc_once", "ne_gain", "passes_saved"):
        print(f"mean {name} of {len(fine)} ordinary nights after the first: {np.mean([n[name] for n in fine]):.4f}")


if __name__ == "__main__":
    main()
