from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recdistill.clicklog import sources
from recdistill.clicklog.sources import column_names, expand_path, find, read
from recdistill.config.dataset import Files
from recdistill.errors import UserError


def cells(path: Path | str, wanted: list[str], **settings) -> dict[str, list]:
    files = Files(paths=[str(path)], **settings)
    tables = [pa.Table.from_batches([batch]) for source in find(files) for batch in read(source, files, wanted)]
    return pa.concat_tables(tables).to_pydict()


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_environment_variables_have_defaults(monkeypatch):
    monkeypatch.delenv("PLACE", raising=False)
    assert expand_path("${PLACE:-../here}/x.csv") == "../here/x.csv"
    monkeypatch.setenv("PLACE", "/there")
    assert expand_path("${PLACE:-../here}/x.csv") == "/there/x.csv"
    monkeypatch.setenv("PLACE", "")
    assert expand_path("${PLACE:-../here}/x.csv") == "../here/x.csv"
    monkeypatch.delenv("PLACE")
    with pytest.raises(UserError, match="environment variable PLACE is not set"):
        expand_path("${PLACE}/x.csv")


def test_globs_are_sorted_and_files_named_below_their_fixed_part(tmp_path):
    for day in ("day=2", "day=1"):
        (tmp_path / day).mkdir()
        write(tmp_path / day / "part.csv", "a\n1\n")
    found = find(Files(paths=[f"{tmp_path}/day=*/*.csv"]))
    assert [source.name for source in found] == ["day=1/part.csv", "day=2/part.csv"]
    assert [source.name for source in find(Files(paths=[f"{tmp_path}/day=1/part.csv"]))] == ["part.csv"]
    twice = Files(paths=[f"{tmp_path}/day=2/*.csv", f"{tmp_path}/day=*/*.csv"])
    assert [source.path.parent.name for source in find(twice)] == ["day=2", "day=1"]


def test_a_folder_with_brackets_in_its_name_is_no_wildcard(tmp_path):
    import glob

    folder = tmp_path / "log [1]"
    folder.mkdir()
    write(folder / "day=1.csv", "a\n1\n")
    assert find(Files(paths=[f"{glob.escape(str(folder))}/day=*.csv"]))[0].name == "day=1.csv"
    assert find(Files(paths=[f"{folder}/day=1.csv"]))[0].name == "day=1.csv"


def test_text_is_read_as_strings_with_quotes_line_breaks_and_nulls(tmp_path):
    path = write(tmp_path / "log.csv", '\ufeffa,b,c\r\n1,"x, ""y""\nz",NA\r\n\r\n007,,"2"\r\n')
    assert cells(path, ["c", "a", "b"]) == {"c": [None, "2"], "a": ["1", "007"], "b": ['x, "y"\nz', None]}
    assert cells(path, ["c"], nulls=["2"]) == {"c": ["NA", None]}


