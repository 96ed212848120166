from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from recdistill.teachers.codes import EXTRA, _decode, decode, encode

FLOATS = st.floats(-1e4, 1e4, width=32)


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=FLOATS))
def test_a_number_moves_by_at_most_half_a_step_of_its_row(embedding: np.ndarray) -> None:
    codes = encode(embedding)
    assert codes.dtype == np.uint8 and codes.shape == (len(embedding), embedding.shape[1] + EXTRA)
    step = np.ptp(embedding, axis=1, keepdims=True) / 255
    rounding = 1e-6 * np.abs(embedding).max(axis=1, keepdims=True) + 1e-7
    assert (np.abs(decode(torch.from_numpy(codes)).numpy() - embedding) <= 0.5 * step + rounding).all()


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=FLOATS))
def test_a_gpu_decodes_the_same(embedding: np.ndarray) -> None:
    codes = torch.from_numpy(encode(embedding))
    rounding = 1e-6 * float(np.abs(embedding).max()) + 1e-7
    torch.testing.assert_close(_decode(codes), decode(codes), rtol=0, atol=rounding)


def test_zeros_of_an_activation_stay_zeros_and_so_do_rows_that_nobody_answered() -> None:
    activation = np.maximum(np.random.default_rng(0).normal(size=(100, 16)), 0)
    decoded = decode(torch.from_numpy(encode(activation))).numpy()
    assert (decoded[activation == 0] == 0).all() and decoded.any()
    assert not decode(torch.zeros(3, 16 + EXTRA, dtype=torch.uint8)).any()


def test_codes_do_not_depend_on_the_layout_in_memory() -> None:
    wide = np.random.default_rng(0).normal(size=(20, 10))
    np.testing.assert_array_equal(encode(wide[:, ::2]), encode(np.ascontiguousarray(wide[:, ::2])))
    assert encode(np.zeros((0, 4))).shape == (0, 4 + EXTRA)
