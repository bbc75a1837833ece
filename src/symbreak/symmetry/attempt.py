"""One small network: built for one choice of the spaces that are kept whole, not yet compared with the full one."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .certificate import LEVELS, Certificate, certify
from .fold import Fold, GroupedFold, axis_index, fold_of
from .graph import Axis, UnitGraph
from .places import axes_of, inputs_of, places_of
from .refine import coarsest
from .smaller import REST, own_tensors, rebuild
from .units import Level, Network, Partition, SymmetryError


@dataclass(frozen=True, eq=False)
class Attempt:
    """A small model for one choice of what is kept whole; names are those of the full model's tensors."""

    full: nn.Module
    small: nn.Module
    network: Network
    partition: Partition
    level: Level
    folds: Mapping[str, Fold]
    starts: Mapping[str, Tensor]  # name -> the small tensor at the start, in float64
    uneven: frozenset[str]  # tensors that are not constant over blocks

    @classmethod
    def of(cls, model: nn.Module, graph: UnitGraph, kept: Collection[str], level: Level, seed: int) -> Attempt:
        """Classes of the graph with these spaces told apart, and the model with one unit a class."""
        known = graph.network.told_apart | (set(kept) & graph.network.sizes.keys())
        network = dataclasses.replace(graph.network, told_apart=frozenset(known))
        partition = coarsest(network, level=level, seed=seed)
        tensors, names = _tensors_of(model)
        axes, inputs = axes_of(model, graph), inputs_of(model, graph)
        folds = {key: _fold(tensors[key], axes[key], inputs.get(key), partition) for key in tensors if key in axes}
        folds = {key: fold for key, fold in folds.items() if not fold.trivial}
        starts = {key: fold.fold(tensors[key].detach().double()) for key, fold in folds.items()}
        uneven = {key for key, fold in folds.items() if not _constant(tensors[key].detach(), fold)}
        built = rebuild(
            model,
            {key: _made(t, starts.get(key)) for key, t in tensors.items()},
            places_of(model, graph, folds),
            folds,
            {key: _rest(tensors[key]) for key in uneven if isinstance(tensors[key], nn.Parameter)},
        )
        return cls(
            full=model,
            small=built,
            network=graph.network,
            partition=partition,
            level=level,
            folds={name: fold for key, fold in folds.items() for name in names[key]},
            starts={name: start for key, start in starts.items() for name in names[key]},
            uneven=frozenset(name for key in uneven for name in names[key]),
        )

    @property
    def shrinking(self) -> tuple[str, ...]:
        """Spaces with fewer classes than units."""
        return tuple(s for s, c in self.partition.items() if int(c.max(initial=-1)) + 1 < len(c))

    def proved(self) -> Certificate:
        """Of the graph's own network, at the finest level that holds.

        A kernel a channel is a diagonal block: its classes are even, and not block-constant.
        """
        for finer in LEVELS[:0:-1] if not self.uneven else ():
            with contextlib.suppress(SymmetryError):
                return certify(self.network, self.partition, level=finer)
        return certify(self.network, self.partition, level=self.level)

    def width(self, weight: str, axis: int) -> tuple[int, int]:
        """Length of this axis of a weight in the small and in the full network."""
        units = dict(self.full.named_parameters(remove_duplicate=False))[weight].shape[axis]
        return self.folds[weight].units(axis) if weight in self.folds else units, units

    def multiplicities(self) -> Iterator[tuple[str, Tensor]]:
        """Parameter of the small network, and how many full entries each entry stands for."""
        for name, p in self.small.named_parameters():
            if name in self.folds:
                yield name, self.folds[name].total
            else:
                rest = name.endswith(REST) and name.removesuffix(REST) in self.folds
                yield name, torch.full((1,) * p.ndim, 0.0 if rest else 1.0, dtype=torch.float64)


def _tensors_of(model: nn.Module) -> tuple[dict[int, Tensor], dict[int, list[str]]]:
    """Parameters and buffers by their id, and all names of each."""
    tensors: dict[int, Tensor] = {}
    names: dict[int, list[str]] = {}
    for prefix, module in model.named_modules():
        for attribute, tensor in own_tensors(module):
            tensors[id(tensor)] = tensor
            names.setdefault(id(tensor), []).append(f"{prefix}.{attribute}" if prefix else attribute)
    return tensors, names


def _fold(tensor: Tensor, axes: Sequence[Axis], inputs: Axis | None, partition: Partition) -> Fold:
    """How a tensor folds; `inputs`: of a kernel in groups, the channels that it reads."""
    shape = tuple(tensor.shape)
    plain = fold_of(shape, [(axis.spaces, axis.repeat) for axis in axes], partition)
    if inputs is None:
        return plain
    number = inputs.repeat * (sum(len(partition[s]) for s in inputs.spaces) if inputs.spaces else 1)
    into = axis_index(inputs.spaces, inputs.repeat, partition) if inputs.spaces else None
    grouped = GroupedFold.of(shape, plain.index[0], into, number)
    return plain if grouped is None else grouped


def _constant(full: Tensor, fold: Fold) -> bool:
    return bool((full == fold.spread(fold.first(full))).all())


def _made(tensor: Tensor, start: Tensor | None) -> Tensor:
    value = tensor.detach().clone() if start is None else start.to(tensor.dtype, copy=True)
    if not isinstance(tensor, nn.Parameter):
        return value
    return nn.Parameter(value, requires_grad=tensor.requires_grad)


def _rest(tensor: Tensor) -> nn.Parameter:
    ones = torch.ones((1,) * tensor.ndim, dtype=tensor.dtype, device=tensor.device)
    return nn.Parameter(ones, requires_grad=tensor.requires_grad)
