"""A place in an object store where runs share what their stages made: machine B goes on where machine A ended.

    <store>/store.json                           its version; written first, so who may not write hears of it early
    <store>/objects/ab/abcdef...                 a file, named by the SHA-256 of its bytes, never changed
    <store>/stages/teach/ids/final/<mark>.json   which files make up a result; written last: without it there is none

A result's `mark` is the fingerprint of everything that it depends on, so whoever would do the same work finds it. Two
who finish the same work at once both publish it, and the later record stands. A run folder stays the place where
stages work: readers go over a dataset and its caches many times, and pay for the way once.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from recdistill import progress, remote
from recdistill.errors import UserError
from recdistill.files import SUCCESS, atomic, done, file_sha256, once

VERSION = b'{"version": 1}\n'
STREAMS = 8
"""Files that are on their way at once: one stream does not fill a network."""


def _inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or parts[0] == "/" or ".." in parts or set(path) & {"\\", "\0"}:
        raise ValueError(f"{path!r} is no path inside a folder")
    return path


class File(BaseModel):
    """A file of a result; `path` is its place in the result's folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    path: Annotated[str, AfterValidator(_inside)]
    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    mtime_ns: int
    """Kept: a file's time is one of the things that the next stage's mark depends on."""


class Record(BaseModel):
    """A result: its folders, and the files of each. There are several where one unit of work fills several."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    version: Literal[1] = 1
    folders: dict[Annotated[str, Field(pattern=r"^[^/\\]+$"), AfterValidator(_inside)], list[File]]


class Store:
    """The store at `url`, for the stages below `root` of a run folder."""

    def __init__(self, url: str, root: Path) -> None:
        self.url, self.root = url.rstrip("/"), root

    def open(self) -> None:
        """Makes the store if there is none.

        Raises:
            UserError: the store refuses or fails, or is of another version.
        """
        url = f"{self.url}/store.json"
        if (found := self._read(url)) is None:
            self._write(url, VERSION)
        elif found != VERSION:
            raise UserError(f"{url}: not a store of version 1; name another place, or update recdistill")

    def fetch(self, folder: Path, mark: str) -> bool:
        """Puts a result where it would have been made, if it was published; says whether it was.

        What an earlier call left unfinished is used.

        Raises:
            UserError: the store refuses or fails; a file is gone, or its bytes are not those that were published.
        """
        url = self._record(folder, mark)
        if (text := self._read(url)) is None:
            return False
        try:
            record = Record.model_validate_json(text)
        except ValidationError as error:
            raise UserError(f"{url}: not the record of a result ({error.errors()[0]['msg']}); remove it") from None
        for name in sorted(record.folders, key=lambda name: (name == folder.name, name)):
            once(folder.parent / name, mark, partial(self._bring, record.folders[name], url))
        return done(folder, mark)

    def publish(self, folder: Path, mark: str) -> None:
        """Sends a finished result, unless it is there: every folder beside `folder` that was made under its mark.

        Raises:
            UserError: the store refuses or fails.
        """
        url = self._record(folder, mark)
        if self._size(url) is not None:
            return
        folders: dict[str, Any] = {}
        for path in sorted(path for path in folder.parent.glob("[!.]*") if _made(path, mark)):
            files = sorted(file for file in path.rglob("*") if file.is_file() and file.name != SUCCESS)
            folders[path.name] = _together(partial(self._send, path), files, f"publish {path.name}")
        self._write(url, Record(folders=folders).model_dump_json(indent=1).encode())

    def _record(self, folder: Path, mark: str) -> str:
        return f"{self.url}/stages/{folder.relative_to(self.root).as_posix()}/{mark}.json"

    def _object(self, sha256: str) -> str:
        return f"{self.url}/objects/{sha256[:2]}/{sha256}"

    def _size(self, url: str) -> int | None:
        with remote.telling(url):
            system, path = remote.locate(url)
            return system.get_file_info(path).size

    def _read(self, url: str) -> bytes | None:
        with remote.telling(url):
            system, path = remote.locate(url)
            if system.get_file_info(path).size is None:
                return None
            with system.open_input_stream(path, compression=None) as stream:
                return stream.read()

    def _write(self, url: str, data: bytes) -> None:
        with remote.telling(url):
            system, path = remote.locate(url)
            with system.open_output_stream(path, compression=None) as stream:
                stream.write(data)

    def _send(self, folder: Path, file: Path) -> File:
        from pyarrow.fs import LocalFileSystem, copy_files

        stat, sha256 = file.stat(), file_sha256(file)
        url = self._object(sha256)
        if self._size(url) != stat.st_size:
            with remote.telling(url):
                system, path = remote.locate(url)
                copy_files(str(file), path, LocalFileSystem(), system, chunk_size=remote.BLOCK, use_threads=False)
        return File(
            path=file.relative_to(folder).as_posix(), size=stat.st_size, sha256=sha256, mtime_ns=stat.st_mtime_ns
        )

    def _bring(self, files: list[File], record: str, work: Path) -> None:
        wanted = {work / file.path: file for file in files}
        for path in work.rglob("*"):
            if path.is_file() and path not in wanted:
                path.unlink()

        def bring(path: Path) -> None:
            if not path.exists() or file_sha256(path) != wanted[path].sha256:
                self._bring_one(wanted[path], path, record)

        _together(bring, list(wanted), f"fetch {record.split('/')[-2]}")

    def _bring_one(self, file: File, path: Path, record: str) -> None:
        url, digest = self._object(file.sha256), hashlib.sha256()
        with remote.telling(url):
            system, there = remote.locate(url)
            with system.open_input_stream(there, compression=None) as stream, atomic(path) as partial:
                with partial.open("wb") as out:
                    while block := stream.read(remote.BLOCK):
                        digest.update(block)
                        out.write(block)
                if digest.hexdigest() != file.sha256:
                    raise UserError(
                        f"{url}: these are not the bytes that were published; remove it and {record}, and they are "
                        "made again"
                    )
        os.utime(path, ns=(file.mtime_ns, file.mtime_ns))


def _made(folder: Path, mark: str) -> bool:
    """As `files.done`, for a folder that another process may be replacing."""
    try:
        return bool(json.loads((folder / SUCCESS).read_bytes())["inputs"] == mark)
    except (OSError, ValueError):
        return False


def published(store: Store, function: Callable[..., None], folder: Path, mark: str, *args: Any) -> None:
    """Has `function` do a unit of work (see `Run.units`), and publishes what it made."""
    function(folder, mark, *args)
    store.publish(folder, mark)


def _together(function: Callable[[Path], Any], files: Sequence[Path], label: str) -> list[Any]:
    results = []
    with ThreadPoolExecutor(STREAMS) as pool:
        for result in pool.map(function, files):
            results.append(result)
            progress.current().update(label, len(results), len(files))
    return results
