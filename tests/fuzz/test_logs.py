"""Logs of any content: what ingest makes of them is what was worked out cell by cell, or is refused with a sentence."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from recdistill.clicklog.ingest import ingest
from recdistill.clicklog.schema import SPLITS, Dataset
from recdistill.config.dataset import Dataset as Section
from tests.fuzz.harness import attempt, fuzz
from tests.fuzz.tables import Expected, Log, expect, logs, write_parquet, write_text

SUFFIXES = ["csv", "tsv", "csv.gz", "tsv.zst"]


def read(dataset: Dataset) -> dict[str, list[Any]]:
    """A dataset's rows by column, training rows first; ids of bags as the values that they stand for."""
    parts = [(split, part.path) for split in SPLITS for part in dataset.parts(split)]
    table = pa.concat_tables(pq.read_table(path, partitioning=None) for _, path in parts)
    found = {name: table[name].to_pylist() for name in table.column_names}
    found["splits"] = [split for split, path in parts for _ in range(pq.read_metadata(path).num_rows)]
    words = ["?", *pq.read_table(dataset.vocabulary_path("tags"))["value"].to_pylist()]
    found["tags"] = [[words[at] for at in ids] for ids in found["tags"]]
    return found


def check(dataset: Dataset, expected: Expected) -> None:
    """Compares a dataset with what it must hold. Words that no training row has are unknown."""
    found = read(dataset)
    for name in ("splits", "example_id", "label", "user"):
        assert found[name] == getattr(expected, name), name
    trained = expected.splits.count("train")
    known = {word for words in expected.tags[:trained] for word in words}
    assert found["tags"] == [[word if word in known else "?" for word in words] for words in expected.tags]
    np.testing.assert_allclose(found["price"], expected.price, rtol=1e-4, atol=1e-5)


def ingested(log: Log, path: Path, out: Path, **more: Any) -> None:
    """Ingests a log from its file, and holds what comes of it against the oracle."""
    section = Section.model_validate(log.section(path, **more))
    dataset, expected = attempt(ingest, section, out), expect(log, lists=path.suffix == ".parquet")
    if expected is not None:
        check(dataset or ingest(section, out), expected)  # where it was refused, says why
    else:
        assert dataset is None, "not refused"
        assert not (out / "manifest.json").exists() and not (out / ".scratch").exists()


@fuzz(60)
@given(
    log=logs(),
    suffix=st.sampled_from(SUFFIXES),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    newline=st.sampled_from(["\n", "\r\n"]),
)
def test_a_text_log(tmp_path: Path, log: Log, suffix: str, quoting: Any, newline: str) -> None:
    path = tmp_path / f"log.{suffix}"
    write_text(log, path, quoting, newline)
    ingested(log, path, tmp_path / "out")


@fuzz(25)
@given(log=logs())
def test_the_same_as_parquet(tmp_path: Path, log: Log) -> None:
    write_parquet(log, tmp_path / "log.parquet")
    ingested(log, tmp_path / "log.parquet", tmp_path / "out")
