"""How one tensor folds: equal entries of the full one are one entry of the small one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .groups import Groups
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

    def units(self, axis: int) -> int:
        """Classes along an axis of units."""
        return self.small[axis]

    @property
    def total(self) -> Tensor:
        """How many full entries each small one stands for; it broadcasts against the small tensor."""
        return self.product(range(len(self.shape)))

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
        return full / self.total.to(full)


@dataclass(frozen=True, eq=False)
class GroupedFold(Fold):
    """Kernels [o, i / groups, taps...] of a convolution in groups: which channels they read depends on the group.

    Attributes:
        entry: [o, i / groups] the small kernel of each full one: one for each class of channels out and in that meet.
        at: [kernels, 2] classes out and in of each small kernel.
        groups: of the small network.
        even: True where its groups are of one size and in order, as a convolution has them. Else the small tensor is a
            list of kernels, and the small convolution has one group and zeros.
    """

    entry: Tensor
    at: Tensor
    groups: Groups
    even: bool

    @classmethod
    def of(
        cls, shape: Sequence[int], outputs: Tensor | None, inputs: Tensor | None, n_inputs: int
    ) -> GroupedFold | None:
        """The fold for channels that go to these places of the small axes; None for such that stay.

        No fold where the classes do not lie in groups that are alike.
        """
        number = n_inputs // shape[1]
        out = torch.arange(shape[0]) if outputs is None else outputs
        into = torch.arange(n_inputs) if inputs is None else inputs
        groups = Groups.found([out, into], number)
        if groups is None:
            return None
        read = into.reshape(number, -1).repeat_interleave(shape[0] // number, 0)  # [o, i / groups]
        width = int(into.max()) + 1
        kernels, entry = torch.unique(out[:, None] * width + read, return_inverse=True)
        index = (outputs, *[None] * (len(shape) - 1))
        at = torch.stack([kernels // width, kernels % width], 1)
        return cls(tuple(shape), index, entry, at, groups, groups.even(0) and groups.even(1))

    @property
    def small(self) -> tuple[int, ...]:
        out = self.units(0)
        return (*((out, len(self.at) // out) if self.even else (len(self.at),)), *self.shape[2:])

    @property
    def trivial(self) -> bool:
        return len(self.at) == self.entry.numel()

    def units(self, axis: int) -> int:
        return int(self.at[:, axis].max()) + 1

    def product(self, axes: Sequence[int]) -> Tensor:
        count = torch.bincount(self.entry.flatten()).double()
        out = torch.bincount(self.at[self.entry[:, 0], 0]).double()[self.at[:, 0]]
        found = (out if 0 in axes else 1.0) * (count / out if 1 in axes else 1.0) * torch.ones_like(count)
        return self._shaped(found.reshape(-1, *[1] * (len(self.shape) - 2)))

    def spread(self, small: Tensor) -> Tensor:
        return small.reshape(-1, *self.shape[2:])[self.entry.to(small.device)]

    def first(self, full: Tensor) -> Tensor:
        return self._shaped(full.flatten(0, 1)[_firsts(self.entry.flatten()).to(full.device)])

    def mean(self, full: Tensor) -> Tensor:
        sums = full.new_zeros(len(self.at), *self.shape[2:])
        sums = sums.index_add(0, self.entry.flatten().to(full.device), full.flatten(0, 1))
        return self._shaped(sums) / self.total.to(full)

    def _shaped(self, kernels: Tensor) -> Tensor:
        return kernels.reshape(*self.small[: len(self.small) - len(self.shape) + 2], *kernels.shape[1:])


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
