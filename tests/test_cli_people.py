from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from recdistill import cli
from recdistill.config.load import load_job
from recdistill.files import write_json

STAT = {"mean": 0.5, "low": 0.4, "high": 0.6}
SAMPLE = Path(__file__).parents[1] / "data" / "sample" / "clicks.csv.gz"


def report(name: str) -> dict[str, object]:
    metrics = dict.fromkeys(("auc", "ne", "log_loss", "calibration"), STAT)
    model = {"role": "student", "parameters": 10, "coverage": 1.0, **metrics}
    return {
        "version": 1,
        "name": name,
        "dataset": {"fingerprint": "f", "rows": {"test": 7}},
        "seeds": [0],
        "bootstrap": {"resamples": 100, "confidence": 0.95, "seed": 0},
        "foundation": "foundation",
        "params": {"foundation": 380, "student": 10, "compression": 38.0},
        "gap": {"auc": STAT, "ne": STAT},
        "models": {"foundation": {**model, "role": "teacher"}, "alone": model, "diverse": model},
        "gap_recovered": {"diverse": {"auc": STAT, "ne": None}},
        "comparisons": [
            {"method": "diverse", "against": "alone", "auc": STAT, "ne": {"mean": 0, "low": -1, "high": 1}}
        ],
        "reliability": {},
        "teacher_forwards": None,
        "timings": {},
        "warnings": [],
    }


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs `recdistill ARGUMENTS` in this process: exit status, output, errors."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["recdistill", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return run


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    for name in ("monday", "tuesday"):
        write_json(tmp_path / name / "report.json", report(name))
    return [tmp_path / "monday", tmp_path / "tuesday"]


def test_init_writes_a_job_and_tells_what_it_saw(call, tmp_path: Path) -> None:
    code, out, err = call("init", SAMPLE, "--out", tmp_path / "mine.yaml")
    assert (code, err) == (0, "")
    assert load_job(tmp_path / "mine.yaml").name == "mine"
    for words in ("3,000 rows looked at", "values joined by '|'", "the user, 62 values", "true_probability"):
        assert words in out
    assert out.endswith(f"next: recdistill run {tmp_path / 'mine.yaml'} --out runs/mine\n")


def test_init_prints_its_doubts_and_takes_a_label(call, tmp_path: Path) -> None:
    code, out, _ = call("init", SAMPLE, "--out", tmp_path / "mine.yaml", "--label", "user_views")
    assert code == 0 and "Unsure, so look here first:\n- " in out and "a row is positive where user_views is" in out


def test_init_never_overwrites(call, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("mine")
    code, out, err = call("init", SAMPLE, "--out", tmp_path / "mine.yaml")
    assert (code, out) == (2, "") and "is there already" in err
    assert (tmp_path / "mine.yaml").read_text() == "mine"


def test_init_leaves_nothing_behind_when_it_cannot_tell(call, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("a,b\n" + "1,2\n3,4\n5,6\n" * 50)
    code, _, err = call("init", tmp_path / "log.csv", "--out", tmp_path / "mine.yaml")
    assert code == 2 and err.count("\n") == 1 and "no column looks like a label" in err
    assert not (tmp_path / "mine.yaml").exists()


def test_compare_prints_tables_and_what_it_refused(call, runs: list[Path], tmp_path: Path) -> None:
    code, out, err = call("compare", *runs, "--html", tmp_path / "page.html")
    assert (code, err) == (0, "")
    assert out.startswith("2 runs, judged on different rows")
    assert "+0.5000 [+0.4000, +0.6000] *" in out and "+0.0000 [-1.0000, +1.0000] *" not in out
    assert "tuesday and monday: monday keeps no test rows" in out and "50% [40%, 60%]" in out
    assert out.endswith(f"page: {tmp_path / 'page.html'}\n")
    assert (tmp_path / "page.html").read_text().startswith("<!DOCTYPE html>")


def test_json_of_compare_is_json_alone(call, runs: list[Path]) -> None:
    _, out, _ = call("compare", *runs, "--json")
    assert [run["label"] for run in json.loads(out)["runs"]] == ["monday", "tuesday"]


def test_a_run_without_a_report_is_one_sentence(call, tmp_path: Path) -> None:
    code, out, err = call("compare", tmp_path)
    assert (code, out) == (2, "")
    assert err == (
        f"recdistill: {tmp_path}: has no report.json: finish it with `recdistill run`; expected the folder of a "
        "finished run\n"
    )


def test_unfinished_runs_are_told_and_left_out(call, runs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "begun").mkdir()
    code, out, err = call("compare", *runs, tmp_path / "begun", "--json")
    assert code == 0 and [run["label"] for run in json.loads(out)["runs"]] == ["monday", "tuesday"]
    assert err == f"{tmp_path / 'begun'}: not finished, so it is left out\n"


def test_settings_are_told_for_people_and_programs(call) -> None:
    code, out, _ = call("settings", "distill.train.patience")
    assert (
        code == 0 and "distill.train" in out and "Checks without a better validation NE" in out and "epochs" not in out
    )
    (group,) = json.loads(call("settings", "student", "--json")[1])
    assert (
        group["path"] == "student" and {one["name"]: one["default"] for one in group["settings"]}["compression"] == "38"
    )
    assert len(json.loads(call("settings", "--json")[1])) > 20
    assert call("settings", "student.compresion")[0] == 2


@pytest.mark.parametrize("command", ["init", "compare", "settings"])
def test_help_has_an_example(call, command: str) -> None:
    code, out, _ = call(command, "--help")
    assert code == 0 and "Example" in out and f"recdistill {command} " in out
