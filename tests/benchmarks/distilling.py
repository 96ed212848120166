"""Rows a second of distillation: from the cache, with teachers asked in every step, and beside a student alone.

    OMP_NUM_THREADS=1 python tests/benchmarks/distilling.py

A committee of the sizes in `pipelines/jobs/frappe.yaml` without its trees (a DLRM of every feature, dim 256, top MLP
512-256; three of parts of them, dim 64, top MLP 128-64) and a student, on a simulated log. `diverse, teachers asked`
has every teacher score each batch instead of reading what it said. `alone, same reader` trains the student by its click
loss alone on the batches that `diverse` reads; `alone` does not read what teachers said. `mean` distils the mean of
their logits. Each goes over the rows `EPOCHS` times, as students do.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from material import Stream, fit_once, job, run, student
from timing import Result, interleaved, options

from recdistill.clicklog.batches import Rows, batches
from recdistill.clicklog.columns import whole
from recdistill.config import Job
from recdistill.config.job import Distill, Method
from recdistill.config.models import Train
from recdistill.distill.methods import Distiller
from recdistill.distill.methods import Method as LearnedBy
from recdistill.distill.train import Materials, Opened, make_method
from recdistill.models.dlrm import DLRM
from recdistill.models.shape import Shape
from recdistill.teachers.codes import encode
from recdistill.teachers.protocol import Teacher, open_teacher

COMMITTEE = ("foundation", "context", "content", "behaviour")
EPOCHS = 3


def main() -> None:
    """Measures, and writes the page."""
    arguments = options(__doc__, 200_000)
    torch.set_num_threads(1)
    result, settings = Result("distilling", "rows", arguments), Distill(train=Train(epochs=EPOCHS, patience=EPOCHS))
    with tempfile.TemporaryDirectory() as folder:
        stages = run(teaching(arguments.rows), Path(folder), "cache") / "stages"
        materials = Materials(stages / "ingest", stages / "teach", stages / "cache", COMMITTEE, None)
        opened = materials.open()
        shape, rows = student(opened.shown.dataset), opened.shown.dataset.rows("train")
        teachers = {name: open_teacher(stages / "teach" / name / "final") for name in COMMITTEE}

        def distil(method: Method, reader: Method) -> int:
            def epoch(generator: np.random.Generator) -> Stream:
                return opened.shown.stream(make(reader, opened, shape, settings).method, shape, 1024, generator)

            return EPOCHS * fit_once(make(method, opened, shape, settings), epoch, rows, settings.train)

        def ask() -> int:
            def epoch(generator: np.random.Generator) -> Stream:
                stream = batches(opened.shown.dataset, Rows("train"), 1024, shuffle=generator, features=shape.features)
                return asked(stream, teachers, shape, distiller.method)

            distiller = make("diverse", opened, shape, settings)
            return EPOCHS * fit_once(distiller, epoch, rows, settings.train)

        sides = {
            "diverse": lambda: distil("diverse", "diverse"),
            "diverse, teachers asked": ask,
            "alone, same reader": lambda: distil("alone", "diverse"),
            "alone": lambda: distil("alone", "alone"),
            "mean": lambda: distil("mean", "mean"),
        }
        times = interleaved(sides, arguments.repeats)
    result.say(f"{rows:,} rows, {EPOCHS} times, batches of 1024, a student of dim {shape.dim} and top MLP {shape.top}.")
    result.speeds(times)
    result.compare(times, "diverse", "diverse, teachers asked", target=3)
    result.compare(times, "diverse", "alone, same reader", target=1.25, of="time")
    result.compare(times, "diverse", "alone", target=1.25, of="time")
    result.write()


def teaching(rows: int) -> Job:
    """The job behind the cache. How good its teachers are makes no difference here."""
    plain = job(rows, "teachers.regime=in_sample")
    members = {}
    for name in COMMITTEE:
        size = {"dim": 256, "top": [512, 256]} if name == "foundation" else {"dim": 64, "top": [128, 64]}
        train = Train(epochs=1, batch_size=4096)
        members[name] = plain.teachers.members[name].model_copy(update={**size, "train": train})
    return plain.model_copy(update={"teachers": plain.teachers.model_copy(update={"members": members})})


def make(name: Method, opened: Opened, shape: Shape, settings: Distill) -> Distiller:
    """A new student and its method."""
    torch.manual_seed(0)
    return Distiller(DLRM(shape), make_method(name, opened.members, shape.top[-1], settings))


def asked(stream: Stream, teachers: dict[str, Teacher], shape: Shape, method: LearnedBy) -> Stream:
    """The batches with what the teachers say about them, as the cache would have it."""
    dense = {name: [shape.dense.index(f) for f in shape.dense if f in t.features] for name, t in teachers.items()}
    for batch in stream:
        everyone = torch.ones(len(batch), dtype=torch.bool)
        for name, teacher in teachers.items():
            logit, embedding = teacher.score(replace(batch, dense=batch.dense[:, dense[name]]))
            batch.extra |= {f"logit.{name}": logit, f"logit.{name}?": everyone}
            batch.vectors[f"embedding.{name}"] = whole(torch.from_numpy(encode(embedding.numpy())))
        method.hear(batch)
        yield batch


if __name__ == "__main__":
    main()
