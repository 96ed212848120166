from __future__ import annotations

from pathlib import Path

import pytest

from recdistill.errors import UserError
from recdistill.init.dialect import describe, has_header
from recdistill.init.sample import take

CRITEO = "\t".join(["0", *map(str, range(13)), *["68fd1e64"] * 26]) + "\n"


@pytest.mark.parametrize(
    ("first", "rest", "expected"),
    [
        (["label", "x"], [["1", "a"]], True),
        (["1", "x"], [["1", "a"]], False),
        (["a", ""], [["a", "b"]], False),
        (["", "x"], [["0", "1"]], True),
        (["a", "b"], [["a", "c"]], False),
        (["user", "item"], [["u", "i"]], True),
        (["0", "1", "2"], [["5", "6", "7"]], True),
        (["label"], [], True),
    ],
)
def test_a_header_is_told_from_a_row(first: list[str], rest: list[list[str]], expected: bool) -> None:
    assert has_header([first, *rest]) is expected


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
def test_the_delimiter_is_the_one_that_cuts_all_lines_alike(tmp_path: Path, delimiter: str) -> None:
    path = tmp_path / "log.csv"
    path.write_text("".join(delimiter.join(row) + "\n" for row in [["label", "x"], ["0", "1"], ["1", "2"]]))
    files, _ = describe([str(path)])
    assert files.delimiter == (None if delimiter == "," else delimiter)


def test_a_strange_suffix_is_looked_into(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text(CRITEO * 3)
    files, doubts = describe([str(tmp_path / "train.txt")])
    assert files.format == "tsv" and any("suffix" in doubt for doubt in doubts)
    assert files.columns is not None and (files.columns[0], files.columns[-1], len(files.columns)) == (
        "label",
        "C26",
        40,
    )


def test_columns_without_names_are_numbered(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("0,1.5,x\n1,2.5,y\n")
    files, doubts = describe([str(tmp_path / "log.csv")])
    assert files.columns == ["column1", "column2", "column3"]
    assert "no header" in doubts[0]


@pytest.mark.parametrize(("name", "text"), [("empty.csv", ""), ("blank.csv", "\n\n"), ("absent.csv", None)])
def test_nothing_to_read_is_one_sentence(tmp_path: Path, name: str, text: str | None) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=name):
        describe([str(tmp_path / name)])


def test_a_header_that_is_not_utf_8_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes("label,café\n1,a\n0,b\n".encode("latin1"))
    files, _ = describe([str(path)])
    with pytest.raises(UserError, match="not text in UTF-8"):
        take(files)


@pytest.mark.parametrize("text", ['{"user": 1, "label": 0}\n{"user": 2, "label": 1}\n', '[{"user": 1}]\n'])
@pytest.mark.parametrize("name", ["log.jsonl", "log.csv"])
def test_json_is_told_apart(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match="looks like JSON; write it as Parquet"):
        describe([str(tmp_path / name)])
