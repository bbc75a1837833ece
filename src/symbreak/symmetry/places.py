"""Where the tensors of a model stand, which of their axes a forward sums over, and which spaces have a fixed size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from .fold import Fold
from .graph import Axis, UnitGraph
from .smaller import CONVOLUTIONS, TABLES, TRANSPOSED, Place, is_depthwise, own_tensors
from .units import Network

_PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
_NORMS = nn.LayerNorm | nn.RMSNorm
AxesOf = Mapping[int, tuple[Axis, ...]]  # id of a tensor -> its axes


def axes_of(model: nn.Module, graph: UnitGraph) -> AxesOf:
    """The graph's axes by tensor: a tied one may be listed under any of its names."""
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {id(tensor): graph.axes[name] for name, tensor in named if name in graph.axes}


def places_of(model: nn.Module, graph: UnitGraph, folds: Mapping[int, Fold]) -> tuple[Place, ...]:
    """Every place of a parameter that is folded; a tied one stands in several, and may be summed over in one alone."""
    axes = axes_of(model, graph)
    return tuple(
        Place(name, attribute, _summed(module, attribute, tensor, axes[id(tensor)], graph.network))
        for name, module in model.named_modules()
        for attribute, tensor in own_tensors(module)
        if id(tensor) in folds and isinstance(tensor, nn.Parameter)
    )


def out_axes(model: nn.Module) -> Iterator[tuple[str, str, int]]:
    """(layer, its weight, the axis of its units) for every layer with a weight matrix or kernel."""
    for name, module in model.named_modules():
        for attribute in ("weight", "weight_hh_l0"):
            tensor = module._parameters.get(attribute)
            if tensor is not None and tensor.ndim > 1:
                inward = isinstance(module, (*TRANSPOSED, *TABLES, nn.RNNBase))
                yield name, f"{name}.{attribute}" if name else attribute, int(inward)


def fixed_spaces(model: nn.Module, graph: UnitGraph) -> dict[str, str]:
    """Spaces that a module of the model cannot run with fewer units of -> why."""
    axes = axes_of(model, graph)
    return {
        space: f"{name}: {why}"
        for name, module in model.named_modules()
        if (why := _why_fixed(module)) is not None
        for _, tensor in _touching(module)
        for axis in axes.get(id(tensor), ())
        for space in axis.spaces
    }


def _touching(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    whole = isinstance(module, nn.MultiheadAttention)
    for inner in module.modules() if whole else (module,):
        yield from own_tensors(inner)


def _why_fixed(module: nn.Module) -> str | None:
    if isinstance(module, (*CONVOLUTIONS, *TRANSPOSED)) and module.groups > 1 and not is_depthwise(module):
        return f"a convolution in {module.groups} groups of a fixed size"
    if isinstance(module, nn.GroupNorm):
        return f"a norm over {module.num_groups} groups of a fixed size"
    if isinstance(module, _NORMS) and len(module.normalized_shape) > 1:
        return f"a norm over {len(module.normalized_shape)} axes at once"
    if isinstance(module, nn.MultiheadAttention):
        return f"{module.num_heads} heads of {module.head_dim} units"
    if isinstance(module, nn.RNNBase) and module.proj_size:
        return "a recurrent layer with a projection"
    if isinstance(module, nn.RNNBase) and module.training and module.dropout and module.num_layers > 1:
        return "dropout between recurrent layers"
    if isinstance(module, ParametrizationList):
        return "a parametrized weight"
    return None


# ---- which axes are summed over --------------------------------------------------------------------------------------


def _summed(
    module: nn.Module, attribute: str, tensor: Tensor, axes: tuple[Axis, ...], network: Network
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
