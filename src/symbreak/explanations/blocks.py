"""Modules that torch does not bring and the experiments need. The one file here that imports torch at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init


class Dropout(nn.Module):
    """Each number is left out with probability 1/2 and else doubled, from a generator of its own."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, h: Tensor) -> Tensor:
        if not self.training:
            return h
        return h * 2 * torch.randint(0, 2, h.shape, generator=self.generator, dtype=h.dtype)


def _linear(n_in: int, n_out: int, generator: torch.Generator) -> nn.Linear:
    layer = skip_init(nn.Linear, n_in, n_out, bias=False, dtype=torch.float64)  # type: ignore[no-untyped-call]  # torch annotates no more
    layer.weight.data.normal_(0.0, n_in**-0.5, generator=generator)
    return cast(nn.Linear, layer)


def _conv(n_in: int, n_out: int, width: int, generator: torch.Generator) -> nn.Conv1d:
    layer = skip_init(nn.Conv1d, n_in, n_out, width, padding=width // 2, bias=False, dtype=torch.float64)  # type: ignore[no-untyped-call]  # torch annotates no more
    layer.weight.data.normal_(0.0, (n_in * width) ** -0.5, generator=generator)
    return cast(nn.Conv1d, layer)


class Block(nn.Module):
    """A network with something added to it. `without` is the network before it was added."""

    def without(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class LowRank(Block):
    """LoRA: W x + B A x, with W frozen."""

    def __init__(self, n_in: int, n_out: int, generator: torch.Generator, *, rank: int = 4) -> None:
        super().__init__()
        self.W = _linear(n_in, n_out, generator).requires_grad_(False)
        self.A = _linear(n_in, rank, generator)
        self.B = _linear(rank, n_out, generator)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.without(x) + self.B(self.A(x))
        return out

    def without(self, x: Tensor) -> Tensor:
        out: Tensor = self.W(x)
        return out


class SideBranch(Block):
    """ControlNet: a frozen convolution with its head, and a trainable copy let in through a convolution of width 1."""

    def __init__(self, n_in: int, n_out: int, generator: torch.Generator, *, channels: int = 4) -> None:
        super().__init__()
        self.trunk = _conv(1, channels, 3, generator).requires_grad_(False)
        self.copy = _conv(1, channels, 3, generator)
        self.copy.weight.data.copy_(self.trunk.weight)
        self.zero_conv = _conv(channels, channels, 1, generator)
        self.head = _linear(channels * n_in, n_out, generator).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        signal = x[:, None, :]  # [b, channel, position]
        out: Tensor = self.head((self.trunk(signal).tanh() + self.zero_conv(self.copy(signal).tanh())).flatten(1))
        return out

    def without(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.trunk(x[:, None, :]).tanh().flatten(1))
        return out


class Plain(Block):
    """Two layers in a row and no way around: head tanh(w1 x)."""

    def __init__(self, n_in: int, n_out: int, generator: torch.Generator, *, units: int = 8) -> None:
        super().__init__()
        self.w1 = _linear(n_in, units, generator)
        self.head = _linear(units, n_out, generator)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.w1(x).tanh())
        return out

    def without(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), self.head.out_features)


class Residual(Block):
    """head (h + gate * w2 tanh(w1 norm(h))) with h = stem x.

    gate: "none", "scalar" (ReZero: a parameter alpha, through `through`) or "conditioned" (adaLN: a linear map of the
    condition, here of x, with a normalisation of h in front of the branch).
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        generator: torch.Generator,
        *,
        gate: Literal["none", "scalar", "conditioned"] = "none",
        through: Callable[[Tensor], Tensor] = lambda alpha: alpha,
        units: int = 8,
    ) -> None:
        super().__init__()
        self.stem = _linear(n_in, units, generator)
        self.w1 = _linear(units, units, generator)
        self.w2 = _linear(units, units, generator)
        self.kind, self.through = gate, through
        if gate == "scalar":
            self.alpha = nn.Parameter(torch.ones((), dtype=torch.float64))
        if gate == "conditioned":
            self.gate = _linear(n_in, units, generator)
        self.head = _linear(units, n_out, generator)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        normed = F.layer_norm(h, h.shape[1:]) if self.kind == "conditioned" else h
        branch = self.w2(self.w1(normed).tanh())
        if self.kind == "scalar":
            branch = self.through(self.alpha) * branch
        if self.kind == "conditioned":
            branch = self.gate(x) * branch
        out: Tensor = self.head(h + branch)
        return out

    def without(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.stem(x))
        return out
