"""Vision through the same distillation: scanned digits, a convolution as the foundation, a student of embedding bags.

    python pipelines/examples/digits.py --out runs/digits

The question to each of scikit-learn's 1,797 images of 8 x 8 pixels is whether its digit is odd. Three teachers are
known by their answers alone (`kind: file`): a convolution in torch, with its last activation as the embedding, and
boosted trees that see the left or the right half. Their answers on training rows are out of fold.
The student is a DLRM like any other: pixels as dense columns, the ink of each row and column of the image as buckets.
`recdistill/distill/` does not know that any of this is an image.

2026-11-28, commit b61bea3, five seeds, 634 test images, 95% intervals: the student is 19.8 times smaller (1,901
parameters against 37,697), the gap is 0.0088 in AUC and 0.135 in NE. `diverse` recovers 10% [-10, 30] and 7% [-4, 18]
of it, the best baseline, `confidence`, 35% [-3, 62] and 21% [1, 39]: 886 images to learn from and 277 to tell which
teacher is right are too few.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.ensemble import HistGradientBoostingClassifier
from torch import nn

from recdistill.analysis import run_job, split_ids
from recdistill.files import write_text
from recdistill.teachers.calibration import alignment

Floats = NDArray[np.float32]
Fitted = Callable[[Floats], tuple[Floats, Floats | None]]
"""Pixels [images, 64] to logits [images] and embeddings [images, width] or None."""

SIDE, FOLDS, WIDTH = 8, 5, 64
EPOCHS = 30
JOB = """\
name: digits
dataset:
  log: {{paths: "{root}/images.parquet"}}
  label: {{column: odd}}
  example_id: example_id
  split: {{by: random, validation: 0.15, test: 0.35}}
  features:
    pixel0..pixel63: {{kind: dense}}
    row0..row7, column0..column7: {{kind: bucket, bins: 8}}
teachers:
  regime: out_of_fold
  foundation: convolution
  members:
    convolution: {{kind: file, paths: "{root}/convolution.parquet", parameters: {parameters}}}
    left: {{kind: file, paths: "{root}/left.parquet"}}
    right: {{kind: file, paths: "{root}/right.parquet"}}
student: {{compression: 12, interaction: none, dims: [4], top: [16]}}
distill:
  train: {{batch_size: 64, epochs: 40, patience: 5, embedding_rate: 0.05, dense_rate: 3.e-3}}
"""


class Convolution(nn.Module):
    """Two convolutions and two linear layers; the activation before the last is the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(32 * (SIDE // 2) ** 2, WIDTH),
            nn.ReLU(),
        )
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pixels [B, 64] to logits [B] and embeddings [B, 64]."""
        hidden = self.body(pixels.view(-1, 1, SIDE, SIDE) / 16)
        return self.head(hidden).squeeze(1), hidden


def main(out: Path, *changes: str) -> None:
    """Writes the images, has teachers answer, and runs the job, with `changes` to its settings."""
    root = out.resolve().parent / f"{out.name}-images"
    parameters = sum(values.numel() for values in Convolution().parameters())
    write_text(root / "digits.yaml", JOB.format(root=root, parameters=parameters))
    pixels, digits = load_digits(return_X_y=True)
    pixels, odd = pixels.astype(np.float32), (digits % 2).astype(np.float32)
    write_images(pixels, odd, root / "images.parquet")
    split = split_ids(root / "digits.yaml", out, *changes)  # an image's id is its position
    halves = np.arange(SIDE * SIDE).reshape(SIDE, SIDE)
    teachers = {
        "convolution": fit_convolution,
        "left": lambda x, y: fit_trees(x, y, halves[:, : SIDE // 2].ravel()),
        "right": lambda x, y: fit_trees(x, y, halves[:, SIDE // 2 :].ravel()),
    }
    for name, fit in teachers.items():
        answer(pixels, odd, split, fit, root / f"{name}.parquet")
    print(run_job(root / "digits.yaml", out, *changes).headline)


def write_images(pixels: Floats, odd: Floats, path: Path) -> None:
    """The raw log: an image a row, its pixels, and the ink of its rows and columns."""
    square = pixels.reshape(-1, SIDE, SIDE)
    columns = {"example_id": np.arange(len(odd)), "odd": odd.astype(np.int64)}
    columns |= {f"pixel{at}": pixels[:, at] for at in range(SIDE * SIDE)}
    columns |= {f"row{at}": square[:, at].sum(1) for at in range(SIDE)}
    columns |= {f"column{at}": square[:, :, at].sum(1) for at in range(SIDE)}
    pq.write_table(pa.table(columns), path)


def answer(
    pixels: Floats,
    odd: Floats,
    split: dict[str, NDArray[np.int64]],
    fit: Callable[[Floats, Floats], Fitted],
    path: Path,
) -> None:
    """Writes a teacher's answers: each training image by a model that has not seen its fold, all others by a final one.

    Models that are trained apart have embedding spaces of their own, so each fold's is moved into the final one's by
    what both say about validation images.
    """
    train = split["train"]
    final = fit(pixels[train], odd[train])
    validation = pixels[split["validation"]]
    said = [(at, *final(pixels[at])) for at in (split["validation"], split["test"])]
    folds = np.random.default_rng(0).permutation(len(train)) % FOLDS
    for fold in range(FOLDS):
        inside, outside = train[folds == fold], train[folds != fold]
        fitted = fit(pixels[outside], odd[outside])
        logit, embedding = fitted(pixels[inside])
        target = final(validation)[1]
        if embedding is not None and target is not None:
            moved = alignment(fitted(validation)[1], target)
            embedding = np.column_stack([embedding, np.ones(len(embedding))]) @ moved
        said.append((inside, logit, embedding))
    columns = {"example_id": np.concatenate([at for at, _, _ in said])}
    columns["logit"] = np.concatenate([logit for _, logit, _ in said]).astype(np.float32)
    if said[0][2] is not None:
        columns["embedding"] = list(np.concatenate([embedding for _, _, embedding in said]).astype(np.float32))
    pq.write_table(pa.table(columns), path)


def fit_convolution(pixels: Floats, odd: Floats) -> Fitted:
    """Trains a convolution."""
    torch.manual_seed(0)
    model, x, y = Convolution(), torch.from_numpy(pixels), torch.from_numpy(odd)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(EPOCHS):
        for at in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(model(x[at])[0], y[at]).backward()
            optimizer.step()
    model.eval()

    @torch.no_grad()
    def score(images: Floats) -> tuple[Floats, Floats]:
        logit, hidden = model(torch.from_numpy(images))
        return logit.numpy(), hidden.numpy()

    return score


def fit_trees(pixels: Floats, odd: Floats, seen: NDArray[np.int64]) -> Fitted:
    """Trains boosted trees that see some of the pixels; they have no embedding."""
    model = HistGradientBoostingClassifier(max_iter=100, random_state=0).fit(pixels[:, seen], odd)
    return lambda images: (model.decision_function(images[:, seen]), None)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/digits"), help="the run folder")
    main(parser.parse_args().out)
