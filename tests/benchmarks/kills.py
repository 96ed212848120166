"""Kills a small run again and again, damages its files, fills its disk; writes what came of it to `kills.json`.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.kills

Every stage of every one of `LIVES` runs is killed `TIMES` times (see `tests/faults/kills.py`), and the run must then
come to the results of one that nothing happened to; every second run replaces the results of another log. Each kind of
file of a finished run is damaged in three ways, and a disk is filled at `ROOMS_KIB`: one sentence and exit code 2, or
the same results. Whatever else happens is lost.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import torch

from recdistill.files import SUCCESS, read_json, write_json
from tests.faults.hurts import damage
from tests.faults.jobs import JOB, STAGES, differences, leftovers, results
from tests.faults.kills import kill_often
from tests.faults.victims import End, Server

LIVES, TIMES, SEED = 4, 3, 2026
ROOMS_KIB = tuple(range(0, 1400, 56))
DISK_KIB = 8192


class Bench:
    """A folder with a job, the run that nothing happened to, and a count of what was done to others."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server, self.folder, self.random = server, folder, Random(SEED)
        self.job, self.straight = folder / "job.yaml", folder / "straight"
        self.job.write_text(JOB)
        end = server.run(*self.command(self.straight))
        assert end.code == 0, end
        self.results = results(self.straight)

    def command(self, out: Path) -> list[object]:
        return ["run", self.job, "--out", out, "--json"]

    def kills(self) -> dict[str, Any]:
        """Kills in each stage, and what was lost."""
        seconds = {name: entry["seconds"] for name, entry in read_json(self.straight / "timings.json").items()}
        counts: dict[str, Counter] = {stage: Counter() for stage in STAGES}
        lost: list[str] = []
        for life in range(LIVES):
            out = self.folder / f"life-{life}"
            if life % 2:
                assert self.server.run(*self.command(out), "--set", "dataset.simulate.seed=1").code == 0
            for kill in kill_often(self.server, self.command(out), out, seconds, self.random, TIMES):
                counts[kill.stage][kill.how] += 1
            lost += [f"life {life}: {name}" for name in [*differences(self.results, results(out)), *leftovers(out)]]
            shutil.rmtree(out)
            print(f"life {life}: {sum(map(Counter.total, counts.values()))} kills, lost {lost}", flush=True)
        return {"kills": sum(map(Counter.total, counts.values())), "per stage": counts, "lost": lost}

    def damaged(self) -> dict[str, Any]:
        """Every kind of file with a flipped bit, cut short, and gone."""
        found: Counter = Counter()
        lost = []
        for path in kinds_of_files(self.straight):
            for how in ("flip", "cut", "gone"):
                out = self.folder / "damaged"
                shutil.copytree(self.straight, out, symlinks=True)
                damage(out / path, how, at=self.random.random())
                # A damaged marker may say that a file beside it was changed.
                named = (out / path).parent if path.name == SUCCESS else out / path
                what = self.judge(self.server.run(*self.command(out)), out, named)
                found[what] += 1
                lost += [f"{path} {how}"] if what == "lost" else []
                shutil.rmtree(out)
        print(f"damaged files: {dict(found)}, lost {lost}", flush=True)
        return {"files": found.total(), "outcomes": found, "lost": lost}

    def full_disks(self) -> dict[str, Any]:
        """A disk with less and less room; afterwards there is room again."""
        found: Counter = Counter()
        lost = []
        for room in ROOMS_KIB:
            with small_disk(self.folder / "disk") as disk:
                out, ballast = disk / "run", disk / "ballast"
                ballast.write_bytes(bytes((DISK_KIB - room) * 1024 - 8192))
                what = self.judge(self.server.run(*self.command(out)), out, "the disk is full")
                ballast.unlink()
                if what == "told" and self.judge(self.server.run(*self.command(out)), out) != "same":
                    what = "lost"
            found[what] += 1
            lost += [f"{room} KiB"] if what == "lost" else []
        print(f"full disks: {dict(found)}, lost {lost}", flush=True)
        return {"disks": found.total(), "outcomes": found, "lost": lost}

    def judge(self, end: End, out: Path, naming: Path | str = "") -> str:
        """Whether a run came to the same results, told in one sentence why it cannot, or neither."""
        if end.code == 0:
            return "lost" if differences(self.results, results(out)) else "same"
        sentences = [line for line in end.err.splitlines() if line.startswith("recdistill: ")]
        fine = end.code == 2 and len(sentences) == 1 and str(naming) in sentences[0] and "Traceback" not in end.err
        return "told" if fine else "lost"


def kinds_of_files(out: Path) -> Iterator[Path]:
    """One file of each kind: those of other days, teachers, trials are like it. Checkpoints have tests of their own."""
    seen = set()
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out)
        kind = re.sub(r"\d+", "0", str(name))
        if path.is_file() and path.stat().st_size and kind not in seen and not {"student", "training"} & {*name.parts}:
            seen.add(kind)
            yield name


@contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    """A disk of `DISK_KIB`; root only."""
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_KIB}k", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def main() -> None:
    """Does everything once."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch, closing(Server(Path(scratch) / "said")) as server:
        bench = Bench(server, Path(scratch))
        found = {"kills": bench.kills(), "damaged files": bench.damaged()}
        if os.geteuid() == 0:
            found["full disks"] = bench.full_disks()
    injected = found["kills"]["kills"] + found["damaged files"]["files"] + found.get("full disks", {}).get("disks", 0)
    lost = sum(len(part["lost"]) for part in found.values())
    about = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": git("rev-parse", "--short", "HEAD") + ("" if not git("status", "--porcelain") else " and changes"),
        "command": "OMP_NUM_THREADS=1 python -m tests.benchmarks.kills",
        "machine": f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, torch {torch.__version__}",
        "seed": SEED,
        "seconds": round(time.monotonic() - begun),
        "faults injected": injected,
        "survived": injected - lost,
        "lost": lost,
    }
    write_json(Path(__file__).with_suffix(".json"), {**about, **found})
    print(json.dumps(about, indent=1))


def git(*arguments: str) -> str:
    """What git says."""
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
