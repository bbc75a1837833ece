"""Whether a matrix looks trained, and should be left alone: a judgement from its values alone, on the careful side.

A fresh start is an independent draw from one of the usual laws, so its values fit a law that `recognise` knows and its
singular values end where those of independent numbers end. Training leaves heavy tails in the one and a few large
singular values in the other. What fits no known law may still be a fresh draw of a kind unknown here: it is taken for
trained, and changed only when asked to.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from symbreak.schemes import recognise

FEWEST = 256  # values; of fewer nothing is concluded
_MOST = 2048  # rows and columns whose law is looked at
_SIDE = 512  # and of those, whose spectrum
_SMALLEST = 16  # the edge of the spectrum is sharp from this size on
EDGE = 1.25  # times the largest singular value of independent numbers; draws of 16 x 16 and more stay below 1.2
_GARBAGE = 1e6  # of the median row: memory that was never written, not training


def looks_trained(weight: Tensor) -> str | None:
    """Why a tensor looks trained, or None where nothing speaks for it.

    Constant and copied rows and columns are left out, since they are what a repair is for.

    Example:
        >>> looks_trained(torch.randn(64, 64, generator=torch.Generator().manual_seed(0))) is None
        True
    """
    if weight.dim() < 2 or weight.numel() < FEWEST:
        return None
    block = weight.detach().reshape(weight.shape[0], -1)[:_MOST, :_MOST].double()
    rows = _distinct(_distinct(_drawn(block)).T).T
    if rows.numel() < FEWEST:
        return None
    law = recognise(rows)
    if law.text.startswith("unrecognised"):
        return "its values fit no law that weights are drawn from"
    ratio = _spectrum(rows)
    if ratio > EDGE and not law.text.startswith(("orthogonal", "identity")):
        return f"its largest singular value is {ratio:.2g} times that of an independent draw"
    return None


def _drawn(rows: Tensor) -> Tensor:
    """[r, c] the rows that are neither constant nor of a size unlike all others."""
    top = rows.abs().amax(1)
    finite = torch.isfinite(top)
    varied = (rows != rows[:, :1]).any(1) & finite
    if not bool(varied.any()):
        return rows[:0]
    return rows[varied & (top <= _GARBAGE * top[varied].median())]


def _distinct(rows: Tensor) -> Tensor:
    """[r, c] one of every set of rows that are equal up to a factor."""
    if rows.numel() == 0:
        return rows
    size = rows.abs().amax(1, keepdim=True)
    first = torch.argmax((rows.abs() > 1e-3 * size).to(torch.uint8), dim=1, keepdim=True)
    upright = rows / torch.where(size == 0, 1.0, size * rows.gather(1, first).sign())
    keys = (upright * 1e6).round()
    probe = torch.linspace(1.0, 2.0, rows.shape[1], dtype=rows.dtype, device=rows.device).sin()
    _, index = torch.unique((keys @ probe).round(decimals=3), return_inverse=True)
    seen: dict[int, int] = {}
    for i, k in enumerate(index.tolist()):
        seen.setdefault(k, i)
    return rows[sorted(seen.values())]


def _spectrum(rows: Tensor) -> float:
    block = rows[:_SIDE, :_SIDE]
    block = block - block.mean()
    n, m = block.shape
    std = float(block.std())
    if min(n, m) < _SMALLEST or std == 0:
        return 0.0
    top = float(torch.linalg.matrix_norm(block, 2))
    return top / (std * (math.sqrt(n) + math.sqrt(m)))
