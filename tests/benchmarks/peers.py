"""The peers' models, trained by their own loops in an environment of their own; `student_training.py` starts it.

    python peers.py FOLDER {fuxictr,deepctr}

FOLDER holds `rows.npz` and `spec.json`. For every line on standard input an epoch is trained by a new model, and a line
of JSON with its rows and seconds is printed. Both learn by Adagrad, with the dense gradients that they make.
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch


def fuxictr(folder: Path, spec: dict[str, Any], in_memory: bool) -> Callable[[], Any]:
    """A DLRM of FuxiCTR's own blocks, its loop, and its loader of `.npz` files or batches made beforehand."""
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.dataloaders import RankDataLoader
    from fuxictr.pytorch.layers import FeatureEmbedding, InnerProductInteraction, MLP_Block
    from fuxictr.pytorch.models import BaseModel

    names = [*spec["sparse"], *spec["dense"]]
    sparse = {name: {"type": "categorical", "source": "", "vocab_size": n} for name, n in spec["sparse"].items()}
    features = FeatureMap("rows", str(folder))
    features.features = {**sparse, **{name: {"type": "numeric", "source": ""} for name in spec["dense"]}}
    features.labels, features.num_fields = ["label"], len(names)
    features.set_column_index()

    class DLRM(BaseModel):
        def __init__(self) -> None:
            super().__init__(features, "DLRM", metrics=["logloss"], monitor="logloss", verbose=0, model_root=folder)
            dim, fields = spec["dim"], len(sparse) + 1
            self.embedding = FeatureEmbedding(features, dim, not_required_feature_columns=spec["dense"])
            self.bottom = MLP_Block(len(spec["dense"]), [*spec["bottom"], dim])
            self.interact = InnerProductInteraction(fields, output="inner_product")
            width = fields * dim + fields * (fields - 1) // 2
            self.top = MLP_Block(width, spec["top"], output_dim=1, output_activation=self.output_activation)
            self.compile("Adagrad", "binary_crossentropy", 0.01)

        def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            x = self.get_inputs(inputs)
            dense = self.bottom(torch.stack([x[name] for name in spec["dense"]], dim=1).float())
            vectors = torch.cat([self.embedding(x), dense[:, None]], dim=1)
            return {"y_pred": self.top(torch.cat([vectors.flatten(1), self.interact(vectors)], dim=1))}

    (folder / "rows").mkdir(exist_ok=True)
    path, size = str(folder / "rows.npz"), spec["batch_size"]
    train, few = RankDataLoader(features, "train", path, str(folder / "few.npz"), batch_size=size, shuffle=True)
    stream, few = (list(train), list(few)) if in_memory else (train, few)
    return lambda: DLRM().fit(stream, epochs=1, validation_data=few)


def deepctr(folder: Path, spec: dict[str, Any]) -> Callable[[], Any]:
    """DeepCTR-Torch's PNN, of its models the nearest to a DLRM: dense features have no MLP of their own."""
    from deepctr_torch.inputs import DenseFeat, SparseFeat
    from deepctr_torch.models import PNN

    columns = [SparseFeat(name, rows, spec["dim"]) for name, rows in spec["sparse"].items()]
    columns += [DenseFeat(name, 1) for name in spec["dense"]]
    rows = dict(np.load(folder / "rows.npz"))
    label = rows.pop("label")

    def train() -> None:
        model = PNN(columns, tuple(spec["top"]), l2_reg_embedding=0)
        model.compile("adagrad", "binary_crossentropy")
        model.fit(dict(rows), label, batch_size=spec["batch_size"], epochs=1, verbose=0)

    return train


def main() -> None:
    folder, peer = Path(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    spec = json.loads((folder / "spec.json").read_text())
    with contextlib.redirect_stdout(sys.stderr):
        train = deepctr(folder, spec) if peer == "deepctr" else fuxictr(folder, spec, peer == "fuxictr-in-memory")
    for _ in sys.stdin:
        before = time.perf_counter(), _cpu()
        with contextlib.redirect_stdout(sys.stderr):
            train()
        print(json.dumps([spec["rows"], time.perf_counter() - before[0], _cpu() - before[1]]), flush=True)


def _cpu() -> float:
    """Processor seconds of this process and of the loader's, which has ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


if __name__ == "__main__":
    main()
