"""Units that are opposite, or multiples: what the graph says of signs and sizes, against training."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from symbreak.symmetry import UnitGraph, algebra, unit_graph
from symbreak.symmetry.proportional import proportional
from symbreak.symmetry.signed import mirrored

from .forwards import SMALL, VECTORS, Raw, Small, conv, linear
from .test_graph import batch, defect, trained

TRAPS: list[Small] = []
ENDS = {"a": linear(3, 6), "z": linear(6, 2)}


def trap(name: str, shape: tuple[int, ...] = VECTORS, **parts: Callable[[], nn.Module]) -> Callable[..., None]:
    return lambda forward: TRAPS.append(Small(name, shape, lambda: {k: make() for k, make in (parts or ENDS).items()},
                                              forward))  # fmt: skip


trap("tanh")(lambda m, x: m["z"](torch.tanh(m["a"](x))))
trap("softsign")(lambda m, x: m["z"](F.softsign(m["a"](x))))
trap("sine, then its half")(lambda m, x: m["z"](torch.sin(m["a"](x)) / 2))
trap("relu")(lambda m, x: m["z"](torch.relu(m["a"](x))))
trap("leaky relu")(lambda m, x: m["z"](F.leaky_relu(m["a"](x), 0.1)))
trap("gelu")(lambda m, x: m["z"](F.gelu(m["a"](x))))
trap("sigmoid")(lambda m, x: m["z"](torch.sigmoid(m["a"](x))))
trap("identity")(lambda m, x: m["z"](m["a"](x)))
trap("one added")(lambda m, x: m["z"](torch.tanh(m["a"](x) + 1)))
trap("its own square added")(lambda m, x: m["z"](torch.tanh(h := m["a"](x)) + h * h))
trap("its size times itself")(lambda m, x: m["z"](torch.tanh(h := m["a"](x)) * h.abs()))
trap("over its norm")(lambda m, x: m["z"](F.normalize(m["a"](x), dim=-1)))
trap("less its mean")(lambda m, x: m["z"](torch.tanh(h := m["a"](x)) - h.mean(-1, keepdim=True)))
trap("a number of the batch added")(lambda m, x: m["z"](torch.tanh(m["a"](x)) + x.mean()))
trap("a number of the batch as factor")(lambda m, x: m["z"](torch.tanh(m["a"](x)) * x.mean()))
trap("the largest")(lambda m, x: m["z"](torch.tanh(m["a"](x))) + torch.tanh(m["a"](x)).amax(-1, keepdim=True))
trap("one weight, two functions")(lambda m, x: m["z"](torch.tanh(m["a"](x)) + F.gelu(m["a"](x))))
trap("two layers added", a=linear(3, 6), b=linear(3, 6), z=linear(6, 2))(
    lambda m, x: m["z"](torch.tanh(m["a"](x)) + m["b"](x))
)
trap("two layers multiplied", a=linear(3, 6), b=linear(3, 6), z=linear(6, 2))(
    lambda m, x: m["z"](torch.tanh(m["a"](x)) * m["b"](x))
)
trap("a residual stream", a=linear(3, 6), b=linear(6, 5), c=linear(5, 6), z=linear(6, 2))(
    lambda m, x: m["z"]((h := m["a"](x)) + m["c"](torch.tanh(m["b"](h))))
)
trap("a scale a unit", **ENDS, g=lambda: Raw(6))(lambda m, x: m["z"](torch.tanh(m["a"](x)) * m["g"].weight))
trap("a scale and a shift of one number", **ENDS, g=lambda: Raw(6))(
    lambda m, x: m["z"](torch.tanh(m["a"](x)) * m["g"].weight + m["g"].weight)
)
trap("rms norm", **ENDS, n=lambda: nn.RMSNorm(6))(lambda m, x: m["z"](m["n"](m["a"](x))))
trap("layer norm", **ENDS, n=lambda: nn.LayerNorm(6))(lambda m, x: m["z"](m["n"](m["a"](x))))
trap("every scale by every unit", **ENDS, g=lambda: Raw(4), y=linear(4, 2))(
    lambda m, x: m["y"]((torch.tanh(m["a"](x))[:, :, None] * m["g"].weight).sum(1))
)
trap("batch norm", (4, 3, 4, 4), a=conv(3, 6), n=lambda: nn.BatchNorm2d(6), z=linear(6, 2))(
    lambda m, x: m["z"](torch.tanh(m["n"](m["a"](x))).mean((2, 3)))
)
trap("largest of a map", (4, 3, 4, 4), a=conv(3, 6), z=linear(24, 2))(
    lambda m, x: m["z"](F.max_pool2d(torch.relu(m["a"](x)), 2).flatten(1))
)
trap("padded with ones", (4, 3, 4, 4), a=conv(3, 6), z=linear(6, 2))(
    lambda m, x: m["z"](F.pad(torch.tanh(m["a"](x)), (1, 1), value=1.0).mean((2, 3)))
)
QUICK = ("softsign", "a scale a unit", "batch norm", "largest of a map")
CASES = [c if c.name in QUICK else pytest.param(c, marks=pytest.mark.slow) for c in (*TRAPS, *SMALL)]

ODD = {  # what has a sign, or a size, to be free in: all its spaces but inputs and outputs
    "tanh": "a", "softsign": "a", "sine, then its half": "a", "identity": "a", "its size times itself": "a",
    "over its norm": "a", "a number of the batch as factor": "a", "two layers added": "a",
    "a residual stream": "ab", "a scale a unit": "a", "rms norm": "a", "batch norm": "a",
}  # fmt: skip
SCALED = {"relu": "a", "leaky relu": "a", "identity": "a", "a residual stream": "a", "largest of a map": "a"}


@pytest.fixture(autouse=True)
def every_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(algebra, "WIDE", 10**9)


@torch.no_grad()
def plant(model: nn.Module, graph: UnitGraph, spaces: set[str], factors: list[float], seed: int) -> None:
    """Every unit of these spaces becomes one of the first two, times a factor, in every tensor but the scales."""
    rng = np.random.default_rng(seed)
    drawn = {s: (rng.integers(0, 2, n), rng.choice(factors, n)) for s, n in graph.network.sizes.items() if s in spaces}
    tensors = dict(model.named_parameters())
    for name, axes in graph.axes.items():
        if name not in tensors or name in graph.entangled:
            continue
        for k, axis in enumerate(axes):
            if not axis.spaces or not set(axis.spaces) <= spaces:
                continue
            kinds, scales, start = [], [], 0
            for s in axis.spaces:
                kind, factor = (np.repeat(part, axis.repeat) for part in drawn[s])
                inner = np.tile(np.arange(axis.repeat), graph.network.sizes[s])
                kinds.append(start + kind * axis.repeat + inner)
                scales.append(factor)
                start += len(kind)
            p = tensors[name]
            p.copy_(p.index_select(k, torch.as_tensor(np.concatenate(kinds))))
            if p.dim() > 1 or name.endswith("bias"):
                p.mul_(torch.as_tensor(np.concatenate(scales)).reshape([-1 if d == k else 1 for d in range(p.dim())]))


def free(graph: UnitGraph, gauge: str) -> set[str]:
    return {s for s in getattr(graph, gauge) if s not in graph.network.told_apart}


@pytest.mark.parametrize("case", TRAPS, ids=repr)
def test_which_spaces_are_free(case: Small) -> None:
    graph = unit_graph(case.build(), batch(case, 0))
    assert graph.whole
    assert free(graph, "odd") == {f"parts.{c}" for c in ODD.get(case.name, "")}
    assert free(graph, "scaled") == {f"parts.{c}" for c in SCALED.get(case.name, "")}


@pytest.mark.parametrize("case", CASES, ids=repr)
@pytest.mark.parametrize("adam", [False, True])
def test_opposite_units_stay_opposite(case: Small, adam: bool) -> None:
    torch.manual_seed(3)
    model = case.build()
    graph = unit_graph(model, batch(case, 0))
    plant(model, graph, set(graph.network.sizes) - graph.network.told_apart, [1.0, -1.0], seed=1)
    graph = unit_graph(model, batch(case, 0))
    found = mirrored(graph.network, graph.odd, even=graph.odd)
    trained(model, case, adam=adam)
    again = unit_graph(model, batch(case, 0))
    after = mirrored(again.network, again.odd, even=again.odd)
    classes = {s: np.array(c) for s, c in found.certificate.classes.items()}
    assert defect(after.doubled, classes) < 1e-10
    if case.name in ODD:
        assert any((signs < 0).any() for signs in found.signs.values())


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_multiples_stay_multiples(case: Small) -> None:
    torch.manual_seed(3)
    model = case.build()
    graph = unit_graph(model, batch(case, 0))
    plant(model, graph, set(graph.network.sizes) - graph.network.told_apart, [1.0, 2.0, 0.25], seed=1)
    graph = unit_graph(model, batch(case, 0))
    found = proportional(graph.network, graph.scaled, even=graph.scaled)
    trained(model, case)
    again = unit_graph(model, batch(case, 0)).network
    if case.name in SCALED:
        assert any((scales != 1).any() for scales in found.scales.values())
    for space in graph.scaled:
        scale = found.scales[space]
        for b in again.blocks:
            for here, w in ((b.target, b.weight), (b.source, b.weight.swapaxes(0, 1))):
                if here == space and space not in again.told_apart:
                    assert spread((w.reshape(len(w), -1) / scale[:, None]), found.classes[space]) < 1e-10


def spread(rows: np.ndarray, classes: np.ndarray) -> float:
    return max((float(np.ptp(rows[classes == c], axis=0).max(initial=0.0)) for c in set(classes.tolist())), default=0.0)
