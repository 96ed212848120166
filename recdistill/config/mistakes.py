"""Turns pydantic's findings into one sentence each: where it stands, what was expected, what came, what was meant."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from recdistill.config.base import MOST_TOLD, expand, nearest
from recdistill.config.yaml12 import Path

_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a finite number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "dict": "a section of `key: value` lines",
    "model": "a section of `key: value` lines",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "too_short": "{min_length} or more entries",
    "string_pattern_mismatch": (
        "a name of letters, digits, '_', '.' and '-', at most 100 of them, not beginning with a digit"
    ),
    "literal_error": "{expected}",
    "union_tag_invalid": "{expected_tags}",
}
_SUFFIX = re.compile(r"_(type|parsing|parsing_size|from_float|attributes_type)$")
_PLACED = re.compile(r"^(?P<key>[A-Za-z_][\w.-]*): (?P<text>.*)$", re.DOTALL)


def sentences(
    errors: Iterable[ErrorDetails], model: type[BaseModel], data: Any, place: Callable[[Path], tuple[int, str]]
) -> list[str]:
    """One sentence for each mistake, at most `MOST_TOLD` of them, in the file's order, none twice.

    Args:
        errors: what pydantic found when it read `data` as `model`.
        model: the section that `data` should be.
        data: the job as it was written.
        place: gives, for the path of a value, a sort key and the words that say where it stands.
    """
    found: dict[str, int] = {}
    for error in itertools.islice(errors, 50 * MOST_TOLD):  # a short form of many names makes many of one
        path = _path(error["loc"], data)
        for at, text in _texts(error, path, model, data)[: MOST_TOLD - len(found)]:
            order, where = place(at)
            key = ".".join(str(part) for part in at)
            found.setdefault(f"{where}: {key}: {text}" if key else f"{where}: {text}", order)
    return sorted(found, key=lambda sentence: found[sentence])


def _texts(error: ErrorDetails, path: Path, model: type[BaseModel], data: Any) -> list[tuple[Path, str]]:
    kind, context, came = error["type"], error.get("ctx", {}), error.get("input")
    if kind == "value_error":
        return [_placed(line, path, data) for line in str(context["error"]).splitlines()]
    if kind == "extra_forbidden":
        names = _names(model, data, path[:-1])
        meant = nearest(str(path[-1]), names) or f"; expected one of {', '.join(names)}"
        return [(path, f"there is no such setting{meant}")]
    if kind == "missing":
        return [(path, "is missing, and has no default")]
    if kind == "union_tag_not_found":
        tags = ", ".join(repr(tag) for tag in _tags(model, data, path))
        return [(path, f"expected `kind`: one of {tags}, came {_shown(came)}")]
    if kind == "union_tag_invalid":
        path, came = (*path, "kind"), context["tag"]
    expected = _EXPECTED.get(_SUFFIX.sub("", kind))
    text = f"expected {expected.format(**context)}" if expected else error["msg"].replace("Input should be", "expected")
    hint = "; put it in quotes" if kind == "string_type" and isinstance(came, int | float) else ""
    if kind in ("literal_error", "union_tag_invalid"):
        hint = nearest(str(came), re.findall(r"'([^']*)'", text))
    return [(path, f"{text}, came {_shown(came)}{hint}")]


def _placed(line: str, path: Path, data: Any) -> tuple[Path, str]:
    """A validator of our own may begin a line with the dotted key that it is about."""
    match = _PLACED.match(line)
    if match:
        asked = tuple(match["key"].split("."))
        at = _path((*path, *asked), data)
        if len(at) == len(path) + len(asked) and _at(data, at[:-1]) is not None:
            return at, match["text"]
    return path, line


def _path(loc: tuple[int | str, ...], data: Any) -> Path:
    """Where in the file pydantic's location is: without union tags, short forms (`C1..C26`) as written."""
    out: list[str | int] = []
    value = data
    for part in loc:
        if part == "[key]":
            break
        if isinstance(value, dict):
            if part not in value and value.get("kind") == part:
                continue
            if part not in value:
                part = next((key for key in value if _spells(key, part)), part)
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            value = None
        out.append(part)
    return tuple(out)


def _spells(key: str, part: int | str) -> bool:
    if "," not in key and ".." not in key:
        return False
    try:
        return part in expand(key)
    except ValueError:
        return False


def _at(data: Any, path: Path) -> Any:
    for part in path:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _annotation(model: type[BaseModel], data: Any, path: Path) -> Any:
    """The type that the value at `path` should have."""
    annotation: Any = model
    for index, part in enumerate(path):
        annotation = _member(annotation, _at(data, path[:index]))
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            field = annotation.model_fields.get(str(part))
            annotation = field.annotation if field else None
        elif get_origin(annotation) in (dict, list):
            annotation = get_args(annotation)[-1]
        else:
            return None
    return annotation


def _member(annotation: Any, value: Any) -> Any:
    """The annotation itself, or the member of a union that `value` says it is by its `kind`."""
    members = _members(annotation)
    if len(members) == 1:
        return members[0]
    kind = value.get("kind") if isinstance(value, dict) else None
    return next((member for member in members if kind in _kinds(member)), None)


def _members(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [member for member in get_args(annotation) if member is not NoneType]
    return [annotation]


def _kinds(member: Any) -> tuple[Any, ...]:
    return get_args(member.model_fields["kind"].annotation) if hasattr(member, "model_fields") else ()


def _names(model: type[BaseModel], data: Any, path: Path) -> list[str]:
    section = _member(_annotation(model, data, path), _at(data, path))
    return list(section.model_fields) if section is not None else []


def _tags(model: type[BaseModel], data: Any, path: Path) -> list[str]:
    return [tag for member in _members(_annotation(model, data, path)) for tag in _kinds(member)]


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a section"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
