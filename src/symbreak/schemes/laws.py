"""The distributions that schemes end in: moments, and how a tensor is filled. W is float32 and contiguous here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from symbreak.errors import SchemeError
from symbreak.schemes.place import Place

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation of one weight."""

    mean: float
    std: float


@dataclass(frozen=True)
class Companions:
    """What must be done beside the weights, for the scheme to be what it says. All 1 where nothing is to be done.

    Args:
        multiplier: of the layer's product in the forward pass: y = multiplier W x + bias.
        learning_rate: factor on the common learning rate for this tensor.
        residual: factor on the skip path around the branch this tensor lies in.
        backward: factor on the gradient with respect to the layer's input, where it differs from the multiplier.
    Example:
        >>> Companions(multiplier=0.5)
        Companions(multiplier=0.5, learning_rate=1.0, residual=1.0, backward=None)

    Source: the abc-parametrisation of Yang and Hu 2021, arXiv:2011.14522, and unit scaling, arXiv:2303.11257.
    """

    multiplier: float = 1.0
    learning_rate: float = 1.0
    residual: float = 1.0
    backward: float | None = None


@dataclass(frozen=True)
class Law:
    """A distribution with every number filled in."""

    companions: Companions = field(default=Companions(), kw_only=True)

    def moments(self) -> Moments:
        raise NotImplementedError

    def fill_(self, weight: Tensor, generator: torch.Generator) -> object:
        raise NotImplementedError


@dataclass(frozen=True)
class Constant(Law):
    """Every weight the same number."""

    level: float

    def moments(self) -> Moments:
        return Moments(self.level, 0.0)

    def fill_(self, weight: Tensor, generator: torch.Generator) -> object:  # noqa: ARG002 (one signature for all laws)
        return weight.fill_(self.level)


@dataclass(frozen=True)
class Normal(Law):
    """N(mean, std^2), never truncated."""

    std: float
    mean: float = 0.0

    def moments(self) -> Moments:
        return Moments(self.mean, self.std)

    def fill_(self, weight: Tensor, generator: torch.Generator) -> object:
        return weight.normal_(self.mean, self.std, generator=generator)


@dataclass(frozen=True)
class Uniform(Law):
    """U(low, high)."""

    low: float
    high: float

    def moments(self) -> Moments:
        return Moments((self.low + self.high) / 2, (self.high - self.low) / math.sqrt(12))

    def fill_(self, weight: Tensor, generator: torch.Generator) -> object:
        return weight.uniform_(self.low, self.high, generator=generator)


def within(bound: float, companions: Companions = Companions()) -> Uniform:
    """U(-bound, bound), whose standard deviation is bound / sqrt(3).

    Example:
        >>> round(within(3.0).moments().std, 4)
        1.7321

    Source: Var U(-a, a) = a^2 / 3.
    """
    return Uniform(-bound, bound, companions=companions)


@dataclass(frozen=True)
class TruncatedNormal(Law):
    """N(mean, parent^2) given that it lies within `cut` parents of the mean."""

    parent: float
    mean: float = 0.0
    cut: float = 2.0

    def moments(self) -> Moments:
        return Moments(self.mean, self.parent * truncated_std(self.cut))

    def fill_(self, weight: Tensor, generator: torch.Generator) -> object:
        """Wide cuts by drawing again what falls outside (exact tails), narrow ones by the inverse of erf."""
        if self.cut > 3:
            weight.normal_(0.0, 1.0, generator=generator)
            while (outside := weight.abs() > self.cut).any():
                again = weight.new_empty(int(outside.sum())).normal_(0.0, 1.0, generator=generator)
                weight[outside] = again
        else:
            edge = math.erf(self.cut / math.sqrt(2))
            weight.uniform_(-edge, edge, generator=generator).erfinv_().mul_(math.sqrt(2))
            weight.clamp_(-self.cut, self.cut)  # float32 rounds erfinv outwards at the very edge
        return weight.mul_(self.parent).add_(self.mean)


def truncated_std(cut: float) -> float:
    """Standard deviation of N(0, 1) cut at -cut and cut: 1 - 2 c phi(c) / P, under a root.

    Example:
        >>> truncated_std(2.0)
        0.8796256610342398

    Source: integration by parts; the constant in JAX and Keras is the same number to 17 digits.
    """
    inside = math.erf(cut / math.sqrt(2))
    return math.sqrt(1 - 2 * cut * math.exp(-(cut**2) / 2) / math.sqrt(2 * math.pi) / inside)


@dataclass(frozen=True)
class Each(Law):
    """Every independent matrix of the tensor painted by itself: experts, groups and fused parts one by one.

    Args:
        place: of the tensor.
        paint: fills a view [o, i, *kernel].
        sizes: mean and mean square of one weight, from (o, i, taps).
    """

    place: Place
    paint: Callable[[Tensor, torch.Generator], object]
    sizes: Callable[[int, int, int], tuple[float, float]]

    def moments(self) -> Moments:
        mean, square = self.sizes(*self.place.matrix_shape())
        return Moments(mean, math.sqrt(max(square - mean**2, 0.0)))

    def fill_(self, weight: Tensor, generator: torch.Generator) -> object:
        if weight.dim() < 2 + self.place.layout.stack:
            shape = tuple(weight.shape)
            raise SchemeError(f"it needs a weight with two axes, such as (out, in); this one has shape {shape}.")
        for matrix in self.place.matrices(weight):
            self.paint(matrix, generator)
        return weight


@dataclass(frozen=True)
class Parts(Law):
    """Another law for each of the equal parts fused along the output axis: gates of a bias, query, key and value."""

    place: Place
    laws: tuple[Law, ...]

    def moments(self) -> Moments:
        return mixture(law.moments() for law in self.laws)

    def fill_(self, weight: Tensor, generator: torch.Generator) -> object:
        axis = self.place.layout.stack + (1 if self.place.layout.transposed and weight.dim() > 1 else 0)
        if weight.shape[axis] % len(self.laws):
            raise SchemeError(f"shape {tuple(weight.shape)} cannot be cut into {len(self.laws)} equal parts.")
        for law, part in zip(self.laws, weight.chunk(len(self.laws), dim=axis), strict=True):
            filled = part.new_empty(part.shape)  # its own memory, so that values do not depend on the strides
            law.fill_(filled, generator)
            part.copy_(filled)
        return weight


def mixture(parts: Iterable[Moments]) -> Moments:
    """Moments of a tensor that consists of equally many weights of each kind.

    Example:
        >>> mixture([Moments(-1.0, 0.0), Moments(1.0, 0.0)])
        Moments(mean=0.0, std=1.0)

    Source: the law of total variance.
    """
    parts = tuple(parts)
    mean = sum(part.mean for part in parts) / len(parts)
    square = sum(part.mean**2 + part.std**2 for part in parts) / len(parts)
    return Moments(mean, math.sqrt(max(square - mean**2, 0.0)))
