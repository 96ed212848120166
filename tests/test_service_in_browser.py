"""The service's page in a real browser: what `make service` starts, after two nights."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recdistill.files import read_json
from tests.browser import Page, end
from tests.test_service import load

dg = pytest.importorskip("dagster", reason="Dagster is not installed; pip install -e '.[dagster]'")
pytest.importorskip("dagster_webserver", reason="Dagster's page is not installed; pip install -e '.[dagster]'")

ROOT = Path(__file__).parents[1]
DAYS = ("2026-01-03", "2026-01-04")
PATIENCE = 90.0
"""Seconds until the page must answer."""
TITLES = (
    "[...document.querySelectorAll('canvas')].map(c => c.parentElement.parentElement.parentElement.innerText.trim())"
)


@pytest.fixture(scope="module")
def nights(screen: Page, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """Two nights: the folder of the page's home, and the service's."""
    folder = tmp_path_factory.mktemp("nights")
    home, service = folder / "dagster", folder / "service"
    home.mkdir()
    shutil.copy(ROOT / "pipelines" / "dagster.yaml", home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(home))
        defs = load(service, patch).defs
        with dg.DagsterInstance.get() as instance:
            for day in DAYS:
                assert dg.materialize(defs.assets, partition_key=day, instance=instance).success
        yield home, service


@pytest.fixture(scope="module")
def site(nights: tuple[Path, Path]) -> Iterator[str]:
    """Where the page is: the Makefile's own command, on a port that was free."""
    command = re.search(r"\$\(PYTHON\) (-m dagster dev .*) -p 3000\n", (ROOT / "Makefile").read_text())
    assert command is not None
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = nights[0] / "page.log"
    with log.open("w") as said:
        process = subprocess.Popen(
            [sys.executable, *shlex.split(command[1]), "-p", str(port)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    try:
        await_answer(f"http://127.0.0.1:{port}/server_info", process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        end(process, grace=5)


def await_answer(address: str, process: subprocess.Popen, log: Path) -> None:
    until = time.monotonic() + PATIENCE
    while True:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            assert process.poll() is None and time.monotonic() < until, log.read_text()[-3000:]
        time.sleep(0.2)


def outside(screen: Page, site: str) -> list[str]:
    return [address[:200] for address in screen.requests if not address.startswith((site, "data:", "blob:"))]


def numbers(nights: tuple[Path, Path]) -> dict[str, Any]:
    return read_json(nights[1] / "nights" / DAYS[-1] / "night.json")["numbers"]


def test_the_catalogue_lists_every_stage_of_a_night(screen: Page, site: str) -> None:
    screen.open(f"{site}/assets", 1280, 900)
    screen.wait_for_text("dataset", "teachers", "cache", "student", "report", "champion", "6 partitions")
    assert screen.errors == [] and outside(screen, site) == []


def test_the_report_shows_the_last_nights_numbers_and_plots_every_day(
    screen: Page, site: str, nights: tuple[Path, Path]
) -> None:
    screen.open(f"{site}/assets/report?view=overview", 1280, 2600)
    found = numbers(nights)
    screen.wait_for_text(DAYS[-1], "AUC", f"{round(found['auc'], 4)}", "NE", f"{round(found['ne'], 4)}")
    screen.click("button", "Plots")
    screen.wait_for("document.querySelectorAll('canvas').length >= 12")
    titles = screen.value(TITLES)
    assert titles[:3] == ["AUC", "NE", "NE gap"] and "passes saved (share)" in titles
    assert "by partition" in screen.text()  # a point a day, not one for each time that a night ran
    assert screen.errors == [] and outside(screen, site) == []


def test_every_gate_says_what_it_asks_and_why_it_passed(screen: Page, site: str) -> None:
    screen.open(f"{site}/assets/report?view=checks", 1280, 900)
    screen.wait_for_text("Checks (10)", "champion_ne", "gap_recovered", "psi")
    screen.wait_for_text("the AUC is not worse than the champion's", f"the champion of {DAYS[0]}", "Passed")


def test_the_night_is_among_the_runs(screen: Page, site: str) -> None:
    screen.open(f"{site}/runs", 1280, 900)
    screen.wait_for_text(*DAYS, "Success")
