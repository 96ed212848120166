"""Files and folders that appear whole or not at all, and fingerprints of what is in them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recdistill.errors import UserError

SUCCESS = "_SUCCESS"


def fingerprint(value: Any) -> str:
    """Sixteen hex digits of SHA-256 over `value` as canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renames it into place when the block ends well.

    The temporary name starts with a dot, so no reader of `part-*` ever sees it, and is always the same: what a kill
    leaves behind is overwritten by the next attempt.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
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
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); remove it and run its stage again") from None


def done(folder: Path, inputs: str) -> bool:
    """Whether `folder` was finished from exactly these inputs (a fingerprint)."""
    marker = folder / SUCCESS
    return marker.exists() and read_json(marker).get("inputs") == inputs


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
    write_json(work / SUCCESS, {"inputs": inputs})
    if folder.exists():
        old = folder.parent / f".{folder.name}.work-replaced"
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        work.rename(folder)
        shutil.rmtree(old)
    else:
        work.rename(folder)
    return True
