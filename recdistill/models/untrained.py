"""A student before it learns: its shape, and which of its ids share rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recdistill.files import file_sha256
from recdistill.models.clusters import CLUSTERS, clustered
from recdistill.models.dlrm import DLRM
from recdistill.models.shape import Shape


@dataclass(frozen=True)
class Untrained:
    """What every student, and every router, of one size begins as; a seed decides the numbers."""

    shape: Shape
    clusters: Path | None = None
    """The folder of a unit of the stage `cluster`, where ids share rows by likeness."""

    def build(self) -> DLRM:
        """A new model, drawn from torch's generator.

        Raises `UserError` where `clusters` are not of such a shape.
        """
        return clustered(DLRM(self.shape), self.clusters)

    def inputs(self) -> dict[str, Any]:
        """Of what depends on it, the inputs."""
        shape = {"shape": self.shape.model_dump()}
        return shape if self.clusters is None else {**shape, "clusters": file_sha256(self.clusters / CLUSTERS)}
