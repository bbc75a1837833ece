"""Two starts for `symbreak check`: zeros that are right (LoRA), and copies that never separate.

Each factory returns a model for the digits data (64 features, 10 classes); give the data with `--data digits`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LoRALinear(nn.Module):
    """A frozen linear layer and a trainable low-rank update B A x, with B = 0 as Hu et al. 2021 start it."""

    def __init__(self, n_in: int, n_out: int, rank: int) -> None:
        super().__init__()
        self.base = nn.Linear(n_in, n_out).requires_grad_(False)
        self.lora_A = nn.Linear(n_in, rank, bias=False)
        self.lora_B = nn.Linear(rank, n_out, bias=False)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + self.lora_B(self.lora_A(x))
        return out


def lora() -> nn.Module:
    """A small network with adapters: its zeros are harmless, A learns one step after B."""
    torch.manual_seed(0)
    return nn.Sequential(LoRALinear(64, 32, 4), nn.Tanh(), LoRALinear(32, 10, 4))


def copied_units() -> nn.Module:
    """A network widened from 16 to 32 units by copying each unit and halving what leaves it (Net2Wider)."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    with torch.no_grad():
        for p in (net[0].weight, net[0].bias):
            p[16:] = p[:16]
        net[2].weight[:, :16] /= 2
        net[2].weight[:, 16:] = net[2].weight[:, :16]
    return net
