from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.cluster import KMeans

from recdistill.config.models import Architecture
from recdistill.errors import UserError
from recdistill.models.clusters import CLUSTERS, alike, cluster, clustered
from recdistill.models.dlrm import DLRM
from recdistill.models.frozen import load_model, save_model
from recdistill.models.shape import Shape, TableShape, shape_of
from recdistill.models.sharing import Sharing
from recdistill.models.size import _cut
from tests.models.test_shape import make_schema

SCHEMA = make_schema([400, 90, 5], 1)


def unsaid(vectors: np.ndarray, groups: np.ndarray) -> float:
    """The share of what differs between vectors that differs inside groups."""
    means = np.stack(
        [vectors[groups == at].mean(0) if (groups == at).any() else vectors[0] for at in range(groups.max() + 1)]
    )
    return float(np.square(vectors - means[groups]).sum() / np.square(vectors - vectors.mean(0)).sum())


def test_ids_of_one_kind_are_found() -> None:
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 12, 900)
    vectors = (rng.normal(size=(12, 8))[kind] + 0.01 * rng.normal(size=(900, 8))).astype(np.float32)
    groups = alike(vectors, 40)
    assert groups.dtype == np.int32 and set(groups) == set(range(40))
    assert all(len(set(kind[groups == at])) == 1 for at in range(40))
    assert unsaid(vectors, groups) < 0.001 < 0.5 < unsaid(vectors, rng.integers(0, 40, 900))
    np.testing.assert_array_equal(groups, alike(vectors, 40))


def test_two_steps_say_nearly_as_much_as_one() -> None:
    vectors = np.random.default_rng(1).normal(size=(1500, 4)).astype(np.float32)
    best = KMeans(100, n_init=1, random_state=0).fit_predict(vectors)
    assert unsaid(vectors, alike(vectors, 100)) < 1.15 * unsaid(vectors, best)


@settings(max_examples=60)
@given(
    st.integers(1, 60).flatmap(lambda n: arrays(np.float32, (n, 3), elements=st.sampled_from([0.0, 1.0, -2.5]))),
    st.integers(1, 60),
)
def test_whatever_vectors_are_every_id_has_a_group(vectors: np.ndarray, groups: int) -> None:
    found = alike(vectors, groups)
    assert found.shape == (len(vectors),) and found.min() >= 0 and found.max() < groups


def by_hash_of(shape: Shape) -> np.ndarray:
    return Sharing(shape.tables).of(0, np.arange(400))


@pytest.fixture
def shape() -> Shape:
    whole = shape_of(Architecture(top=[6]), 4, SCHEMA, None)
    return _cut(whole, 40, whole.known)


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_model(DLRM(shape_of(Architecture(top=[8]), 16, SCHEMA, None)), tmp_path / "teacher")
    return tmp_path / "teacher"


def test_ids_that_the_teacher_treats_alike_share_a_row(shape: Shape, teacher: Path, tmp_path: Path) -> None:
    cluster(tmp_path / "unit", "mark", teacher, shape)
    before = DLRM(shape)
    by_hash = before.row_map.sharing.clusters.clone()
    weights = [value.clone() for value in before.parameters()]
    model = clustered(before, tmp_path / "unit")
    assert all(torch.equal(one, two) for one, two in zip(weights, model.parameters(), strict=True))
    assert not torch.equal(by_hash, model.row_map.sharing.clusters)
    table = shape.tables[0]
    assert (table.rows, table.own, table.clustered) == (40, 30, 80)
    rows = model.row_map.sharing.of(0, np.arange(400))
    np.testing.assert_array_equal(rows[:30], np.arange(30))
    assert set(rows[30:]) <= set(range(30, 40))
    np.testing.assert_array_equal(rows[110:], Sharing(shape.tables).of(0, np.arange(110, 400)))  # by hash
    vectors = load_model(teacher).embeddings.embedding_bags["f0"].weight.numpy()[30:110]
    assert unsaid(vectors, rows[30:110] - 30) < 0.95 * unsaid(vectors, by_hash_of(shape)[30:110] - 30)
    save_model(model, tmp_path / "student")
    again = load_model(tmp_path / "student")
    np.testing.assert_array_equal(again.row_map.sharing.of(0, np.arange(400)), rows)
    numbers = sum(value.numel() for value in model.state_dict().values())
    assert numbers == shape.parameters() and shape.account()["clusters"] == (80 + 60) // 2


def test_clusters_of_another_student_are_refused(shape: Shape, teacher: Path, tmp_path: Path) -> None:
    cluster(tmp_path / "unit", "mark", teacher, shape)
    other = _cut(shape_of(Architecture(top=[6]), 4, SCHEMA, None), 44, {"f0": 400})
    with pytest.raises(UserError, match="not the clusters of this student"):
        clustered(DLRM(other), tmp_path / "unit")
    (tmp_path / "unit" / CLUSTERS).write_bytes(b"torn")
    with pytest.raises(UserError, match="not the clusters of this student"):
        clustered(DLRM(shape), tmp_path / "unit")


@pytest.mark.parametrize("shared", [3, 40_000, 70_000])
def test_a_cluster_takes_16_bits_where_they_are_enough(shared: int) -> None:
    table = TableShape(name="t", features=["t"], rows=shared + 5, source_rows=200_000, own=5, clustered=100_001)
    sharing = Sharing([table])
    assert len(sharing.clusters) == (50_001 if shared < 65_536 else 100_001)
    said = torch.arange(100_001).flip(0) % shared
    sharing.fill(said)
    assert torch.equal(sharing.cluster(torch.arange(100_001)), said)
    np.testing.assert_array_equal(sharing.of(0, np.arange(5, 100_006)), 5 + said.numpy())
