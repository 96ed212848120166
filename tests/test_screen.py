from __future__ import annotations

from typing import Any

import pytest

from recdistill.doctor import Check
from recdistill.screen import checks_table, gap_table, print_table


def stat(mean: float | None, low: float | None, high: float | None) -> dict[str, float | None]:
    return {"mean": mean, "low": low, "high": high}


@pytest.fixture
def report() -> dict[str, Any]:
    return {
        "params": {"foundation": 4_000_000, "student": 100_000, "compression": 40.0},
        "models": {
            "foundation": {"auc": stat(0.8, 0.79, 0.81), "ne": stat(0.77, 0.76, 0.78)},
            "alone": {"auc": stat(0.75, 0.74, 0.76), "ne": stat(None, None, None)},
            "diverse": {"auc": stat(0.79, 0.78, 0.8), "ne": stat(0.775, 0.77, 0.78)},
        },
        "gap_recovered": {"diverse": {"auc": stat(0.8, 0.734, None), "ne": None}},
        "warnings": ["NE: no gap to recover [x]."],
    }


def test_each_model_is_a_line_with_intervals_and_what_it_recovers(
    report: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    print_table(gap_table(report))
    lines = capsys.readouterr().out.splitlines()
    assert "Student 100,000 parameters, foundation 4,000,000 (40.0x)" in lines[0]
    cells = {
        cell[1]: cell[2:-1] for cell in ([part.strip() for part in line.split("│")] for line in lines) if len(cell) > 2
    }
    assert cells["foundation"] == ["0.8000 [0.7900, 0.8100]", "0.7700 [0.7600, 0.7800]", "", ""]
    assert cells["alone"] == ["0.7500 [0.7400, 0.7600]", "-", "", ""]
    assert cells["diverse"] == ["0.7900 [0.7800, 0.8000]", "0.7750 [0.7700, 0.7800]", "80% [73%, ?]", "-"]


def test_what_weakens_the_report_stands_below(report: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    print_table(gap_table(report))
    assert capsys.readouterr().out.rstrip().endswith("NE: no gap to recover [x].")


def test_a_check_that_is_not_well_comes_with_advice(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(checks_table([Check("torch", "ok", "2.13.0"), Check("disk", "fault", "full [x]", "free some")]))
    out = capsys.readouterr().out
    assert "ok" in out and "fault" in out and "full [x]" in out and "-> free some" in out
