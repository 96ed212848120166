"""The orchestrator's definitions: they load, run a small day, stop at a gate, and know late days."""

from __future__ import annotations

import importlib.util
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from recdistill.files import read_json
from recdistill.nightly.gates import Gate
from recdistill.nightly.plan import settled
from recdistill.nightly.registry import registry
from recdistill.progress import silent

dg = pytest.importorskip("dagster", reason="Dagster is not installed; pip install -e '.[dagster]'")

PIPELINES = Path(__file__).parents[1] / "pipelines"
DAY, SECOND = "2026-01-04", "2026-01-05"


def load(service: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("RECDISTILL_JOB", str(PIPELINES / "jobs" / "nightly.yaml"))
    monkeypatch.setenv("RECDISTILL_SERVICE", str(service))
    spec = importlib.util.spec_from_file_location("service", PIPELINES / "service.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(service: ModuleType, instance: Any, day: str) -> Any:
    return dg.materialize(service.defs.assets, partition_key=day, instance=instance, raise_on_error=False)


@pytest.fixture
def instance() -> Any:
    with dg.instance_for_test() as made:
        yield made


@pytest.fixture(scope="module")
def first_night(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], int]:
    """One day through every asset: the service's folder, the report's metadata, how many checks passed. Read only."""
    folder = tmp_path_factory.mktemp("service") / "service"
    with pytest.MonkeyPatch.context() as patch, dg.instance_for_test() as made:
        result = run(load(folder, patch), made, DAY)
        assert result.success
        (event,) = result.asset_materializations_for_node("report")
        passed = sum(check.passed for check in result.get_asset_check_evaluations())
    return folder, {name: entry.value for name, entry in event.metadata.items()}, passed


def test_the_definitions_fit_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = load(tmp_path, monkeypatch)
    dg.Definitions.validate_loadable(service.defs)
    assert service.DAYS.get_partition_keys()[0] == "2026-01-03"
    assert service.defs.resolve_schedule_def(service.nightly.name).cron_schedule == "30 3 * * *"


def test_the_schedule_asks_for_yesterday(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = load(tmp_path, monkeypatch)

    def asked(now: datetime) -> str | None:
        with dg.build_schedule_context(scheduled_execution_time=now) as context:
            return getattr(service.nightly(context), "partition_key", None)

    assert asked(datetime(2026, 1, 6, 3, 30, tzinfo=UTC)) == SECOND
    assert asked(datetime(2026, 3, 1, 3, 30, tzinfo=UTC)) is None


def test_a_night_is_a_row_of_assets_with_its_gates_as_checks(first_night: tuple[Path, dict[str, Any], int]) -> None:
    folder, numbers, passed = first_night
    assert registry(folder)["champion"]["day"] == DAY
    names = {"NE", "AUC", "NE gap", "passes saved (share)", "passes: computed", "passes: reused"}
    assert names <= numbers.keys()
    assert numbers["AUC"] == round(read_json(folder / "nights" / DAY / "night.json")["numbers"]["auc"], 4)
    assert passed == 10


def test_a_failed_gate_skips_the_champion(
    first_night: tuple[Path, dict[str, Any], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instance: Any
) -> None:
    shutil.copytree(first_night[0], tmp_path / "service", symlinks=True)
    from recdistill.nightly import registry as room

    bad = Gate("ne", "model", False, 1.0, 0.0, "made to fail")
    monkeypatch.setattr(room, "gates", lambda *_: [bad])
    told = []
    monkeypatch.setattr(room, "alert", lambda *args, **more: told.append(args[1:]))
    service = load(tmp_path / "service", monkeypatch)
    result = run(service, instance, SECOND)
    assert not result.success
    assert not result.asset_materializations_for_node("champion")
    assert registry(tmp_path / "service")["champion"]["day"] == DAY
    assert told == [(SECOND, "promotion blocked", "ne: made to fail")]


def test_a_day_that_the_log_lacks_fails_at_once_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instance: Any
) -> None:
    service = load(tmp_path / "service", monkeypatch)
    told = []
    monkeypatch.setattr(service, "alert", lambda *args: told.append(args[1:]))
    settled(service.JOB, tmp_path / "service", silent)
    (tmp_path / "service" / "log" / f"day={DAY}.parquet").unlink()
    monkeypatch.setattr(service, "JOB", service.JOB.model_copy(update={"dataset": _in_files(service, tmp_path)}))
    result = run(service, instance, DAY)
    assert not result.success
    ((day, event, why),) = told
    assert (day, event) == (DAY, "failed") and "the log has no file of it" in why


def _in_files(service: ModuleType, folder: Path) -> Any:
    from recdistill.config.dataset import Files

    log = Files(paths=[str(folder / "service" / "log" / "*.parquet")])
    return service.JOB.dataset.model_copy(update={"simulate": None, "log": log})


def test_the_sensor_asks_for_a_changed_day_once(
    first_night: tuple[Path, dict[str, Any], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instance: Any
) -> None:
    shutil.copytree(first_night[0], tmp_path / "service", symlinks=True)
    service = load(tmp_path / "service", monkeypatch)

    def asked() -> list[tuple[str, str]]:
        with dg.build_sensor_context(instance=instance, definitions=service.defs) as context:
            data = service.late_or_changed_days.evaluate_tick(context)
        return [(request.partition_key, request.run_key) for request in data.run_requests]

    late = asked()
    assert [day for day, _ in late] == ["2026-01-03"]  # it has no night
    path = tmp_path / "service" / "log" / f"day={DAY}.parquet"
    os.utime(path, (1, 1))
    assert [day for day, _ in asked()] == ["2026-01-03", DAY]
    assert asked()[0] == late[0]


@pytest.mark.parametrize("name", ["dagster.yaml", "kubernetes/dagster.yaml"])
def test_the_instance_phones_nobody_and_runs_one_night_at_a_time(name: str) -> None:
    settings = yaml.safe_load((PIPELINES / name).read_text())
    assert settings["telemetry"] == settings["nux"] == {"enabled": False}
    assert settings["concurrency"]["runs"]["max_concurrent_runs"] == 1
