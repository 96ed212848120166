from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from recdistill.errors import UserError
from recdistill.files import file_sha256
from recdistill.models.dlrm import DLRM
from recdistill.models.frozen import load_model, load_shape, save_model
from recdistill.models.shape import Shape


@pytest.fixture
def folder(make_shape: Callable[..., Shape], tmp_path: Path) -> Path:
    save_model(DLRM(make_shape()), tmp_path)
    return tmp_path


def test_what_is_loaded_is_what_was_saved(make_shape: Callable[..., Shape], tmp_path: Path) -> None:
    model = DLRM(make_shape(interaction="cross", dropout=0.3))
    sha = save_model(model, tmp_path)
    again = load_model(tmp_path)
    assert sha == file_sha256(tmp_path / "weights.safetensors")
    assert (again.shape, load_shape(tmp_path)) == (model.shape, model.shape)
    assert {name: value.tolist() for name, value in again.state_dict().items()} == {
        name: value.tolist() for name, value in model.state_dict().items()
    }
    assert not again.training and not any(value.requires_grad for value in again.parameters())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "weights.safetensors"]


def test_saving_again_gives_the_same_bytes(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("again")
    assert save_model(load_model(folder), other) == file_sha256(folder / "weights.safetensors")
    assert (other / "model.json").read_bytes() == (folder / "model.json").read_bytes()


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_a_truncated_file_is_refused(folder: Path, size: int) -> None:
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError, match=r"weights.safetensors: damaged"):
        load_model(folder)


def test_a_flipped_byte_of_the_header_is_refused(folder: Path) -> None:
    path = folder / "weights.safetensors"
    content = path.read_bytes()
    for at in (0, 9, content.index(b"head.weight"), content.index(b"F32")):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(UserError, match=r"weights.safetensors: damaged"):
            load_model(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "weights.safetensors").unlink()
    with pytest.raises(UserError, match=r"weights.safetensors: not there"):
        load_model(folder)
    (folder / "model.json").unlink()
    with pytest.raises(UserError, match=r"model.json: not there"):
        load_model(folder)


@pytest.mark.parametrize("text", ['{"shape": {"dim": 4}}', "[]", "{}", '{"shape": 3}'])
def test_a_file_that_is_no_shape_is_refused(folder: Path, text: str) -> None:
    (folder / "model.json").write_text(text)
    with pytest.raises(UserError, match=r"model.json: not a model as this release writes one"):
        load_model(folder)


def test_the_weights_of_another_shape_are_refused(folder: Path, make_shape: Callable[..., Shape]) -> None:
    other = DLRM(make_shape(dim=4))
    weights = {name: torch.clone(value) for name, value in other.state_dict().items()}
    from safetensors.torch import save_file

    save_file(weights, folder / "weights.safetensors")
    with pytest.raises(UserError, match=r"not the weights of .*model.json"):
        load_model(folder)
