"""Files and folders that appear whole or not at all, and fingerprints of what is in them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import xxhash
from pydantic import BaseModel, ValidationError

from recdistill.errors import UserError

if TYPE_CHECKING:
    from recdistill.remote import Remote

SUCCESS = "_SUCCESS"
REPLACED = "work-replaced"
CHECKPOINTS = "training"
"""A folder inside a finished one that is no part of it: it may be removed, and its checkpoints have markers."""
Model = TypeVar("Model", bound=BaseModel)


def fingerprint(value: Any) -> str:
    """Sixteen hex digits of SHA-256 over `value` as canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_sha256(path: Path | Remote) -> str:
    """SHA-256 of a file's bytes, in hex, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Says what was written, where the system's own error does not: a disk that is full does not know."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    except Exception as error:
        if code := re.search(r"\(os error (\d+)\)", str(error)):  # as libraries in Rust tell it
            raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error
        raise


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renames it into place when the block ends well.

    The temporary name starts with a dot, so no reader of `part-*` ever sees it, and is always the same: what a kill
    leaves behind is overwritten by the next attempt. A `UserError` where a folder, a device or a pipe has the name.
    """
    if path.exists() and not path.is_file():
        kind = "folder" if path.is_dir() else "device or a pipe"
        raise UserError(f"{path}: is a {kind}, and a file is to be written; give it another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with naming(path):
            yield partial
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a small text file whole or not at all."""
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON, whole or not at all; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file; a missing or damaged one is a `UserError` that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not there; was the stage that writes it run?") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); remove it and run its stage again") from None


def read_record(path: Path, model: type[Model], name: str) -> Model:
    """Reads a JSON file as a pydantic model, a `name` to people; a `UserError` says what in it is wrong."""
    return _checked(path, read_json(path), model, name)


def read_checked(path: Path, model: type[BaseModel], name: str) -> dict[str, Any]:
    """The same, as it stands in the file: with what the model leaves open."""
    content: dict[str, Any] = read_json(path)
    _checked(path, content, model, name)
    return content


def _checked(path: Path, content: Any, model: type[Model], name: str) -> Model:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise UserError(f"{path}: not a {name} as this release writes one ({where}: {first['msg']})") from None


class _Marker(BaseModel):
    """`_SUCCESS`: what a folder was made from (a fingerprint), and XXH3-128 of each file in it."""

    inputs: str
    files: dict[str, str] = {}


def finish(folder: Path, inputs: str) -> None:
    """Writes the marker of a folder; what a kill left half written is removed before."""
    for left in folder.rglob(".*.partial"):
        left.unlink()
    names = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    made = [name for name in names if CHECKPOINTS not in name.parts and name.name != SUCCESS]
    sums = {name.as_posix(): _sum(folder / name) for name in made}
    write_json(folder / SUCCESS, _Marker(inputs=inputs, files=sums).model_dump())


def made_from(folder: Path) -> str | None:
    """What `folder` was made from, if it is finished."""
    return _marker(folder).inputs if (folder / SUCCESS).exists() else None


def verify(folder: Path, remove: Path | None = None) -> None:
    """Reads every file of a finished folder; `remove` is what must be made again when one is damaged, else itself.

    Raises:
        UserError: a file is missing, or is not what it was when the folder was finished.
    """
    again = f"remove the folder {remove or folder} and run the command that makes it again"
    for name, expected in _marker(folder).files.items():
        path = folder / name
        if not path.exists():
            raise UserError(f"{path}: missing; {again}")
        if _sum(path) != expected:
            raise UserError(f"{path}: damaged since it was written (cut short, changed, or a bad disk); {again}")


def _marker(folder: Path) -> _Marker:
    try:
        return _Marker.model_validate(read_json(folder / SUCCESS))
    except ValidationError:
        raise UserError(f"{folder / SUCCESS}: damaged; remove it, then what it marks is made again") from None


def _sum(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def done(folder: Path, inputs: str) -> bool:
    """Whether `folder` was finished from exactly these inputs (a fingerprint).

    Raises:
        UserError: it was, and was damaged since (see `verify`).
    """
    if made_from(folder) != inputs:
        return False
    verify(folder)
    return True


def once(folder: Path, inputs: str, make: Callable[[Path], None]) -> bool:
    """Runs `make(work)` and moves what it wrote to `folder`, unless that was done before.

    `work` is a folder beside `folder` whose name holds the fingerprint `inputs`. A killed `make` finds
    its own work there when it is called again, and may go on from it; work for other inputs is removed. The
    marker `_SUCCESS` is written last, then the folder is renamed into place.

    Returns whether `make` ran.
    """
    if done(folder, inputs):
        return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = folder.parent / f".{folder.name}.work-{inputs}"
    for stale in folder.parent.glob(f".{folder.name}.work-*"):
        if stale != work:
            shutil.rmtree(stale)
    work.mkdir(exist_ok=True)
    make(work)
    finish(work, inputs)
    if folder.exists():
        old = folder.parent / f".{folder.name}.{REPLACED}"
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        work.rename(folder)
        shutil.rmtree(old)
    else:
        work.rename(folder)
    return True


def sweep(root: Path) -> None:
    """Removes what a kill left, anywhere below `root`, of folders that were replaced."""
    for old in root.rglob(f".*.{REPLACED}"):
        shutil.rmtree(old)
