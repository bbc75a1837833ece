"""Unit graphs written down by hand, for tests that must not depend on how a graph is read off a model."""

from __future__ import annotations

import numpy as np
from torch import nn

from symbreak.symmetry.graph import Axis, UnitGraph
from symbreak.symmetry.units import Block, Floats, Network


def layered(model: nn.Sequential) -> UnitGraph:
    """The graph of a chain of Linear layers with elementwise functions between them."""
    layers = [(name, m) for name, m in model.named_children() if isinstance(m, nn.Linear)]
    sizes = {"x": layers[0][1].in_features} | {name: m.out_features for name, m in layers}
    blocks, attributes, axes, before = [], {}, {}, "x"
    for name, m in layers:
        blocks.append(Block(before, name, values(m.weight)))
        axes[f"{name}.weight"] = (Axis((name,)), Axis((before,)))
        if m.bias is not None:
            attributes[name] = values(m.bias)[:, None]
            axes[f"{name}.bias"] = (Axis((name,)),)
        before = name
    return UnitGraph(Network(sizes, tuple(blocks), attributes, frozenset({"x", before})), axes)


def values(tensor: nn.Parameter) -> Floats:
    found: Floats = tensor.detach().numpy().astype(np.float64)
    return found
