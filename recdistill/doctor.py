"""Looks at the machine and the installation: what is there, what is wrong, what to do about it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from recdistill.parallel import cores

GIB = 1 << 30
PYTHONS = ((3, 11), (3, 12))
TRIPLE = {"torch": "2.13.", "torchrec": "1.8.0", "fbgemm": "1.8.0"}
"""What works together: fbgemm is compiled against one torch and fails to load with any other."""
INSTALL = "`pip install -r requirements-cpu.txt -c requirements.lock` (on a GPU machine requirements-gpu.txt)"
MIXED = "`pip uninstall -y fbgemm-gpu fbgemm-gpu-cpu`, then " + INSTALL


@dataclass(frozen=True)
class Check:
    """One finding. `fault` stops the work, `warning` does not; `advice` says what to do about either."""

    name: str
    status: Literal["ok", "warning", "fault"]
    found: str
    advice: str = ""


def examine(data: Path, out: Path) -> list[Check]:
    """Every check, in the order in which to mend things.

    Args:
        data: where real data sets are looked for; they are optional.
        out: where runs will be written (the nearest folder above it that exists is looked at).
    """
    versions = installed_versions()
    return [
        check_python(sys.version_info[:3]),
        *check_versions(versions),
        check_fbgemm(versions),
        attempt("import", _import),
        attempt("fused step", _fused_step),
        attempt("device", _device),
        check_threads(os.environ),
        check_memory(_memory()),
        check_disk(out),
        check_data(data),
    ]


def installed_versions() -> dict[str, str]:
    """Versions of the distributions that must fit together; absent ones are left out."""
    found = {}
    for name in ("torch", "torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def check_python(version: tuple[int, ...]) -> Check:
    """The interpreter."""
    text = ".".join(map(str, version))
    if version[:2] in PYTHONS:
        return Check("python", "ok", text)
    return Check("python", "fault", f"{text}, expected 3.11 or 3.12", "make the environment with Python 3.11")


def check_versions(versions: Mapping[str, str]) -> list[Check]:
    """Torch and torchrec; fbgemm has two names and a check of its own."""
    checks = []
    for name in ("torch", "torchrec"):
        version = versions.get(name)
        if version is None:
            checks.append(Check(name, "fault", "not installed", INSTALL))
        elif version.startswith(TRIPLE[name]):
            checks.append(Check(name, "ok", version))
        else:
            checks.append(Check(name, "fault", f"{version}, expected {TRIPLE[name].rstrip('.')}", INSTALL))
    return checks


def check_fbgemm(versions: Mapping[str, str]) -> Check:
    """One build of fbgemm: the CPU's or CUDA's. Both write into the same folder, so the one installed last wins."""
    cpu, cuda = versions.get("fbgemm-gpu-cpu"), versions.get("fbgemm-gpu")
    if cuda is not None and cuda.endswith("+cpu"):
        cuda = None  # the stand-in from packaging/, which holds no modules
    if cpu and cuda:
        return Check("fbgemm", "fault", f"CPU build {cpu} and CUDA build {cuda} over each other", MIXED)
    version = cpu or cuda
    if version is None:
        return Check("fbgemm", "fault", "not installed", INSTALL)
    build = "CPU build" if cpu else "CUDA build"
    if not version.startswith(TRIPLE["fbgemm"]):
        found = f"{build} {version}, expected {TRIPLE['fbgemm']}: it does not load with torch {TRIPLE['torch']}*"
        return Check("fbgemm", "fault", found, MIXED)
    return Check("fbgemm", "ok", f"{build} {version}")


def attempt(name: str, try_it: Callable[[], Check | str]) -> Check:
    """Runs a check that may fail in any way at all."""
    try:
        found = try_it()
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else ""
        return Check(name, "fault", f"{type(error).__name__}: {first}"[:300], MIXED)
    return Check(name, "ok", found) if isinstance(found, str) else found


def check_threads(environment: Mapping[str, str]) -> Check:
    """OpenMP's settings: spinning threads cost several times the work as soon as anything else runs."""
    policy, threads = environment.get("OMP_WAIT_POLICY", ""), environment.get("OMP_NUM_THREADS", "")
    found = f"OMP_WAIT_POLICY={policy or '(unset)'}, OMP_NUM_THREADS={threads or '(unset)'}, {cores()} cores"
    if policy.upper() != "PASSIVE":
        return Check("threads", "warning", found, "set OMP_WAIT_POLICY=PASSIVE: waiting threads then yield the core")
    return Check("threads", "ok", found)


