"""Building blocks that several rows of the ground truth share."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def mlp(*sizes: int, activation: Callable[[], nn.Module] = nn.Tanh) -> nn.Sequential:
    """Linear layers at the even places 0, 2, 4, ... and activations between them."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), activation()]
    return nn.Sequential(*layers[:-1])


def linears(model: nn.Module) -> list[nn.Linear]:
    return [module for module in model.modules() if isinstance(module, nn.Linear)]


class Attention(nn.Module):
    """Softmax attention with separate projections; keys and values may come from elsewhere."""

    def __init__(self, width: int, heads: int = 2, *, bias: bool = False, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.q = nn.Linear(width, width, bias=bias)
        self.k = nn.Linear(width, width, bias=bias)
        self.v = nn.Linear(width, width, bias=bias)
        self.o = nn.Linear(width, width, bias=bias)

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)

    def forward(self, x: Tensor, context: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        q, k, v = self.split(self.q(x)), self.split(self.k(context)), self.split(self.v(context))
        scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
        if shift is not None:
            scores = scores + shift
        if self.causal:
            scores = scores + torch.full(scores.shape[-2:], -1e9, dtype=x.dtype).triu(1)
        return self.o((scores.softmax(-1) @ v).transpose(-3, -2).flatten(-2))


class Pooled(nn.Module):
    """Tokens through a body, their mean through a linear head."""

    def __init__(self, body: nn.Module, width: int, targets: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(width, targets)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean(dim=1))


class LoRALinear(nn.Module):
    """A frozen linear layer plus B A, scaled as peft does."""

    def __init__(self, fan_in: int, fan_out: int, rank: int = 2) -> None:
        super().__init__()
        self.base = nn.Linear(fan_in, fan_out).requires_grad_(False)
        self.A = nn.Parameter(torch.empty(rank, fan_in))
        self.B = nn.Parameter(torch.zeros(fan_out, rank))
        nn.init.kaiming_uniform_(self.A, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + 2.0 * F.linear(F.linear(x, self.A), self.B)


class SwiGLU(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.g = nn.Linear(width, hidden, bias=False)
        self.u = nn.Linear(width, hidden, bias=False)
        self.d = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.d(F.silu(self.g(x)) * self.u(x))


class Mixture(nn.Module):
    """Experts weighted by a router: all of them, or the best `top`, with or without weights that sum to one."""

    def __init__(
        self, width: int, targets: int, experts: int = 4, *, top: int | None = None, renormalised: bool = False
    ) -> None:
        super().__init__()
        self.top, self.renormalised = top, renormalised
        self.router = nn.Linear(width, experts, bias=False)
        self.experts = nn.ModuleList(mlp(width, 8, targets) for _ in range(experts))

    def forward(self, x: Tensor) -> Tensor:
        gates = self.router(x).softmax(-1)
        if self.top is not None:
            best, index = gates.topk(self.top, dim=-1)
            if self.renormalised:
                best = best / best.sum(-1, keepdim=True)
            gates = torch.zeros_like(gates).scatter(-1, index, best)
        outputs = torch.stack([expert(x) for expert in self.experts], dim=-1)
        return (outputs * gates.unsqueeze(-2)).sum(-1)

    def upcycle_(self) -> Mixture:
        """Every expert becomes a copy of the first."""
        for expert in self.experts[1:]:
            expert.load_state_dict(self.experts[0].state_dict())
        return self


class ResidualBlock(nn.Module):
    """A ResNet basic block with batch norm; `downsample` puts a convolution and a norm on the short path."""

    def __init__(self, channels: int, *, downsample: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = (
            nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels))
            if downsample
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.downsample(x))


class ConvNet(nn.Module):
    def __init__(self, block: nn.Module, channels: int, targets: int, image_channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(image_channels, channels, 3, padding=1)
        self.block = block
        self.head = nn.Linear(channels, targets)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.stem(x)).mean(dim=(2, 3)))
