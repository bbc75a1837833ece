"""Batches as values: a `Draw` is a recipe that takes a generator and returns what a model is called with."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator

Draw = Callable[[Generator], Any]


def normal(*shape: int) -> Draw:
    return lambda generator: torch.randn(*shape, generator=generator)


def uniform(*shape: int) -> Draw:
    return lambda generator: torch.rand(*shape, generator=generator)


def integers(high: int, *shape: int) -> Draw:
    return lambda generator: torch.randint(0, high, shape, generator=generator)


def fixed(value: Any) -> Draw:
    return lambda _generator: value


def ones(*shape: int, dtype: torch.dtype = torch.float32) -> Draw:
    return fixed(torch.ones(*shape, dtype=dtype))


def positional(*parts: Draw) -> Draw:
    """Several positional arguments and no target: `((first, second),)`, a pair (x, y) without its y."""
    return lambda generator: (tuple(part(generator) for part in parts),)


def named(**parts: Draw) -> Draw:
    """Keyword arguments."""
    return lambda generator: {name: part(generator) for name, part in parts.items()}


def images(size: int | tuple[int, ...], count: int = 8, channels: int = 3) -> Draw:
    sides = (size, size) if isinstance(size, int) else size
    return normal(count, channels, *sides)


def tokens(count: int = 8, length: int = 12, high: int = 90) -> Draw:
    return integers(high, count, length)
