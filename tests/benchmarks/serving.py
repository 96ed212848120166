"""How long a student takes to answer, and how large it is, beside its foundation; tables of float32 and of INT8, and
as an ONNX file.

    OMP_NUM_THREADS=1 python tests/benchmarks/serving.py

The foundation is one of dim 64 and top MLP 512-256, the student what the size solver makes of a 38th of it, `narrow`
one with vectors of 2 numbers; all were trained on a simulated log for an epoch. A call is `model(batch)` on a batch
that is there. Models look up all features at once, as an exported student does; `by table` is TorchRec's collection.
INT8 tables are TorchRec's too: a byte a number and two halves a row for scale and bias, in rows of a multiple of 16
bytes. A call of an ONNX file is one of ONNX Runtime's, from the log's own texts and numbers to probabilities.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from material import simulated
from onnxruntime import InferenceSession
from timing import Result, Side, interleaved, options
from torch import nn
from torchrec.inference.modules import quantize_embeddings

from recdistill.clicklog.batches import Batch, Rows, batches
from recdistill.clicklog.schema import Dataset
from recdistill.config.models import Architecture, Student, Train
from recdistill.export import export_student
from recdistill.models.dlrm import DLRM
from recdistill.models.frozen import save_model
from recdistill.models.shape import Shape, shape_of
from recdistill.models.size import solve
from recdistill.models.task import ClickModel
from recdistill.models.trainer import fit, load_best
from recdistill.portable.file import example, open_onnx, write_onnx

SIZES = (1, 256)
CALLS = 200


def main() -> None:
    """Measures, and writes the page."""
    arguments = options(__doc__, 200_000, calls={"type": int, "default": CALLS, "help": "in each turn"})
    torch.set_num_threads(1)
    result = Result("serving", "calls", arguments)
    with tempfile.TemporaryDirectory() as folder:
        dataset = simulated(arguments.rows, Path(folder))
        large = shape_of(Architecture(top=[512, 256]), 64, dataset.schema, None)
        narrow, small = solve(Student(dims=[2, 8]), dataset.schema, large.parameters())
        shapes = {"student": small, "narrow": narrow, "foundation": large}
        floats = {name: trained(dataset, shape) for name, shape in shapes.items()}
        some = {size: next(batches(dataset, Rows("test"), size)) for size in SIZES}
        many = next(batches(dataset, Rows("test"), 8192))
        files = {name: as_file(model, dataset, Path(folder) / name) for name, model in floats.items()}
    models: dict[str, nn.Module] = {}
    for name, model in floats.items():
        models[name] = copy.deepcopy(model).at_once()
        models[f"{name}, by table"] = model
        models[f"{name}, INT8"] = quantize_embeddings(copy.deepcopy(model), dtype=torch.qint8, inplace=True)

    def asks(model: nn.Module, batch: Batch) -> Side:
        def ask() -> int:
            with torch.inference_mode():
                for _ in range(arguments.calls):
                    model(batch)
            return arguments.calls

        return ask

    sides = {f"{name} {size}": asks(model, batch) for name, model in models.items() for size, batch in some.items()}
    sides |= {
        f"{name}, ONNX {size}": calls(file, size, arguments.calls) for name, file in files.items() for size in SIZES
    }
    times = interleaved(sides, arguments.repeats)

    def milliseconds(name: str) -> list[str]:
        return [f"{median(1000 * s.wall / s.units for s in times[f'{name} {size}']):.3f}" for size in SIZES]

    rows = []
    for name, model in models.items():
        with torch.inference_mode():
            moved = (model(many)[0] - floats[name.partition(", ")[0]](many)[0]).abs().max()
        rows.append([name, f"{_bytes(model) / 1e6:.3f}", *milliseconds(name), f"{float(moved):.1e}"])
        if name in files:
            rows.append([f"{name}, ONNX", f"{files[name].megabytes:.3f}", *milliseconds(f"{name}, ONNX"), ""])
    sizes = ", ".join(f"{name} {shape.parameters():,}" for name, shape in shapes.items())
    result.say(f"Parameters: {sizes}.")
    result.table(["", "MB", *(f"ms for a batch of {size}" for size in SIZES), "logits moved by at most"], rows)
    result.write()


def trained(dataset: Dataset, shape: Shape) -> DLRM:
    """A model after one epoch."""
    torch.manual_seed(0)

    def epoch(generator: np.random.Generator) -> Iterator[Batch]:
        return batches(dataset, Rows("train"), 4096, shuffle=generator)

    with tempfile.TemporaryDirectory() as work:
        settings = Train(epochs=1, batch_size=4096)
        fit(ClickModel(DLRM(shape)), epoch, 1, lambda _: 1.0, settings, Path(work), 0, "train")
        return load_best(ClickModel(DLRM(shape)), Path(work)).model


@dataclass
class File:
    """A model as an ONNX file in ONNX Runtime, what it may be handed, and how large it is with its vocabularies."""

    session: InferenceSession
    handed: dict[str, np.ndarray]
    megabytes: float


def as_file(model: DLRM, dataset: Dataset, folder: Path) -> File:
    """Writes the model, which compares its answers, and opens it."""
    for name in ("trained", "student"):
        (folder / name).mkdir(parents=True)
    save_model(model, folder / "trained")
    export_student(folder / "trained", dataset, folder / "student")
    write_onnx(folder / "student", path := folder / "student.onnx")
    return File(open_onnx(path), example(folder / "student"), path.stat().st_size / 1e6)


def calls(file: File, size: int, count: int) -> Side:
    """Calls of an ONNX file with so many rows."""
    some = {name: values[:size] for name, values in file.handed.items()}

    def ask() -> int:
        for _ in range(count):
            file.session.run(["probability"], some)
        return count

    return ask


def _bytes(model: nn.Module) -> int:
    """Of every weight and table."""
    return sum(value.numel() * value.element_size() for value in model.state_dict().values())


if __name__ == "__main__":
    main()
