"""Writes the file, after it has given the student's own answers in ONNX Runtime."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq

from recdistill import __version__
from recdistill.clicklog.encode import section_of
from recdistill.clicklog.schema import Schema, Table, read_schema
from recdistill.config.dataset import Dataset, Dense
from recdistill.errors import UserError
from recdistill.export import EXPECTED, TOLERANCE, open_student
from recdistill.files import atomic
from recdistill.models.frozen import load_shape
from recdistill.portable.graph import Graph
from recdistill.portable.inputs import Input, Reader, inputs_of, missing_texts, vocabulary
from recdistill.portable.student import StudentGraph

LARGEST = 2_000_000_000
"""Bytes of such a file: it is one message of Protocol Buffers, of less than 2 GiB."""


def write_onnx(student: Path, out: Path) -> list[Input]:
    """Writes the exported student in the folder `student` as the file `out`, and returns what it is handed.

    It gives `probability` and `logit`, float32 [rows], which speak about true traffic, as scores do.

    Raises:
        UserError: the student is damaged, or has no such file: it is too large, or an id of a bag is the empty text.
    """
    model, schema = open_student(student)
    spec = section_of(student, schema)
    graph = Graph()
    reader = Reader(graph, student, schema, spec, model.shape.features)
    shift = math.log(schema.negative_keep_rate)
    logit = graph.op("Add", StudentGraph(graph, model.cpu()).logit(reader), graph.constant(shift, np.float32))
    graph.output("probability", graph.op("Sigmoid", logit), "of a click, about true traffic")
    graph.output("logit", logit, "of that probability")
    if graph.bytes > LARGEST:
        raise UserError(f"{student}: {graph.bytes:,} bytes with its vocabularies; an ONNX file has at most {LARGEST:,}")
    about = json.dumps({one.name: one.about for one in reader.inputs}, ensure_ascii=False)
    written = graph.model("A student of recdistill's.", {"recdistill": __version__, "inputs": about})
    with atomic(out) as partial:
        partial.write_bytes(written.SerializeToString())
        _check(partial, student, shift)
    return reader.inputs


def open_onnx(path: Path) -> onnxruntime.InferenceSession:
    """The file in ONNX Runtime, with one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def example(student: Path) -> dict[str, np.ndarray]:
    """Values that the file may be handed: such as the rows of the student's own check may have been made of."""
    schema, check = read_schema(student), _check_of(student)
    spec = section_of(student, schema)
    inputs = inputs_of(spec, schema, load_shape(student).features)
    return {one.name: _values(one, check, student, schema, spec) for one in inputs}


def _check_of(student: Path) -> pa.Table:
    return pq.read_table(student / "check.parquet", partitioning=None)


def _check(path: Path, student: Path, shift: float) -> None:
    """Compares the file's logits with those of the student's own check."""
    (logit,) = open_onnx(path).run(["logit"], example(student))
    worst = float(np.abs(logit - shift - _check_of(student)[EXPECTED].to_numpy()).max())
    if not worst <= TOLERANCE:
        raise RuntimeError(f"the ONNX file's logits differ by {worst:.2g} from the student's")


def _values(one: Input, check: pa.Table, student: Path, schema: Schema, spec: Dataset) -> np.ndarray:
    """Values of the log that the check's rows may have been made of."""
    if one.kind == "number" and not one.several:
        return _numbers(one, check, schema, spec)
    feature = one.features[0]
    table, ids = schema.table(feature), check[feature].to_pylist()
    if one.several:
        length = max(map(len, ids))
        ids = [[*row, *[None] * (length - len(row))] for row in ids]
    word = _word(one.kind, table, student, missing_texts(spec, feature))
    if one.several:
        return np.array([[word(id_) for id_ in row] for row in ids], dtype=_dtype(one)).reshape(len(ids), length)
    return np.array([word(id_) for id_ in ids], dtype=_dtype(one))


def _dtype(one: Input) -> Any:
    return {"text": object, "hash": np.uint64, "number": np.float64}[one.kind]


def _word(kind: str, table: Table, student: Path, missing: list[str]) -> Any:
    """What a log may have had for an id."""
    if kind == "text":
        return _text_of(student, table, missing)
    return _hash_of(table) if kind == "hash" else _number_of(table)


def _number_of(table: Table) -> Any:
    edges = [-math.inf, *(table.boundaries or [])]  # the least of each bucket
    return lambda id_: math.nan if id_ is None else edges[id_ - 1]


def _hash_of(table: Table) -> Any:
    size = table.rows - 1  # 0 is missing, and `size` has the same rest
    return lambda id_: 0 if id_ is None else (id_ - 1 or size)


def _text_of(student: Path, table: Table, missing: list[str]) -> Any:
    values = vocabulary(student, table)
    known, unseen = {*values, *missing}, "?"
    while unseen in known:
        unseen += "?"
    return lambda id_: missing[0] if id_ is None else values[id_ - 1] if id_ else unseen


def _numbers(one: Input, check: pa.Table, schema: Schema, spec: Dataset) -> np.ndarray:
    """Numbers that are scaled to those of the check, in the buckets that these have."""
    numbers, as_dense = np.zeros(check.num_rows), np.full(check.num_rows, np.nan)
    for name in one.features:
        section = spec.features[name]
        if isinstance(section, Dense):
            column, as_dense = next(each for each in schema.dense if each.name == name), check[name].to_numpy()
            numbers = as_dense.astype(np.float64) * column.std + column.mean
            if section.transform == "log":
                numbers = np.sign(numbers) * np.expm1(np.abs(numbers))
    for name in one.features:
        if isinstance(spec.features[name], Dense):
            continue
        ids = check[name].to_numpy().astype(np.float64)  # NaN where there is none
        edges = np.array([-np.inf, *(schema.table(name).boundaries or []), np.inf])
        at = np.nan_to_num(ids, nan=1.0).astype(np.int64)
        inside = np.clip(numbers, edges[at - 1], np.nextafter(edges[at], -np.inf))
        # An infinite number is 0 as a dense one, which is the mean, and yet in an outer bucket.
        infinite = (as_dense == 0) & ~np.isclose(inside, numbers)
        numbers = np.where(infinite, np.where(at == 1, -np.inf, np.inf), inside)
        numbers[np.isnan(ids)] = np.nan
    return numbers
