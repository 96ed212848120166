"""What every section of a job description shares: unknown keys are refused, values never change."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict

NAME = r"^[A-Za-z_][A-Za-z0-9_.-]*$"
_RANGE = re.compile(r"^(?P<stem>.*?)(?P<first>\d+)\.\.(?P=stem)(?P<last>\d+)$")


class Section(BaseModel):
    """A section of the job file."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def nearest(name: str, names: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the most similar of `names`, or nothing."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def expand(names: str | Iterable[str]) -> list[str]:
    """Spells out short forms of column names: `"a, b"` is a and b, `C1..C26` is C1, C2, ... C26."""
    parts = [names] if isinstance(names, str) else list(names)
    out: list[str] = []
    for part in (piece.strip() for text in parts for piece in text.split(",")):
        match = _RANGE.match(part)
        if match is None:
            out.append(part)
            continue
        first, last = int(match["first"]), int(match["last"])
        if not first <= last <= first + 9999:
            raise ValueError(f"{part!r} is not a range: expected first <= last, at most 10,000 names")
        out.extend(f"{match['stem']}{number}" for number in range(first, last + 1))
    return out
