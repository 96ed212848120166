"""Files appear whole or not at all, and never in place of what is no file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from recdistill.errors import UserError
from recdistill.files import atomic, write_text


def test_a_file_that_was_not_finished_leaves_the_one_before(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "before")
    with pytest.raises(ZeroDivisionError), atomic(tmp_path / "file") as partial:
        partial.write_text("half")
        raise ZeroDivisionError
    assert (tmp_path / "file").read_text() == "before" and os.listdir(tmp_path) == ["file"]


def test_what_is_no_file_is_left_alone(tmp_path: Path) -> None:
    """Renamed onto `/dev/null`, a file would take its place: for root, on the whole machine."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name, kind in (("folder", "folder"), ("pipe", "device or a pipe"), ("link", "device or a pipe")):
        with pytest.raises(UserError, match=f"{name}: is a {kind}, and a file is to be written"):
            write_text(tmp_path / name, "text")
    with pytest.raises(UserError, match="/dev/full: is a device or a pipe"):
        write_text(Path("/dev/full"), "text")
    assert (tmp_path / "pipe").is_fifo() and Path("/dev/full").is_char_device()
