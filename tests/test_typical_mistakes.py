"""Typical mistakes of a new user, through the real command line. `pipelines/MISTAKES.md` says what each one is told.

The page is what the program says, word for word: `python tests/test_typical_mistakes.py` writes it anew.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import pytest

from recdistill import cli
from recdistill.config.load import load_job
from recdistill.runs import Run

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "pipelines" / "MISTAKES.md"
HEAD = """\
# What a mistake is told

Mistakes that people make in their first hours, and what the command line answers, word for word: a sentence on standard
error, and exit status 2. Nothing that was there before is lost. `tests/test_typical_mistakes.py` makes each of them and
keeps this page in step; `python tests/test_typical_mistakes.py` writes it.
"""
JOB = """\
name: mine
dataset:
  log: {paths: "logs/*.csv"}
  time: {column: time, unit: s}
  split: {by: days, validation: 1, test: 1}
  features:
    user: {kind: single}
    item: {kind: single}
    price: {kind: dense}
teachers:
  regime: out_of_fold
  members:
    foundation: {kind: dlrm, dim: 16}
    users: {kind: dlrm, features: [user], dim: 8}
student: {compression: 4}
"""
HEADER = "label,time,user,item,price"
ROWS = [f"{int(at % 3 == 0)},{1767225600 + at * 4000},u{at % 9},i{at % 5},{at % 7}" for at in range(120)]
LOG = "\n".join([HEADER, *ROWS, ""])
Around = Callable[[Path], AbstractContextManager[object]]


@dataclass(frozen=True)
class Mistake:
    """What was done wrong, and the command that shows it."""

    what: str
    command: str
    job: tuple[str, str] = ("", "")
    """A change to `job.yaml`: what stood there, and what stands there now."""
    files: dict[str, str] = field(default_factory=dict)
    around: Around = lambda folder: nullcontext()
    """What else is so while the command runs."""


def log(old: str, new: str) -> dict[str, str]:
    """The same log with a change, in place of the right one."""
    assert old in LOG
    return {"logs/clicks.csv": LOG.replace(old, new)}


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    with Run(folder / "runs" / "mine", load_job(folder / "job.yaml")):
        yield


@contextmanager
def another_job_was_run(folder: Path) -> Iterator[None]:
    with Run(folder / "runs" / "mine", load_job(folder / "job.yaml", ["name=theirs"])):
        pass
    yield


def may_not_write(folder: Path) -> AbstractContextManager[object]:
    return mock.patch.object(Path, "mkdir", side_effect=PermissionError(errno.EACCES, "Permission denied"))


def is_full(folder: Path) -> AbstractContextManager[object]:
    full = OSError(errno.ENOSPC, "No space left on device", "runs/mine/stages/ingest")
    return mock.patch("recdistill.stages.ingest", side_effect=full)


def without_data(folder: Path) -> AbstractContextManager[object]:
    shutil.copy(ROOT / "pipelines" / "jobs" / "frappe.yaml", folder)
    return mock.patch.dict(os.environ, {"RECDISTILL_DATA": "public-data"})


INGEST = "ingest job.yaml --out runs/mine"
NIGHT = "nightly job.yaml --out runs/service --day "
MISTAKES = [
    Mistake("The job file's name is misspelt", "run jbo.yaml --out runs/mine"),
    Mistake("There is no job file yet", "run my-first.txt --out runs/mine"),
    Mistake("A setting is misspelt", INGEST, ("compression", "compresion")),
    Mistake("A setting on the command line is misspelt", f"{INGEST} --set distill.seed=3"),
    Mistake("A kind is misspelt", INGEST, ("kind: dense", "kind: dens")),
    Mistake("The job file is indented with a tab", INGEST, ("    item:", "\titem:")),
    Mistake("The committee has no foundation", INGEST, ("foundation: {kind", "big: {kind")),
    Mistake("A teacher's feature is misspelt", INGEST, ("features: [user]", "features: [usr]")),
    Mistake("The log is not there", INGEST, ("logs/*.csv", "log/*.csv")),
    Mistake("Public data is not where RECDISTILL_DATA says", "run frappe.yaml --out runs/frappe", around=without_data),
    Mistake("The log has another delimiter", INGEST, files={"logs/clicks.csv": LOG.replace(",", ";")}),
    Mistake("The log is not what its suffix says", INGEST, ("*.csv", "*.csv.gz"), {"logs/clicks.csv.gz": LOG}),
    Mistake("A row has a value too many", INGEST, files=log("u4,i4,4", "u4,i4,4,000")),
    Mistake("The label's column has another name", INGEST, files=log("label", "clicked")),
    Mistake("The label is words", INGEST, files={"logs/clicks.csv": re.sub("^0,", "no,", LOG, flags=re.MULTILINE)}),
    Mistake("The label is stars", INGEST, files={"logs/clicks.csv": re.sub("^1,", "5,", LOG, flags=re.MULTILINE)}),
    Mistake("A feature's column is misspelt", INGEST, ("    item:", "    itme:")),
    Mistake("A number is a word", INGEST, files=log("u4,i4,4", "u4,i4,cheap")),
    Mistake(
        "Times are milliseconds, and the job says seconds",
        INGEST,
        files={"logs/clicks.csv": re.sub(r"(\d{10})", r"\g<1>000", LOG)},
    ),
    Mistake("Times are seconds, and the job says milliseconds", INGEST, ("unit: s", "unit: ms")),
    Mistake("Times are dates, and the job says seconds", INGEST, files=log("1767225600", "2026-01-01 00:00")),
    Mistake("The student would have to be too small", "run job.yaml --out runs/mine", ("sion: 4", "sion: 4000")),
    Mistake("The run folder holds something else", "ingest job.yaml --out logs"),
    Mistake("The run folder is another job's", INGEST, around=another_job_was_run),
    Mistake("The run folder is in use", INGEST, around=in_use),
    Mistake("The run folder may not be written", INGEST, around=may_not_write),
    Mistake("The disk is full", INGEST, around=is_full),
    Mistake("The student's folder is none", "score logs logs/clicks.csv --out scores.parquet"),
    Mistake(
        "The run's folder is given for the student's",
        "score runs/mine logs/clicks.csv --out scores.parquet",
        files={"runs/mine/student/model.json": "{}"},
    ),
    Mistake("A run that is not finished is compared", "compare runs/mine", files={"runs/mine/config.yaml": JOB}),
    Mistake(
        "A log without a label is drafted",
        "init logs/clicks.csv --out mine.yaml",
        files={"logs/clicks.csv": "a,b\n" + "1,2\n3,4\n" * 60},
    ),
    Mistake("A night's day is not a date", NIGHT + "yesterday"),
    Mistake("The log's files do not name their days", NIGHT + "2026-01-05"),
    Mistake(
        "The log has no such day",
        NIGHT + "2026-01-05",
        ("logs/*.csv", "day=*.csv"),
        {f"day=2026-01-0{day}.csv": LOG for day in (1, 2, 3)},
    ),
    Mistake("There is no service in the folder", "registry runs/servise"),
]


def _job(mistake: Mistake) -> str:
    return JOB.replace(*mistake.job, 1) if mistake.job[0] else JOB


def tell(mistake: Mistake, folder: Path) -> str:
    """Makes the mistake in an empty folder; what the command line says, the machine's own names left out."""
    for name, text in {"job.yaml": _job(mistake), "logs/clicks.csv": LOG, **mistake.files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    command = ["recdistill", *mistake.command.split(), *(["--quiet"] if mistake.command.startswith("run ") else [])]
    err = io.StringIO()
    with ExitStack() as stack:
        stack.enter_context(contextlib.chdir(folder))
        stack.enter_context(mistake.around(folder))
        stack.enter_context(mock.patch.object(sys, "argv", command))
        stack.enter_context(contextlib.redirect_stderr(err))
        left = stack.enter_context(pytest.raises(SystemExit))
        cli.main()
    last = err.getvalue().splitlines()[-1]
    assert left.value.code == 2, err.getvalue()
    said = last.removeprefix("recdistill: ").replace(str(folder), "/home/you/clicks")
    return re.sub(r"process \d+ on \S+, since [\d :+-]+", "process 1234 on this-machine, since 09:41", said)


def render(told: dict[str, str]) -> str:
    """The page."""
    parts = []
    for one in MISTAKES:
        wrong = next((f"    # job.yaml: {line.strip()}" for line in _job(one).splitlines() if line not in JOB), "")
        parts.append(f"## {one.what}\n\n    recdistill {one.command}{wrong}\n\n> {told[one.what]}\n")
    return "\n".join([HEAD, *parts])


def on_the_page() -> dict[str, str]:
    """What the page says that each mistake is told."""
    return dict(re.findall(r"^## (.*)\n\n.*\n\n> (.*)$", PAGE.read_text(), flags=re.MULTILINE))


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.what)
def test_the_page_says_what_the_program_says(mistake: Mistake, tmp_path: Path) -> None:
    assert tell(mistake, tmp_path) == on_the_page()[mistake.what]


