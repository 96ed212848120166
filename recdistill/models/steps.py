"""A model's steps through TorchRec's pipeline.

While ranks learn from a batch, the ids of the next one are on their way to the ranks that have their rows, and the one
after it is on its way to the GPU. A process that is alone, without a GPU, has nothing to send: there the pipeline costs
8% of a small student's step for nothing, and one step follows another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

from recdistill import ranks
from recdistill.clicklog.batches import Batch
from recdistill.errors import UserError
from recdistill.models.fault import find_fault
from recdistill.models.sharding import device, quiet
from recdistill.models.task import Task, own_rows


class NotFinite(Exception):
    """A loss that nobody has learned from, and this rank's batch."""

    def __init__(self, loss: float, batch: Batch) -> None:
        super().__init__(loss)
        self.loss, self.batch = loss, batch


Forward = Callable[[Batch | None], tuple[Tensor, float]]
"""The loss to learn from, and its value over all ranks."""


class InTurn:
    """What TorchRec's pipelines are to `Steps`, without a pipeline."""

    def __init__(self, optimizer: torch.optim.Optimizer, forward: Forward) -> None:
        self._optimizer, self._forward = optimizer, forward

    def progress(self, stream: Iterator[Batch]) -> float:
        """Learns from the next batch; `StopIteration` where there is none."""
        loss, value = self._forward(next(stream))
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return value

    def detach(self) -> None:
        """Nothing: the model is as it was."""


class Steps:
    """The steps of `model`, a sharded `task`, by `optimizer`."""

    def __init__(self, model: DistributedModelParallel, task: Task, optimizer: torch.optim.Optimizer) -> None:
        self._model, self._task = model, task
        self._pipeline: InTurn | TrainPipelineSparseDist
        if ranks.count() == 1 and device().type == "cpu":
            self._pipeline = InTurn(optimizer, self._loss)
        else:
            with quiet():
                self._pipeline = TrainPipelineSparseDist(model, optimizer, device(), custom_model_fwd=self._loss)

    def learn(self, stream: Iterable[Batch], label: str, epoch: int, done: int) -> list[float]:
        """Learns from each batch, which all ranks read alike, its own rows; returns the losses over the rows of all.

        Raises `UserError` in every rank when a loss is not finite, before any of them learns from it; it names the
        batch, `done` being how many of this epoch (from 1 on) were learned from before.
        """
        self._model.train()
        losses: list[float] = []
        own = (self._task.dlrm.located(own_rows(batch)) for batch in stream)
        try:
            while True:
                losses.append(self._pipeline.progress(own))
        except StopIteration:
            # Whoever looks at the model now, such as validation, has it without the pipeline.
            self._pipeline.detach()
            return losses
        except NotFinite as fault:
            self._pipeline.detach()
            at = f"epoch {epoch}, batch {done + len(losses) + 1}"
            why = find_fault(self._task.dlrm, fault.batch)
            raise UserError(f"{label}: the loss is {fault.loss} in {at}; it was not learned. {why}") from None

    def _loss(self, batch: Batch | None) -> tuple[Tensor, float]:
        assert batch is not None
        loss = self._model(batch)
        value = ranks.mean(loss).item()
        if not math.isfinite(value):
            raise NotFinite(value, batch)
        return loss, value
