"""How one tensor folds: equal entries of the full one are one entry of the small one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .units import Partition


@dataclass(frozen=True, eq=False)
class Fold:
    """A tensor's shape before and after, and for each axis where every position goes.

    Attributes:
        shape: of the full tensor.
        index: one an axis: [n] position in the small axis, numbered in order of appearance; None where the axis stays.
    """

    shape: tuple[int, ...]
    index: tuple[Tensor | None, ...]

    @property
    def small(self) -> tuple[int, ...]:
        """The shape of the small tensor."""
        return tuple(n if at is None else int(at.max()) + 1 for n, at in zip(self.shape, self.index, strict=True))

    @property
    def trivial(self) -> bool:
        """True where nothing is folded."""
        return all(at is None for at in self.index)

    def counts(self, axis: int) -> Tensor:
        """[m] how many positions of the full axis go to each of the small one; floats, ones where the axis stays."""
        at = self.index[axis]
        return torch.ones(self.shape[axis], dtype=torch.float64) if at is None else torch.bincount(at).double()

    def product(self, axes: Sequence[int]) -> Tensor:
        """Counts along these axes multiplied, as a tensor that broadcasts against the small one."""
        found = torch.ones((1,) * len(self.shape), dtype=torch.float64)
        for axis in axes:
            found = found * self.counts(axis).reshape([-1 if k == axis else 1 for k in range(len(self.shape))])
        return found

    def spread(self, small: Tensor) -> Tensor:
        """The full tensor that is constant over classes."""
        for axis, at in enumerate(self.index):
            if at is not None:
                small = small.index_select(axis, at.to(small.device))
        return small

    def fold(self, full: Tensor) -> Tensor:
        """Means over classes. Where the full tensor is constant over classes they are its own entries, bit for bit."""
        first = self.first(full)
        rest = full - self.spread(first)
        return first + self.mean(rest) if bool(rest.any()) else first

    def first(self, full: Tensor) -> Tensor:
        """The entry of the first unit of each class."""
        for axis, at in enumerate(self.index):
            if at is not None:
                full = full.index_select(axis, _firsts(at).to(full.device))
        return full

    def mean(self, full: Tensor) -> Tensor:
        """Plain means over classes."""
        for axis, at in enumerate(self.index):
            if at is not None:
                shape = list(full.shape)
                shape[axis] = int(at.max()) + 1
                full = full.new_zeros(shape).index_add(axis, at.to(full.device), full)
        return full / self.product(range(len(self.shape))).to(full)


def _firsts(at: Tensor) -> Tensor:
    """[m] the first position of the full axis that goes to each of the small one."""
    found = torch.full((int(at.max()) + 1,), len(at), dtype=torch.long)
    return found.scatter_reduce(0, at, torch.arange(len(at)), "amin")


def axis_index(spaces: Sequence[str], repeat: int, partition: Partition) -> Tensor | None:
    """[n] where each position of an axis goes whose units are these spaces end to end; None where nothing is folded.

    Example:
        >>> import numpy as np
        >>> axis_index(("a", "b"), 2, {"a": np.array([0, 0]), "b": np.array([0])}).tolist()
        [0, 1, 0, 1, 2, 3]
    """
    classes = [partition[s] for s in spaces]
    small = [int(c.max(initial=-1)) + 1 for c in classes]
    if sum(small) == sum(len(c) for c in classes):
        return None
    starts = itertools.accumulate(small, initial=0)
    units = torch.cat([torch.as_tensor(c) + start for c, start in zip(classes, starts, strict=False)])
    return (units[:, None] * repeat + torch.arange(repeat)).reshape(-1)


def fold_of(shape: Sequence[int], axes: Sequence[tuple[Sequence[str], int]], partition: Partition) -> Fold:
    """The fold of a tensor whose axes run over these (spaces, repeat).

    Raises:
        ValueError: an axis is not as long as its spaces.
    """
    index = []
    for n, (spaces, repeat) in zip(shape, axes, strict=True):
        units = math.prod([sum(len(partition[s]) for s in spaces), repeat])
        if spaces and units != n:
            raise ValueError(f"an axis of {n} cannot run over {units} entries of {', '.join(spaces)}")
        index.append(axis_index(spaces, repeat, partition) if spaces else None)
    return Fold(tuple(shape), tuple(index))
