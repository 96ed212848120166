"""Command lines of anything: files for folders, folders for files, names of any bytes. Each ends in one sentence."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recdistill import cli
from recdistill.config.yaml12 import dump
from tests.fuzz.conftest import Exported
from tests.fuzz.harness import JUNK, LONGEST, fuzz, in_time, places
from tests.fuzz.test_jobs import JOB, TOKENS
from tests.fuzz.test_reports import REPORT

HERE = Path("{here}")
PLACES = [
    "job.yaml", "log.parquet", "student", "run", "empty", "nowhere", "log.parquet/below",
    "nowhere/below", "", ".", "..",
    "/proc/self/mem", "x" * 300, "a\nb", "a\udcffb", "[red]", "*",
    "**/*", "[", "~nobody/x", "-",
    "${NOTHING}", "${HOME:-x}/y", "s3://", "s3:///x", "gs://x:y@z/w", "file:///etc/passwd", "link",
    "pipe", "loop", "day=1.csv",
]  # fmt: skip
COMMANDS = [
    ["simulate", "--rows", "100", "--days", "3", "--out", HERE],
    ["simulate", HERE, "--out", HERE],
    ["ingest", HERE, "--out", HERE],
    ["plan", HERE, "--out", HERE],
    ["score", HERE, HERE, "--out", HERE],
    ["compare", HERE, HERE],
    ["compare", HERE, "--html", HERE],
    ["compare", HERE, "--json"],
    ["init", HERE, "--out", HERE],
    ["registry", HERE],
    ["rollback", HERE],
    ["promote", HERE, "--day", HERE],
    ["nightly", HERE, "--day", HERE, "--out", HERE],
    ["run", HERE, "--out", HERE, "--set", HERE],
]


@pytest.fixture(scope="module")
def here(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one of everything."""
    folder = tmp_path_factory.mktemp("here")
    (folder / "job.yaml").write_text(dump({**JOB, "launch": {}}))
    shutil.copyfile(exported.log, folder / "log.parquet")
    shutil.copytree(exported.student, folder / "student")
    for name in ("run", "empty", "a\udcffb"):
        (folder / name).mkdir()
    for name in ("run", "a\udcffb"):
        (folder / name / "report.json").write_text(json.dumps(REPORT))
    (folder / "link").symlink_to("gone")
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")
    return folder


def ends_well(capfd: pytest.CaptureFixture[str], folder: Path, *arguments: str) -> int:
    """Runs a command in a folder; its exit status, after what it said was looked at."""
    before, sys.argv = (Path.cwd(), sys.argv), ["recdistill", *arguments]
    os.chdir(folder)
    try:
        with in_time(), pytest.raises(SystemExit) as ended:
            cli.main()
    finally:
        os.chdir(before[0])
        sys.argv = before[1]
    said = capfd.readouterr()
    code = ended.value.code or 0
    assert "Traceback" not in said.err + said.out and "a fault in recdistill" not in said.err, said.err
    if "Usage:" not in said.err + said.out and code == 2:
        (line,) = (line for line in said.err.splitlines() if line.startswith("recdistill: "))
        assert len(line) < LONGEST
    assert code in (0, 2, 3), said.err
    assert (folder / "pipe").is_fifo()  # no file was put in its place
    return int(code)


@fuzz(60)
@given(data=st.data(), command=st.sampled_from(COMMANDS))
def test_places_of_any_kind(
    here: Path, capfd: pytest.CaptureFixture[str], data: st.DataObject, command: list[Any]
) -> None:
    arguments = [data.draw(st.sampled_from(PLACES)) if word is HERE else word for word in command]
    if command[0] in ("ingest", "run", "nightly") and arguments[1] == "job.yaml":
        arguments[1] = "nowhere"  # a job is another test's
    ends_well(capfd, here, *arguments)


@fuzz(40)
@given(
    key=st.lists(
        st.sampled_from([str(part) for place in places(JOB) for part in place]) | st.text(max_size=3), max_size=5
    ),
    value=st.lists(TOKENS, max_size=5).map("".join) | JUNK.map(str),
)
def test_settings_of_any_kind(here: Path, capfd: pytest.CaptureFixture[str], key: list[str], value: str) -> None:
    """The log of the job is nowhere, so that no setting lets it go on."""
    change = f"{'.'.join(key)}={value}".replace("\x00", "")
    assert ends_well(capfd, here, "ingest", "job.yaml", "--out", "run", "--set", change) == 2


@fuzz(15)
@given(
    words=st.lists(
        st.sampled_from([word for command in COMMANDS for word in command if word is not HERE] + PLACES), max_size=6
    )
)
def test_words_of_any_kind(here: Path, capfd: pytest.CaptureFixture[str], words: list[str]) -> None:
    if "job.yaml" not in words:
        ends_well(capfd, here, *words)
