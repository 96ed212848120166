"""Embeddings in the cache: one byte a number.

A row is `dim` bytes, then two little-endian float32, `scale` and `low`: a number is `low + scale * byte`, and 255
steps reach from the row's least number to its greatest. That is fbgemm's fused 8-bit row, which it codes and decodes at
the speed of memory. The students learn the same from it as from float16, at half the size; what was tried beside it
stands in `tests/benchmarks/LEDGER.md`.
"""

from __future__ import annotations

import numpy as np
import torch
import torchrec  # noqa: F401 (registers fbgemm's operators)
from torch import Tensor

EXTRA = 8
"""Bytes of a row beside its numbers."""


def encode(embedding: np.ndarray) -> np.ndarray:
    """Finite floats [N, dim] to uint8 [N, dim + EXTRA]; each number moves by at most half a step of its row."""
    values = torch.from_numpy(np.ascontiguousarray(embedding, np.float32))
    coded: np.ndarray = torch.ops.fbgemm.FloatToFused8BitRowwiseQuantized(values).numpy()
    return coded


def decode(codes: Tensor) -> Tensor:
    """Uint8 [N, dim + EXTRA] to float32 [N, dim]; a row of zeros, where nobody answered, gives zeros."""
    if codes.device.type != "cpu":
        return _decode(codes)
    decoded: Tensor = torch.ops.fbgemm.Fused8BitRowwiseQuantizedToFloat(codes)
    return decoded


def _decode(codes: Tensor) -> Tensor:
    """The same anywhere: fbgemm's kernel for GPUs reads `scale` where it lies, which faults at an odd `dim`."""
    scale, low = codes[:, -EXTRA:].clone(memory_format=torch.contiguous_format).view(torch.float32).split(1, dim=1)
    return torch.addcmul(low, codes[:, :-EXTRA].float(), scale)
