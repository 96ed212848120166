"""A DLRM's own operators: from ids and numbers to a logit, as `models.dlrm` and `models.lookup` do it."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from recdistill.models.dlrm import DLRM
from recdistill.models.sharing import BITS, KNUTH, PRIME
from recdistill.portable.graph import Graph
from recdistill.portable.inputs import Reader


class StudentGraph:
    """Adds a student that looks up all features at once (`DLRM.at_once`) to a graph."""

    def __init__(self, graph: Graph, model: DLRM) -> None:
        assert model.lookup is not None
        self.graph, self.model, self.shape, self.lookup = graph, model, model.shape, model.lookup
        tables = self.lookup.tables.numpy()
        self._nowhere = len(tables)
        self._tables = graph.constant(np.concatenate([tables, np.zeros_like(tables[:1])]))
        if count := sum(self.lookup.sharing.clustered):
            clusters = self.lookup.sharing.cluster(torch.arange(count)).numpy()
            self._clusters = graph.constant(clusters)
            self._ends = [graph.constant(end, np.int64) for end in (0, len(clusters) - 1)]

    def logit(self, reader: Reader) -> str:
        """Float32 [rows]."""
        x = self._interact(self._vectors(reader))
        for layer in self.model.top:
            x = self._layer(layer, x)
        return self.graph.op("Squeeze", self._linear(self.model.head, x), self.graph.constant([1], np.int64))

    def _vectors(self, reader: Reader) -> str:
        """The vectors that interact, float32 [rows, fields, dim]."""
        g, bags = self.graph, set(self.shape.bags)
        singles = [at for at, name in enumerate(self.shape.sparse) if name not in bags]
        order, parts = list(singles), []
        if singles:
            ids = [g.op("Unsqueeze", reader.ids(self.shape.sparse[at]), g.constant([1], np.int64)) for at in singles]
            parts.append(g.op("Gather", self._tables, self._rows(g.op("Concat", *ids, axis=1), singles), axis=0))
        for at, name in enumerate(self.shape.sparse):
            if name in bags:
                parts.append(self._mean(reader.ids(name), at))
                order.append(at)
        vectors = g.op("Concat", *parts, axis=1)
        if order != sorted(order):
            vectors = g.op("Gather", vectors, g.constant(np.argsort(order), np.int64), axis=1)
        if self.model.bottom is None:
            return vectors
        numbers = [g.op("Unsqueeze", reader.number(name), g.constant([1], np.int64)) for name in self.shape.dense]
        dense = g.op("Concat", *numbers, axis=1)
        for layer in self.model.bottom:
            dense = self._layer(layer, dense)
        return g.op("Concat", vectors, g.op("Unsqueeze", dense, g.constant([1], np.int64)), axis=1)

    def _rows(self, ids: str, features: list[int]) -> str:
        """Where ids, int64 [rows, features or one], lie in all tables end to end; see `models.sharing`."""
        g, sharing, begin = self.graph, self.lookup.sharing, self.lookup.begin[features].numpy()
        rows = ids
        if any(sharing.cut):
            of, limits = np.array(self.lookup.table_of)[features], (sharing.own, sharing.shared, sharing.clustered)
            own, shared, clustered, first = (np.array(limit)[of] for limit in (*limits, sharing.first))
            mixed = g.op("Mul", g.op("Mod", ids, g.constant(PRIME, np.int64)), g.constant(KNUTH, np.int64))
            tail = g.op("Mod", g.op("Div", mixed, g.constant(1 << BITS, np.int64)), g.constant(shared))
            if clustered.any():
                at = g.op("Sub", ids, g.constant(own))
                known = g.op("Less", at, g.constant(clustered))
                among = g.op("Clip", g.op("Add", at, g.constant(first)), *self._ends)
                tail = g.op("Where", known, g.op("Gather", self._clusters, among, axis=0), tail)
            rows = g.op("Where", g.op("Less", ids, g.constant(own)), ids, g.op("Add", tail, g.constant(own)))
        there = g.op("GreaterOrEqual", ids, g.constant(0, np.int64))
        return g.op("Where", there, g.op("Add", rows, g.constant(begin)), g.constant(self._nowhere, np.int64))

    def _mean(self, ids: str, feature: int) -> str:
        """The mean vector of each row's ids, float32 [rows, 1, dim]."""
        g, second = self.graph, self.graph.constant([1], np.int64)
        total = g.op("ReduceSum", g.op("Gather", self._tables, self._rows(ids, [feature]), axis=0), second, keepdims=1)
        there = g.op("Cast", g.op("GreaterOrEqual", ids, g.constant(0, np.int64)), to=1)
        count = g.op("Max", g.op("ReduceSum", there, second, keepdims=1), g.constant(1.0, np.float32))
        return g.op("Div", total, g.op("Unsqueeze", count, second))

    def _interact(self, vectors: str) -> str:
        """What enters the top MLP, float32 [rows, interacted]."""
        g, shape = self.graph, self.shape
        flat = g.op("Reshape", vectors, g.constant([-1, shape.flat], np.int64))
        if self.model.cross is not None:
            x = flat
            for layer in self.model.cross.layers:
                assert isinstance(layer, nn.Linear)
                x = g.op("Add", g.op("Mul", flat, self._linear(layer, x)), x)
            return x
        if shape.interaction == "none":
            return flat
        dots = g.op("MatMul", vectors, g.op("Transpose", vectors, perm=[0, 2, 1]))
        dots = g.op("Reshape", dots, g.constant([-1, shape.fields**2], np.int64))
        return g.op("Concat", flat, g.op("Gather", dots, g.constant(self.model.pairs.numpy()), axis=1), axis=1)

    def _layer(self, layer: nn.Module, x: str) -> str:
        """A linear map and its ReLU."""
        assert isinstance(layer, nn.Sequential) and isinstance(layer[0], nn.Linear)
        return self.graph.op("Relu", self._linear(layer[0], x))

    def _linear(self, layer: nn.Linear, x: str) -> str:
        weight, bias = (self.graph.constant(_numbers(value)) for value in (layer.weight, layer.bias))
        return self.graph.op("Gemm", x, weight, bias, transB=1)


def _numbers(value: torch.Tensor) -> np.ndarray:
    return value.detach().numpy()
