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


@dataclass(frozen=True)
class Layout:
    """How the axes of a weight are to be read: [*stack, o, i, *kernel], with what the shape alone does not say.

    Args:
        groups: of a convolution; axis 0 holds the groups one after the other.
        transposed: whether the input axis comes first: `ConvTranspose`, or x @ W with W[i, o].
        stack: leading axes that count independent weights: 1 for experts [expert, out, in].
        parts: weights of one shape fused along the output axis: 3 for query, key and value, 4 for LSTM gates.
    Example:
        >>> Layout(parts=3).fans((96, 32))
        Fans(fan_in=32, fan_out=32)

    Source: `fans_of_shape`.
    """

    groups: int = 1
    transposed: bool = False
    stack: int = 0
    parts: int = 1

    def fans(self, shape: Sequence[int]) -> Fans:
        """Fans of a weight of this shape."""
        return fans_of_shape(
            shape, groups=self.groups, transposed=self.transposed, stack=self.stack, parts=self.parts
        )  # fmt: skip


def fans_of_shape(
    shape: Sequence[int], *, groups: int = 1, transposed: bool = False, stack: int = 0, parts: int = 1
) -> Fans:
    """Fans of a weight [*stack, o, i / groups, *kernel], or [*stack, i, o / groups, *kernel] when transposed.

    `torch.nn.init` sees the shape alone, and is off wherever the shape does not tell:

    - a grouped convolution counts all o for fan_out, though one input feeds o / groups of them;
    - a transposed one has fan_in and fan_out swapped;
    - experts stacked as [expert, out, in] are read as a convolution with a kernel of `in` taps;
    - query, key and value in one [3d, d] weight, or four LSTM gates, count three or four times the outputs.

    Args:
        shape: at least `stack` + 2 axes.
        groups: as the convolution has it.
        transposed: whether the input axis comes first, as in `ConvTranspose2d`.
        stack: leading axes that count independent weights.
        parts: weights of one shape fused along the output axis.
    Example:
        >>> fans_of_shape((32, 1, 3, 3), groups=32)
        Fans(fan_in=9, fan_out=9)
        >>> fans_of_shape((8, 256, 64), stack=1)
        Fans(fan_in=64, fan_out=256)

    Source: He et al. 2015, arXiv:1502.01852, section 2.2; grouped as in Tan and Le's EfficientNet code.
    """
    own = tuple(shape[stack:])
    if len(own) < 2:
        after = f" after {stack} stacked" if stack else ""
        raise SchemeError(f"a tensor of shape {tuple(shape)} has no fans: it needs two axes{after}, such as (out, in).")
    outer = own[1] if transposed else own[0]
    if min(groups, parts, 1 + stack) < 1 or own[0] % groups or outer % parts:
        raise SchemeError(f"shape {tuple(shape)} cannot be cut into {groups} groups and {parts} parts.")
    first, second, kernel = own[0] // groups, own[1], math.prod(own[2:])
    if transposed:
        return Fans(fan_in=first * kernel, fan_out=second // parts * kernel)
    return Fans(fan_in=second * kernel, fan_out=first // parts * kernel)


def layout_of(module: nn.Module, name: str = "weight") -> Layout | None:
    """How a parameter of a torch layer is to be read, or None where it is not a weight between units.

    Args:
        module: any layer; transformers' Conv1D and peft's adapters are known by what they have, not by their class.
        name: of the parameter inside the module.
    Example:
        >>> from torch import nn
        >>> layout_of(nn.LSTM(3, 5), "weight_hh_l0")
        Layout(groups=1, transposed=False, stack=0, parts=4)
        >>> layout_of(nn.LayerNorm(4)) is None
        True

    Source: torch.nn; transformers.pytorch_utils.Conv1D keeps its weight as [in, out].
    """
    from torch import Tensor, nn
    from torch.nn.modules.conv import _ConvNd

    parameter = getattr(module, name, None)
    if not isinstance(parameter, Tensor) or parameter.dim() < 2 or isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return None
    if isinstance(module, _ConvNd):
        return Layout(groups=module.groups, transposed=module.transposed)
    if isinstance(module, nn.RNNBase | nn.RNNCellBase) and name.startswith("weight_"):
        return Layout(parts=gates_of(module))
    if isinstance(module, nn.MultiheadAttention) and name == "in_proj_weight":
        return Layout(parts=3)
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):
        return Layout(transposed=True)
    known = isinstance(module, nn.Linear | nn.Bilinear | nn.MultiheadAttention)
    return Layout() if known and name.endswith("weight") else None


def layout_used(
    kind: str, shape: Sequence[int], out_axis: int | None, *, groups: int = 1, parts: int = 1
) -> Layout | None:
    """How a weight is to be read that an operation was seen to apply; None where no layout says it.

    Args:
        kind: name of torch's function: linear, conv2d, conv_transpose1d, matmul, lstm, ...
        shape: of the weight, two axes or more.
        out_axis: axis of the weight along which its units lie; None where that is not known.
        groups: of a convolution.
        parts: weights of one shape fused along the output axis.
    Example:
        >>> layout_used("matmul", (8, 64, 256), -1)  # x[e, b, i] @ W[e, i, o]
        Layout(groups=1, transposed=True, stack=1, parts=1)
        >>> layout_used("conv2d", (32, 1, 3, 3), 0, groups=32).fans((32, 1, 3, 3))
        Fans(fan_in=9, fan_out=9)

    Source: torch.nn.functional.
    """
    if kind.startswith("conv"):
        return Layout(groups=groups, transposed=kind.startswith("conv_transpose"), parts=parts)
    if out_axis is None or len(shape) < 2:
        return Layout(parts=parts) if len(shape) == 2 else None
    out, stack = out_axis % len(shape), len(shape) - 2
    return Layout(stack=stack, transposed=out == stack + 1, parts=parts) if out >= stack else None


def gates_of(module: nn.Module) -> int:
    """How many gates a recurrent layer fuses: 4 for LSTM, 3 for GRU, else 1.

    Example:
        >>> from torch import nn
        >>> gates_of(nn.GRUCell(2, 3))
        3

    Source: torch.nn.modules.rnn; the orders are i, f, g, o and r, z, n.
    """
    from torch import nn

    if isinstance(module, nn.LSTM | nn.LSTMCell):
        return 4
    return 3 if isinstance(module, nn.GRU | nn.GRUCell) else 1


def fans_of(module: nn.Module, name: str = "weight") -> Fans | None:
    """Fans of a layer's parameter, or None where the word means nothing (norms, embeddings, containers).

    A bias has those of its layer's weight. `nn.Bilinear` sums over both inputs: fan_in is their product.

    Example:
        >>> from torch import nn
        >>> fans_of(nn.ConvTranspose2d(8, 4, 3))
        Fans(fan_in=72, fan_out=36)
        >>> fans_of(nn.LayerNorm(4)) is None
        True
        >>> fans_of(nn.MultiheadAttention(32, 4), "in_proj_weight")
        Fans(fan_in=32, fan_out=32)

    Source: as `fans_of_shape`.
    """
    from torch import nn

    weight = weight_of(name)
    layout = layout_of(module, weight)
    if layout is None:
        return None
    shape = tuple(getattr(module, weight).shape)
    if isinstance(module, nn.Bilinear):
        return Fans(fan_in=shape[1] * shape[2], fan_out=shape[0])
    return layout.fans(shape)


def weight_of(name: str) -> str:
    """The parameter whose fans a bias takes: bias_ih_l0 -> weight_ih_l0, bias -> weight.

    Example:
        >>> weight_of("in_proj_bias")
        'in_proj_weight'

    Source: torch's names.
    """
    return name.replace("bias", "weight") if "bias" in name and not name.endswith("weight") else name
