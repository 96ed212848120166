from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from recdistill import doctor
from recdistill.doctor import GIB

GOOD = {"torch": "2.13.0+cpu", "torchrec": "1.8.0", "fbgemm-gpu": "1.8.0+cpu", "fbgemm-gpu-cpu": "1.8.0"}


def test_this_installation_is_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    (tmp_path / "frappe").mkdir()
    checks = {check.name: check for check in doctor.examine(tmp_path, tmp_path / "runs" / "new")}
    assert list(checks) == [
        *("python", "torch", "torchrec", "fbgemm", "import", "fused step"),
        *("device", "threads", "memory", "disk", "data"),
    ]
    assert not [check for check in checks.values() if check.status == "fault"]
    assert "moved its table" in checks["fused step"].found
    assert checks["data"].found.endswith("frappe")


@pytest.mark.parametrize(
    ("changes", "faulty", "found"),
    [
        ({"fbgemm-gpu": "1.8.0"}, ["fbgemm"], "over each other"),
        ({"fbgemm-gpu": "1.9.0", "fbgemm-gpu-cpu": None}, ["fbgemm"], "CUDA build 1.9.0, expected 1.8.0"),
        ({"fbgemm-gpu-cpu": None}, ["fbgemm"], "not installed"),
        ({"fbgemm-gpu": "1.8.0", "fbgemm-gpu-cpu": None}, [], ""),
        ({"fbgemm-gpu": None}, [], ""),
        ({"torch": "2.14.1"}, ["torch"], "2.14.1, expected 2.13"),
        ({"torch": None}, ["torch"], "not installed"),
        ({"torchrec": "1.9.2"}, ["torchrec"], "1.9.2, expected 1.8.0"),
    ],
)
def test_what_does_not_fit_together_is_a_fault(changes: dict[str, str | None], faulty: list[str], found: str) -> None:
    versions = {name: version for name, version in {**GOOD, **changes}.items() if version is not None}
    checks = [*doctor.check_versions(versions), doctor.check_fbgemm(versions)]
    faults = [check for check in checks if check.status == "fault"]
    assert [check.name for check in faults] == faulty
    assert all(found in check.found and "requirements-cpu.txt" in check.advice for check in faults)


@pytest.mark.parametrize(
    ("version", "status"), [((3, 11, 7), "ok"), ((3, 12, 0), "ok"), ((3, 10, 1), "fault"), ((3, 13, 0), "fault")]
)
def test_python(version: tuple[int, int, int], status: str) -> None:
    assert doctor.check_python(version).status == status


def test_a_library_that_does_not_load_is_a_fault_with_its_reason() -> None:
    def load() -> str:
        raise OSError("libtorch_cuda.so: cannot open\nsecond line")

    check = doctor.attempt("import", load)
    assert (check.status, check.found) == ("fault", "OSError: libtorch_cuda.so: cannot open")
    assert "pip uninstall" in check.advice


def test_a_step_that_changes_nothing_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from recdistill.models import sharding

    class Still(torch.nn.Module):
        def forward(self, ids: object) -> torch.Tensor:
            return torch.ones(2, 1, requires_grad=True) * 1

    monkeypatch.setattr(sharding, "shard", lambda module, settings: (Still(), None))
    check = doctor.attempt("fused step", doctor._fused_step)
    assert check.status == "fault" and "left its embedding table as it was" in check.found


@pytest.mark.parametrize(
    ("policy", "status"), [("PASSIVE", "ok"), ("passive", "ok"), ("ACTIVE", "warning"), ("", "warning")]
)
def test_threads(policy: str, status: str) -> None:
    assert doctor.check_threads({"OMP_WAIT_POLICY": policy}).status == status


@pytest.mark.parametrize(
    ("free", "status"), [(8 * GIB, "ok"), (2 * GIB, "warning"), (GIB // 2, "fault"), (None, "warning")]
)
def test_memory(free: int | None, status: str) -> None:
    check = doctor.check_memory(free)
    assert check.status == status and bool(check.advice) == (status != "ok")


@pytest.mark.parametrize(("free", "status"), [(8 * GIB, "ok"), (2 * GIB, "warning"), (GIB // 2, "fault")])
def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, status: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    check = doctor.check_disk(tmp_path / "not" / "there")
    assert check.status == status and str(tmp_path) in check.found


def test_absent_data_is_a_warning_that_says_where_to_put_it(tmp_path: Path) -> None:
    check = doctor.check_data(tmp_path / "absent")
    assert check.status == "warning" and "RECDISTILL_DATA" in check.advice


def test_an_unused_gpu_is_pointed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    check = doctor.attempt("device", doctor._device)
    assert check.status == "warning" and "requirements-gpu.txt" in check.advice
