from __future__ import annotations

from dataclasses import replace

import pytest

from recdistill.config.service import Gates
from recdistill.nightly.gates import Drift, Duel, Evidence, Interval, blocked, gates

DRIFT = Drift(
    rows=1000,
    usual_rows=1000,
    click_rate=0.2,
    usual_click_rate=0.2,
    new_ids={"item": 0.0},
    psi={"item": 0.01, "hour": 0.0},
)
NIGHT = Evidence(
    drift=DRIFT,
    auc=0.7,
    ne=0.9,
    calibration=1.0,
    gap={"mean": 0.02, "low": 0.01, "high": 0.03},
    recovered={"mean": 0.5, "low": 0.2, "high": 0.8},
    compression=38.1,
    target=38,
)
DUEL = Duel(
    champion="2026-01-01",
    auc_loss=Interval(0.0, -0.002, 0.002),
    ne_loss=Interval(0.0, -0.002, 0.002),
    champion_ne=Interval(0.9, 0.88, 0.92),
    champion_ne_then=0.9,
)
NO_GAP = {"mean": -0.01, "low": -0.03, "high": 0.01}


def failed(night: Evidence, duel: Duel | None = DUEL) -> set[str]:
    return {gate.name for gate in gates(night, duel, Gates()) if not gate.passed}


def test_a_good_night_passes_every_gate() -> None:
    verdicts = gates(NIGHT, DUEL, Gates())
    assert blocked(verdicts) is None
    names = [gate.name for gate in verdicts]
    assert names[:5] == ["rows", "click_rate", "new_ids", "psi", "champion_ne"]
    assert names[5:] == ["calibration", "gap_recovered", "compression", "auc", "ne"]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("rows", {"rows": 400}),
        ("click_rate", {"click_rate": 0.27}),
        ("click_rate", {"click_rate": 0.13}),
        ("new_ids", {"new_ids": {"user": 0.0, "item": 0.21}}),
        ("psi", {"psi": {"hour": 0.26, "item": 0.0}}),
    ],
)
def test_a_gate_speaks_against_a_day(name: str, change: dict) -> None:
    night = replace(NIGHT, drift=replace(DRIFT, **change))
    assert failed(night) == {name}
    assert next(gate for gate in gates(night, DUEL, Gates()) if not gate.passed).about == "data"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("calibration", {"calibration": 1.21}),
        ("calibration", {"calibration": 0.79}),
        ("gap_recovered", {"recovered": {"mean": -0.01, "low": -1, "high": 1}}),
        ("gap_recovered", {"recovered": None, "gap": {"mean": -0.2, "low": -0.3, "high": -0.1}}),
        ("gap_recovered", {"recovered": None, "gap": {"mean": None, "low": None, "high": None}}),
        ("compression", {"compression": 37.9}),
    ],
)
def test_a_gate_speaks_against_a_student(name: str, change: dict) -> None:
    assert failed(replace(NIGHT, **change)) == {name}


def test_where_there_is_no_gap_nothing_must_be_recovered() -> None:
    assert failed(replace(NIGHT, recovered=None, gap=NO_GAP)) == set()


@pytest.mark.parametrize(("name", "loss"), [("auc", 0.005), ("ne", 0.01)])
def test_a_student_must_be_known_not_to_be_worse(name: str, loss: float) -> None:
    """The far end of the interval decides, not the middle."""
    just, over = Interval(0.0, -loss, loss), Interval(0.0, -loss, loss * 1.01)
    assert failed(NIGHT, replace(DUEL, **{f"{name}_loss": just})) == set()
    assert failed(NIGHT, replace(DUEL, **{f"{name}_loss": over})) == {name}


def test_a_champion_that_is_suddenly_bad_speaks_against_the_day() -> None:
    assert failed(NIGHT, replace(DUEL, champion_ne=Interval(1.1, 1.01, 1.2))) == {"champion_ne"}
    assert failed(NIGHT, replace(DUEL, champion_ne=Interval(1.1, 0.99, 1.2))) == set()  # it may be chance


def test_without_a_champion_there_is_nothing_to_compare_with() -> None:
    assert {gate.name for gate in gates(NIGHT, None, Gates())}.isdisjoint({"auc", "ne", "champion_ne"})


def test_a_drifting_feature_is_not_judged() -> None:
    night = replace(NIGHT, drift=replace(DRIFT, psi={"weekday": 3.0, "item": 0.1}, new_ids={"weekday": 1.0}))
    assert failed(night) == {"psi", "new_ids"}
    assert blocked(gates(night, DUEL, Gates(drifting=["weekday"]))) is None


def test_the_reason_names_what_failed() -> None:
    why = blocked(gates(replace(NIGHT, compression=10.0, drift=replace(DRIFT, rows=10)), DUEL, Gates()))
    assert why is not None and "rows: the day has 10 rows" in why and "compression: the student is 10.0" in why
