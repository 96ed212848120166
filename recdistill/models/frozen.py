"""A trained model on disk: `model.json` (its shape) and `weights.safetensors` (its numbers), and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from recdistill.errors import UserError
from recdistill.files import atomic, file_sha256, read_record, write_json
from recdistill.models.dlrm import DLRM
from recdistill.models.shape import Shape

WEIGHTS = "weights.safetensors"
FLOAT = 4


class _Record(BaseModel):
    """What `model.json` holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    version: Literal[1]
    shape: Shape
    sha256: str
    """Of the weights."""


def save_model(model: DLRM, folder: Path) -> str:
    """Writes the two files and returns the SHA-256 of the weights."""
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with atomic(folder / WEIGHTS) as partial:
        save_file(weights, partial)
    digest = file_sha256(folder / WEIGHTS)
    write_json(folder / "model.json", {"version": 1, "shape": model.shape.model_dump(), "sha256": digest})
    return digest


def _record(folder: Path) -> _Record:
    return read_record(folder / "model.json", _Record, "model")


def load_shape(folder: Path) -> Shape:
    """The shape in `model.json`; `UserError` if it is none."""
    return _record(folder).shape


def verify(folder: Path) -> None:
    """Compares the weights with the checksum in `model.json`: safetensors itself does not notice a flipped byte.

    Raises `UserError` where they differ or are missing.
    """
    path = folder / WEIGHTS
    if not path.exists():
        raise UserError(f"{path}: not there; a model's folder holds model.json and {WEIGHTS}")
    if file_sha256(path) != _record(folder).sha256:
        raise UserError(f"{path}: damaged, or not the weights of {folder / 'model.json'}, which holds their checksum")


def load_model(folder: Path) -> DLRM:
    """The model, ready to score and not to learn.

    Raises `UserError` where the weights are damaged or are not those of the shape.
    """
    shape, path = load_shape(folder), folder / WEIGHTS
    verify(folder)
    if FLOAT * shape.parameters() > path.stat().st_size:  # before a shape of any size is given memory
        raise UserError(f"{path}: fewer numbers than the {shape.parameters():,} of {folder / 'model.json'}")
    model = DLRM(shape, torch.device("meta"))  # to draw numbers for large tables takes longer than to read them
    try:
        model.load_state_dict({name: _as_learned(value) for name, value in load_file(path).items()}, assign=True)
    except (SafetensorError, RuntimeError) as error:
        raise UserError(f"{path}: not the weights of {folder / 'model.json'} ({error})") from None
    return model.eval().requires_grad_(False)


def _as_learned(value: torch.Tensor) -> torch.Tensor:
    """Weights may have been made narrower to be kept; what counts ids is as it is."""
    return value.float() if value.is_floating_point() else value.int()
