"""Weights g v / |v| with one unit a class: the norm counts every full entry, and the weight is times what is summed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.weight_norm import WeightNorm as Hook

_COUNT, _SUMMED = "_count", "_summed"  # beside a weight: entries of each entry in the norm, and in the layer's sum


def weight_norms(module: nn.Module) -> Iterator[tuple[str, str, int]]:
    """(weight, its direction, the axis that keeps its norms) of the weights g v / |v| that stand in this module.

    The weight is "" where this is a list of parametrizations, whose place in the model says it.
    """
    if isinstance(module, ParametrizationList) and len(module) == 1 and isinstance(module[0], _WeightNorm):
        yield "", "original1", module[0].dim
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, Hook):
            yield hook.name, f"{hook.name}_v", hook.dim


def weigh_norm(module: nn.Module, weight: str, axes: tuple[int, ...], count: Tensor, summed: Tensor) -> None:
    """Put a norm that weighs classes by size in the place of the module's own.

    Args:
        weight: what is computed.
        axes: of v that the norm sums over.
        count, summed: how many full entries each stands for in the norm, and in the sum that the layer makes.
    """
    if isinstance(module, ParametrizationList):
        module[0] = _Weighed(axes, count, summed)
        return
    for suffix, numbers in ((_COUNT, count), (_SUMMED, summed)):
        module.register_buffer(weight + suffix, numbers, persistent=False)
    for key, hook in module._forward_pre_hooks.items():
        if isinstance(hook, Hook) and hook.name == weight:
            module._forward_pre_hooks[key] = _WeighedHook(hook.name, hook.dim, axes)


def _weighed(g: Tensor, v: Tensor, axes: tuple[int, ...], count: Any, summed: Any) -> Tensor:
    size = (v.square() * count).sum(axes, keepdim=True).sqrt()
    found: Tensor = g * (v / size) * summed
    return found


class _Weighed(nn.Module):
    """A parametrization, of original0 and original1."""

    def __init__(self, axes: tuple[int, ...], count: Tensor, summed: Tensor) -> None:
        super().__init__()
        self.axes = axes
        self.register_buffer(_COUNT, count, persistent=False)
        self.register_buffer(_SUMMED, summed, persistent=False)

    def forward(self, g: Tensor, v: Tensor) -> Tensor:
        return _weighed(g, v, self.axes, self._buffers[_COUNT], self._buffers[_SUMMED])


class _WeighedHook(Hook):
    """A hook of torch.nn.utils.weight_norm, which sets the weight before each forward."""

    def __init__(self, name: str, dim: int, axes: tuple[int, ...]) -> None:
        super().__init__(name, dim)
        self.axes = axes

    def compute_weight(self, module: nn.Module) -> Tensor:
        g, v = getattr(module, f"{self.name}_g"), getattr(module, f"{self.name}_v")
        return _weighed(g, v, self.axes, *(module._buffers[self.name + suffix] for suffix in (_COUNT, _SUMMED)))
