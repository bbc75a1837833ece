"""How an operation uses a parameter: which of its arguments is the weight, and along which axes the units lie.

Whatever watches a forward pass reads torch's calls through these: `observe` here, and `symbreak.starts`.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

APPLIES = frozenset(
    ["linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"]
)


class Tags:
    """What is known of a tensor, as long as it lives. Nothing is kept alive and nothing is hung on the tensor."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Tensor], Any]] = {}

    def get(self, tensor: Any) -> Any:
        entry = self._known.get(id(tensor))
        return entry[1] if entry is not None and entry[0]() is tensor else None

    def set(self, tensor: Tensor, value: Any) -> None:
        self._known[id(tensor)] = (weakref.ref(tensor), value)


@dataclass(frozen=True)
class Owned:
    """A tensor made of parameters alone: their names, and whether its last two axes are swapped."""

    names: tuple[str, ...]
    flipped: bool = False


@dataclass(frozen=True)
class Usage:
    """Where the units of an operation lie: in its result, and in its weight."""

    weight: Tensor
    bias: Tensor | None
    unit_axis: int  # of the result
    out_axis: int | None  # of the weight
    in_axis: int | None
    groups: int = 1


def argument(args: Any, kwargs: Any, position: int, key: str) -> Any:
    """An argument of a call, by its place or by its name; None where it was not given.

    Example:
        >>> argument((1, 2), {"bias": 3}, 2, "bias")
        3
    """
    return args[position] if len(args) > position else kwargs.get(key)


def _groups(args: Any, kwargs: Any) -> int:
    """Of any convolution, transposed or not: the seventh argument."""
    return int(argument(args, kwargs, 6, "groups") or 1)


def usage_of(name: str, args: Any, kwargs: Any, result: Tensor) -> Usage | None:
    """What a call of torch's function of this name applies as a weight; None where it applies none.

    Example:
        >>> import torch
        >>> x, W = torch.ones(2, 3), torch.ones(3, 5)
        >>> usage_of("matmul", (x, W), {}, x @ W).out_axis
        1
    """
    weight, bias = argument(args, kwargs, 1, "weight"), argument(args, kwargs, 2, "bias")
    if name == "linear":
        return Usage(weight, bias, -1, 0, 1)
    if name in ("conv1d", "conv2d", "conv3d"):
        return Usage(weight, bias, result.dim() - 1 - int(name[4]), 0, 1, _groups(args, kwargs))
    if name.startswith("conv_transpose"):
        return Usage(weight, bias, result.dim() - 1 - int(name[14]), 1, 0, _groups(args, kwargs))
    if name == "embedding":
        return Usage(weight, None, -1, 1, None)
    if name in ("matmul", "mm", "bmm", "__matmul__", "addmm", "baddbmm"):
        shifted = name.endswith("addmm") or name == "baddbmm"
        right = argument(args, kwargs, 2 if shifted else 1, "mat2" if shifted else "other")
        if isinstance(right, Tensor) and right.dim() >= 2 and result.dim() >= 1:
            return Usage(right, args[0] if shifted else None, -1, right.dim() - 1, right.dim() - 2)
    return None


def tensors_among(things: Any) -> Iterator[Tensor]:
    """The tensors of arguments or results, those in lists and tuples too, in order."""
    for thing in things:
        if isinstance(thing, Tensor):
            yield thing
        elif isinstance(thing, list | tuple):
            yield from tensors_among(thing)
