"""Vision through the same distillation: scanned digits, a convolution as the foundation, a student of embedding bags.

    python pipelines/examples/digits.py --out runs/digits

The question to each of scikit-learn's 1,797 images of 8 x 8 pixels is whether its digit is odd. Three teachers are known
by their answers alone (`kind: file`): a convolution in torch, with its last activation as the embedding, and boosted
trees that see the left or the right half. Their answers on training images are out of fold, as from any honest teacher.
The student is a DLRM like any other: pixels as dense columns, the ink of each row and column of the image as buckets.
All learn from training images moved by a pixel too; the test images are as they were scanned.
`recdistill/distill/` does not know that any of this is an image.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.ensemble import HistGradientBoostingClassifier
from torch import nn

from recdistill.config.load import load_job
from recdistill.files import write_text
from recdistill.progress import on_stderr
from recdistill.runs import Run
from recdistill.stages import run_job
from recdistill.teachers.cache import alignment

Floats = NDArray[np.float32]
Fitted = Callable[[Floats], tuple[Floats, Floats | None]]
"""Pixels [images, 64] to logits [images] and embeddings [images, width] or None."""

SIDE, FOLDS, WIDTH = 8, 5, 64
EPOCHS = 15
SHARES = {"train": 0.5, "validation": 0.15, "test": 0.35}
SHIFTS = {"train": [(0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)], "validation": [(0, 0)], "test": [(0, 0)]}
"""How images of a split are moved, in pixels down and to the right."""
JOB = """\
name: digits
dataset:
  log: {{paths: "{root}/images.parquet"}}
  label: {{column: odd}}
  example_id: example_id
  time: {{column: day, unit: datetime}}              # a day for each split: an image and its copies stay together
  split: {{by: days, validation: 1, test: 1}}
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
  train: {{batch_size: 128, epochs: 20, patience: 3, embedding_rate: 0.02, dense_rate: 2.e-3}}
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


@dataclass
class Images:
    """Rows of the log: pixels 0 to 16 [rows, 64], whether the digit is odd, which image it shows, and its split."""

    pixels: Floats
    odd: Floats
    image: NDArray[np.int64]
    split: NDArray[np.str_]

    def take(self, at: NDArray) -> Images:
        """Some of the rows."""
        return Images(self.pixels[at], self.odd[at], self.image[at], self.split[at])


def main(out: Path, *changes: str) -> None:
    """Writes the images, has teachers answer, and runs the job, with `changes` to its settings."""
    root = out.resolve().parent / f"{out.name}-images"
    parameters = sum(values.numel() for values in Convolution().parameters())
    write_text(root / "digits.yaml", JOB.format(root=root, parameters=parameters))
    images = read_images()
    write_log(images, root / "images.parquet")
    halves = np.arange(SIDE * SIDE).reshape(SIDE, SIDE)
    answer(images, fit_convolution, root / "convolution.parquet")
    answer(images, lambda seen: fit_trees(seen, halves[:, : SIDE // 2].ravel()), root / "left.parquet")
    answer(images, lambda seen: fit_trees(seen, halves[:, SIDE // 2 :].ravel()), root / "right.parquet")
    job = load_job(root / "digits.yaml", changes)
    with on_stderr() as progress, Run(out, job, progress) as run:
        run_job(job, run, "export", progress)


def read_images() -> Images:
    """Every image, in a split drawn at random, and copies of the training images that are moved by a pixel."""
    pixels, digits = load_digits(return_X_y=True)
    splits = np.random.default_rng(0).choice(list(SHARES), len(digits), p=list(SHARES.values()))
    parts = []
    for split, shifts in SHIFTS.items():
        at = np.flatnonzero(splits == split)
        for shift in shifts:
            moved = np.roll(pixels[at].reshape(-1, SIDE, SIDE), shift, axis=(1, 2)).reshape(-1, SIDE * SIDE)
            parts.append((moved, digits[at] % 2, at, splits[at]))
    moved, odd, image, split = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Images(moved.astype(np.float32), odd.astype(np.float32), image, split)


def write_log(images: Images, path: Path) -> None:
    """The raw log: an image a row, its pixels, and the ink of its rows and columns."""
    square = images.pixels.reshape(-1, SIDE, SIDE)
    day = pd.Timestamp("2026-01-01") + pd.to_timedelta([list(SHARES).index(split) for split in images.split], "D")
    columns = {"example_id": np.arange(len(images.odd)), "odd": images.odd.astype(np.int64), "day": day}
    columns |= {f"pixel{at}": images.pixels[:, at] for at in range(SIDE * SIDE)}
    columns |= {f"row{at}": square[:, at].sum(1) for at in range(SIDE)}
    columns |= {f"column{at}": square[:, :, at].sum(1) for at in range(SIDE)}
    pq.write_table(pa.table(columns), path)


def answer(images: Images, fit: Callable[[Images], Fitted], path: Path) -> None:
    """Writes a teacher's answers: each training image by a model that has not seen its fold, all others by a final one.

    Models that are trained apart have embedding spaces of their own, so each fold's is moved into the final one's by
    what both say about validation images.
    """
    train, held_out = images.split == "train", np.flatnonzero(images.split != "train")
    validation = images.pixels[images.split == "validation"]
    final = fit(images.take(train))
    logit, embedding = final(images.pixels[held_out])
    said = [(held_out, logit, embedding)]
    for fold in range(FOLDS):
        inside = np.flatnonzero(train & (images.image % FOLDS == fold))
        fitted = fit(images.take(train & (images.image % FOLDS != fold)))
        logit, embedding = fitted(images.pixels[inside])
        if embedding is not None:
            moved = alignment(fitted(validation)[1], final(validation)[1])
            embedding = np.column_stack([embedding, np.ones(len(embedding))]) @ moved
        said.append((inside, logit, embedding))
    columns = {"example_id": np.concatenate([at for at, _, _ in said])}
    columns["logit"] = np.concatenate([logit for _, logit, _ in said]).astype(np.float32)
    if embedding is not None:
        columns["embedding"] = list(np.concatenate([vectors for _, _, vectors in said]).astype(np.float32))
    pq.write_table(pa.table(columns), path)


def fit_convolution(seen: Images) -> Fitted:
    """Trains a convolution."""
    torch.manual_seed(0)
    model, x, y = Convolution(), torch.from_numpy(seen.pixels), torch.from_numpy(seen.odd)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(EPOCHS):
        for at in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(model(x[at])[0], y[at]).backward()
            optimizer.step()
    model.eval()

    @torch.no_grad()
    def score(pixels: Floats) -> tuple[Floats, Floats]:
        logit, hidden = model(torch.from_numpy(pixels))
        return logit.numpy(), hidden.numpy()

    return score


def fit_trees(seen: Images, part: NDArray[np.int64]) -> Fitted:
    """Trains boosted trees that see a part of the pixels; they have no embedding."""
    model = HistGradientBoostingClassifier(max_iter=100, random_state=0).fit(seen.pixels[:, part], seen.odd)
    return lambda pixels: (model.decision_function(pixels[:, part]), None)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/digits"), help="the run folder")
    main(parser.parse_args().out)
