from __future__ import annotations

import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from recdistill.config.load import dump_job, load_job
from recdistill.errors import UserError
from recdistill.export import open_student
from recdistill.files import read_json, write_text
from recdistill.nightly import alerts
from recdistill.nightly.registry import POINTER, promote, registry, rollback

LAST, FIRST = "2026-01-06", "2026-01-04"


def champion(service: Path) -> str:
    return str(registry(service)["champion"]["day"])


def demand(service: Path, day: str, **bounds: float) -> None:
    """Changes the bounds of a finished night."""
    path = service / "nights" / day / "config.yaml"
    job = load_job(path)
    gates = job.service.gates.model_copy(update=bounds)
    changed = job.model_copy(update={"service": job.service.model_copy(update={"gates": gates})})
    write_text(path, dump_job(changed))


def test_each_night_was_promoted(three_nights: tuple[Path, list]) -> None:
    service, verdicts = three_nights
    assert [verdict.outcome for verdict in verdicts] == ["promoted"] * 3
    known = registry(service)
    assert [entry["event"] for entry in known["history"]] == ["promoted"] * 3
    assert known["champion"]["day"] == LAST and known["champion"]["lineage"]["teachers"]["night"] == FIRST
    open_student(service / known["champion"]["model"])


def test_it_was_judged_beside_the_champion_of_the_day_before(three_nights: tuple[Path, list]) -> None:
    first, *others = three_nights[1]
    assert first.night["champion"] is None and {gate.name for gate in first.gates}.isdisjoint({"ne", "auc"})
    assert [verdict.night["champion"] for verdict in others] == [FIRST, "2026-01-05"]


def test_promoting_again_changes_nothing(service: Path) -> None:
    before = (service / POINTER).read_bytes()
    assert promote(service, LAST).outcome == "champion"
    assert (service / POINTER).read_bytes() == before


def test_an_older_day_is_refused_unless_forced(service: Path) -> None:
    before = (service / POINTER).read_bytes()
    assert promote(service, FIRST).outcome == "older"
    assert (service / POINTER).read_bytes() == before
    assert promote(service, FIRST, force=True).outcome == "promoted" and champion(service) == FIRST


def test_a_failed_gate_keeps_the_champion_and_says_why(service: Path) -> None:
    rollback(service)
    demand(service, LAST, calibration=1e-9)
    verdict = promote(service, LAST)
    assert verdict.outcome == "blocked" and "calibration: mean prediction is" in verdict.why
    assert champion(service) == "2026-01-05"
    entry = registry(service)["history"][-1]
    assert entry["event"] == "blocked" and entry["why"] == verdict.why
    assert read_json(service / "nights" / LAST / "night.json")["blocked"] == verdict.why


def test_force_goes_around_no_gate(service: Path) -> None:
    rollback(service)
    demand(service, LAST, calibration=1e-9)
    assert promote(service, LAST, force=True).outcome == "blocked"


def test_a_block_is_told(service: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    monkeypatch.setenv(alerts.VARIABLE, "http://hook")
    monkeypatch.setattr(alerts, "_post", lambda url, body: told.append((url, body)))
    rollback(service)
    demand(service, LAST, calibration=1e-9)
    promote(service, LAST)
    ((url, body),) = told
    assert url == "http://hook" and b"promotion blocked" in body and b'"name": "calibration"' in body


def test_rollback_goes_back_one_champion_at_a_time(service: Path) -> None:
    assert rollback(service, "fewer clicks")["day"] == "2026-01-05" == champion(service)
    assert registry(service)["history"][-1]["why"] == "fewer clicks"
    assert rollback(service)["day"] == FIRST == champion(service)
    with pytest.raises(UserError, match=r"the champion of 2026-01-04 is the first"):
        rollback(service)


def test_what_was_rolled_back_stays_back_unless_forced(service: Path) -> None:
    rollback(service)
    assert promote(service, LAST).outcome == "rolled back" and champion(service) == "2026-01-05"
    assert promote(service, LAST, force=True).outcome == "promoted" and champion(service) == LAST
    assert rollback(service)["day"] == "2026-01-05"


def test_no_champion_is_rolled_back_to_that_cannot_serve(service: Path) -> None:
    before = registry(service)["history"][1]["model"]
    weights = service / before / "weights.safetensors"
    *kept, last = weights.read_bytes()
    weights.write_bytes(bytes([*kept, last ^ 1]))
    with pytest.raises(UserError, match="damaged"):
        rollback(service)
    assert champion(service) == LAST


def test_a_night_that_is_run_again_does_not_change_what_serves(service: Path) -> None:
    model = service / registry(service)["champion"]["model"]
    assert not model.is_symlink() and not any(path.is_symlink() for path in model.rglob("*"))
    night = service / "nights" / LAST / "stages" / "export" / "weights.safetensors"
    assert not night.samefile(model / "weights.safetensors")


def test_promotions_at_the_same_time_wait_for_each_other(service: Path) -> None:
    rollback(service)
    rollback(service)
    days = ["2026-01-05", LAST] * 2
    threads = [threading.Thread(target=promote, args=(service, day, True)) for day in days]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    history = registry(service)["history"]
    assert history[-1]["day"] == champion(service) and len(history) >= 7


def test_a_night_that_is_not_there(service: Path) -> None:
    with pytest.raises(UserError, match="no finished night; run it first"):
        promote(service, "2026-01-07")
    with pytest.raises(UserError, match="there is no champion to roll back"):
        rollback(service / "other")


def test_the_champion_scores_the_rows_that_the_student_scored(three_nights: tuple[Path, list], tmp_path: Path) -> None:
    """From the raw log, with its own vocabulary: what an exported student gives is what it gave when it was trained."""
    from recdistill.clicklog.schema import Dataset
    from recdistill.clicklog.sources import find
    from recdistill.nightly.duel import champion_predictions

    run = three_nights[0] / "nights" / LAST
    job = load_job(run / "config.yaml")
    dataset = Dataset(run / "stages" / "ingest")
    assert job.dataset.log is not None
    logs = [source.path for source in find(job.dataset.log)]
    champion_predictions(run / "student", logs, dataset, tmp_path / "theirs.parquet", tmp_path)
    theirs = pq.read_table(tmp_path / "theirs.parquet")
    ours = pq.read_table(run / "stages" / "distill" / "diverse" / "seed-0" / "test.parquet")
    assert theirs["example_id"].equals(ours["example_id"])
    assert theirs["logit"].to_numpy() == pytest.approx(ours["logit"].to_numpy(), abs=1e-4)
