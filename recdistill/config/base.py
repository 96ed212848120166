"""What every section of a job description shares: unknown keys are refused, values never change."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict

from recdistill.remote import tells_a_secret

NAME = r"^[A-Za-z_][A-Za-z0-9_.-]{0,99}$"
"""Names become parts of file names, which a file system cuts off at 255."""
MAX_NAMES = 20_000
"""The most names that short forms may stand for."""
MOST_TOLD = 20
"""Mistakes of a job file that are told at once."""
_LONGEST_RANGE = 500
_RANGE = re.compile(r"^(?P<stem>.*?)(?P<first>\d+)(?P<tail>[^\d.]*)\.\.(?P=stem)(?P<last>\d+)(?P=tail)$")


class Section(BaseModel):
    """A section of the job file."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


def without_secret(path: str) -> str:
    """The path, unless it is a URL with credentials, which would be copied into every run folder."""
    if tells_a_secret(path):
        raise ValueError("a URL must not hold credentials; they come from the environment (AWS_ACCESS_KEY_ID, ...)")
    return path


Location = Annotated[str, AfterValidator(without_secret)]
"""A path or a URL, wildcards included."""


def nearest(name: str, names: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the most similar of the first thousand `names`, or nothing."""
    close = difflib.get_close_matches(name, itertools.islice(names, 1000), n=1, cutoff=0.6) if len(name) <= 100 else []
    return f"; did you mean {close[0]!r}?" if close else ""


def expand(names: Any) -> list[str]:
    """Spells out short forms of column names: `"a, b"` is a and b, `C1..C26` is C1, C2, ... C26, `C1_x..C3_x` alike.

    Raises `ValueError` for what is neither text nor a list of texts, for a range that is none, and for too many names.
    """
    parts = [names] if isinstance(names, str) else names
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise ValueError("expected names, as text or as a list")
    out: list[str] = []
    for part in (piece.strip() for text in parts for piece in text.split(",")):
        if len(out) > MAX_NAMES:
            raise ValueError(f"more than {MAX_NAMES:,} names")
        match = _RANGE.match(part) if len(part) <= _LONGEST_RANGE else None
        if match is None:
            out.append(part)
            continue
        first, last = int(match["first"]), int(match["last"])
        if not first <= last <= first + 9999:
            raise ValueError(f"{part!r} is not a range: expected first <= last, at most 10,000 names")
        out.extend(f"{match['stem']}{number}{match['tail']}" for number in range(first, last + 1))
    return out
