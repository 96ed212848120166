"""Every setting of a job file: what it takes, its default and what it is for, as the sections themselves say it."""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from recdistill.config.base import Section, nearest
from recdistill.config.job import Job
from recdistill.errors import UserError

_TYPES = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}
_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


@dataclass(frozen=True)
class Setting:
    """One line; `takes` says which values, `default` is as YAML has it, empty where there is none."""

    name: str
    takes: str
    needed: bool
    default: str
    about: str


@dataclass(frozen=True)
class Group:
    """A section's settings; `path` is its place in a job, such as `teachers.members.<name>`, of a `kind`, if any."""

    path: str
    kind: str
    about: str
    settings: list[Setting]


def groups(path: str | None = None) -> list[Group]:
    """The sections of a job file; those at and below `path`, or of one setting its line alone.

    Raises:
        UserError: no section and no setting is called so.
    """
    walked = _walk(Job, "", Job.model_json_schema()["$defs"])
    every = list({(group.path, group.kind): group for group in walked}.values())
    if path is None:
        return every
    found = [group for group in every if f"{group.path}.".startswith(f"{path}.")]
    section, _, name = path.rpartition(".")
    lines = [(group, one) for group in every if group.path == section for one in group.settings if one.name == name]
    found = found or [Group(group.path, group.kind, group.about, [one]) for group, one in lines]
    if not found:
        named = [f"{group.path}.{one.name}".lstrip(".") for group in every for one in group.settings]
        raise UserError(f"nothing in a job file is called {path!r}{nearest(path, dict.fromkeys(named))}")
    return found


def _walk(section: type[Section], path: str, schemas: dict[str, Any]) -> Iterator[Group]:
    """A section, and then those below it."""
    about = _told(section)
    schema = schemas.get(section.__name__) or section.model_json_schema()
    settings, below, kind = [], [], ""
    for name, field in section.model_fields.items():
        part, inside = schema["properties"][name], list(_sections(field.annotation))
        if "const" in part:
            kind = part["const"]
            continue
        named = get_origin(field.annotation) is dict and bool(inside)
        said = about.get(name) or (_first_of(inside[0]) if inside else "")
        takes, default = _takes(part, inside, named), _default(field, inside)
        settings.append(Setting(name, takes, field.is_required(), default, said))
        below += [(one, f"{path}.{name}{'.<name>' if named else ''}".lstrip(".")) for one in inside]
    yield Group(path, kind, inspect.cleandoc(section.__doc__ or ""), settings)
    for one, at in below:
        yield from _walk(one, at, schemas)


def _sections(annotation: Any) -> Iterator[type[Section]]:
    """The sections that a setting may hold."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for part in get_args(annotation):
        yield from _sections(part)


def _first_of(section: type[Section]) -> str:
    """The first sentence of what a section says of itself."""
    return " ".join((section.__doc__ or "").split()).partition(". ")[0].rstrip(".") + "."


def _told(section: type[Section]) -> dict[str, str]:
    """What stands below each of a section's attributes, its own and those that it inherits."""
    found = {}
    for one in reversed([each for each in section.__mro__ if issubclass(each, Section)]):
        tree = ast.walk(ast.parse(textwrap.dedent(inspect.getsource(one))))
        body = next(node.body for node in tree if isinstance(node, ast.ClassDef))
        for attribute, text in itertools.pairwise(body):
            match attribute, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(said))):
                    found[name] = " ".join(said.split())
    return found


def _default(field: FieldInfo, inside: list[type[Section]]) -> str:
    value = field.default
    if field.is_required() or value is None or (inside and value):
        return ""
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n...\n").strip()


def _takes(part: dict[str, Any], inside: list[type[Section]], named: bool) -> str:
    """In words, of a JSON schema."""
    if inside:
        return "sections by name" if named else "sections" if "items" in part else "a section"
    if "enum" in part:
        return ", ".join(part["enum"])
    if "anyOf" in part:
        return " or ".join(_takes(one, [], False) for one in part["anyOf"] if one.get("type") != "null")
    if part.get("type") == "array":
        return f"list of {_takes(part['items'], [], False)}"
    bounds = [f"{sign} {part[key]:g}" for key, sign in _BOUNDS.items() if key in part]
    return " ".join([_TYPES.get(part.get("type", ""), "a mapping"), ", ".join(bounds)]).strip()
