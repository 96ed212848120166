"""Reads YAML as its version 1.2 says, with a line for every value, and refuses what would surprise.

PyYAML follows version 1.1, where `on`, `no` and `off` are booleans, `1e-3` is text and `010` is eight. Here only `true`
and `false` are booleans, numbers are decimal, dates are text, and keys are always text. Duplicate keys and aliases that
multiply without bound are errors.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.constructor import SafeConstructor

from recdistill.errors import UserError

Path = tuple[str | int, ...]

MAX_VALUES = 100_000
"""The most values of one file, counted after aliases are followed."""
MAX_DEPTH = 50

_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
_TAGS = {"scalar": ("str", "bool", "int", "float", "null"), "sequence": ("seq",), "mapping": ("map",)}
"""What a value of each kind may be; other tags, which a file may name itself, have no meaning here."""
_RESOLVERS = [
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9_]*)", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
]


class _Loader(yaml.SafeLoader):
    """Knows the implicit types below alone, and gives up early on a file of very many values."""

    yaml_implicit_resolvers: dict[Any, Any] = {}
    values = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.values += index is not None  # a key has none
        if self.values > MAX_VALUES:
            raise yaml.MarkedYAMLError(problem=f"more than {MAX_VALUES:,} values", problem_mark=self.get_mark())
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    """Knows the implicit types of both versions, so that what it leaves unquoted is text in either."""

    yaml_implicit_resolvers = {first: list(pairs) for first, pairs in yaml.SafeDumper.yaml_implicit_resolvers.items()}

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, _pattern, _first in _RESOLVERS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"{_TAG}{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first))


@dataclass
class Document:
    """A file's content, and the line (from 1) of each value's key."""

    content: Any
    lines: dict[Path, int] = field(default_factory=dict)


def parse(text: str, name: str) -> Document:
    """Reads one YAML document; `name` is what errors call it.

    Raises:
        UserError: not YAML, a duplicate key, a key that is not text, too many or too deeply nested values.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}" if mark else name
        if "'\\t'" in str(error.problem):
            raise UserError(f"{where}: a tab where YAML wants spaces; indent with spaces") from None
        context = f" {error.context}" if error.context else ""
        raise UserError(f"{where}: not readable as YAML: {error.problem}{context}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{name}: not readable as YAML: {' '.join(str(error).split())}") from None
    except (ValueError, OverflowError) as error:
        raise UserError(f"{name}: not readable as YAML: {error}") from None
    except RecursionError:
        raise UserError(f"{name}: nested more than {MAX_DEPTH} deep; expected a job description") from None
    reader = _Reader(name)
    content = None if node is None else reader.value(node, ())
    return Document(content, reader.lines)


def dump(value: Any) -> str:
    """Block-style YAML of plain values, keys in the order given."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


class _Reader:
    """Turns nodes into values. Each alias becomes a copy, so that one can be changed without the other."""

    def __init__(self, name: str) -> None:
        self.lines: dict[Path, int] = {}
        self._name = name
        self._scalars = SafeConstructor()
        self._count = 0

    def value(self, node: yaml.Node, path: Path) -> Any:
        self._count_one(node)
        if len(path) > MAX_DEPTH:
            raise self._error(node, f"nested more than {MAX_DEPTH} deep (an alias that holds itself?)")
        kind: str = node.id  # type: ignore[attr-defined]  # every node has one; its stubs do not know
        if node.tag.removeprefix(_TAG) not in _TAGS[kind]:
            raise self._error(node, f"not a plain value (a {kind} with the tag {node.tag!r})")
        if isinstance(node, yaml.MappingNode):
            return {key: self.value(child, (*path, key)) for key, child in self._entries(node, path).items()}
        if isinstance(node, yaml.SequenceNode):
            for index, child in enumerate(node.value):
                self.lines[(*path, index)] = child.start_mark.line + 1
            return [self.value(child, (*path, index)) for index, child in enumerate(node.value)]
        try:
            scalar = self._scalars.construct_object(node)
            if isinstance(scalar, str):
                scalar.encode()
            if isinstance(scalar, int) and abs(scalar) >= 2**63:
                raise ValueError("a whole number of more than 64 bits")
            return scalar
        except (ValueError, LookupError) as error:
            raise self._error(node, f"not a plain value ({error})") from None

    def _entries(self, node: yaml.MappingNode, path: Path) -> dict[str, yaml.Node]:
        """A mapping's values by key, after merge keys (`<<: *base`), which lose against its own keys."""
        own: dict[str, yaml.Node] = {}
        merged: dict[str, yaml.Node] = {}
        lines: dict[str, int] = {}
        for key_node, child in node.value:
            self._count_one(node)
            if key_node.tag == _MERGE:
                for base in child.value if isinstance(child, yaml.SequenceNode) else [child]:
                    merged = {**self._base(base, path), **merged}
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._error(key_node, "a key must be text, came a list or a mapping")
            key = str(key_node.value)
            if key in own:
                raise self._error(key_node, f"key {key!r} is given twice (first in line {lines[key]}); keep one")
            own[key], lines[key] = child, key_node.start_mark.line + 1
        entries = {**merged, **own}
        for key, child in entries.items():
            self.lines[(*path, key)] = lines.get(key, child.start_mark.line + 1)
        return entries

    def _base(self, node: yaml.Node, path: Path) -> dict[str, yaml.Node]:
        if not isinstance(node, yaml.MappingNode):
            raise self._error(node, "`<<` takes a mapping, or a list of mappings")
        if len(path) > MAX_DEPTH:
            raise self._error(node, "a mapping that merges itself")
        return self._entries(node, (*path, "<<"))

    def _count_one(self, node: yaml.Node) -> None:
        self._count += 1
        if self._count > MAX_VALUES:
            raise self._error(node, f"more than {MAX_VALUES:,} values after following aliases; write fewer aliases")

    def _error(self, node: yaml.Node, what: str) -> UserError:
        return UserError(f"{self._name}:{node.start_mark.line + 1}: {what}")
