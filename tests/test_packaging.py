"""The lock and the requirements files: what a fresh machine installs."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[0-9A-Za-z.]+)$")


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    matches = [PIN.match(line) for line in lines]
    assert all(matches), [line for line, match in zip(lines, matches, strict=True) if not match]
    return {normal(match["name"]): match["version"] for match in matches if match}


def needed() -> set[str]:
    """Every distribution that recdistill with its tools needs here, directly or not."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    waiting = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    found: set[str] = set()
    while waiting:
        requirement = waiting.pop()
        name = normal(re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0])
        if name in found or "extra ==" in requirement:
            continue
        try:
            waiting += metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            assert ";" in requirement, f"{requirement} is not installed"
            continue
        found.add(name)
    return found


def test_the_lock_pins_everything_direct_or_not_at_what_is_installed(pins: dict[str, str]) -> None:
    installed = {name: metadata.version(name).split("+")[0] for name in needed()}
    if any(name.startswith("nvidia-") for name in installed):
        pytest.skip("the lock leaves the libraries of torch's CUDA build to torch, which pins them itself")
    assert installed.items() <= pins.items()
    assert {"fbgemm-gpu", "fbgemm-gpu-cpu", "tensordict"} <= installed.keys()


def test_the_lock_names_no_place_and_no_build(pins: dict[str, str]) -> None:
    text = "".join(
        (ROOT / name).read_text() for name in ("requirements.lock", "requirements-cpu.txt", "requirements-gpu.txt")
    )
    assert not re.search(r"://|\s/|\+cpu|index-url|find-links", text)


def test_the_requirements_pin_the_triple_as_the_lock_does(pins: dict[str, str]) -> None:
    assert (pins["torch"], pins["torchrec"], pins["fbgemm-gpu-cpu"]) == ("2.13.0", "1.8.0", "1.8.0")
    assert "torch==2.13.0\n./packaging/fbgemm-gpu-cpu-shim\n" in (ROOT / "requirements-cpu.txt").read_text()
    assert "torch==2.13.0\nfbgemm-gpu==1.8.0\n" in (ROOT / "requirements-gpu.txt").read_text()
    shim = tomllib.loads((ROOT / "packaging/fbgemm-gpu-cpu-shim/pyproject.toml").read_text())
    assert shim["project"]["dependencies"] == ["fbgemm-gpu-cpu==1.8.0"]
