from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch

from recdistill.clicklog.schema import Dataset
from recdistill.errors import UserError
from recdistill.export import open_student, score
from recdistill.models.dlrm import DLRM
from recdistill.models.frozen import load_model, save_model
from tests.exported import Exported, raw_table


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(tmp_path_factory.mktemp("export") / "root")


@pytest.fixture
def folder(exported: Exported, tmp_path: Path) -> Path:
    """A copy of the student, to be spoilt."""
    shutil.copytree(exported.folder, tmp_path / "copy")
    return tmp_path / "copy"


def sigmoid(logit: float) -> float:
    return 1 / (1 + np.exp(-logit))


@pytest.mark.parametrize("suffix", ["parquet", "csv", "csv.gz"])
@pytest.mark.parametrize("labelled", [True, False])
def test_a_raw_log_is_scored_as_its_ingested_rows_are(
    exported: Exported, tmp_path: Path, suffix: str, labelled: bool
) -> None:
    log, table = tmp_path / f"new.{suffix}", raw_table()
    if not labelled:  # who clicked is known up to the last day
        unknown = table["when"].to_numpy() >= 1_700_006_400 + 5 * 86_400
        label = pa.array(table["label"].to_numpy(), mask=unknown)
        table = table.set_column(table.column_names.index("label"), "label", label)
    if suffix == "parquet":
        pq.write_table(table, log)
    else:
        with pa.output_stream(str(log), compression="gzip" if suffix.endswith("gz") else None) as stream:
            pyarrow.csv.write_csv(table, stream)
    found, expected = exported.scored(log), exported.own_logits()
    if not labelled:  # clicks of the last day are no history yet
        early = set(table["id"].to_numpy()[~unknown].tolist())
        assert len(found) == len(expected)
        found, expected = ({k: v for k, v in each.items() if k in early} for each in (found, expected))
    assert found.keys() == expected.keys() and len(set(found.values())) > 100
    for number, logit in expected.items():
        assert found[number] == pytest.approx(sigmoid(logit), abs=1e-6)


def test_probabilities_speak_about_true_traffic(tmp_path: Path) -> None:
    """Where one negative in four was kept, the true odds are a quarter of the log's."""
    thinned = Exported(tmp_path / "thinned", negative_keep_rate=0.25)
    found = thinned.scored(thinned.raw)
    for number, logit in thinned.own_logits().items():
        odds = found[number] / (1 - found[number])
        assert odds == pytest.approx(np.exp(logit) * 0.25, rel=1e-4)


def test_an_export_checks_itself(exported: Exported) -> None:
    model, schema = open_student(exported.folder)
    assert schema == exported.dataset.schema
    names = sorted(path.name for path in exported.folder.iterdir())
    assert names == ["check.parquet", "model.json", "schema.json", "vocabulary", "weights.safetensors"]
    check = pq.read_table(exported.folder / "check.parquet")
    own = exported.own_logits()
    assert 50 < check.num_rows <= 256
    for number, logit in zip(check["example_id"].to_pylist(), check["expected_logit"].to_pylist(), strict=True):
        assert logit == pytest.approx(own[number], abs=1e-6)
    assert not model.training


def test_changed_weights_are_refused(folder: Path, tmp_path: Path, exported: Exported) -> None:
    changed = load_model(folder)
    changed.head.bias += 0.001
    save_model(changed, folder)
    with pytest.raises(UserError, match=r"logits differ by up to 0.001 from those of its export .*: export again"):
        score(folder, [exported.raw], tmp_path / "scores.parquet")
    assert not (tmp_path / "scores.parquet").exists()


def test_weights_that_are_no_numbers_are_refused(folder: Path) -> None:
    changed = load_model(folder)
    changed.head.bias += float("nan")
    save_model(changed, folder)
    with pytest.raises(UserError, match="logits differ by up to nan"):
        open_student(folder)


def test_a_flipped_byte_of_any_row_is_refused(folder: Path) -> None:
    path = folder / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"weights.safetensors: damaged"):
        open_student(folder)


def test_the_model_of_another_export_is_refused(folder: Path, exported: Exported) -> None:
    torch.manual_seed(99)
    save_model(DLRM(exported.model.shape), folder)
    with pytest.raises(UserError, match="belong to different exports"):
        open_student(folder)


@pytest.mark.parametrize("name", ["check.parquet", "model.json", "weights.safetensors", "schema.json"])
@pytest.mark.parametrize("how", ["missing", "truncated"])
def test_an_incomplete_folder_is_refused(folder: Path, name: str, how: str) -> None:
    path = folder / name
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match=rf"{name}: "):
        open_student(folder)


def test_a_log_without_rows_is_refused(exported: Exported, tmp_path: Path) -> None:
    pq.write_table(raw_table().slice(0, 0), tmp_path / "empty.parquet")
    with pytest.raises(UserError, match=r"empty.parquet: .*no rows"):
        score(exported.folder, [tmp_path / "empty.parquet"], tmp_path / "scores.parquet")
    assert not (tmp_path / "scores.parquet").exists()


def test_the_dataset_is_not_needed_to_score(exported: Exported, folder: Path, tmp_path: Path) -> None:
    before = exported.scored(exported.raw)
    score(folder, [exported.raw], tmp_path / "scores.parquet")
    assert pq.read_table(tmp_path / "scores.parquet")["probability"].to_pylist() == list(before.values())
    assert load_model(folder).shape == exported.model.shape
    assert isinstance(exported.dataset, Dataset)
