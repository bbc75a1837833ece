"""Whether weights are still what they were: a few sums over their bits, one pass over the memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from symbreak.records import Fingerprint

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def fingerprint(model: nn.Module) -> Fingerprint:
    """Parameter -> shape, dtype and a digest of its bits; the digest is None where the bits cannot be read.

    Example:
        >>> layer = nn.Linear(3, 2)
        >>> before = fingerprint(layer)
        >>> fingerprint(layer) == before, fingerprint(nn.Linear(3, 2)) == before
        (True, False)
    """
    return {
        name: (tuple(p.shape), str(p.dtype).removeprefix("torch."), _digest(p)) for name, p in model.named_parameters()
    }


def _digest(p: Tensor) -> tuple[int, ...] | None:
    """Sums of all bits, and of every third and seventh number, so that values that change places show."""
    readable = p.layout == torch.strided and not p.is_meta and not p.is_quantized
    if not readable or type(p) not in (Tensor, nn.Parameter):
        return None
    plain: Any = torch.view_as_real(p.detach()) if p.is_complex() else p.detach()
    bits = plain.contiguous().reshape(-1).view(_INTEGERS[plain.element_size()])
    return tuple(int(bits[::stride].sum(dtype=torch.int64)) for stride in (1, 3, 7))
