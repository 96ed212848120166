"""Every command in README.md and pipelines/README.md, on tiny inputs: the same words, small logs where paths point.

A command that is new there fails here until `COMMANDS` says what comes of it.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from recdistill import cli
from recdistill.config.load import load_job
from recdistill.stages import STAGES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SERVICE = (ROOT / "pipelines" / "README.md").read_text()
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROSE = FENCE.sub("", README)
YAML = [text for language, text in FENCE.findall(README) if language == "yaml"]
PROGRAM = re.compile(r"(\.venv/bin/)?(recdistill|make|torchrun|pip|python) +\S")

TINY = [
    "teachers.folds=2",
    "teachers.members.foundation={kind: dlrm, dim: 8, top: [8]}",
    "teachers.members.ids={kind: dlrm, features: C1..C26, dim: 4, top: [8]}",
    "student={compression: 2, dims: [4], top: [4]}",
    "distill={methods: [alone, diverse], seeds: [0], train: {epochs: 1}}",
    "evaluate.resamples=100",
    "workers=1",
]
"""What makes the README's own job small."""
RUN = tuple(word for setting in TINY for word in ("--set", setting))


@dataclass(frozen=True)
class Outcome:
    """What a command's exit status is, and some words that it says."""

    says: str
    status: int = 0
    more: tuple[str, ...] = ()
    """Words added to the command, to make it small."""


NO_DATA = Outcome("public-data/{}/.*: no file matches; the environment variable RECDISTILL_DATA in it is", 2)
COMMANDS = {
    "recdistill doctor": Outcome("torchrec"),
    "recdistill init logs/*.csv --out mine.yaml": Outcome("next: recdistill run mine.yaml"),
    "recdistill settings": Outcome("distill.train"),
    "recdistill run mine.yaml --out runs/mine --set 'distill.seeds=[0]' "
    "--set 'distill.methods=[alone, single, diverse]'": Outcome(
        "report: runs/mine/report.html", more=("--quiet", *RUN)
    ),
    "recdistill run mine.yaml --out runs/mine": Outcome("report: runs/mine/report.html", more=("--quiet", *RUN)),
    "recdistill score runs/mine/student new-log.tsv --out scores.parquet": Outcome("scores.parquet"),
    "recdistill onnx runs/mine/student --out student.onnx": Outcome("as in the log"),
    "recdistill run pipelines/jobs/frappe.yaml --out runs/frappe": NO_DATA,
    "recdistill run pipelines/jobs/movielens-1m.yaml --out runs/movielens-1m": NO_DATA,
    "recdistill compare runs/frappe": Outcome("mine", more=("--json",)),
    "recdistill run mine.yaml --out runs/mine-1 --set teachers.seed=1": Outcome(
        "report: runs/mine-1/report.html", more=("--quiet", *RUN)
    ),
    "recdistill compare runs/mine*": Outcome("mine-1"),
    "torchrun --nproc-per-node 4 -m recdistill run JOB.yaml --out runs/mine": Outcome(
        "report:", more=("--quiet", *RUN)
    ),
    "recdistill plan JOB.yaml --out runs/mine --ranks 4": Outcome("foundation", more=RUN),
    "recdistill nightly JOB.yaml --day 2026-01-05 --out runs/service": Outcome("a night reads the log by day", 2),
    "recdistill registry runs/service": Outcome("champion: none yet"),
    "recdistill rollback runs/service": Outcome("there is no champion to roll back", 2),
    'recdistill rollback runs/service --why "fewer clicks since Monday"': Outcome("no champion to roll back", 2),
    "recdistill promote runs/service --day 2026-01-04 --force": Outcome("no finished night; run it first", 2),
    "recdistill track runs/mine --to http://tracking:5000": Outcome("tracking", 2),
}
"""In the order in which they are run. `torchrun` itself starts ranks in `tests/test_launch.py`."""
NOT_RUN = {
    "make demo",
    "make test",
    "make demo REQUIREMENTS=requirements-gpu.txt",
    "make notebooks",
    "make service",
    "make service-check",
    "pip install -e '.[mlflow]'",
    "pip install -e '.[onnx]'",
    "pip install -e '.[ray]'",
    "python pipelines/examples/digits.py --out runs/digits",
}
"""Not run here: they install from a package index, start a server, run for minutes (the digits, which
`tests/distill/test_digits.py` runs small), or run this very test. What `make` would do is read."""


