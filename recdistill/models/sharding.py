"""A model under TorchRec's DistributedModelParallel: where its tables lie, and how it is optimised.

Training always goes through DistributedModelParallel, with one rank as with many, so that there is one way through.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torchrec
from torch import nn
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DefaultDataParallelWrapper, DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints
from torchrec.distributed.planner.types import PlannerError, Topology
from torchrec.distributed.types import ShardingPlan, ShardingType
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizer, KeyedOptimizerWrapper

from recdistill import parallel, ranks
from recdistill.config.models import Train
from recdistill.errors import UserError
from recdistill.models.shape import module_name
from recdistill.models.tables import learn_here

_SPEED = {"cpu": {"intra_host_bw": 2**30 / 1000}}
"""Bytes a millisecond from rank to rank, where TorchRec's figure (NVLink's) is not right: gloo moves 1 GiB a second."""
_by_rows: set[str] = set()
"""Tables that must be cut by rows."""

# Say of every program alike that functions of torch have been renamed.
logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)
warnings.filterwarnings("ignore", "TBE B200 optimization")


class RowsSharder(EmbeddingBagCollectionSharder):
    """Keeps a table whole or cuts it by rows, on CPUs as on GPUs.

    These two alone keep row-wise Adagrad's arithmetic and can be loaded under another number of ranks.
    """

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """TorchRec's own sharder does not offer rows on CPUs."""
        return [ShardingType.TABLE_WISE.value, ShardingType.ROW_WISE.value]


def device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def cut_by_rows(tables: Sequence[str]) -> None:
    """Has this process cut these tables by rows from now on, whatever the planner would choose (`launch.row_wise`)."""
    _by_rows.update(map(module_name, tables))


def plan_for(module: nn.Module, world: int, here: int, batch_size: int) -> ShardingPlan:
    """Where each table of `module` goes among `world` ranks, `here` of them on each machine, by TorchRec's planner.

    `batch_size` is that of all ranks together. A table is cut as `cut_by_rows` asks, or in the way that takes the least
    time by the planner's model; it stays whole where it has too few rows for every rank to have some.

    Raises `UserError` when the tables do not fit.
    """
    collections = [part for part in module.modules() if isinstance(part, torchrec.EmbeddingBagCollection)]
    tables = [table for part in collections for table in part.embedding_bag_configs()]
    kernel, room, kind = [EmbeddingComputeKernel.FUSED.value], memory(here), device().type
    topology = Topology(world, kind, hbm_cap=room, ddr_cap=room, local_world_size=here, **_SPEED.get(kind, {}))
    constraints = {
        table.name: ParameterConstraints(sharding_types=_kinds(table, world), compute_kernels=kernel)
        for table in tables
    }
    planner = EmbeddingShardingPlanner(topology, -(-batch_size // world), constraints=constraints)
    try:
        return planner.plan(module, [RowsSharder()])
    except PlannerError as error:
        size = sum(table.num_embeddings * (table.embedding_dim + 1) * 4 for table in tables)
        raise UserError(
            f"{len(tables)} tables with their optimizer, {size / 2**30:.1f} GiB, do not fit into {world} "
            f"rank{'s' if world > 1 else ''} of {room / 2**30:.1f} GiB each, of which a part is kept for batches; use "
            "more ranks (launch.ranks), a lower dim, or fewer ids (min_count, max_values, hash)"
        ) from error


def plan(module: nn.Module, batch_size: int) -> ShardingPlan:
    """`plan_for` the ranks that there are: the leader decides, and tells the others."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return ranks.share(plan_for(module, ranks.count(), here, batch_size) if ranks.leads() else None)


def memory(here: int) -> int:
    """Bytes that one of `here` ranks on a machine may fill: a GPU of its own, or its part of the machine's memory."""
    if device().type == "cuda":
        return torch.cuda.get_device_properties(device()).total_memory
    return parallel.memory() // here


def _kinds(table: torchrec.EmbeddingBagConfig, world: int) -> list[str] | None:
    """How a table may be cut; None: as its sharder offers."""
    rows = -(-table.num_embeddings // world)
    if world == 1 or rows * (world - 1) >= table.num_embeddings:  # TorchRec breaks where a rank is left without rows
        return [ShardingType.TABLE_WISE.value]
    return [ShardingType.ROW_WISE.value] if table.name in _by_rows else None


def shard(module: nn.Module, settings: Train) -> tuple[DistributedModelParallel, Optimizers]:
    """Shards every embedding table in `module`, whose optimizer then runs inside backward, and the optimizer of it all.

    Tables: fused row-wise Adagrad. Everything dense: AdamW. Every number is what it was in `module`; tables on the meta
    device, which have none yet, are drawn here.
    """
    ranks.join()
    begin = {name: value for name, value in module.state_dict().items() if not value.is_meta}
    tables = set()
    for place, part in module.named_modules():
        if isinstance(part, torchrec.EmbeddingBagCollection):
            tables |= {name for name, _ in part.named_parameters(prefix=place)}
            apply_optimizer_in_backward(
                torchrec.optim.RowWiseAdagrad, part.parameters(), {"lr": settings.embedding_rate}
            )
    sharded = DistributedModelParallel(
        module,
        device=device(),
        plan=plan(module, settings.batch_size),
        sharders=[RowsSharder()],
        init_data_parallel=ranks.count() > 1,
        # A step need not use every parameter: what teachers say about rows without labels has no part in some losses.
        data_parallel_wrapper=DefaultDataParallelWrapper(static_graph=False, find_unused_parameters=True),
    ).to(device())  # several ranks' wrapper does that itself; one rank has none
    # Sharded tables are drawn anew, by whatever was drawn before: a seed would mean another student under each method.
    sharded.load_state_dict(begin, strict=False)
    learn_here(sharded, alone=ranks.count() == 1)
    dense = {name: value for name, value in sharded.named_parameters() if name not in tables and value.requires_grad}
    decay = settings.weight_decay
    adam = torch.optim.AdamW(list(dense.values()), lr=settings.dense_rate, weight_decay=decay, fused=True)
    for value in dense.values():
        # Adam makes its state at a parameter's first gradient. A checkpoint has that of all, whether or not any came.
        step = torch.zeros((), device=value.device)
        adam.state[value] = {"step": step, "exp_avg": torch.zeros_like(value), "exp_avg_sq": torch.zeros_like(value)}
    return sharded, Optimizers(sharded.fused_optimizer, KeyedOptimizerWrapper(dense, lambda _: adam), adam)


class Optimizers(CombinedOptimizer):
    """Of the tables and of everything dense. Tables learn inside backward: a step is the dense one's alone."""

    def __init__(self, tables: KeyedOptimizer, dense: KeyedOptimizer, adam: torch.optim.Optimizer) -> None:
        super().__init__([tables, ("dense", dense)])
        self._adam = adam

    def step(self, closure: Any = None) -> None:
        """Learns from the gradients that are there."""
        self._adam.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets them; Adam's own takes a fiftieth of a small student's step to say so."""
        for group in self._adam.param_groups:
            for value in group["params"]:
                value.grad = None


@contextmanager
def quiet() -> Iterator[None]:
    """Silences what the libraries say about every model and checkpoint alike: nobody could act on it."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(before)
