"""Where the tensors of a model stand, which of their axes a forward sums over, and which spaces have a fixed size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.spectral_norm import SpectralNorm as OldSpectralNorm

from .fold import Fold
from .graph import Axis, UnitGraph
from .sizes import CONVOLUTIONS, TABLES, TRANSPOSED
from .smaller import Place, WeightNorm, own_tensors
from .units import Network
from .weight_norm import weight_norms

_PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
AxesOf = Mapping[int, tuple[Axis, ...]]  # id of a tensor -> its axes


def axes_of(model: nn.Module, graph: UnitGraph) -> AxesOf:
    """The graph's axes by tensor: a tied one may be listed under any of its names."""
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {id(tensor): graph.axes[name] for name, tensor in named if name in graph.axes}


def inputs_of(model: nn.Module, graph: UnitGraph) -> Mapping[int, Axis]:
    """By kernel of a convolution in groups, the channels that it reads."""
    named = model.named_parameters(remove_duplicate=False)
    return {id(tensor): graph.inputs[name] for name, tensor in named if name in graph.inputs}


def places_of(model: nn.Module, graph: UnitGraph, folds: Mapping[int, Fold]) -> tuple[Place, ...]:
    """Every place of a parameter that is folded; a tied one stands in several, and may be summed over in one alone."""
    axes, found = axes_of(model, graph), []
    for name, module in model.named_modules():
        for attribute, tensor in own_tensors(module):
            if id(tensor) in folds and isinstance(tensor, nn.Parameter):
                summed = partial(_summed, tensor=tensor, axes=axes[id(tensor)], network=graph.network)
                norm = _weight_norm(model, name, attribute, tensor, summed)
                found.append(Place(name, attribute, summed(module, attribute) if norm is None else (), norm))
    return tuple(found)


def _weight_norm(
    model: nn.Module, name: str, attribute: str, tensor: Tensor, summed: Callable[[nn.Module, str], tuple[int, ...]]
) -> WeightNorm | None:
    """The weight whose direction this tensor is, None where it is none."""
    module = model.get_submodule(name)
    for weight, direction, dim in weight_norms(module):
        if attribute == direction:
            axes = tuple(k for k in range(tensor.ndim) if k != dim)
            if not weight:  # "0.parametrizations.weight"
                owner, _, weight = f".{name}".rpartition(".parametrizations.")
                name = owner.removeprefix(".")
            return WeightNorm(name, weight, axes, summed(model.get_submodule(name), weight))
    return None


def out_axes(model: nn.Module) -> Iterator[tuple[str, str, int]]:
    """(layer, its weight, the axis of its units) for every layer with a weight matrix or kernel."""
    for name, module in model.named_modules():
        for attribute in ("weight", "weight_hh_l0"):
            for path in (attribute, f"{attribute}_v", f"parametrizations.{attribute}.original1"):
                tensor = dict(module.named_parameters()).get(path)
                if tensor is not None and tensor.ndim > 1:
                    inward = isinstance(module, (*TRANSPOSED, *TABLES, nn.RNNBase))
                    yield name, f"{name}.{path}" if name else path, int(inward)


def fixed_spaces(model: nn.Module, graph: UnitGraph) -> dict[str, str]:
    """Spaces that a module of the model cannot run with fewer units of -> why."""
    axes = axes_of(model, graph)
    return {
        space: f"{name}: {why}"
        for name, module in model.named_modules()
        if (why := _why_fixed(module)) is not None
        for _, tensor in own_tensors(module)
        for axis in axes.get(id(tensor), ())
        for space in axis.spaces
        if space not in graph.network.told_apart
    }


def _why_fixed(module: nn.Module) -> str | None:
    if isinstance(module, TRANSPOSED) and module.groups > 1:
        return f"a transposed convolution in {module.groups} groups, whose channels are not read as units"
    if isinstance(module, nn.LayerNorm | nn.RMSNorm) and len(module.normalized_shape) > 1:
        return f"a norm over {len(module.normalized_shape)} axes at once"
    if isinstance(module, nn.RNNBase) and module.proj_size:
        return "a recurrent layer with a projection, which is not read as units"
    if isinstance(module, nn.RNNBase) and module.training and module.dropout and module.num_layers > 1:
        return "dropout between recurrent layers"
    if _spectral(module):
        return "spectral norm: the vectors of its power iteration start at random, and differ between equal units"
    if isinstance(module, ParametrizationList) and not any(weight_norms(module)):
        return f"a weight parametrized by {', '.join(type(one).__name__ for one in module)}"
    return None


def _spectral(module: nn.Module) -> bool:
    if isinstance(module, ParametrizationList):
        return any(isinstance(one, _SpectralNorm) for one in module)
    return any(isinstance(hook, OldSpectralNorm) for hook in module._forward_pre_hooks.values())


# ---- which axes are summed over --------------------------------------------------------------------------------------


def _summed(
    module: nn.Module, attribute: str, *, tensor: Tensor, axes: tuple[Axis, ...], network: Network
) -> tuple[int, ...]:
    """Axes of a weight that its forward contracts with a signal; wrong answers do not outlive the comparison."""
    if tensor.ndim < 2 or isinstance(module, TABLES):
        return ()
    if attribute == "weight" and isinstance(module, (nn.Linear, nn.Bilinear, *CONVOLUTIONS)):
        return (1, 2) if isinstance(module, nn.Bilinear) else (1,)
    if attribute == "weight" and isinstance(module, TRANSPOSED):
        return (0,)
    if isinstance(module, nn.RNNBase | nn.RNNCellBase) or attribute in _PROJECTIONS:
        return (1,)
    units = [k for k, axis in enumerate(axes) if axis.spaces]
    return _by_blocks(tensor, units, axes, network) if len(units) == 2 else ()


def _by_blocks(tensor: Tensor, units: list[int], axes: tuple[Axis, ...], network: Network) -> tuple[int, ...]:
    """A bare matrix: the axis whose space is the source of a block to the other one's space."""
    one, other = (set(axes[k].spaces) for k in units)
    forward = [b for b in network.blocks if b.source in other and b.target in one]
    back = [b for b in network.blocks if b.source in one and b.target in other]
    if forward and back:  # a square weight inside one space: its values tell
        matrix = tensor.detach().double().cpu().numpy()
        forward = [b for b in forward if b.weight.shape == matrix.shape and np.array_equal(b.weight, matrix)]
    return (units[1],) if forward else (units[0],) if back else ()
