"""Raw files of a log or of a side table, read as a stream of Arrow record batches.

Text columns of CSV and TSV come as strings, whatever is in them: numbers are read later, where a bad cell can be named.
A row number in a message counts data rows from 1, the header left out.
"""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from pydantic import ValidationError

from recdistill import remote
from recdistill.clicklog.bounds import COLUMNS, batch_rows, dictionary_rows
from recdistill.config.dataset import Files
from recdistill.errors import UserError
from recdistill.remote import Remote

BATCH_ROWS = 1 << 16
_BLOCK_BYTES = 1 << 23
"""A row of a text file must fit into one block."""
_HEAD_BYTES = 1 << 16
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")
_ESCAPED = re.compile(r"\[[*?[]\]")
_FORMATS = {".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".pq": "parquet"}
_CODECS = {".gz": "gzip", ".zst": "zstd"}


@dataclass(frozen=True)
class Source:
    """One raw file. `name` is its path below the fixed part of the glob that found it, the same on every machine."""

    path: Path | Remote
    name: str
    format: str
    codec: str | None


def log_of(settings: dict[str, Any]) -> Files:
    """A `log:` section that no job file says; what is wrong with it is a `UserError`."""
    try:
        return Files.model_validate(settings)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UserError(f"the log's {first['loc'][0]}: {first['msg'].removeprefix('Value error, ')}") from None


def expand_path(text: str) -> str:
    """Puts environment variables in place of `${NAME}` and `${NAME:-default}`, the home folder for a leading `~`."""

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1]) or match[2]
        if found is None:
            raise UserError(
                f"{text}: the environment variable {match[1]} is not set; set it, or name the folder itself"
            )
        return found

    return os.path.expanduser(_VARIABLE.sub(value, text))


def _variables(pattern: str) -> str:
    """What the environment variables in a path are, for a message."""
    values = {name: os.environ.get(name) for name, _ in _VARIABLE.findall(pattern)}
    return "".join(
        f"the environment variable {name} in it is {repr(value) if value else 'not set'}; "
        for name, value in values.items()
    )


def find(files: Files) -> list[Source]:
    """The files that `files.paths` name, each once: globs in their order, what one glob finds sorted by path.

    Raises:
        UserError: a glob finds nothing, a folder is named, or a format cannot be told; or see `remote.find`.
    """
    found: dict[Path | Remote, Source] = {}
    for pattern in files.paths:
        text = expand_path(pattern)
        named: Sequence[tuple[Path | Remote, str]] = remote.find(text) if remote.is_url(text) else _local(text)
        if not named:
            where = "is the prefix right?" if remote.is_url(text) else f"paths are taken from the folder {Path.cwd()}"
            raise UserError(f"{text}: no file matches; {_variables(pattern)}{where}")
        for path, name in named:
            found.setdefault(path, _source(path, name, files))
    return list(found.values())


def _local(text: str) -> list[tuple[Path, str]]:
    """The files of this machine that a glob finds, and each one's path below its fixed folder."""
    literal = os.path.exists(text)
    paths = [text] if literal else sorted(glob.glob(text, recursive=True))
    if paths and all(os.path.isdir(path) for path in paths):
        raise UserError(f"{text}: this is a folder; name its files, as in {PurePath(text) / '*.parquet'}")
    base = os.path.dirname(text) or "." if literal else _fixed_folder(text)
    return [(path, os.path.relpath(path, base)) for path in map(Path, paths) if path.is_file()]


def column_names(source: Source, files: Files) -> list[str]:
    """Names of a file's columns, in its order.

    Raises:
        UserError: the file is empty, damaged or has two columns of one name.
    """
    if source.format == "parquet":
        with open_parquet(source) as file:
            names = file.schema_arrow.names
    elif files.columns is not None:
        names = files.columns
    else:
        with _text_mistakes(source, files, []):
            _check_width(source, files)
            with _open_text(source, files, None) as reader:
                names = reader.schema.names
    twice = sorted(name for name, times in Counter(names).items() if times > 1)
    if twice:
        raise UserError(f"{source.path}: column {twice[0]!r} is there twice; give every column a name of its own")
    return names


def read(
    source: Source, files: Files, columns: list[str], row_groups: list[int] | None = None, start: int = 0
) -> Iterator[pa.RecordBatch]:
    """Batches of some columns of a file, in the file's order; its header must have them.

    `row_groups` are those of a Parquet file to read, all when absent. An unpacked text file on this machine can be read
    from the first line on that begins after `start` bytes; inside a value of several lines such a line is no row.

    Raises:
        UserError: the file is empty, damaged, not UTF-8, or a row has too few or too many values.
    """
    if source.format == "parquet":
        with open_parquet(source) as file:
            groups = range(file.num_row_groups) if row_groups is None else row_groups
            rows = batch_rows(file, columns, groups, BATCH_ROWS, str(source.path))
            if isinstance(source.path, Path):
                rows = dictionary_rows(source.path, columns, groups, rows)
            for batch in file.iter_batches(rows, row_groups=groups, columns=columns, use_threads=False):
                batch.validate(full=True)  # Parquet does not see to it that text is UTF-8
                yield batch
        return
    names = column_names(source, files)
    if start:
        files = files.model_copy(update={"columns": names})  # the header is behind
    with _text_mistakes(source, files, names), _open_text(source, files, columns, start) as reader:
        yield from reader


@contextmanager
def open_parquet(source: Source) -> Iterator[pq.ParquetFile]:
    """A Parquet file of a log; what is wrong with it, found here or inside the block, is a `UserError`."""
    with _parquet_mistakes(source):
        if isinstance(source.path, Path):
            opened, buffer = source.path, 1 << 20
        else:
            opened, buffer = source.path.open(), remote.BLOCK
        with pq.ParquetFile(opened, buffer_size=buffer) as file:
            yield file


