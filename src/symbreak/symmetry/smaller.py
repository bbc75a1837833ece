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

from .fold import Fold

_FACTOR = "_factor"  # beside "weight": full entries that each small one stands for along the axes summed over
_SHARED = "_shared"  # the same along the other axes: as many full entries share the gradient that arrives
_SHARE = "class_share"  # of each class among the units of the full norm
REST = "_rest"  # beside "weight": what is left of the part of the weight that no gradient reaches, 1 at first
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_BATCH_NORMS = (nn.modules.batchnorm._NormBase,)
TABLES = (nn.Embedding, nn.EmbeddingBag)


@dataclass(frozen=True)
class Place:
    """Where a tensor stands: a module of the model, the attribute, and which of its axes the forward sums over."""

    module: str
    attribute: str
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
    views: dict[str, list[str]] = {}
    for place in places:
        tensor = dict(own_tensors(old[place.module]))[place.attribute]
        fold = folds[id(tensor)]
        others = [k for k in range(len(fold.shape)) if k not in place.summed]
        module = new[place.module]
        for suffix, axes in ((_FACTOR, place.summed), (_SHARED, others)):
            module.register_buffer(place.attribute + suffix, fold.product(axes).to(tensor), persistent=False)
        if id(tensor) in rests:
            module.register_parameter(place.attribute + REST, rests[id(tensor)])
        views.setdefault(place.module, []).append(place.attribute)
    for name, m in old.items():
        _resize(new[name], {attr: folds[id(t)] for attr, t in own_tensors(m) if id(t) in folds})
    for name, seen in views.items():
        module = new[name]
        kind: Any = type(module)
        module.__class__ = _subclass(kind, tuple(sorted(seen)), _SHARE in module._buffers)
    return new[""]


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


# ---- sizes that modules keep beside their tensors --------------------------------------------------------------------


def _resize(module: nn.Module, folds: Mapping[str, Fold]) -> None:
    fold = folds.get("weight")
    small = fold.small if fold is not None else ()
    if isinstance(module, nn.RNNBase) and folds:
        module.hidden_size = folds["weight_hh_l0"].small[1] if "weight_hh_l0" in folds else module.hidden_size
        module.input_size = folds["weight_ih_l0"].small[1] if "weight_ih_l0" in folds else module.input_size
    elif isinstance(module, _BATCH_NORMS):
        table = next(iter(folds.values()), None)
        module.num_features = module.num_features if table is None else table.small[0]
    elif fold is None:
        return
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = small
    elif isinstance(module, CONVOLUTIONS):
        module.groups = small[0] if is_depthwise(module) else module.groups
        module.out_channels, module.in_channels = small[0], small[1] * module.groups
    elif isinstance(module, TRANSPOSED):
        module.in_channels, module.out_channels = small[0], small[1] * module.groups
    elif isinstance(module, TABLES):
        module.embedding_dim = small[1]
    elif isinstance(module, nn.PReLU):
        module.num_parameters = small[0]
    elif type(module).__name__ == "Conv1D" and len(small) == 2:  # of transformers: a Linear with its weight transposed
        vars(module).update(zip(("nx", "nf"), small, strict=True))
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
        module.normalized_shape = tuple(small)
        module.register_buffer(_SHARE, (fold.counts(0) / fold.shape[0]).to(module.weight), persistent=False)


def is_depthwise(module: nn.Module) -> bool:
    """True for a convolution with one kernel a channel."""
    return isinstance(module, CONVOLUTIONS) and 1 < module.groups == module.in_channels == module.out_channels


# ---- norms whose statistics weigh a class by its size ----------------------------------------------------------------


def _layer_norm(self: nn.LayerNorm, x: Tensor) -> Tensor:
    share = self._buffers[_SHARE]
    assert share is not None
    x = x - (x * share).sum(-1, keepdim=True)
    x = x * torch.rsqrt((x.square() * share).sum(-1, keepdim=True) + self.eps)
    x = x if self.weight is None else x * self.weight
    return x if self.bias is None else x + self.bias


def _rms_norm(self: nn.RMSNorm, x: Tensor) -> Tensor:
    eps = torch.finfo(x.dtype).eps if self.eps is None else self.eps
    share = self._buffers[_SHARE]
    assert share is not None
    x = x * torch.rsqrt((x.square() * share).sum(-1, keepdim=True) + eps)
    return x if self.weight is None else x * self.weight


# ---- the views -------------------------------------------------------------------------------------------------------


@functools.cache
def _subclass(kind: Any, names: tuple[str, ...], weighted: bool) -> type[Any]:
    """The class of a rebuilt module: what it reads under these names are views; a norm weighs classes by size."""
    body: dict[str, Any] = {name: _property(name) for name in names}
    if issubclass(kind, nn.RNNBase):
        body["_flat_weights"] = property(_flat_weights, _ignore)
    if weighted:
        body["forward"] = _layer_norm if issubclass(kind, nn.LayerNorm) else _rms_norm
    body["__reduce_ex__"] = lambda self, _protocol: (_instance, (kind, names, weighted), vars(self).copy())
    return type(kind.__name__, (kind,), body)


def _instance(kind: Any, names: tuple[str, ...], weighted: bool) -> nn.Module:
    """For copies and pickles: a class made at run time has no name to be found under."""
    module: nn.Module = object.__new__(_subclass(kind, names, weighted))
    return module


def _property(name: str) -> property:
    def look(self: nn.Module) -> Tensor:
        small, rest = self._parameters[name], self._parameters.get(name + REST)
        factor, shared = self._buffers[name + _FACTOR], self._buffers[name + _SHARED]
        seen: Tensor = _Entries.apply(small, factor, shared)  # type: ignore[no-untyped-call]
        return seen if rest is None else seen + 0 * rest

    return property(look)


def _ignore(_self: nn.Module, _value: Any) -> None:
    """A recurrent layer sets its list of weights itself; here the list is made when it is read."""


def _flat_weights(self: nn.RNNBase) -> list[Tensor | None]:
    return [getattr(self, name, None) for name in self._flat_weights_names]
