"""Files in object stores (`s3://bucket/path`, `gs://...`, whatever pyarrow knows), read as a stream.

S3's address and credentials come from where the field keeps them: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and
AWS_SECRET_ACCESS_KEY, AWS_REGION, ~/.aws. A request that fails, or whose answer breaks off, is asked again, `ATTEMPTS`
times in all; reading is by ranges, so only the range in hand is.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import posixpath
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from recdistill.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.fs import FileSystem

ATTEMPTS = 5
"""Within about ten seconds where nobody answers, a minute where somebody answers nothing."""
BLOCK = 1 << 23
"""Bytes of one request for the next piece of a stream."""
_URL = re.compile(r"(?P<root>[a-z][a-z0-9+.-]+://[^/]*)/?(?P<path>.*)", re.DOTALL)
_SECRET = re.compile(r"[^/]+://[^/@]*:[^/]*@")
_REFUSED = {
    "NO_SUCH_BUCKET|[Bb]ucket '.*' not found": "there is no such bucket",
    "ACCESS_DENIED|PERMISSION_DENIED|INVALID_ACCESS_KEY|SIGNATURE|TOKEN|[Cc]redentials|Forbidden": (
        "access was refused; are the credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws) those of "
        "somebody who may do this?"
    ),
}


@dataclass(frozen=True)
class Remote:
    """A file in an object store, with as much of `Path` as readers of logs need."""

    url: str
    st_size: int
    st_mtime_ns: int | None

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """What stands behind the last slash."""
        return posixpath.basename(self.url)

    @property
    def suffixes(self) -> list[str]:
        """As `Path.suffixes`."""
        return [f".{suffix}" for suffix in self.name.lstrip(".").split(".")[1:]]

    def stat(self) -> Remote:
        """Its size and when it was written, under the names that `Path.stat` uses."""
        return self

    def open(self, mode: str = "rb") -> pa.NativeFile:
        """For reading bytes at any place, each read a request of its own."""
        with telling(self.url):
            system, path = locate(self.url)
            return system.open_input_file(path)

    def stream(self, codec: str | None) -> pa.NativeFile:
        """For reading from begin to end, unpacked."""
        with telling(self.url):
            system, path = locate(self.url)
            return system.open_input_stream(path, compression=codec, buffer_size=BLOCK)


def is_url(text: str) -> bool:
    """Whether a path names something in an object store."""
    return _URL.fullmatch(text) is not None


def local(path: Path | None) -> Path | None:
    """A path that is written to, for the command line; `UserError` for what was a URL before it was a path."""
    if path is None:
        return None
    if re.match(r"[a-z][a-z0-9+.-]+:(/|$)", str(path)):
        raise UserError(f"{path}: results are written on this machine; name a folder or file of it")
    # As pyarrow does with every path that it is given.
    return Path(os.path.expanduser(path))


def tells_a_secret(url: str) -> bool:
    """Whether credentials stand in a URL, where they would be logged and copied."""
    return _SECRET.match(url) is not None


def find(pattern: str) -> list[tuple[Remote, str]]:
    """The files that a URL names, wildcards as in `glob` with `**`, and each one's path below the fixed folder.

    Raises:
        UserError: the URL names a folder, holds credentials, or the store refuses or cannot be reached.
    """
    from pyarrow.fs import FileSelector, FileType

    with telling(pattern):
        system, path = locate(pattern)
        info = system.get_file_info(path)
        if info.type == FileType.Directory:
            raise UserError(f"{pattern}: this is a folder; name its files, as in {pattern.rstrip('/')}/*.parquet")
        if info.type == FileType.File:
            return [(Remote(pattern, info.size, info.mtime_ns), posixpath.basename(path))]
        parts = pattern.split("/")
        wild = (at for at, part in enumerate(parts) if re.search(r"[*?[]", part))
        fixed = max(3, next(wild, len(parts) - 1))  # a bucket's name, the third part, is no pattern
        folder = "/".join(parts[:fixed])
        _, base = locate(folder)
        try:
            infos = system.get_file_info(FileSelector(base, recursive=True))
        except FileNotFoundError:
            infos = []
    named = [(posixpath.relpath(info.path, base), info) for info in infos if info.type == FileType.File]
    return [
        (Remote(f"{folder}/{name}", info.size, info.mtime_ns), name)
        for name, info in sorted(named, key=lambda one: one[0])
        if _matches(name.split("/"), parts[fixed:])
    ]


def locate(url: str) -> tuple[FileSystem, str]:
    """The file system that a URL is in, and the path there."""
    match = _URL.fullmatch(url)
    assert match is not None
    if tells_a_secret(url):
        raise UserError("a URL must not hold credentials; give them as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    system, base = _file_system(match["root"], endpoint)
    return system, posixpath.join(base, match["path"]).rstrip("/")


@contextmanager
def telling(url: str) -> Iterator[None]:
    """Tells in one sentence what a store had to say; a full disk here passes."""
    try:
        yield
    except (OSError, ValueError) as error:
        if not isinstance(error, OSError):
            raise UserError(f"{url}: {error}; expected a URL like s3://bucket/path") from None
        if error.errno == errno.ENOSPC:
            raise
        raise UserError(f"{url}: {refusal(error) or error}") from None


def refusal(error: OSError) -> str | None:
    """What it means, where it was a store that refused or failed; None where it was what is in the file."""
    said = str(error).splitlines()[0]
    for pattern, meaning in _REFUSED.items():
        if re.search(pattern, said):
            return meaning
    if isinstance(error, FileNotFoundError):
        return "there is no such object, or no longer"
    if re.search("AWS Error|google::cloud|[Tt]imeout", said):
        reason = said.rpartition("Details: ")[2]
        return f"the store failed, asked {ATTEMPTS} times ({reason}); run the same command again when it answers"
    return None


@lru_cache
def _file_system(root: str, endpoint: str | None) -> tuple[FileSystem, str]:
    import pyarrow as pa
    from pyarrow import fs

    scheme, _, host = root.partition("://")
    if scheme == "s3":
        strategy = fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS)
        region = None if endpoint else fs.resolve_s3_region(host)
        return fs.S3FileSystem(endpoint_override=endpoint, region=region, retry_strategy=strategy), host
    try:
        system, base = fs.FileSystem.from_uri(root)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ImportError, ValueError) as error:
        raise UserError(
            f"{root}: no object store that can be read ({str(error).splitlines()[0]}); expected s3://bucket/..., "
            "gs://bucket/... or another that pyarrow.fs knows"
        ) from None
    return system, base


def _matches(parts: list[str], pattern: list[str]) -> bool:
    """Whether a path matches a pattern of `glob`, both cut at slashes."""
    if not pattern or not parts:
        return not parts and all(wanted == "**" for wanted in pattern)
    if pattern[0] == "**":
        return _matches(parts, pattern[1:]) or (not parts[0].startswith(".") and _matches(parts[1:], pattern))
    hidden = parts[0].startswith(".") and not pattern[0].startswith(".")
    return not hidden and fnmatch.fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])
