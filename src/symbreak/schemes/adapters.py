"""Adapters made from the weight they adapt: W = residual + scale B A, exactly.

Index letters: W[o, i], A[r, i], B[o, r], o out units, i in units, r rank. The paper of PiSSA swaps the names A and B.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from symbreak.errors import SchemeError
from symbreak.schemes.checks import number

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Factors:
    """An adapter and what is left of the weight: `residual + scale * B @ A` is the weight it was made from."""

    A: Tensor  # [r, i]
    B: Tensor  # [o, r]
    residual: Tensor  # [o, i]


def pissa(weight: Tensor, rank: int, *, scale: float = 1.0) -> Factors:
    """An adapter that holds the principal part of the weight, so that training moves what matters most.

    W = U S V^T; A = sqrt(S_r / scale) V_r^T, B = U_r sqrt(S_r / scale), residual W - scale B A. Neither factor is zero,
    so both learn from the first step; the function does not change.

    Args:
        weight: [o, i], of a linear layer.
        rank: r, at most min(o, i).
        scale: alpha / r, by which the forward pass multiplies B A.
    Example:
        >>> import torch
        >>> W = torch.diag(torch.tensor([4.0, 1.0]))
        >>> made = pissa(W, 1)
        >>> torch.allclose(made.B @ made.A, torch.diag(torch.tensor([4.0, 0.0])))
        True

    Raises:
        SchemeError: the weight is no matrix, or the rank does not fit it.
    Source: Meng, Wang and Zhang 2024, arXiv:2404.02948; huggingface/peft, pissa_init.
    """
    import torch

    matrix, scale = _matrix(weight, rank), number("scale", scale, above=0.0)
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    root = (s[:rank] / scale).sqrt()
    return _factors(weight, root[:, None] * vh[:rank], u[:, :rank] * root, scale)


def olora(weight: Tensor, rank: int, *, scale: float = 1.0) -> Factors:
    """An adapter with an orthonormal factor, from the QR decomposition of the weight.

    W = Q R; B = Q_r, A = R_r (its first r columns and rows), residual W - scale B A. As in peft, the scale is not
    divided out of the factors.

    Args:
        weight: [o, i], of a linear layer.
        rank: r, at most min(o, i).
        scale: alpha / r, by which the forward pass multiplies B A.
    Example:
        >>> import torch
        >>> W = torch.randn(6, 4, generator=torch.Generator())
        >>> made = olora(W, 2, scale=0.5)
        >>> torch.allclose(made.residual + 0.5 * made.B @ made.A, W, atol=1e-6)
        True

    Raises:
        SchemeError: the weight is no matrix, or the rank does not fit it.
    Source: Büyükakyüz 2024, arXiv:2406.01775; huggingface/peft, olora_init.
    """
    import torch

    matrix, scale = _matrix(weight, rank), number("scale", scale)
    q, r = torch.linalg.qr(matrix)
    return _factors(weight, r[:rank], q[:, :rank], scale)


def _matrix(weight: Tensor, rank: int) -> Tensor:
    shape = tuple(weight.shape)
    if weight.dim() != 2 or not weight.is_floating_point() or weight.is_meta:
        raise SchemeError(f"expected a weight [out, in] with values, got {weight.dtype} of shape {shape}.")
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= min(shape):
        raise SchemeError(
            f"rank={rank!r}: expected a whole number from 1 to {min(shape)}, for a weight of shape {shape}."
        )
    return weight.detach().double()


def _factors(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Factors:
    """Cast first, then subtract: the rounding of the factors goes into the residual."""
    a, b = a.to(weight.dtype).contiguous(), b.to(weight.dtype).contiguous()
    residual = weight.detach().double() - scale * b.double() @ a.double()
    return Factors(a, b, residual.to(weight.dtype))