def test_the_page_holds_every_mistake_as_it_is_made_here() -> None:
    assert render(on_the_page()) == PAGE.read_text()


def test_every_sentence_says_where_and_what_to_do() -> None:
    for sentence in on_the_page().values():
        assert re.match(r"\S.*?:? .*[:;(]", sentence), sentence
        assert not re.search(r"Traceback|Errno|Error\b|fault in recdistill", sentence), sentence


def named(what: str) -> Mistake:
    return next(mistake for mistake in MISTAKES if mistake.what == what)


def test_an_impossible_size_is_told_before_teachers_are_trained(tmp_path: Path) -> None:
    tell(named("The student would have to be too small"), tmp_path)
    assert {path.name for path in (tmp_path / "runs" / "mine" / "stages").iterdir()} == {"ingest"}


def test_the_run_of_another_job_is_left_as_it_was(tmp_path: Path) -> None:
    tell(named("The run folder is another job's"), tmp_path)
    assert "name: theirs" in (tmp_path / "runs" / "mine" / "config.yaml").read_text()


def main() -> None:
    """Writes the page."""
    told = {}
    for mistake in MISTAKES:
        with tempfile.TemporaryDirectory() as folder:
            told[mistake.what] = tell(mistake, Path(folder).resolve())
    PAGE.write_text(render(told))


if __name__ == "__main__":
    main()
