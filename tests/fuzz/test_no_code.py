"""Nothing that is read is run: no module can load code from a file, and a teacher's file is opened for its numbers."""

from __future__ import annotations

import ast
import io
import json
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
from hypothesis import given
from sklearn.linear_model import LogisticRegression

import recdistill
from recdistill.config.load import load_job
from recdistill.config.yaml12 import dump
from recdistill.teachers.trees import _load
from tests.fuzz.harness import EDITS, attempt, fuzz, refused, spoil
from tests.fuzz.test_jobs import JOB

PACKAGE = Path(recdistill.__file__).parent
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle", "code"}
CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "runpy.run_path", "runpy.run_module",
    "pickle.load", "pickle.Unpickler", "yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load",
    "yaml.unsafe_load_all", "yaml.full_load_all",
    "pd.read_pickle", "pandas.read_pickle", "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter",
}  # fmt: skip
BETWEEN_PROCESSES = {("parallel.py", "pickle")}
"""What goes through the pipe between a process and the workers that it started, and never through a file."""
LOADERS = {"UnsafeLoader", "FullLoader", "Loader", "CLoader", "UnsafeConstructor", "FullConstructor", "Constructor"}


def faults(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of everything in a module that could run what it reads."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None) or ""
            for name in node.names:
                full = f"{module}.{name.name}" if module else name.name
                if full.split(".")[0] in MODULES or (module == "yaml" and name.name in LOADERS) or full in CALLS:
                    yield node.lineno, full
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "yaml" and node.attr in LOADERS:
            yield node.lineno, f"yaml.{node.attr}"
        elif isinstance(node, ast.Call):
            name, given = ast.unparse(node.func), {word.arg: word.value for word in node.keywords}
            if name in CALLS:
                yield node.lineno, name
            if name == "torch.load" and not _is(given.get("weights_only"), True):
                yield node.lineno, "torch.load without weights_only"
            for word in ("allow_pickle", "shell", "trust_remote_code"):
                if word in given and not _is(given[word], False):
                    yield node.lineno, f"{name} with {word}"
            if name.endswith("skops.io.load") and _is(given.get("trusted"), True):
                yield node.lineno, "skops.io.load of anything"


def _is(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def test_the_package_reads_nothing_that_runs() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}:{line}: {what}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for line, what in faults(ast.parse(path.read_text(encoding="utf-8")))
        if (str(path.relative_to(PACKAGE)), what) not in BETWEEN_PROCESSES
    ]
    assert not found


@pytest.mark.parametrize(
    "text",
    [
        "import pickle", "from joblib import load", "import torch\ntorch.load(p)", "torch.load(p, weights_only=False)",
        "yaml.load(t, Loader=yaml.SafeLoader)", "yaml.compose(t, Loader=yaml.UnsafeLoader)", "from yaml import Loader",
        "eval(t)", "exec(t)", "np.load(p, allow_pickle=True)", "subprocess.run(t, shell=True)", "pd.read_pickle(p)",
        "skops.io.load(p, trusted=True)", "__import__(t)", "from yaml import load", "np.load(p, allow_pickle=x)",
    ],
)  # fmt: skip
def test_what_would_be_found(text: str) -> None:
    assert list(faults(ast.parse(text)))


@pytest.mark.parametrize("text", ["torch.load(p, weights_only=True)", "yaml.compose(t, Loader=_Loader)", "np.load(p)"])
def test_what_is_fine(text: str) -> None:
    assert not list(faults(ast.parse(text)))


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system ['touch {}']", "!!python/name:os.system", "!!python/module:os"]
)
def test_a_job_runs_nothing(tmp_path: Path, tag: str) -> None:
    (tmp_path / "job.yaml").write_text(dump(JOB) + f"x: {tag.format(tmp_path / 'ran')}\n")
    assert "not a plain value" in refused(load_job, tmp_path / "job.yaml")
    assert not (tmp_path / "ran").exists()


def archive(schema: dict[str, Any], path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as out:
        out.writestr(
            "schema.json", json.dumps({"protocol": skops.io._protocol.PROTOCOL, "_skops_version": "0", **schema})
        )
    return path


def node(value: Any) -> dict[str, Any]:
    """What skops writes for a plain value."""
    with zipfile.ZipFile(io.BytesIO(skops.io.dumps(value))) as written:
        return dict(json.loads(written.read("schema.json")))


GADGETS = [
    ("sklearn.utils._testing", "check_output"),
    ("sklearn.externals.array_api_compat.torch", "load"),
    ("sklearn.datasets._base", "urlretrieve"),
    ("sklearn.datasets._california_housing", "remove"),
    ("sklearn.datasets", "load_files"),
    ("sklearn.utils.discovery", "import_module"),
    ("sklearn.nowhere", "Nothing"),
    ("subprocess", "check_output"),
    ("builtins", "eval"),
    ("os", "system"),
]


@pytest.mark.parametrize(("module", "name"), GADGETS)
@pytest.mark.parametrize("loader", ["ConstructorFromReduceNode", "FunctionNode", "TypeNode", "ObjectNode"])
def test_a_classifier_that_is_a_call_is_not_opened(tmp_path: Path, module: str, name: str, loader: str) -> None:
    marker = tmp_path / "ran"
    call = {"__class__": name, "__module__": module, "__loader__": loader, "content": node((["touch", str(marker)],))}
    refused(_load, archive(call, tmp_path / "classifier.skops"))
    assert not marker.exists()


class Runs:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "classifier.skops"
    path.write_bytes(pickle.dumps(Runs(tmp_path / "ran")))
    refused(_load, path)
    inside = np.array([Runs(tmp_path / "ran")], object)
    state = node(np.zeros(1))
    with zipfile.ZipFile(path, "w") as out, out.open("0.npy", "w") as file:
        np.save(file, inside, allow_pickle=True)
    with zipfile.ZipFile(path, "a") as out:
        out.writestr("schema.json", json.dumps({**state, "file": "0.npy"}))
    refused(_load, path)
    assert not (tmp_path / "ran").exists()


@fuzz(40)
@given(edits=EDITS)
def test_a_classifier_with_changed_bytes(tmp_path: Path, edits: list[tuple[str, float, bytes]]) -> None:
    fitted = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    path = tmp_path / "classifier.skops"
    path.write_bytes(spoil(skops.io.dumps(fitted), edits))
    opened = attempt(_load, path)
    assert opened is None or isinstance(opened, LogisticRegression)
