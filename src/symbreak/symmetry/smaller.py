"""A module with fewer units, rebuilt around small tensors; the module it is made from stays as it is.

The small tensor keeps the name of the full one and holds entries of it, one a block. What the forward reads under that
name is a view of it: every entry times the number of full entries that it sums over, so that a layer's result is that
of the full layer. Backward, the view hands on the gradient of ONE full entry. An optimizer that works entry by entry
therefore sees the weights and the gradients that it sees in the full network, and needs no other settings.

The view is a property of a subclass made for the module, as in torch.nn.utils.parametrize, which would rename the
tensors. Nothing is deep-copied that holds the user's tensors; what cannot be copied at all is shared.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .fold import Fold, GroupedFold
from .sizes import resize
from .weight_norm import weigh_norm
from .weighted import FORWARDS

_FACTOR = "_factor"  # beside "weight": full entries that each small one stands for along the axes summed over
_SHARED = "_shared"  # the same along the other axes: as many full entries share the gradient that arrives
_AT = "_at"  # beside "weight": where each kernel lies in that of the convolution without groups
REST = "_rest"  # beside "weight": what is left of the part of the weight that no gradient reaches, 1 at first


@dataclass(frozen=True)
class Place:
    """Where a tensor stands: a module of the model, the attribute, and which of its axes the forward sums over.

    Attributes:
        norm: of a direction v of a weight g v / |v|; None elsewhere.
    """

    module: str
    attribute: str
    summed: tuple[int, ...]
    norm: WeightNorm | None = None


@dataclass(frozen=True)
class WeightNorm:
    """A weight g v / |v| of a module.

    Attributes:
        module: whose weight it is; the direction stands elsewhere where it is parametrized.
        attribute: under which that module reads it.
        axes: of v that its norm sums over.
        summed: axes that the module's forward sums over.
    """

    module: str
    attribute: str
    axes: tuple[int, ...]
    summed: tuple[int, ...]


class _Entries(torch.autograd.Function):
    """Small entries times what they sum over; backward, the gradient of one entry of the full tensor."""

    generate_vmap_rule = True

    @staticmethod
    def forward(small: Tensor, factor: Tensor, shared: Tensor) -> Tensor:  # noqa: ARG004 - saved below
        return small * factor

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:  # noqa: ARG004 - torch's signature
        ctx.save_for_backward(inputs[2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad / ctx.saved_tensors[0], None, None


def rebuild(
    model: nn.Module,
    tensors: Mapping[int, Tensor],
    places: Sequence[Place],
    folds: Mapping[int, Fold],
    rests: Mapping[int, nn.Parameter],
) -> nn.Module:
    """The same module tree with other tensors in it.

    Args:
        tensors: id of a parameter or buffer of the model -> what stands in its place; every one is listed.
        places: of the tensors that are folded, with the axes that their forward sums over.
        folds: id of a parameter or buffer -> how it is folded.
        rests: id of a parameter -> the parameter that stands for what no gradient reaches.
    """
    memo: dict[int, Any] = dict(tensors)
    old = dict(model.named_modules())
    new = {name: _shell(m, memo) for name, m in old.items()}
    for name, m in old.items():
        _fill(new[name], m, memo)
    own = {name: {attr: folds[id(t)] for attr, t in own_tensors(m) if id(t) in folds} for name, m in old.items()}
    views: dict[str, list[str]] = {}
    for place in places:
        tensor, fold = dict(own_tensors(old[place.module]))[place.attribute], own[place.module][place.attribute]
        _beside(new[place.module], place, tensor, fold)
        if id(tensor) in rests:
            new[place.module].register_parameter(place.attribute + REST, rests[id(tensor)])
        views.setdefault(place.module, []).append(place.attribute)
        if place.norm is not None:
            own[place.norm.module][place.norm.attribute] = fold
            weigh_norm(new[place.module], place.norm.attribute, place.norm.axes,
                       *(fold.product(axes).to(tensor) for axes in (place.norm.axes, place.norm.summed)))  # fmt: skip
    forwards = {name: resize(new[name], own[name]) for name in old}
    for name, seen in views.items():
        kind: Any = type(new[name])
        new[name].__class__ = _subclass(kind, tuple(sorted(seen)), forwards[name])
    return new[""]


def _beside(module: nn.Module, place: Place, tensor: Tensor, fold: Fold) -> None:
    """The numbers that make a view of a small tensor, as buffers of its module."""
    factor = fold.product(place.summed)
    for suffix, number in ((_FACTOR, factor), (_SHARED, fold.total / factor)):
        module.register_buffer(place.attribute + suffix, number.to(tensor), persistent=False)
    if isinstance(fold, GroupedFold) and not fold.even:
        at = fold.at[:, 0] * fold.units(1) + fold.at[:, 1]
        module.register_buffer(place.attribute + _AT, at.to(tensor.device), persistent=False)


def own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers of this module alone."""
    for table in (module._parameters, module._buffers):
        yield from ((name, t) for name, t in table.items() if t is not None)


