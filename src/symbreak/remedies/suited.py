"""How a tensor of this model is drawn anew: the scheme that `suits` its place, as the check saw it run."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from symbreak.records import LayerTrace, TensorTrace, Trace
from symbreak.schemes import ACTIVATIONS, Fans, Layout, Moments, Place, Scheme, constant, lecun_normal, normal
from symbreak.schemes.fans import layout_used
from symbreak.schemes.place import Role
from symbreak.schemes.suits import suits

from .bench import Bench

TOKENS = 0.02  # std of bare tokens and positions, as in BERT, GPT-2 and ViT
GATE = 0.1  # the usual start of a gate is the very zero, or hardly more, that a repair has to replace


def suited(bench: Bench, name: str) -> tuple[Scheme, Place]:
    """The scheme that suits a parameter where it stands, and its place: what `symbreak schemes --for` says of it.

    Apart from that: a factor is never zero, because then it would not be worth drawing. Gates are 0.1, adapters'
    second factors and norms that end a branch are drawn like others; tokens and positions are normal(0.02).
    """
    trace = bench.report.trace
    tensor, row, place = tensor_of(trace, name), layer_of(trace, name), place_of(bench, name)
    ran = row.activation if row is not None else None
    phi = ACTIVATIONS.get(ran or "")
    found = suits(place, phi, known=ran is None or phi is not None, tied=name in bench.tied).scheme
    if found is None or place.role == "gate":
        return constant(GATE) if place.role == "gate" else normal(TOKENS), place
    moments = found.moments(place=place)
    if is_factor(tensor) and moments.mean == moments.std == 0:
        return lecun_normal() if place.fans is not None else constant(1.0), place
    return found, place


def suited_std(bench: Bench, name: str) -> float:
    """The standard deviation a parameter has by the scheme that suits it; TOKENS where that is a constant."""
    return moments_of(bench, name).std or TOKENS


def moments_of(bench: Bench, name: str) -> Moments:
    """Mean and standard deviation that the suiting scheme promises."""
    scheme, place = suited(bench, name)
    return scheme.moments(place=place)


def fresh(bench: Bench, name: str, *, salt: str = "") -> Tensor:
    """[...] float64: a new draw."""
    scheme, place = suited(bench, name)
    p = bench.params[name]
    drawn = scheme.draw(p.shape, generator=bench.generator(name, salt), place=place, dtype=torch.float64)
    return drawn.to(p.device)


# ---- places ----------------------------------------------------------------------------------------------------------


def place_of(bench: Bench, name: str) -> Place:
    """Where a parameter stands: by its module, and where that does not tell, by what the check saw it do."""
    trace = bench.report.trace
    tensor, row = tensor_of(trace, name), layer_of(trace, name)
    place = bench.places.get(name, Place(shape=tensor.shape, role="unknown"))
    if row is None or row.kind == "embedding" or len(tensor.shape) < 2:
        return replace(place, role=_role(tensor)) if place.role == "unknown" else place
    if place.role == "unknown":
        layout, fans = _multiplies(bench, row)
        place = replace(place, role="weight", layout=layout, fans=fans)
    depth = sum(len(r.shape) >= 2 and r.kind != "embedding" for r in trace.layers)
    return replace(place, depth=depth, position="first" if row.from_data else "hidden")


def _role(tensor: TensorTrace) -> Role:
    """The part of a parameter that its module does not tell, by the operations that use it; by its name if none do."""
    if "norm_weight" in tensor.roles or (
        not tensor.roles and len(tensor.shape) == 1 and tensor.name.endswith("weight")
    ):
        return "gain"
    if "scale" in tensor.roles:
        return "gate"
    if tensor.roles & {"bias", "norm_bias"} or (not tensor.roles and tensor.name.endswith("bias")):
        return "bias"
    return "unknown"


def _multiplies(bench: Bench, row: LayerTrace) -> tuple[Layout, Fans]:
    """Layout and fans as the layer really multiplies: groups, transposition and stacked experts counted right."""
    groups = int(getattr(module_of(bench, row.name), "groups", 1))
    layout = layout_used(row.kind, row.shape, row.out_axis, groups=groups, parts=row.gates)
    if layout is not None:
        return layout, layout.fans(row.shape)
    out = row.shape[row.out_axis or 0]
    return Layout(), Fans(fan_in=max(1, math.prod(row.shape) // out), fan_out=out)


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
