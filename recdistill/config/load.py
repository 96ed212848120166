"""Reads a job file into a `Job`; whatever is wrong with it is said at once, each mistake with its line."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from recdistill.config.base import MOST_TOLD, nearest
from recdistill.config.job import Job
from recdistill.config.mistakes import sentences
from recdistill.config.yaml12 import MAX_DEPTH, dump, parse
from recdistill.config.yaml12 import Path as Key
from recdistill.errors import UserError

MAX_BYTES = 1 << 20


def load_job(path: Path, overrides: Sequence[str] = ()) -> Job:
    """The job described by a YAML file, after `overrides` (`key.of.setting=value`, the value in YAML).

    Raises:
        UserError: the file cannot be read, is not YAML, or holds mistakes; all of them are in the message.
    """
    name = str(path)
    document = parse(_text(path), name)
    data = document.content
    if not isinstance(data, dict):
        raise UserError(f"{name}: expected a job of `key: value` lines (name, dataset, teachers, ...)")
    changed = [(_override(data, text), f"--set {text}") for text in overrides]

    def place(key: Key) -> tuple[int, str]:
        for set_here, text in reversed(changed):
            if key[: len(set_here)] == set_here or (key not in document.lines and set_here[: len(key)] == key != ()):
                return len(document.lines), text
        while key and key not in document.lines:
            key = key[:-1]
        line = document.lines.get(key, 1)
        return line, f"{name}:{line}"

    try:
        return Job.model_validate(data)
    except ValidationError as error:
        found = sentences(error.errors(include_url=False), Job, data, place)
        more = " or more" if len(found) == MOST_TOLD else ""
        head = [f"{name}: {len(found)} mistakes{more}"] if len(found) > 1 else []
        raise UserError(*head, *found) from None


def dump_job(job: Job) -> str:
    """The job with every default spelled out, as YAML that `load_job` reads back to the same job."""
    return dump(job.model_dump(mode="json"))


def _text(path: Path) -> str:
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):  # a pipe may never end
            raise UserError(f"{path}: cannot be read as a job file (it is no regular file)")
        if about.st_size > MAX_BYTES:
            raise UserError(f"{path}: larger than {MAX_BYTES:,} bytes; expected a job file in YAML")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path}: not text in UTF-8; expected a job file in YAML") from None
    except FileNotFoundError:
        near = nearest(path.name, [other.name for other in path.parent.glob("*.y*ml")])
        raise UserError(
            f"{path}: there is no such job file{near or f'; `recdistill init LOG --out {path}` drafts one'}"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read as a job file ({error.strerror})") from None


def _override(data: dict[str, Any], text: str) -> Key:
    """Sets one value in `data`; returns where."""
    key, equals, raw = text.partition("=")
    if not equals or not key.strip("."):
        raise UserError(f"--set {text}: expected KEY=VALUE, as in --set distill.train.epochs=3")
    value = parse(raw, f"--set {text}").content
    target: Any = data
    path: list[str | int] = []
    rest = key.split(".")
    if len(rest) > MAX_DEPTH:
        raise UserError(f"--set {text}: {len(rest)} keys within each other; a job has at most {MAX_DEPTH}")
    while True:
        step, rest = _step(target, rest, text)
        path.append(step)
        if not rest:
            break
        if isinstance(target, dict) and target.get(str(step)) is None:
            target[str(step)] = {}
        target = target[step]
    target[step] = value
    return tuple(path)


def _step(target: Any, parts: list[str], text: str) -> tuple[str | int, list[str]]:
    """The next key on the way and what is left of it. Names may hold dots, so the longest that exists is taken."""
    if isinstance(target, list):
        if parts[0] not in map(str, range(len(target))):
            raise UserError(f"--set {text}: {parts[0]!r} is no position in a list of {len(target)} (they begin at 0)")
        return int(parts[0]), parts[1:]
    if not isinstance(target, dict):
        raise UserError(f"--set {text}: {'.'.join(parts)!r} is asked of a single value, which has no settings")
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        if name in target:
            return name, parts[length:]
    return parts[0], parts[1:]