# ---- the tree ------------------------------------------------------------------------------------------------------


def _shell(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    if id(module) not in memo:
        memo[id(module)] = object.__new__(type(module))
    shell: nn.Module = memo[id(module)]
    return shell


def _fill(shell: nn.Module, module: nn.Module, memo: dict[int, Any]) -> None:
    state = dict(vars(module))
    for table in ("_parameters", "_buffers", "_modules"):
        state[table] = type(state[table])((n, None if t is None else memo[id(t)]) for n, t in state[table].items())
        memo[id(vars(module)[table])] = state[table]
    for name, value in vars(module).items():
        if name not in ("_parameters", "_buffers", "_modules"):
            try:
                state[name] = copy.deepcopy(value, memo)  # lists of modules, bound methods: the memo leads to ours
            except Exception:  # noqa: BLE001 - a lock, a file, a compiled object: what cannot be copied is shared
                state[name] = value
    vars(shell).update(state)


# ---- the views -------------------------------------------------------------------------------------------------------


@functools.cache
def _subclass(kind: Any, names: tuple[str, ...], forward: str | None) -> type[Any]:
    """The class of a rebuilt module: what it reads under these names are views; some forwards weigh classes by size."""
    body: dict[str, Any] = {name: _view(name) for name in names}
    if issubclass(kind, nn.RNNBase):
        body["_flat_weights"] = property(_flat_weights, _ignore)
    if forward is not None:
        body["forward"] = FORWARDS[forward]
    body["__reduce_ex__"] = lambda self, _protocol: (_instance, (kind, names, forward), vars(self).copy())
    return type(kind.__name__, (kind,), body)


def _instance(kind: Any, names: tuple[str, ...], forward: str | None) -> nn.Module:
    """For copies and pickles: a class made at run time has no name to be found under."""
    module: nn.Module = object.__new__(_subclass(kind, names, forward))
    return module


def _view(name: str) -> property:
    def look(self: nn.Module) -> Tensor:
        small, rest = self._parameters[name], self._parameters.get(name + REST)
        factor, shared = self._buffers[name + _FACTOR], self._buffers[name + _SHARED]
        seen: Tensor = _Entries.apply(small, factor, shared)  # type: ignore[no-untyped-call]
        at = self._buffers.get(name + _AT)
        seen = seen if at is None else _without_groups(self, seen, at)
        return seen if rest is None else seen + 0 * rest

    return property(look)


def _without_groups(convolution: Any, kernels: Tensor, at: Tensor) -> Tensor:
    """The weight [o, i, taps...] of a convolution in one group: zeros but for these kernels."""
    out, into = convolution.out_channels, convolution.in_channels
    full = kernels.new_zeros(out * into, *kernels.shape[1:]).index_copy(0, at, kernels)
    return full.reshape(out, into, *kernels.shape[1:])


def _ignore(_self: nn.Module, _value: Any) -> None:
    """A recurrent layer sets its list of weights itself; here the list is made when it is read."""


def _flat_weights(self: nn.RNNBase) -> list[Tensor | None]:
    return [getattr(self, name, None) for name in self._flat_weights_names]