def test_line_breaks_in_quotes_may_lie_where_blocks_meet(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_BLOCK_BYTES", 64)
    values = ["x" * (number % 7) + "\n" * (number % 5) + "y" for number in range(200)]
    quoted = "".join(f'"{value}"\n' for value in values)
    assert cells(write(tmp_path / "log.csv", "a\n" + quoted), ["a"]) == {"a": values}


def test_headerless_tab_separated(tmp_path):
    path = write(tmp_path / "log.tsv", "1\t\tx\n0\t2\t\n")
    expected = {"C1": [None, "2"], "label": ["1", "0"], "C2": ["x", None]}
    assert cells(path, ["C1", "label", "C2"], columns="label, C1..C2") == expected


def test_delimiter_and_quoting_can_be_told(tmp_path):
    path = write(tmp_path / "log.csv", 'a|b\n"x|1\n')
    assert cells(path, ["a", "b"], delimiter="|", quoting=False) == {"a": ['"x'], "b": ["1"]}


@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz", "log.csv.zst", "log.tsv", "log.tsv.gz", "log.TSV.ZST"])
def test_every_text_format_says_the_same(logs, name):
    table = {"a": ["1", "x"], "b": ['p"q', "r,s\tt\nu"]}
    assert cells(logs.write(table, name.lower()), ["a", "b"]) == table


def test_concatenated_gzip_is_read_to_the_end(tmp_path):
    path = write(tmp_path / "log.csv.gz", gzip.compress(b"a\n1\n") + gzip.compress(b"2\n"))
    assert cells(path, ["a"]) == {"a": ["1", "2"]}


def test_parquet_streams_row_groups_and_dots_in_names(tmp_path):
    table = pa.table({"a.b": list(range(100_000)), "c": pa.nulls(100_000)})
    pq.write_table(table, tmp_path / "log.parquet", row_group_size=7_000)
    assert cells(tmp_path / "log.parquet", ["a.b"]) == {"a.b": list(range(100_000))}


def test_rows_of_later_blocks_are_counted_on(tmp_path):
    filler = "\n".join(f"{number},{'x' * 1000}" for number in range(20_000))
    path = write(tmp_path / "log.csv", f"a,b\n{filler}\nshort\n")
    with pytest.raises(UserError, match=r"log.csv, row 20001: 1 values where the header has 2"):
        cells(path, ["a"])


MISTAKES = {
    "ragged": ("log.csv", "a,b\n1,2\n3\n", {}, r"log.csv, row 2: 1 values where the header has 2; .*`quoting`"),
    "wide": ("log.tsv", "1\t2\n1\t2\t3\n", {"columns": "a, b"}, r"log.tsv, row 2: 3 values where `columns` names 2"),
    "not utf-8": ("log.csv", b"a,b\n1,2\n1,caf\xe9\n", {}, r"log.csv, row 2, column 'b': not text in UTF-8; .*iconv"),
    "zero bytes": ("log.csv", "", {}, r"log.csv: the file is empty"),
    "blank lines": ("log.csv", "\n\n", {}, r"log.csv: the file holds no line"),
    "two of a name": ("log.csv", "a,b,a\n1,2,3\n", {}, r"log.csv: column 'a' is there twice"),
    "two in columns": ("log.csv", "1,2\n", {"columns": "a, a"}, r"column 'a' is there twice"),
    "long row": ("log.csv", "a,b\n1,2\n1," + "x" * (18 << 20) + "\n", {}, r"a row of more than 8 MiB"),
    "cut gzip": ("log.csv.gz", gzip.compress(b"a,b\n" + b"1,2\n" * 9)[:-9], {}, r"gzip-compressed csv \(Truncated"),
    "not gzip": ("log.csv.gz", "a,b\n1,2\n", {}, r"log.csv.gz: cannot be read as gzip-compressed csv"),
    "not zstd": ("log.csv.zst", "a,b\n1,2\n", {}, r"log.csv.zst: cannot be read as zstd-compressed csv"),
    "not parquet": ("log.parquet", "a,b\n1,2\n", {}, r"log.parquet: cannot be read as Parquet"),
    "no suffix": ("log.dat", "a,b\n1,2\n", {}, r"log.dat: the suffix does not tell the format; say `format"),
    "zipped parquet": ("log.parquet.gz", "x", {}, r"log.parquet.gz: Parquet is compressed inside"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes(tmp_path, case):
    name, content, settings, message = MISTAKES[case]
    path = write(tmp_path / name, content)
    with pytest.raises(UserError, match=message):
        cells(path, ["a", "b"], **settings)


def test_nothing_found_and_folders(tmp_path):
    with pytest.raises(UserError, match=r"none\*.csv: no file matches; paths are taken from"):
        find(Files(paths=[f"{tmp_path}/none*.csv"]))
    with pytest.raises(UserError, match=r"this is a folder; name its files, as in .*/\*.parquet"):
        find(Files(paths=[str(tmp_path)]))


def test_header_alone_has_names_and_no_rows(tmp_path):
    files = Files(paths=[str(write(tmp_path / "log.csv", "a,b\n"))])
    assert column_names(find(files)[0], files) == ["a", "b"]
    assert sum(batch.num_rows for batch in read(find(files)[0], files, ["a"])) == 0
