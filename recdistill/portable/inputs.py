"""From a log's own values to ids and numbers, as ONNX operators: what `clicklog.encoder` does, for a service.

Ids are looked up as texts, as a log's are: `"7"`, whatever the type of the column. A caller hands in

- the text of a feature of one id, string [rows], of a bag or a history string [rows, any]; `""` is missing, and fills
  up a row of fewer ids;
- where ids are hashed, in place of the text its XXH3-64, uint64, 0 where missing: there is no such operator;
- numbers, float64 [rows], NaN where missing; a number and its buckets are one input; of a history of buckets float64
  [rows, any], NaN fills up.

How many ids of a history are the row's own is counted here, of both.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from onnx import TensorProto, numpy_helper

from recdistill.clicklog.match import with_sources
from recdistill.clicklog.schema import DenseColumn, Schema, Sparse, Table
from recdistill.clicklog.statistics import FINITE
from recdistill.config.dataset import Bag, Dataset, Dense, History, Match
from recdistill.errors import UserError
from recdistill.portable.graph import ML, Graph

MISSING = ""
OUTPUTS = "probability", "logit"
"""What is given back, and so no name of an input."""
KINDS = {
    "text": (TensorProto.STRING, "string"),
    "hash": (TensorProto.UINT64, "uint64"),
    "number": (TensorProto.DOUBLE, "float64"),
}


@dataclass
class Input:
    """What a caller hands in.

    Attributes:
        name: of the log's column; of the feature, for a history or where a column is read in two ways. A column that
            has the name of an output is `input_` and that.
        kind: `text`, `hash` or `number`.
        several: whether a row has several.
        features: those that are made of it.
        most: of several, those that count.
        salt: of a hash.
        history_of: the feature of a user's history.
    """

    name: str
    kind: str
    several: bool
    features: list[str] = field(default_factory=list)
    most: int | None = None
    salt: int | None = None
    history_of: str | None = None

    @property
    def type(self) -> str:
        """Its type and axes, for people."""
        return f"{KINDS[self.kind][1]} {'[rows, any]' if self.several else '[rows]'}"

    @property
    def about(self) -> str:
        """What the caller has to know, for people."""
        one = {
            "text": 'the text, as in the log; ""',
            "hash": f"XXH3-64 of the text in UTF-8, with seed {self.salt}; 0",
            "number": "the number, as in the log; NaN",
        }[self.kind]
        if not self.several:
            return f"{one} where it is missing"
        whose = f"of each {self.history_of} of this user's past, newest first, " if self.history_of else "of each, "
        return f"{whose}at most {self.most:,} a row: {one} fills up a row of fewer"


def inputs_of(spec: Dataset, schema: Schema, features: list[str]) -> list[Input]:
    """What a model of these features is handed, in the order of features."""
    found: list[Input] = []
    for name in with_sources(schema, features):
        section = spec.features[name]
        if isinstance(section, Match):
            continue
        one = Input(name, "number", isinstance(section, Bag | History))
        if isinstance(section, History):
            one.most, one.history_of = section.last, section.of
        else:
            one.name = section.column or name
            one.most = section.max_length if isinstance(section, Bag) else None
        table = None if isinstance(section, Dense) else schema.table(name)
        if table is not None and table.encoding != "bucket":
            hashed = table.encoding == "hash"
            one.kind, one.salt = ("hash", table.salt or 0) if hashed else ("text", None)
        same = [other for other in found if replace(other, features=[]) == one]
        found += [] if same else [one]
        (same or [one])[0].features.append(name)
    columns = Counter(one.name for one in found)
    owner = {name: one for one in found for name in one.features}
    for one in found:
        if columns[one.name] > 1 or owner.get(one.name, one) is not one:
            one.name = one.features[0]
        one.name = f"input_{one.name}" if one.name in OUTPUTS else one.name
    return found


class Reader:
    """Adds to a graph what makes ids and numbers of a caller's values.

    Args:
        graph: where it is added.
        folder: of the student, for its vocabularies.
        schema: of the student.
        spec: how its log was read.
        features: what the model reads.
    """

    def __init__(self, graph: Graph, folder: Path, schema: Schema, spec: Dataset, features: list[str]) -> None:
        self.graph, self.folder, self.schema, self.spec = graph, folder, schema, spec
        self.inputs = inputs_of(spec, schema, features)
        self._given: dict[str, str] = {}
        self._ids: dict[str, str] = {}
        for one in self.inputs:
            axes = ["rows", f"most of {one.name}"] if one.several else ["rows"]
            given = graph.input(one.name, KINDS[one.kind][0], axes, one.about)
            if one.several:
                given = graph.op("Slice", given, *(graph.constant([n], np.int64) for n in (0, one.most or 0, 1)))
            self._given |= dict.fromkeys(one.features, given)
        self._sparse: dict[str, Sparse] = {feature.name: feature for feature in schema.sparse}
        self._dense: dict[str, DenseColumn] = {column.name: column for column in schema.dense}

    def ids(self, feature: str) -> str:
        """Ids of a feature, int64, of the shape that its input has; -1 is none."""
        if feature not in self._ids:
            table, given = self.schema.table(feature), self._given[feature]
            if table.encoding == "bucket":
                self._ids[feature] = self._bucket(table, given)
            elif table.encoding == "hash":
                self._ids[feature] = self._hashed(table, given)
            else:
                self._look_up(table, missing_texts(self.spec, feature))
        return self._ids[feature]

    def _look_up(self, table: Table, missing: list[str]) -> None:
        """Ids of all features of a table with the same `missing`: side by side, so that its texts are there once."""
        values = vocabulary(self.folder, table)
        of_table = [name for name, sparse in self._sparse.items() if sparse.table == table.name]
        features = [name for name in of_table if name in self._given and missing_texts(self.spec, name) == missing]
        bags = {name for name in features if self._sparse[name].kind == "bag"}
        if bags and MISSING in values:
            raise UserError(
                f"{self.folder}: an id of {min(bags)!r} is the empty text, with which shorter rows are filled up"
            )
        if len(features) == 1:
            self._ids[features[0]] = self._known(values, missing, self._given[features[0]])
            return
        g, second, begin = self.graph, self.graph.constant([1], np.int64), self.graph.constant([0], np.int64)
        columns = [
            self._given[name] if name in bags else g.op("Unsqueeze", self._given[name], second) for name in features
        ]
        known = self._known(values, missing, g.op("Concat", *columns, axis=1))
        for name, column in zip(features, columns, strict=True):
            end = g.op("Add", begin, g.op("Shape", column, start=1, end=2))
            ids = g.op("Slice", known, begin, end, second)
            self._ids[name] = ids if name in bags else g.op("Squeeze", ids, second)
            begin = end

    def _known(self, values: list[str], missing: list[str], given: str) -> str:
        none = sorted(set(missing) - set(values))
        ids = np.concatenate([np.arange(1, len(values) + 1), np.full(len(none), -1)])
        return self.graph.op(
            "LabelEncoder",
            given,
            domain=ML,
            keys_tensor=numpy_helper.from_array(np.array([*values, *none], dtype=object)),
            values_tensor=numpy_helper.from_array(ids),
            default_tensor=numpy_helper.from_array(np.zeros(1, np.int64)),
        )

    def _hashed(self, table: Table, given: str) -> str:
        g = self.graph
        rest = g.op("Cast", g.op("Mod", given, g.constant(table.rows - 1, np.uint64)), to=TensorProto.INT64)
        there = g.op("Not", g.op("Equal", given, g.constant(0, np.uint64)))
        return g.op("Where", there, g.op("Add", rest, g.constant(1, np.int64)), g.constant(-1, np.int64))

    def _bucket(self, table: Table, given: str) -> str:
        g = self.graph
        over = g.op(
            "GreaterOrEqual",
            g.op("Unsqueeze", given, g.constant([-1], np.int64)),
            g.constant(table.boundaries or [], np.float64),
        )
        count = g.op("ReduceSum", g.op("Cast", over, to=TensorProto.INT64), g.constant([-1], np.int64), keepdims=0)
        return g.op(
            "Where", g.op("IsNaN", given), g.constant(-1, np.int64), g.op("Add", count, g.constant(1, np.int64))
        )

    def number(self, feature: str) -> str:
        """A dense feature, float32 [rows]: 0 where it is missing or not finite."""
        section = self.spec.features[feature]
        if isinstance(section, Match):
            return self._matches(section.of)
        assert isinstance(section, Dense)
        g, given, column = self.graph, self._given[feature], self._dense[feature]
        size = g.op("Abs", given)
        good = g.op("LessOrEqual", size, g.constant(FINITE, np.float64))
        value = given
        if section.transform == "log":
            value = g.op("Mul", g.op("Sign", given), g.op("Log", g.op("Add", size, g.constant(1.0, np.float64))))
        middle, std = g.constant(column.mean, np.float64), g.constant(column.std, np.float64)
        scaled = g.op("Cast", g.op("Div", g.op("Sub", value, middle), std), to=TensorProto.FLOAT)
        fits = g.op("LessOrEqual", g.op("Abs", scaled), g.constant(FINITE, np.float32))
        return g.op("Where", g.op("And", good, fits), scaled, g.constant(0.0, np.float32))

    def _matches(self, history: str) -> str:
        g, own = self.graph, self._sparse[history].source["of"]
        past, present = self.ids(history), self.ids(own)
        zero, second, third = g.constant(0, np.int64), g.constant([1], np.int64), g.constant([2], np.int64)
        if self._sparse[own].kind == "single":
            present = g.op("Unsqueeze", present, second)
        same = g.op("Equal", g.op("Unsqueeze", past, third), g.op("Unsqueeze", present, second))
        among = g.op("ReduceSum", g.op("Cast", same, to=TensorProto.INT64), third, keepdims=0)
        match = g.op("And", g.op("Greater", among, zero), g.op("Greater", past, zero))
        count = g.op("ReduceSum", g.op("Cast", match, to=TensorProto.DOUBLE), second, keepdims=0)
        return g.op("Cast", g.op("Log", g.op("Add", count, g.constant(1.0, np.float64))), to=TensorProto.FLOAT)


def vocabulary(folder: Path, table: Table) -> list[str]:
    """The texts of a table, that of id 1 first."""
    found: pa.ChunkedArray = pq.read_table(folder / "vocabulary" / f"{table.name}.parquet", columns=["value"])["value"]
    return found.to_pylist()


def missing_texts(spec: Dataset, feature: str) -> list[str]:
    """Texts that stand for no value of a feature: none of an element of a bag but the empty one, of cells the log's."""
    section = spec.features[feature]
    cells = not isinstance(spec.features[section.of] if isinstance(section, History) else section, Bag)
    return [MISSING, *spec.log.nulls] if cells and spec.log else [MISSING]