def commands() -> set[str]:
    """Every command that is shown, in a block or within a sentence."""
    lines = [line for language, text in FENCE.findall(README) if not language for line in text.splitlines()]
    shown = [line.split("  #")[0].strip() for line in lines]
    shown += re.findall(r"`([^`\n]+)`", "\n".join([PROSE, SERVICE, *lines]))
    shown += [line.split("  #")[0].strip() for line in SERVICE.splitlines() if line.startswith("    ")]
    return {re.sub(r"^\.venv/bin/", "", text) for text in shown if PROGRAM.match(text)}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the commands name, small: logs in the Criteo format, and one with a header."""
    folder, rng = tmp_path_factory.mktemp("desk"), np.random.default_rng(0)
    (folder / "logs").mkdir()
    for day in range(2):
        taste = rng.integers(0, 6, (300, 26))
        label = (rng.random(300) < (taste[:, 0] + 1) / 8).astype(int)
        lines = ["\t".join(map(str, row)) for row in np.column_stack([label, rng.integers(0, 9, (300, 13)), taste])]
        (folder / "logs" / f"day-{day}.tsv.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    (folder / "new-log.tsv").write_text("\n".join(lines[:50]))
    header = "clicked,user,item,shown_at"
    rows = [f"{int(at % 4 == 0)},u{at % 11},i{at % 7},{1767225600 + 3600 * at}" for at in range(300)]
    (folder / "logs" / "monday.csv").write_text("\n".join([header, *rows]))
    shutil.copytree(ROOT / "pipelines" / "jobs", folder / "pipelines" / "jobs")
    (folder / "runs" / "service").mkdir(parents=True)
    return folder


def run(command: str, more: tuple[str, ...]) -> tuple[int, str]:
    """Runs a command in this process, globs spelled out as by a shell; its exit status, and what it said."""
    words = shlex.split(command)
    words = words[words.index("recdistill") :]
    words = [name for word in words for name in (sorted(map(str, Path().glob(word))) if "*" in word else [word])]
    said = io.StringIO()
    with (
        mock.patch.object(sys, "argv", [*words, *more]),
        mock.patch.dict(os.environ, {"RECDISTILL_DATA": "public-data"}),
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
        pytest.raises(SystemExit) as left,
    ):
        cli.main()
    return int(left.value.code or 0), said.getvalue()


@pytest.fixture(scope="module")
def outcomes(desk: Path) -> dict[str, tuple[int, str]]:
    """Every command's outcome, one after the other in one folder, as a reader would."""
    found = {}
    with contextlib.chdir(desk):
        for command, expected in COMMANDS.items():
            if command == "recdistill compare runs/frappe":  # as if that one had found its data
                shutil.rmtree("runs/frappe")
                os.symlink("mine", "runs/frappe")
            found[command] = run(command, expected.more)
            if command.startswith("recdistill init"):
                for name in ("mine.yaml", "JOB.yaml"):  # from here on the job that README.md shows
                    Path(name).write_text(YAML[0])
    return found


def test_every_command_is_run_here() -> None:
    assert commands() == COMMANDS.keys() | NOT_RUN


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_does_what_it_says(command: str, outcomes: dict[str, tuple[int, str]]) -> None:
    status, said = outcomes[command]
    expected = COMMANDS[command]
    job = re.search(r"jobs/(\w+(-\w+)?)", command)
    assert re.search(expected.says.format(job[1] if job else ""), said), said
    assert status == expected.status, said


def test_scores_are_probabilities_of_every_row(desk: Path, outcomes: object) -> None:
    found = pq.read_table(desk / "scores.parquet")
    assert found.num_rows == 50 and 0 < found["probability"].to_numpy().mean() < 1


@pytest.mark.parametrize("command", sorted(text for text in NOT_RUN if text.startswith("make")))
def test_a_target_exists_and_names_files_that_exist(command: str) -> None:
    done = subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in re.findall(r"(?:pipelines|notebooks)/\S+?\.(?:yaml|py)\b|requirements-\w+\.txt", done.stdout):
        assert (ROOT / name).exists(), name


def test_the_other_pieces_of_jobs_are_valid(desk: Path, outcomes: object, tmp_path: Path) -> None:
    job = yaml.safe_load(YAML[0])
    for number, text in enumerate(re.findall(r"`(\{kind: [^`]+\})`", PROSE)):
        job["teachers"]["members"][f"outside{number}"] = yaml.safe_load(text.replace("{...}", "{}"))
    job["dataset"]["features"] |= {
        name: {"kind": "single"} for name in ("item", "category", "price", "hour", "weekday")
    }
    routed, recombined = (yaml.safe_load(text) for text in YAML[1:3])
    job["teachers"] |= routed["teachers"]
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({**job, **recombined}))
    found = load_job(tmp_path / "job.yaml", ["launch={ranks: 4}"])
    assert found.distill.recombine is not None and {"outside0", "outside1"} < found.teachers.members.keys()
    assert (found.teachers.route.keep, found.teachers.route.curve) == (0.5, [0.3, 0.7])


def test_every_file_that_it_names_is_there() -> None:
    names = re.findall(r"`((?:recdistill|pipelines|tests)/[\w./-]*)`|\]\((?!http)([^)]+)\)", PROSE)
    (tree,) = (text for _, text in FENCE.findall(README) if text.startswith("recdistill/\n"))
    inside = [f"recdistill/{name}" for name in re.findall(r"^  (\S+)", tree, re.MULTILINE)]
    named = ["".join(pair) for pair in names] + inside + re.findall(r"^(\S+)", tree, re.MULTILINE)
    assert len(named) > 25
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_picture_fetches_nothing_and_knows_light_from_dark() -> None:
    text = (ROOT / "pipelines" / "flow.svg").read_text()
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and "flow.svg" in README
    assert re.findall(r"https?:\S+|@import|@font-face|<script|<image", text) == ['http://www.w3.org/2000/svg"']
    assert "prefers-color-scheme: dark" in text
    stages = {element.text for element in root.iter() if (element.get("class") or "").startswith("stage")}
    assert {"ingest", "teach", "cache", "distill", "evaluate", "export"} == stages == set(STAGES) - {"simulate"}
