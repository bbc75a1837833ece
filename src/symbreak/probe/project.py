"""Random projections and norms along one axis, without copying the tensor.

A slice is projected on a fixed rank-one direction, u over the axes before it and v over the axes behind it: two
matrix-vector products. Equal slices have equal projections; different ones do not, with probability 1.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]


@lru_cache(maxsize=512)
def _drawn(length: int, seed: int) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(seed * 1_000_003 + length)
    return torch.randn(length, generator=generator, dtype=torch.float64, device="cpu")


def direction(length: int, seed: int, like: Tensor) -> Tensor:
    """A fixed standard normal vector of this length, in the dtype and on the device of `like`."""
    return _drawn(length, seed).to(dtype=like.dtype, device=like.device)


def project(tensor: Tensor, axis: int, seed: int = 0) -> Array:
    """[..., n, ...] -> [n]: each slice along `axis` against one direction, the same for every tensor of this shape."""
    tensor = tensor.detach()
    axis %= tensor.dim()
    if tensor.is_complex():
        return project(torch.view_as_real(tensor), axis, seed)
    before = int(np.prod(tensor.shape[:axis], dtype=np.int64))
    n, behind = tensor.shape[axis], int(np.prod(tensor.shape[axis + 1 :], dtype=np.int64))
    flat = tensor.reshape(before, n * behind)
    # A length-one side needs no direction, so that a vector is its own projection.
    rows = flat[0] if before == 1 else direction(before, 2 * seed + 1, flat) @ flat
    table = rows.reshape(n, behind)
    result = table[:, 0] if behind == 1 else table @ direction(behind, 2 * seed + 2, flat)
    numbers: Array = result.cpu().double().numpy()
    return numbers


def slice_tops(tensor: Tensor) -> Tensor:
    """[n, ...] -> [n]: the largest absolute value of each slice along axis 0; NaN where a slice holds one."""
    rows = tensor.reshape(tensor.shape[0] if tensor.dim() else 1, -1)
    tops: Tensor = torch.linalg.vector_norm(rows, float("inf"), dim=1).cpu().double()
    return tops
