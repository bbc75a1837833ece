"""How a tensor of this model is drawn anew: the scheme that suits its layer, and the fans it scales by."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from symbreak.records import LayerTrace, TensorTrace, Trace
from symbreak.schemes import (
    Fans,
    Moments,
    Place,
    Scheme,
    constant,
    fans_of_shape,
    kaiming_normal,
    lecun_normal,
    normal,
    zeros,
)

from .bench import Bench

RECTIFIERS = frozenset({"relu", "relu6", "leaky_relu", "prelu", "rrelu", "gelu", "silu", "mish", "threshold"})
"""Those that let about half of the second moment through, so that weights start sqrt(2) larger."""
STEEP = {"sigmoid": 4.0, "hardsigmoid": 6.0}
"""One over the steepest slope, for hidden layers: what keeps the back-signal."""
TOKENS = 0.02  # std of embeddings, tokens and positions, as in BERT, GPT-2 and ViT


def suited(bench: Bench, name: str) -> tuple[Scheme, Fans | None]:
    """The scheme that suits a parameter where it stands, with its fans.

    Matrices: kaiming_normal in front of a rectifier, lecun_normal elsewhere, larger in front of a hidden sigmoid.
    Tables and tokens: normal(0.02). Gains of norms: one; gates: 0.1; biases: zero.
    """
    trace = bench.report.trace
    tensor, row = tensor_of(trace, name), layer_of(trace, name)
    if row is not None and row.kind != "embedding" and len(tensor.shape) >= 2:
        gain = 1.0 if row.from_data else STEEP.get(row.activation or "", 1.0)
        plain = lecun_normal() if gain == 1.0 else kaiming_normal(gain=gain)
        return kaiming_normal() if row.activation in RECTIFIERS else plain, layer_fans(bench, row)
    if "norm_weight" in tensor.roles or (not tensor.roles and len(tensor.shape) == 1 and name.endswith("weight")):
        return constant(1.0), None
    if "scale" in tensor.roles:
        return constant(0.1), None
    if tensor.roles & {"bias", "norm_bias"} or (not tensor.roles and name.endswith("bias")):
        return zeros(), None
    if "lookup" in tensor.roles or ("weight" not in tensor.roles and tensor.roles):
        return normal(TOKENS), None
    if len(tensor.shape) >= 2:
        return lecun_normal(), fans_of_shape(tensor.shape)
    return normal(TOKENS), None


def suited_std(bench: Bench, name: str) -> float:
    """The standard deviation a parameter has by the scheme that suits it; TOKENS where that is a constant."""
    return moments_of(bench, name).std or TOKENS


def moments_of(bench: Bench, name: str) -> Moments:
    """Mean and standard deviation that the suiting scheme promises."""
    scheme, fans = suited(bench, name)
    return scheme.moments(place=Place(shape=tuple(bench.params[name].shape), fans=fans))


def fresh(bench: Bench, name: str, *, salt: str = "") -> Tensor:
    """[...] float64: a new draw."""
    moments = moments_of(bench, name)
    shape = bench.params[name].shape
    return moments.mean + bench.noise(name, shape, moments.std, salt=salt)


def layer_fans(bench: Bench, row: LayerTrace) -> Fans:
    """Fans as the layer really multiplies: groups, transposition and stacked experts counted right."""
    shape = row.shape
    groups = int(getattr(module_of(bench, row.name), "groups", 1))
    if row.kind.startswith("conv"):
        return fans_of_shape(shape, groups=groups, transposed=row.kind.startswith("conv_transpose"))
    if row.out_axis is None or row.kind == "linear":
        return fans_of_shape(shape)
    if len(shape) >= 2 and row.out_axis % len(shape) in (len(shape) - 1, len(shape) - 2):
        out = row.out_axis % len(shape)
        return Fans(fan_in=shape[2 * len(shape) - 3 - out], fan_out=shape[out])
    return Fans(fan_in=max(1, math.prod(shape) // shape[row.out_axis]), fan_out=shape[row.out_axis])


def module_of(bench: Bench, layer: str) -> torch.nn.Module | None:
    """The module a layer is named after, where there is one."""
    try:
        return bench.model.get_submodule(layer)
    except AttributeError:
        return None


def bias_of(bench: Bench, row: LayerTrace) -> str | None:
    """The name of the bias that stands beside a layer's weight, where it has one."""
    name = row.weight.removesuffix("weight") + "bias"
    return name if name in bench.params else None


def is_factor(t: TensorTrace) -> bool:
    """Whether a tensor multiplies the signal: a matrix, a gain, a gate; not what is only added."""
    return not t.roles & {"bias", "norm_bias", "shift"}


def is_matrix(t: TensorTrace) -> bool:
    """Whether a tensor maps units to units, or is a table: two axes and no gain, gate or shift."""
    return len(t.shape) >= 2 and is_factor(t) and not t.roles & {"norm_weight", "scale"}


def tensor_of(trace: Trace, name: str) -> TensorTrace:
    return next(t for t in trace.tensors if t.name == name)


def layer_of(trace: Trace, name: str) -> LayerTrace | None:
    return next((r for r in trace.layers if r.weight == name), None)
