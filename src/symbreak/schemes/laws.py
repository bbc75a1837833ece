"""The distributions that schemes end in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from symbreak.schemes.scheme import Moments

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Constant:
    """Every weight the same number."""

    level: float

    def moments(self) -> Moments:
        return Moments(self.level, 0.0)

    def fill_(self, weight: torch.Tensor, generator: torch.Generator) -> object:  # noqa: ARG002 (one signature for all laws)
        return weight.fill_(self.level)


@dataclass(frozen=True)
class Normal:
    """N(mean, std^2), never truncated."""

    std: float
    mean: float = 0.0

    def moments(self) -> Moments:
        return Moments(self.mean, self.std)

    def fill_(self, weight: torch.Tensor, generator: torch.Generator) -> object:
        return weight.normal_(self.mean, self.std, generator=generator)


@dataclass(frozen=True)
class Uniform:
    """U(-bound, bound), whose standard deviation is bound / sqrt(3)."""

    bound: float

    def moments(self) -> Moments:
        return Moments(0.0, self.bound / math.sqrt(3))

    def fill_(self, weight: torch.Tensor, generator: torch.Generator) -> object:
        return weight.uniform_(-self.bound, self.bound, generator=generator)
