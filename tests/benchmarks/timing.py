"""How every benchmark here measures and reports: sides run in turn, ratios within a run, a page in `results/`.

Sides take turns (A B A B ...), so that whatever else the machine does falls on all of them alike; each turn gives one
ratio, and their median counts. Run from the root with one thread: `OMP_NUM_THREADS=1 python tests/benchmarks/X.py`.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Literal

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Sample:
    """One turn of one side: units of work done (rows, bytes), seconds by the clock, seconds of all its threads."""

    units: float
    wall: float
    cpu: float


Side = Callable[[], float | Sample]
"""Does the work once and returns its units, or what it measured itself (in another process, or of a part)."""
Times = dict[str, list[Sample]]


def options(description: str | None, rows: int, **more: dict) -> argparse.Namespace:
    """The command line: `--rows`, `--repeats`, `--out`; `more` maps names of further options to their settings."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=rows)
    parser.add_argument("--repeats", type=int, default=5, help="turns that count; one more comes before them")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the result's page")
    for name, settings in more.items():
        parser.add_argument(f"--{name}", **settings)
    return parser.parse_args()


def interleaved(sides: Mapping[str, Side], repeats: int, warm_up: int = 1) -> Times:
    """Runs all sides in turn, `warm_up` times without and `repeats` times with the clock."""
    times: Times = {name: [] for name in sides}
    for turn in range(warm_up + repeats):
        for name, side in sides.items():
            gc.collect()
            wall, cpu = time.perf_counter(), time.process_time()
            done = side()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if turn >= warm_up:
                times[name].append(done if isinstance(done, Sample) else Sample(done, wall, max(cpu, 1e-9)))
    return times


class Result:
    """A page of Markdown about one benchmark, `<out>/<name>.md`."""

    def __init__(self, name: str, unit: str, arguments: argparse.Namespace) -> None:
        self.name, self.unit, self.out = name, unit, arguments.out
        self.lines = [f"# {name.replace('_', ' ')}", "", _facts(), ""]

    def speeds(self, times: Times) -> None:
        """A table of each side's speed: median, least and most, by the clock and by processor time."""
        rows = []
        for name, samples in times.items():
            wall, cpu = [s.units / s.wall for s in samples], [s.units / s.cpu for s in samples]
            rows.append([name, *(f"{x:,.0f}" for x in (median(wall), min(wall), max(wall), median(cpu))), len(samples)])
        self.table(["", f"{self.unit} a second", "least", "most", f"{self.unit} a processor second", "turns"], rows)

    def compare(
        self, times: Times, ours: str, theirs: str, target: float, of: Literal["speed", "time"] = "speed"
    ) -> None:
        """A line with the ratio ours / theirs of speeds (at least `target`) or of times for a unit (at most)."""
        found: dict[str, list[float]] = {}
        for told, clock in (("by the clock", "wall"), ("by processor time", "cpu")):
            pairs = list(zip(times[ours], times[theirs], strict=True))
            slower = [getattr(a, clock) / a.units / (getattr(b, clock) / b.units) for a, b in pairs]
            found[told] = sorted(slower if of == "time" else [1 / value for value in slower])
        middle = median(found["by the clock"])
        met = middle >= target if of == "speed" else middle <= target
        told = ", ".join(f"{median(r):.2f} {name} ({r[0]:.2f} to {r[-1]:.2f})" for name, r in found.items())
        bound = f"{'at least' if of == 'speed' else 'at most'} {target:g}, {'met' if met else '**missed**'}"
        self.say(f"**{ours} / {theirs}**, {of}: {told}; target {bound}.")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Any other table."""
        cells = [header, ["---"] * len(header), *rows]
        self.lines += [*("| " + " | ".join(str(cell) for cell in row) + " |" for row in cells), ""]

    def say(self, text: str) -> None:
        """A paragraph."""
        self.lines += [text, ""]

    def write(self) -> None:
        """Prints the page and writes it."""
        print("\n".join(self.lines))
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / f"{self.name}.md").write_text("\n".join(self.lines), encoding="utf-8")


def _facts() -> str:
    """When, of what, by which command, on what; paths of this machine are left out."""
    commit = _git("rev-parse", "--short", "HEAD") or "unknown"
    if _git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)tests/benchmarks/results"):
        commit += "-dirty"  # the pages of benchmarks that ran before this one are no change
    command = " ".join(Path(part).name if part.startswith("/") else part for part in sys.argv[1:])
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchrec", "pyarrow"))
    return (
        f"{time.strftime('%Y-%m-%d')}, commit {commit}, `python tests/benchmarks/{Path(sys.argv[0]).name} {command}`; "
        f"{len(os.sched_getaffinity(0))} cores ({_processor()}), load {os.getloadavg()[0]:.1f} before it, "
        f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', '')}, Python {platform.python_version()}, {packages}."
    )


def _git(*words: str) -> str:
    return subprocess.run(["git", "-C", str(HERE), *words], capture_output=True, text=True).stdout.strip()


def _processor() -> str:
    """Its name where Linux tells, which decides more than its architecture does."""
    told = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*:\s*(.+)$", told.read_text() if told.exists() else "", re.MULTILINE)
    return f"{names[0]}, {platform.machine()}" if names else platform.machine()