def open_bytes(source: Source) -> pa.NativeFile:
    """What is in a text file, unpacked, from its beginning."""
    if isinstance(source.path, Remote):
        return source.path.stream(source.codec)
    return pa.input_stream(str(source.path), compression=source.codec)


@contextmanager
def _open_text(
    source: Source, files: Files, columns: list[str] | None, start: int = 0
) -> Iterator[pyarrow.csv.CSVStreamingReader]:
    """A reader of `columns` as strings; without `columns`, one that is good for its column names only."""
    if source.path.stat().st_size == 0:
        raise UserError(
            f"{source.path}: the file is empty; expected {'rows' if files.columns else 'a header and rows'}"
        )
    with open_bytes(source) as stream:
        if start:
            stream.seek(start)
            while (more := stream.read(_HEAD_BYTES)) and b"\n" not in more:
                start += len(more)
            stream.seek(start + more.find(b"\n") + 1)
        yield pyarrow.csv.open_csv(
            stream,
            read_options=pyarrow.csv.ReadOptions(
                use_threads=False, block_size=_BLOCK_BYTES, column_names=files.columns
            ),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=_delimiter(source, files),
                quote_char='"' if files.quoting else False,
                newlines_in_values=files.quoting,
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=columns,
                column_types=dict.fromkeys(columns or [], pa.string()),
                null_values=files.nulls,
                strings_can_be_null=True,
            ),
        )


def _delimiter(source: Source, files: Files) -> str:
    return files.delimiter or ("\t" if source.format == "tsv" else ",")


def _check_width(source: Source, files: Files) -> None:
    """Refuses a header of very many columns before anything is made for each of them."""
    head, delimiter = b"", _delimiter(source, files).encode()
    with open_bytes(source) as stream:
        while len(head) < _BLOCK_BYTES and (more := stream.read(_HEAD_BYTES)):
            head += more
            plain = b"".join(head.split(b'"')[::2]) if files.quoting else head
            header, *rows = re.split(rb"[\r\n]", plain.lstrip(b"\r\n"), maxsplit=1)
            if header.count(delimiter) >= COLUMNS:
                raise UserError(f"{source.path}: a header of more than {COLUMNS:,} columns; {_hint(files)}")
            if rows:
                return


@contextmanager
def _text_mistakes(source: Source, files: Files, names: list[str]) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        _refused(source, error)
        said = str(error).split("\n")[0]
        header = files.columns is None
        where = str(source.path)
        if row := re.search(r"Row #(\d+)", said):
            number = int(row[1]) - header
            where += f", row {number}" if number else ", header"
        if width := re.search(r"Expected (\d+) columns, got (\d+)", said):
            named = "the header has" if header else "`columns` names"
            raise UserError(f"{where}: {width[2]} values where {named} {width[1]}; {_hint(files)}") from None
        if "UTF8" in said or isinstance(error, UnicodeDecodeError):
            column = re.search(r"column #(\d+)", said)
            if column and int(column[1]) < len(names):
                where += f", column {names[int(column[1])]!r}"
            raise UserError(f"{where}: not text in UTF-8; convert the file, as with iconv -f latin1 -t utf-8") from None
        if "straddling" in said:
            size = _BLOCK_BYTES >> 20
            raise UserError(f"{where}: a row of more than {size} MiB; {_hint(files)}") from None
        if "Empty CSV" in said:
            raise UserError(f"{where}: the file holds no line with anything on it") from None
        kind = f"{source.codec}-compressed {source.format}" if source.codec else source.format
        raise UserError(
            f"{where}: cannot be read as {kind} ({said}); is the file whole, and its suffix right?"
        ) from None


def _hint(files: Files) -> str:
    if files.quoting:
        return "is a quote left open or the delimiter another? See `quoting` and `delimiter`"
    return "is the delimiter another, or are values quoted? See `delimiter` and `quoting`"


@contextmanager
def _parquet_mistakes(source: Source) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        _refused(source, error)
        said = str(error).split("\n")[0]
        raise UserError(f"{source.path}: cannot be read as Parquet ({said}); is the file whole?") from None


def _refused(source: Source, error: Exception) -> None:
    """Tells what an object store had to say, if it was that."""
    if isinstance(source.path, Remote) and isinstance(error, OSError) and (said := remote.refusal(error)):
        raise UserError(f"{source.path}: {said}") from None


def _fixed_folder(pattern: str) -> str:
    """The folder above the first wildcard of a glob."""
    parts = PurePath(pattern).parts
    fixed = 0
    while fixed < len(parts) - 1 and not glob.has_magic(_ESCAPED.sub("", parts[fixed])):
        fixed += 1
    return os.path.join("", *(_ESCAPED.sub(lambda match: match[0][1], part) for part in parts[:fixed])) or "."


def _source(path: Path | Remote, name: str, files: Files) -> Source:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UserError(f"{path}: the name is not text in UTF-8; rename the file") from None
    suffixes = [suffix.lower() for suffix in path.suffixes]
    codec = _CODECS.get(suffixes[-1]) if suffixes else None
    inner = suffixes[-2:-1] if codec else suffixes[-1:]
    kind = files.format or (_FORMATS.get(inner[0]) if inner else None)
    if kind is None:
        raise UserError(f"{path}: the suffix does not tell the format; say `format: csv`, `tsv` or `parquet`")
    if kind == "parquet" and codec is not None:
        raise UserError(f"{path}: Parquet is compressed inside; unpack the file")
    return Source(path, PurePath(name).as_posix(), kind, codec)
