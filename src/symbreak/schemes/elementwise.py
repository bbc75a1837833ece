"""The activations that torch has no function for, and a module around them. Imports torch: reach it through a row."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symbreak.schemes.activations import Activation


def identity(z: Tensor) -> Tensor:
    """z, as a new tensor."""
    return z.clone()


def prelu(z: Tensor, init: float) -> Tensor:
    """z where positive, init z elsewhere: PReLU before its slope has learned anything."""
    return F.prelu(z, torch.full((1,), init, dtype=z.dtype, device=z.device))


def lecun_tanh(z: Tensor) -> Tensor:
    """1.7159 tanh(2z/3): LeCun et al. 1998, section 4.4; about 1 at 1."""
    return 1.7159 * torch.tanh(2 / 3 * z)


def shifted_softplus(z: Tensor) -> Tensor:
    """softplus(z) - ln 2, zero at zero: SchNet, arXiv:1706.08566."""
    return F.softplus(z) - math.log(2)


def relu_squared(z: Tensor) -> Tensor:
    """relu(z)^2: Primer, arXiv:2109.08668."""
    return torch.relu(z) ** 2


def sin(z: Tensor, frequency: float) -> Tensor:
    """sin(frequency z): SIREN, arXiv:2006.09661."""
    return torch.sin(frequency * z)


def snake(z: Tensor, a: float) -> Tensor:
    """z + sin(a z)^2 / a: Ziyin et al. 2020, arXiv:2006.08195."""
    return z + torch.sin(a * z) ** 2 / a


def gaussian(z: Tensor) -> Tensor:
    """exp(-z^2)."""
    return torch.exp(-(z**2))


class Elementwise(nn.Module):
    """A module that applies one activation and shows its name.

    Example:
        >>> from symbreak.schemes.activations import activation
        >>> activation("snake(2)").module()
        Elementwise(snake(2.0))

    Source: `Activation.module`.
    """

    def __init__(self, phi: Activation) -> None:
        super().__init__()
        self.phi = phi

    def forward(self, z: Tensor) -> Tensor:
        return self.phi(z)

    def extra_repr(self) -> str:
        return repr(self.phi)
