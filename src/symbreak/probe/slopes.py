"""Where an activation is linear, saturated or dead: one definition, by its slope.

A unit is in its linear region where |phi'(z)| >= 2/3 sup|phi'|, saturated where |phi'(z)| <= 1/10 sup|phi'|, and dead
on a sample where phi'(z) = 0 exactly. Slopes come from autograd on the function the model really called.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

_GRID = 20.0  # every named activation reaches its steepest slope inside [-20, 20]


def slope(phi: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """phi'(z), elementwise, for a function that may work in place.

    Example:
        >>> slope(torch.relu, torch.tensor([-1.0, 2.0])).tolist()
        [0.0, 1.0]
    """
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        point = z.detach().requires_grad_()
        (derivative,) = torch.autograd.grad(phi(point.clone()).sum(), point)
    return derivative


@lru_cache(maxsize=256)
def _steepest_named(name: str, options: str, phi: Callable[[Tensor], Tensor]) -> float:
    del name, options  # they are the cache's key; phi alone would be a new closure at every call
    grid = torch.linspace(-_GRID, _GRID, 4001, dtype=torch.float64, device="cpu")
    return float(slope(phi, grid).abs().max())


class _Keyed:
    """A function that hashes by name and options, so that the steepest slope of `leaky_relu(0.2)` is found once."""

    def __init__(self, phi: Callable[[Tensor], Tensor], key: tuple[str, str]) -> None:
        self.phi, self.key = phi, key

    def __call__(self, z: Tensor) -> Tensor:
        return self.phi(z)

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Keyed) and self.key == other.key


def steepest(phi: Callable[[Tensor], Tensor], name: str, options: str) -> float:
    """sup |phi'|, on a grid that holds the steepest point of every named activation."""
    return _steepest_named(name, options, _Keyed(phi, (name, options)))
