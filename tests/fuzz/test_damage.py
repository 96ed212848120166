"""Logs whose bytes were changed on the way: read as far as they are well, or refused. A file cut short is refused."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recdistill.clicklog.ingest import ingest
from recdistill.config.dataset import Dataset as Section
from recdistill.init.draft import draft
from tests.fuzz.harness import EDITS, attempt, fuzz, refused, spoil
from tests.fuzz.tables import Log, write_parquet, write_text
from tests.fuzz.test_types import check_contract

LOG = Log(
    [
        {"id": str(n), "label": str(n % 2), "user": f'u"{n % 5}', "tags": "a|b" if n % 3 else "", "price": str(n / 7)}
        for n in range(200)
    ],
    validation=0.2,
    test=0.2,
    max_length=2,
    min_count=1,
)
NAMES = ["log.csv", "log.tsv.gz", "log.csv.zst", "log.parquet"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bytes of a well log in every format."""
    folder = tmp_path_factory.mktemp("written")
    for name in NAMES[:3]:
        write_text(LOG, folder / name, csv.QUOTE_MINIMAL, "\n")
    write_parquet(LOG, folder / NAMES[3])
    return {name: (folder / name).read_bytes() for name in NAMES}


@fuzz(120)
@given(name=st.sampled_from(NAMES), edits=EDITS)
def test_changed_bytes(
    tmp_path: Path, written: dict[str, bytes], name: str, edits: list[tuple[str, float, bytes]]
) -> None:
    path = tmp_path / name
    path.write_bytes(spoil(written[name], edits))
    dataset = attempt(ingest, Section.model_validate(LOG.section(path)), tmp_path / "out")
    if dataset is not None:
        check_contract(dataset)


@fuzz(40)
@given(name=st.sampled_from(NAMES[1:]), where=st.floats(0, 1, exclude_max=True))
def test_a_packed_log_cut_short(tmp_path: Path, written: dict[str, bytes], name: str, where: float) -> None:
    path = tmp_path / name
    path.write_bytes(written[name][: int(where * len(written[name]))])
    refused(ingest, Section.model_validate(LOG.section(path)), tmp_path / "out")


@fuzz(40)
@given(name=st.sampled_from(NAMES), edits=EDITS)
def test_init_looks_at_anything(
    tmp_path: Path, written: dict[str, bytes], name: str, edits: list[tuple[str, float, bytes]]
) -> None:
    path = tmp_path / name
    path.write_bytes(spoil(written[name], edits))
    attempt(draft, [str(path)], None)
