"""One process or many: the process group, and a model under TorchRec's DistributedModelParallel.

Training always goes through DistributedModelParallel, with one rank as with many, so that there is one way through.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
import torchrec
from torch import nn
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints
from torchrec.distributed.planner.types import Topology
from torchrec.distributed.types import ShardingPlan, ShardingType
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper

from recdistill.config.models import Train

# Says at import, of every program alike, that a function of torch.fx has been renamed.
logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)


def device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def join_group() -> None:
    """Joins the group that torchrun made, or makes a group of one that opens no port."""
    if dist.is_initialized():
        return
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if "TORCHELASTIC_RUN_ID" in os.environ:
        dist.init_process_group(backend)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)


def plan(module: nn.Module) -> ShardingPlan:
    """Where each table goes: whole, or in row shards.

    These two alone keep row-wise Adagrad's arithmetic and can be loaded under another number of ranks.
    """
    join_group()
    tables = [
        config.name
        for part in module.modules()
        if isinstance(part, torchrec.EmbeddingBagCollection)
        for config in part.embedding_bag_configs()
    ]
    allowed = ParameterConstraints(
        sharding_types=[ShardingType.TABLE_WISE.value, ShardingType.ROW_WISE.value],
        compute_kernels=[EmbeddingComputeKernel.FUSED.value],
    )
    planner = EmbeddingShardingPlanner(
        topology=Topology(world_size=dist.get_world_size(), compute_device=device().type),
        constraints={name: allowed for name in tables},
    )
    return planner.collective_plan(module, [EmbeddingBagCollectionSharder()], dist.GroupMember.WORLD)


def shard(module: nn.Module, settings: Train) -> tuple[DistributedModelParallel, CombinedOptimizer]:
    """Shards every embedding table in `module`, whose optimizer then runs inside backward, and the optimizer of it all.

    Tables: fused row-wise Adagrad. Everything dense: AdamW. Every number is what it was in `module`; tables on the meta
    device, which have none yet, are drawn here.
    """
    join_group()
    begin = {name: value for name, value in module.state_dict().items() if not value.is_meta}
    for part in module.modules():
        if isinstance(part, torchrec.EmbeddingBagCollection):
            apply_optimizer_in_backward(
                torchrec.optim.RowWiseAdagrad, part.parameters(), {"lr": settings.embedding_rate}
            )
    sharded = DistributedModelParallel(
        module,
        device=device(),
        plan=plan(module),
        sharders=[EmbeddingBagCollectionSharder()],
        init_data_parallel=dist.get_world_size() > 1,
    )
    # Sharded tables are drawn anew, by whatever was drawn before: a seed would mean another student under each method.
    sharded.load_state_dict(begin, strict=False)
    fused = set(sharded.fused_optimizer.params)
    dense = {name: value for name, value in sharded.named_parameters() if name not in fused and value.requires_grad}
    adam = KeyedOptimizerWrapper(
        dense,
        lambda values: torch.optim.AdamW(values, lr=settings.dense_rate, weight_decay=settings.weight_decay),
    )
    return sharded, CombinedOptimizer([sharded.fused_optimizer, ("dense", adam)])


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
