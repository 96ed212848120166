from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from recdistill.config.dataset import Files
from recdistill.errors import UserError
from recdistill.init import sample
from recdistill.init.sample import take


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "ROWS", 80)


def test_a_small_log_is_taken_whole(log: Callable[..., Path]) -> None:
    found = take(Files(paths=[str(log())]))
    assert found.whole and found.rows == 600


def test_parquet_is_sampled_from_first_to_last_row_group(few: None, log: Callable[..., Path]) -> None:
    found = take(Files(paths=[str(log("log.parquet"))]))
    assert found.table.num_rows == 80 and found.rows == 600 and not found.whole
    times = found.table["timestamp"].to_pylist()
    assert times[0] < 1_767_225_600 + 86_400 and times[-1] > 1_767_225_600 + 2 * 86_400


@pytest.mark.parametrize("header", [True, False])
def test_text_is_sampled_from_its_first_to_its_last_lines(
    few: None, log: Callable[..., Path], tmp_path: Path, header: bool
) -> None:
    first, *lines = log().read_text().splitlines()
    path = tmp_path / "plain.csv"
    path.write_text("\n".join([first] * header + lines) + "\n")
    found = take(Files(paths=[str(path)], columns=None if header else first.split(",")))
    assert (found.table.num_rows, found.places, found.whole) == (80, sample.PLACES, False)
    known = set(lines)
    rows = [",".join(row.values()) for row in found.table.to_pylist()]
    assert all(row in known for row in rows) and len(set(rows)) == 80
    assert lines.index(rows[0]) == 0 and lines.index(rows[-1]) > 580


def test_text_with_values_of_several_lines_is_sampled_at_its_head(few: None, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    broken = "\n" * 10  # most places begin within one
    path.write_text("label,x,note\n" + "".join(f'{row % 2},{row},"{broken}"\n' for row in range(2000)))
    found = take(Files(paths=[str(path)]))
    assert found.places == 1 and found.table["x"].to_pylist() == [str(row) for row in range(80)]


@pytest.mark.parametrize("suffix", ["csv", "csv.gz"])
def test_text_is_bounded_and_its_rows_are_told_by_its_bytes(
    few: None, log: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    text = log().read_bytes()
    path = tmp_path / f"packed.{suffix}"
    path.write_bytes(gzip.compress(text) if suffix.endswith("gz") else text)
    monkeypatch.setattr(sample, "HEAD_BYTES", 4096)
    assert len(text) > 3 * 4096
    found = take(Files(paths=[str(path)]))
    assert found.table.num_rows == 80 and not found.whole
    assert found.rows == pytest.approx(600, rel=0.1 if suffix == "csv" else 0.3)


def test_every_file_gives_a_part(few: None, log: Callable[..., Path]) -> None:
    paths = [str(log(f"day-{number}.csv", day=number)) for number in range(4)]
    assert set(take(Files(paths=paths)).table["day"].to_pylist()) == {"0", "1", "2", "3"}


def test_only_a_bounded_part_of_a_file_is_read(few: None, log: Callable[..., Path], monkeypatch) -> None:
    path, groups = log("log.parquet"), []

    def read(source, files, columns, row_groups):
        groups.append(row_groups)
        return sample_read(source, files, columns, row_groups)

    sample_read = sample.read
    monkeypatch.setattr(sample, "read", read)
    take(Files(paths=[str(path)]))
    assert len(groups) == sample.PLACES and all(len(group) == 1 for group in groups)


def test_files_of_different_tables_are_refused(log: Callable[..., Path]) -> None:
    paths = [str(log("a.csv")), str(log("b.csv", extra=1))]
    with pytest.raises(UserError, match=r"b\.csv: column 'extra'.*joins"):
        take(Files(paths=paths))


def test_no_rows_are_refused(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("label,x\n")
    with pytest.raises(UserError, match="no rows"):
        take(Files(paths=[str(tmp_path / "log.csv")]))
