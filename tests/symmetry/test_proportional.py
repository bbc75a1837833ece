"""Positive multiples behind a rectifier: found by definition, kept by SGD, parted by Adam."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from symbreak.symmetry import Network, SymmetryError, chain
from symbreak.symmetry.proportional import KEEPS, proportional

WHOLE = st.integers(-2, 2).map(float)


def planted(net: nn.Sequential, pairs: list[tuple[int, int, int, float]]) -> nn.Sequential:
    """Unit u of a hidden layer becomes c times its unit v: weights in, bias, weights out."""
    with torch.no_grad():
        for layer, u, v, c in pairs:
            into, out = net[layer], net[layer + 2]
            for p in (into.weight, into.bias):
                p[u] = c * p[v]
            out.weight[:, u] = c * out.weight[:, v]
    return net


def network_of(net: nn.Sequential) -> Network:
    linears = [m for m in net if isinstance(m, nn.Linear)]
    return chain([m.weight.detach().numpy() for m in linears], [m.bias.detach().numpy() for m in linears])


def deep(activation: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Linear(5, 6), activation, nn.Linear(6, 6), activation, nn.Linear(6, 2)]
    return planted(nn.Sequential(*layers).double(), [(0, 1, 0, 2.0), (2, 3, 2, 0.5), (2, 4, 2, 4.0)])


@given(st.lists(st.tuples(*[WHOLE] * 5), min_size=2, max_size=6))
def test_classes_are_the_positive_multiples(units: list[tuple[float, ...]]) -> None:
    """Two weights in, a bias and two weights out a unit: the same class where every cross product agrees."""
    table = np.array(units)
    found = proportional(chain([table[:, :2], table[:, 3:].T], [table[:, 2], None]), {"1"}).classes["1"]
    for u, v in combinations(range(len(table)), 2):
        pairs = [(Fraction(a), Fraction(b)) for a, b in zip(table[u], table[v], strict=True)]
        cross = all(a * d == c * b for a, b in pairs for c, d in pairs)
        same_sign = all(a * b >= 0 for a, b in pairs) and table[u].any() == table[v].any()
        assert (found[u] == found[v]) == (cross and same_sign)


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(0.1), nn.Identity()])
@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}, {"weight_decay": 0.1}])
def test_multiples_stay_multiples_under_sgd(activation: nn.Module, options: dict[str, float]) -> None:
    net = deep(activation)
    found = proportional(network_of(net), {"1", "2"})
    assert found.classes["1"].tolist() == [0, 0, 1, 2, 3, 4]
    assert (found.classes["2"].tolist(), found.scales["2"].tolist()) == ([0, 1, 2, 2, 2, 3], [1, 1, 1, 0.5, 4, 1])
    assert parted_after(net, torch.optim.SGD(net.parameters(), lr=0.01, **options)) < 1e-12  # type: ignore[arg-type]


def test_adam_parts_them() -> None:
    net = deep(nn.ReLU())
    assert parted_after(net, torch.optim.Adam(net.parameters(), lr=0.01)) > 1e-2
    assert "adam" not in KEEPS


def test_the_rescaling_that_keeps_the_function_is_no_class() -> None:
    net = deep(nn.ReLU())
    with torch.no_grad():
        net[2].weight[:, 1] /= 4  # type: ignore[operator]
    assert proportional(network_of(net), {"1"}).classes["1"].tolist() == [0, 1, 2, 3, 4, 5]
    assert parted_after(net, torch.optim.SGD(net.parameters(), lr=0.01)) > 1e-3


def test_a_bias_that_does_not_scale_parts_them() -> None:
    net = deep(nn.ReLU())
    with torch.no_grad():
        net[0].bias[1] += 0.5  # type: ignore[operator]
    assert proportional(network_of(net), {"1"}).classes["1"].tolist() == [0, 1, 2, 3, 4, 5]


def test_an_unknown_space_is_refused() -> None:
    with pytest.raises(SymmetryError, match="no space 'hidden'"):
        proportional(network_of(deep(nn.ReLU())), {"hidden"})


def parted_after(net: nn.Sequential, optimizer: torch.optim.Optimizer, steps: int = 100) -> float:
    """Largest relative difference of unit 1 from twice unit 0 in the first hidden layer, weights in."""
    torch.manual_seed(1)
    x, y = torch.randn(32, 5, dtype=torch.float64), torch.randn(32, 2, dtype=torch.float64)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.mse_loss(net(x), y).backward()
        optimizer.step()
    weight = net[0].weight.detach()
    assert isinstance(weight, torch.Tensor)
    return float((weight[1] - 2 * weight[0]).abs().max() / weight.abs().max())
