"""How a text log is written: its delimiter, whether it has a header, and what to call its columns if not."""

from __future__ import annotations

import csv
import io
import itertools

from recdistill.clicklog.sources import Source, column_names, find, log_of, open_bytes
from recdistill.config.dataset import Files
from recdistill.errors import UserError

HEAD_BYTES = 1 << 18
_RECORDS = 50
_STEM = "column"
_DELIMITERS = {"csv": ",\t;|", "tsv": "\t,;|"}
CRITEO = "label, I1..I13, C1..C26"
"""The display advertising challenge: a label, 13 counts, 26 hashed categories, no header."""


def describe(paths: list[str]) -> tuple[Files, list[str]]:
    """The `log:` section for some files, and what is unsure about it.

    Raises:
        UserError: a file is not there, or its beginning cannot be read.
    """
    files = log_of({"paths": paths})
    try:
        first = find(files)[0]
    except UserError:
        files = Files(paths=paths, format="csv")  # finds nothing where there is nothing: then that is the mistake
        first = find(files)[0]
        with first.path.open("rb") as file:
            if file.read(4) == b"PAR1":
                return Files(paths=paths, format="parquet"), ["the suffix does not tell the format; it is Parquet"]
    return (files, []) if first.format == "parquet" else _describe_text(first, files)


def _describe_text(first: Source, files: Files) -> tuple[Files, list[str]]:
    head = _head(first)
    if head and head[0].lstrip()[:1] in ("{", "["):
        raise UserError(
            f"{first.path}: this looks like JSON; write it as Parquet, as pandas.read_json(..., lines=True) and "
            ".to_parquet do, or as csv"
        )
    delimiter = _delimiter(head, _DELIMITERS[first.format])
    doubts = []
    if files.format is not None:
        files = files.model_copy(update={"format": "tsv" if delimiter == "\t" else "csv"})
        doubts.append(f"the suffix of {first.path.name} does not tell the format; it reads as {files.format}")
    if delimiter != _DELIMITERS[files.format or first.format][0]:
        files = files.model_copy(update={"delimiter": delimiter})
        doubts.append(f"values are cut at {delimiter!r}")
    rows = _records(head, delimiter)
    if not rows:
        column_names(first, files)  # says what is wrong with an empty or damaged file
        raise UserError(f"{first.path}: no line of text in its first {HEAD_BYTES >> 10} KiB; expected rows")
    if has_header(rows):
        return files, doubts
    columns, said = name_columns(rows)
    return log_of({**files.model_dump(), "columns": columns}), [*doubts, said]


def _head(source: Source) -> list[str]:
    """The first whole lines; none where the file cannot be unpacked, which whoever reads it next will say."""
    try:
        with open_bytes(source) as stream:
            data = stream.read(HEAD_BYTES)
    except OSError:
        return []
    lines = data.decode("utf-8-sig", errors="replace").splitlines()
    return lines[:-1] if len(data) == HEAD_BYTES else lines


def _records(lines: list[str], delimiter: str) -> list[list[str]]:
    reader = csv.reader(io.StringIO("\n".join(lines)), delimiter=delimiter)
    try:
        return [row for row in itertools.islice(reader, _RECORDS) if row]
    except csv.Error:
        return [line.split(delimiter) for line in lines[:_RECORDS] if line]


def _delimiter(lines: list[str], candidates: str) -> str:
    """The first candidate that cuts every line into the same number of values, more than one; or the first of all."""
    for delimiter in candidates:
        widths = {len(row) for row in _records(lines, delimiter)}
        if len(widths) == 1 and widths != {1}:
            return delimiter
    return candidates[0]


def has_header(rows: list[list[str]]) -> bool:
    """Whether the first row names columns: texts, while a column below holds numbers or never repeats its name."""
    first, rest = [cell.strip() for cell in rows[0]], rows[1:]
    if first == [str(number) for number in range(len(first))] and len(first) > 1:
        return True  # as pandas names columns that have no name
    if any(map(_is_number, first)):
        return False
    for column, name in enumerate(first):
        below = [row[column].strip() for row in rest if column < len(row)]
        known = [cell for cell in below if cell]
        if name and known and all(map(_is_number, known)):
            return True
        if name in below:
            return False
    return "" not in first[1:]


def name_columns(rows: list[list[str]]) -> tuple[str, str]:
    """Names for the columns of a file without a header, in short form, and what was assumed."""
    width = len(rows[0])
    if width == 40 and all(row[0] in ("0", "1") for row in rows) and _criteo_types(rows):
        return CRITEO, "there is no header: 40 columns, named as in Criteo's display advertising logs"
    said = f"there is no header: its columns are called {_STEM}1 to {_STEM}{width}; give better names in `columns`"
    return f"{_STEM}1..{_STEM}{width}", said


def unnamed(column: str) -> bool:
    """Whether a column has a name that `name_columns` gave it."""
    return column.removeprefix(_STEM).isdigit()


def _criteo_types(rows: list[list[str]]) -> bool:
    counts = [cell for row in rows for cell in row[1:14] if cell]
    hashes = [cell for row in rows for cell in row[14:] if cell]
    return all(map(_is_number, counts)) and all(len(cell) == 8 for cell in hashes)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return cell.lower() not in ("nan", "inf", "infinity")