def check_memory(available: int | None) -> Check:
    """Memory free for use, in bytes; a training process takes about one GiB before any table."""
    if available is None:
        return Check("memory", "warning", "unknown on this system", "have 4 GiB free")
    found = f"{available / GIB:.1f} GiB available"
    if available < GIB:
        return Check("memory", "fault", found, "free at least 2 GiB, or set `workers: 1` in the job")
    if available < 4 * GIB:
        return Check("memory", "warning", found, "set `workers: 1` in the job if a worker is killed")
    return Check("memory", "ok", found)


def check_disk(out: Path) -> Check:
    """Space where runs are written."""
    folder = next(path for path in (out.absolute(), *out.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(folder).free
    found = f"{free / GIB:.1f} GiB free at {folder}"
    if not os.access(folder, os.W_OK):
        return Check("disk", "fault", f"{folder} cannot be written to", "name another folder with --out")
    if free < GIB:
        return Check("disk", "fault", found, "free at least 1 GiB, or name a folder on another disk with --out")
    if free < 5 * GIB:
        return Check("disk", "warning", found, "teacher caches are large; free some, or name another --out")
    return Check("disk", "ok", found)


def check_data(data: Path) -> Check:
    """Real data sets, which do not ship with recdistill; the demo needs none."""
    sets = sorted(path.name for path in data.iterdir() if path.is_dir()) if data.is_dir() else []
    if sets:
        return Check("data", "ok", f"{data}: {', '.join(sets)}")
    advice = "only the ready jobs on real data need it: name its folder in the environment variable RECDISTILL_DATA"
    return Check("data", "warning", f"no data sets at {data}", advice)


def _import() -> str:
    import torch
    import torchrec

    return f"torch {torch.__version__}, torchrec {torchrec.__version__}"


def _fused_step() -> Check | str:
    """One step of the very path that training takes: a table whose optimizer runs inside backward."""
    import torch
    from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor

    from recdistill.config.models import Train
    from recdistill.models.sharding import device, quiet, shard

    class Tiny(torch.nn.Module):
        def __init__(self, config: EmbeddingBagConfig) -> None:
            super().__init__()
            self.bags = EmbeddingBagCollection(tables=[config], device=torch.device("meta"))
            self.head = torch.nn.Linear(config.embedding_dim, 1, bias=False)
            torch.nn.init.ones_(self.head.weight)

        def forward(self, ids: KeyedJaggedTensor) -> torch.Tensor:
            out: torch.Tensor = self.head(self.bags(ids)["feature"])
            return out

    with quiet():
        config = EmbeddingBagConfig(name="table", embedding_dim=4, num_embeddings=10, feature_names=["feature"])
        sharded, _ = shard(Tiny(config), Train())
        ids = KeyedJaggedTensor(["feature"], torch.tensor([1, 2, 3]), lengths=torch.tensor([2, 1])).to(device())
        before = sharded(ids)
        before.sum().backward()
        moved = (sharded(ids) - before).abs().max().item()
    if not moved > 0:
        return Check("fused step", "fault", "a training step left its embedding table as it was", MIXED)
    return f"one training step on {device()} moved its table by {moved:.3f}"


def _device() -> Check | str:
    import torch

    cpu = f"{cores()} cores of {platform.processor() or platform.machine()}"
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        return f"{names}; {cpu}"
    if shutil.which("nvidia-smi"):
        advice = "for the GPU: `pip install -r requirements-gpu.txt -c requirements.lock` in a new environment"
        return Check("device", "warning", f"{cpu}; there is an NVIDIA driver, but this torch does not use it", advice)
    return f"{cpu}, no GPU"


def _memory() -> int | None:
    """Bytes available to this process, by the kernel's account or the container's limit, whichever is less."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
    try:
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        return min(available, limit - int((group / "memory.current").read_text()))
    except (OSError, ValueError):
        return available
