"""The aligner does not know what a teacher is made of: images, by the same code."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from recdistill.files import read_json

EXAMPLE = Path(__file__).parents[2] / "pipelines" / "examples" / "digits.py"
QUICK = (
    "distill.methods=[alone,hint,diverse]",
    "distill.seeds=[0]",
    "distill.train.epochs=2",
    "evaluate.resamples=100",
    "workers=1",
)


@pytest.fixture(scope="module")
def digits() -> ModuleType:
    spec = importlib.util.spec_from_file_location("digits", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def run(digits: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example with a foundation and students that are trained for a moment only."""
    out = tmp_path_factory.mktemp("digits") / "run"
    digits.EPOCHS = 2
    digits.main(out, *QUICK)
    return out


def test_a_convolution_is_the_foundation_of_a_student_of_embedding_bags(run: Path, digits: ModuleType) -> None:
    report: dict[str, Any] = read_json(run / "report.json")
    parameters = sum(values.numel() for values in digits.Convolution().parameters())
    assert report["foundation"] == "convolution" and report["params"]["foundation"] == parameters
    assert report["account"][0] == {"model": "convolution", "tables": 0, "dense": parameters, "total": parameters}
    assert report["params"]["compression"] >= 3.6
    assert report["models"]["convolution"]["parameters"] == parameters
    assert list(report["gap_recovered"]) == ["hint", "diverse"]
    assert set(report["importance"]["overall"]) == {"convolution", "left", "right"}
    assert (run / "student" / "weights.safetensors").exists()


def test_every_image_has_an_answer_and_its_embedding(run: Path) -> None:
    folder = run.parent / "run-images"
    for name, width in (("convolution", 64), ("left", 0), ("right", 0)):
        answers = pq.read_table(folder / f"{name}.parquet")
        assert sorted(answers["example_id"].to_pylist()) == list(range(1797))
        assert np.isfinite(answers["logit"].to_numpy()).all()
        assert {len(vector) for vector in answers["embedding"].to_pylist()} == {width} if width else True
        manifest = read_json(run / "stages" / "cache" / name / "manifest.json")
        assert manifest["dim"] == width and list(manifest["versions"]) == ["file"]


def test_training_answers_are_out_of_fold(digits: ModuleType, tmp_path: Path) -> None:
    """A teacher that remembers what it has seen is caught by none of its own training images."""
    rng = np.random.default_rng(0)
    pixels, odd = rng.random((100, 64)).astype(np.float32), np.ones(100, np.float32)
    split = {"train": np.arange(60), "validation": np.arange(60, 80), "test": np.arange(80, 100)}

    def remember(seen: np.ndarray, _: np.ndarray) -> Any:
        known = {row.tobytes() for row in seen}
        return lambda images: (np.array([float(row.tobytes() in known) for row in images]), None)

    digits.answer(pixels, odd, split, remember, tmp_path / "answers.parquet")
    answers = pq.read_table(tmp_path / "answers.parquet")
    assert answers["logit"].to_pylist() == [0.0] * 100 and "embedding" not in answers.column_names
