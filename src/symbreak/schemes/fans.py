"""How many terms meet in one output (fan_in) and how many outputs one input feeds (fan_out)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from symbreak.errors import SchemeError

if TYPE_CHECKING:
    from torch import nn

FanMode = Literal["fan_in", "fan_out"]


@dataclass(frozen=True)
class Fans:
    """The two fans of a weight. Strides are not counted, as in every library.

    Example:
        >>> Fans(fan_in=64, fan_out=10)
        Fans(fan_in=64, fan_out=10)
    """

    fan_in: int
    fan_out: int


def fans_of_shape(shape: Sequence[int], *, groups: int = 1, transposed: bool = False) -> Fans:
    """Fans of a weight [o, i / groups, *kernel], or [i, o / groups, *kernel] when transposed.

    One output of a grouped convolution sees i / groups inputs, and one input feeds o / groups outputs: the second is
    where `torch.nn.init` is off, because it sees the shape alone and counts all o.

    Args:
        shape: two axes or more.
        groups: as the convolution has it.
        transposed: whether the first axis is the input, as in `ConvTranspose2d`.
    Example:
        >>> fans_of_shape((32, 1, 3, 3), groups=32)
        Fans(fan_in=9, fan_out=9)

    Source: He et al. 2015, arXiv:1502.01852, section 2.2; grouped as in Tan and Le's EfficientNet code.
    """
    if len(shape) < 2:
        raise SchemeError(f"a tensor of shape {tuple(shape)} has no fans: it needs two axes, such as (out, in).")
    first, second, kernel = shape[0] // groups, shape[1], math.prod(shape[2:])
    ahead, back = second * kernel, first * kernel
    return Fans(fan_in=back, fan_out=ahead) if transposed else Fans(fan_in=ahead, fan_out=back)


def fans_of(module: nn.Module) -> Fans | None:
    """Fans of a layer's `weight`, or None where the word means nothing (norms, embeddings, containers).

    Example:
        >>> from torch import nn
        >>> fans_of(nn.ConvTranspose2d(8, 4, 3))
        Fans(fan_in=72, fan_out=36)
        >>> fans_of(nn.LayerNorm(4)) is None
        True

    Source: as `fans_of_shape`.
    """
    from torch import nn
    from torch.nn.modules.conv import _ConvNd

    if isinstance(module, _ConvNd):
        return fans_of_shape(module.weight.shape, groups=module.groups, transposed=module.transposed)
    return fans_of_shape(module.weight.shape) if isinstance(module, nn.Linear) else None
