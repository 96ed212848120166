"""A trained model on disk: `model.json` (its shape) and `weights.safetensors` (its numbers), and nothing else."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from recdistill.errors import UserError
from recdistill.files import atomic, file_sha256, read_json, write_json
from recdistill.models.dlrm import DLRM
from recdistill.models.shape import Shape

WEIGHTS = "weights.safetensors"


def save_model(model: DLRM, folder: Path) -> str:
    """Writes the two files and returns the SHA-256 of the weights."""
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with atomic(folder / WEIGHTS) as partial:
        save_file(weights, partial)
    digest = file_sha256(folder / WEIGHTS)
    write_json(folder / "model.json", {"version": 1, "shape": model.shape.model_dump(), "sha256": digest})
    return digest


def load_shape(folder: Path) -> Shape:
    """The shape in `model.json`; `UserError` if it is none."""
    try:
        return Shape.model_validate(read_json(folder / "model.json")["shape"])
    except (ValidationError, KeyError, TypeError) as error:
        raise UserError(f"{folder / 'model.json'}: not a version-1 model ({error})") from None


def verify(folder: Path) -> None:
    """Compares the weights with the checksum in `model.json`: safetensors itself does not notice a flipped byte.

    Raises `UserError` where they differ or are missing.
    """
    path = folder / WEIGHTS
    if not path.exists():
        raise UserError(f"{path}: not there; a model's folder holds model.json and {WEIGHTS}")
    if file_sha256(path) != read_json(folder / "model.json").get("sha256"):
        raise UserError(f"{path}: damaged, or not the weights of {folder / 'model.json'}, which holds their checksum")


def load_model(folder: Path) -> DLRM:
    """The model, ready to score and not to learn.

    Raises `UserError` where the weights are damaged or are not those of the shape.
    """
    model = DLRM(load_shape(folder))
    verify(folder)
    path = folder / WEIGHTS
    try:
        model.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        raise UserError(f"{path}: not the weights of {folder / 'model.json'} ({error})") from None
    return model.eval().requires_grad_(False)
