"""Golden values: a change here would send every stored table's rows and every split to other places."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recdistill.clicklog.hashing import derived_ids, draws, example_ids, hashed_ids, mix
from recdistill.clicklog.values import Column
from recdistill.errors import UserError

HASHED_0 = [139, 720, 303, 474]
HASHED_7 = [580870962873, 600316223637, 1003486264487, 781404672067]
DERIVED = [8079577683198829927, 8079577683198829928]
DRAWS_0 = [0.11985676874556561, 0.9030469931631608, 0.6117065054525653]
DRAWS_1 = [0.30072604640094347]
ABC = 8696274497037089104


def ids_of(cells) -> list[int]:
    return example_ids(Column("id", cells if isinstance(cells, pa.Array) else pa.array(cells), "log", 0)).to_pylist()


def test_hashed_ids_are_golden():
    assert hashed_ids(["", "a", "ü", "42"], 0, 1000).tolist() == HASHED_0
    assert hashed_ids(["", "a", "ü", "42"], 7, 2**40).tolist() == HASHED_7
    assert hashed_ids(["a"], -1, 99).tolist() == hashed_ids(["a"], 2**64 - 1, 99).tolist()


def test_derived_ids_are_golden():
    assert derived_ids("day=1/part.csv", 0, 2).tolist() == DERIVED
    assert derived_ids("day=1/part.csv", 1, 1).tolist() == DERIVED[1:]


def test_draws_are_golden():
    assert draws(np.array([1, 2, 2**62]), 0).tolist() == DRAWS_0
    assert draws(np.array([1]), 1).tolist() == DRAWS_1


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, unique=True), st.integers(-5, 5))
def test_draws_lie_in_the_unit_interval_and_mix_is_one_to_one(ids, seed):
    values = draws(np.array(ids), seed)
    assert ((values >= 0) & (values < 1)).all()
    assert len(set(mix(np.array(ids)).tolist())) == len(ids)


def test_draws_are_spread_evenly():
    values = draws(np.arange(100_000), 3)
    assert np.abs(np.histogram(values, 10, (0, 1))[0] - 10_000).max() < 500


@given(st.lists(st.integers(-(2**63) + 1, 2**63 - 1), min_size=1))
def test_whole_numbers_stay_whatever_column_they_stand_in(values):
    assert ids_of(pa.array(values, pa.int64())) == values
    assert ids_of([str(value) for value in values]) == values


def test_other_texts_become_positive_numbers():
    texts = ["007", "-0", "9223372036854775808", "abc", "99999999999999999999", "1.5", " 1", "--1", "-"]
    ids = ids_of([*texts, "7"])
    assert len(set(ids)) == len(ids) and min(ids) >= 0 and ids[-1] == 7
    assert ids[3] == ABC
    assert ids_of(pa.array([2**64 - 1, 5], pa.uint64())) == ids_of([str(2**64 - 1), "5"])


def test_a_missing_id_is_named():
    with pytest.raises(UserError, match="log, row 2, column 'id': is missing; expected the row's id"):
        ids_of([1, None])
