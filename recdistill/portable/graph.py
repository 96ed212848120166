"""An ONNX graph, written down node by node: what the operators are called is said in the ONNX specification."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET, ML_OPSET, IR_VERSION = 18, 4, 9
"""Of the operators, of those of `ai.onnx.ml`, and of the file: what ONNX Runtime 1.18 reads, and later ones do."""
ML = "ai.onnx.ml"


class Graph:
    """Nodes, constants, inputs and outputs, in the order in which they are added. Values are known by their names.

    Those in between have names that no column of a log has.
    """

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def op(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """The value that an operator of one output makes of others."""
        name = f"recdistill::value {len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [name], domain=domain, **attributes))
        return name

    def constant(self, value: Any, dtype: Any = None) -> str:
        """A value that is always the same."""
        name = f"recdistill::constant {len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(value, dtype), name))
        return name

    def input(self, name: str, kind: int, axes: list[str], about: str) -> str:
        """What is asked of the caller: `kind` is one of `TensorProto`'s, `axes` are names of sizes."""
        self._inputs.append(helper.make_tensor_value_info(name, kind, axes, about))
        return name

    def output(self, name: str, value: str, about: str) -> None:
        """What is given back, float32 of one number a row."""
        self._nodes.append(helper.make_node("Identity", [value], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows"], about))

    @property
    def bytes(self) -> int:
        """How large it is so far."""
        parts: list[Any] = [*self._nodes, *self._constants]
        return sum(part.ByteSize() for part in parts)

    def model(self, about: str, metadata: dict[str, str]) -> onnx.ModelProto:
        """The whole, checked against the specification."""
        graph = helper.make_graph(
            self._nodes, "student", self._inputs, self._outputs, self._constants, doc_string=about
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(ML, ML_OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, producer_name="recdistill", ir_version=IR_VERSION)
        helper.set_model_props(model, metadata)
        onnx.checker.check_model(model, full_check=True)
        return model
