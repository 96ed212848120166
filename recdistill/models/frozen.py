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
    write_json(folder / "model.json", {"version": 1, "shape": model.shape.model_dump()})
    return file_sha256(folder / WEIGHTS)


def load_shape(folder: Path) -> Shape:
    """The shape in `model.json`; `UserError` if it is none."""
    try:
        return Shape.model_validate(read_json(folder / "model.json")["shape"])
    except (ValidationError, KeyError, TypeError) as error:
        raise UserError(f"{folder / 'model.json'}: not a version-1 model ({error})") from None


def load_model(folder: Path) -> DLRM:
    """The model, ready to score and not to learn.

    Raises `UserError` where the weights are damaged or are not those of the shape.
    """
    model = DLRM(load_shape(folder))
    path = folder / WEIGHTS
    try:
        model.load_state_dict(load_file(path))
    except FileNotFoundError:
        raise UserError(f"{path}: not there; a model's folder holds model.json and {WEIGHTS}") from None
    except (SafetensorError, RuntimeError) as error:
        raise UserError(f"{path}: damaged, or not the weights of {folder / 'model.json'} ({error})") from None
    return model.eval().requires_grad_(False)
