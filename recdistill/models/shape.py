"""A DLRM's shape, spelled out to the last parameter: enough to build it, to count it, to ship it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from recdistill.clicklog.schema import Schema
from recdistill.config.models import Architecture

Size = Annotated[int, Field(ge=1)]
LEAST = 4
"""Numbers in a row that fbgemm's kernels take at least."""


@cache
def module_name(table: str) -> str:
    """What a table is called among torch's modules, which allow neither dots nor names of their own, such as `type`."""
    from torch import nn

    taken = "." in table or hasattr(nn.ModuleDict(), table)
    return "/" + table.replace(".", "/") if taken else table  # no feature has a slash in its name


class TableShape(BaseModel):
    """One embedding table: `rows` of its own for `source_rows` ids of the dataset.

    Where `rows` is smaller, the first `own` ids (the most frequent ones) keep a row each, and all others share the
    remaining rows: the next `clustered` ids by likeness (`models.clusters`), those after them by hash.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    features: list[str]
    rows: Size
    source_rows: Size
    own: Size
    clustered: int = Field(0, ge=0)

    @property
    def module(self) -> str:
        """What it is called among torch's modules."""
        return module_name(self.name)

    @model_validator(mode="after")
    def _has_a_row_for_every_id(self) -> TableShape:
        if not (self.own == self.rows == self.source_rows or self.own < self.rows < self.source_rows):
            raise ValueError("expected a row for every id, or fewer rows, some of them shared")
        if self.clustered > self.source_rows - self.own:
            raise ValueError("expected no more clustered ids than there are that share rows")
        return self


class Shape(BaseModel):
    """Everything that decides a DLRM's parameters and operations."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    dim: Size
    tables: list[TableShape]
    sparse: list[str] = Field(min_length=1)
    bags: list[str] = []
    """Those of `sparse` that have several ids in a row."""
    dense: list[str]
    bottom: list[Size]
    interaction: Literal["dot", "cross", "none"]
    cross_layers: Size
    top: list[Size] = Field(min_length=1)
    dropout: float = Field(ge=0, lt=1)
    unknown: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _fits_together(self) -> Shape:
        looked_up = [feature for table in self.tables for feature in table.features]
        if sorted(looked_up) != sorted(self.sparse) or len(set(self.features)) < len(self.features):
            raise ValueError("expected every feature once, and those of ids in one table each")
        return self

    @property
    def features(self) -> list[str]:
        """Columns that the model reads."""
        return [*self.dense, *self.sparse]

    @property
    def fields(self) -> int:
        """Vectors that interact: one a sparse feature, one for all dense ones together."""
        return len(self.sparse) + bool(self.dense)

    @property
    def flat(self) -> int:
        """Width of all vectors end to end."""
        return self.fields * self.dim

    @property
    def interacted(self) -> int:
        """Width of what enters the top MLP."""
        return self.flat + (self.fields * (self.fields - 1) // 2 if self.interaction == "dot" else 0)

    @property
    def fold(self) -> int:
        """Vectors that lie side by side in a row of a table as it is stored."""
        return max(1, LEAST // self.dim)

    @property
    def width(self) -> int:
        """Numbers in a row of a table as it is stored."""
        return self.dim * self.fold

    def height(self, table: TableShape) -> int:
        """Rows of a table as it is stored."""
        return -(-table.rows // self.fold)

    def keys(self, feature: str) -> list[str]:
        """What a feature is called where tables look it up; one of several ids has a key for each place in a row."""
        places = range(self.fold if feature in self.bags else 1)
        return [feature] if len(places) == 1 else [f"{feature}@{at}" for at in places]

    @property
    def cut(self) -> int:
        """How many layers of the top MLP make the embedding; the others answer questions."""
        return max(1, len(self.top) - 1)

    @property
    def embedding_dim(self) -> int:
        """Width of the activation in the middle of the top MLP."""
        return self.top[self.cut - 1]

    @property
    def known(self) -> dict[str, int]:
        """Of tables in which every id has a vector of its own, how many."""
        return {table.name: table.rows for table in self.tables if table.rows == table.source_rows}

    @property
    def clusters(self) -> int:
        """Numbers of 32 bits that say which rows clustered ids share, two ids in each where 16 bits are enough."""
        return -(-sum(table.clustered for table in self.tables) // (2 if packs(self.tables) else 1))

    def account(self) -> dict[str, int]:
        """Parameters by place; their sum is every number of the model, those that say who shares a row too."""
        bottom = _mlp([len(self.dense), *self.bottom, self.dim]) if self.dense else 0
        cross = self.cross_layers * (self.flat**2 + self.flat) if self.interaction == "cross" else 0
        top = _mlp([self.interacted, *self.top]) + self.top[-1] + 1
        tables = sum(map(self.height, self.tables)) * self.width
        return {"tables": tables, "clusters": self.clusters, "bottom": bottom, "interaction": cross, "top": top}

    def parameters(self) -> int:
        """Every number of the model."""
        return sum(self.account().values())

    def told(self) -> str:
        """The account for people."""
        parts = ", ".join(f"{place} {count:,}" for place, count in self.account().items() if count)
        rows = sum(table.rows for table in self.tables)
        return f"dim {self.dim}, {rows:,} rows: {self.parameters():,} parameters ({parts})"


def shape_of(architecture: Architecture, dim: int, schema: Schema, features: list[str] | None) -> Shape:
    """The shape of an architecture on a dataset, with a row for every id."""
    chosen = None if features is None else set(features)
    sparse = [feature for feature in schema.sparse if chosen is None or feature.name in chosen]
    tables = []
    for table in schema.tables:
        users = [feature.name for feature in sparse if feature.table == table.name]
        if users:
            tables.append(
                TableShape(name=table.name, features=users, rows=table.rows, source_rows=table.rows, own=table.rows)
            )
    return Shape(
        dim=dim,
        tables=tables,
        sparse=[feature.name for feature in sparse],
        bags=[feature.name for feature in sparse if feature.kind == "bag"],
        dense=[column.name for column in schema.dense if chosen is None or column.name in chosen],
        bottom=architecture.bottom,
        interaction=architecture.interaction,
        cross_layers=architecture.cross_layers,
        top=architecture.top,
        dropout=architecture.dropout,
        unknown=architecture.unknown,
    )


def packs(tables: Sequence[TableShape]) -> bool:
    """Whether 16 bits say which of its table's shared rows an id has."""
    return all(table.rows - table.own <= 1 << 16 for table in tables)


def _mlp(widths: list[int]) -> int:
    return sum(a * b + b for a, b in itertools.pairwise(widths))
