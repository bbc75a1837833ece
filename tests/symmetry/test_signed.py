"""Opposite units: against the definition in fractions over all signed partitions, and in training."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from symbreak.symmetry import Network, SymmetryError, chain, coarsest
from symbreak.symmetry.signed import Mirrored, mirrored

from .test_refine import partitions


def signed(n: int) -> Iterator[tuple[tuple[int, int], ...]]:
    """Every way to sort n units into classes with signs; a sign of 0 is a class of units that are zero."""
    for colours in partitions(n):
        for signs in product((1, -1, 0), repeat=n):
            zero = {c for c, s in zip(colours, signs, strict=True) if s == 0}
            first = [signs[colours.index(c)] for c in set(colours)]
            whole = all(s == 0 for c, s in zip(colours, signs, strict=True) if c in zero)
            if whole and len(zero) < 2 and min(first) >= 0:
                yield tuple(zip(colours, signs, strict=True))


def holds(net: Network, found: dict[str, tuple[tuple[int, int], ...]]) -> bool:
    """s_u sum_{j in D} s_j W[u, j] is one number for all u of a class, 0 where the class is; columns and bias alike."""

    def one_way(w: np.ndarray, rows: str, columns: str) -> bool:
        seen: dict[int, object] = {}
        for u, (c, s) in enumerate(found[rows]):
            sums = []
            for d in {e for e, t in found[columns] if t}:
                inside = [t * Fraction(float(x)) for x, (e, t) in zip(w[u], found[columns], strict=True) if e == d]
                sums.append((s or 1) * sum(inside))
            if (s == 0 and any(sums)) or seen.setdefault(c, sums) != sums:
                return False
        return True

    biases = all(one_way(t, space, "one") for space, t in net.attributes.items())
    return biases and all(
        one_way(b.weight, b.target, b.source) and one_way(b.weight.T, b.source, b.target) for b in net.blocks
    )


def test_brute_force_over_all_signed_partitions() -> None:
    rng = np.random.default_rng(3)
    opposite = dead = 0
    for kind in range(60):
        draw = lambda *shape: rng.choice([-0.3, 0.1, 0.3, 0.0], size=shape)
        w1, w2, w3, b = draw(3, 1), draw(3, 3), draw(1, 3), draw(3)
        if kind % 2:
            w1[1], b[1], w2[:, 1] = -w1[0], -b[0], -w2[:, 0]
        if kind % 3 == 0:
            w2[2], w3[:, 2] = -w2[1], -w3[:, 1]
        if kind % 4 == 0:
            w1[2] = b[2] = w2[:, 2] = 0.0
        net = chain([w1, w2, w3], [b])
        got = mirrored(net, {"1", "2"}, seed=kind)
        inner = {s: list(signed(net.sizes[s])) for s in ("1", "2")}
        base = {"0": ((0, 1),), "3": ((0, 1),), "one": ((0, 1),)}
        best = min(
            (f for p in product(*inner.values()) if holds(net, f := base | dict(zip(inner, p, strict=True)))),
            key=lambda f: (sum(len({c for c, s in f[k] if s}) for k in inner), sum(len(set(f[k])) for k in inner)),
        )
        for space in inner:
            mine = list(zip(got.classes[space].tolist(), got.signs[space].tolist(), strict=True))
            assert mine == [(c, s) for c, s in best[space]], (kind, space)
            opposite += any(s < 0 for _, s in mine)
            dead += any(s == 0 for _, s in mine)
    assert min(opposite, dead) >= 10


def test_without_odd_spaces_it_is_the_plain_partition() -> None:
    net = chain([[[1, 2], [-1, -2], [1, 2]], [[3, -3, 3]]])
    assert mirrored(net, ()).classes["1"].tolist() == coarsest(net)["1"].tolist() == [0, 1, 0]
    assert mirrored(net, {"0", "1", "2"}).classes["0"].tolist() == [0, 1]  # inputs have no negatives
    with pytest.raises(SymmetryError, match=r"no space '11' among the units. Nearest: 1"):
        mirrored(net, {"11"})


def test_a_scale_is_shared_with_the_negative_and_a_bias_is_not() -> None:
    net = Network({"x": 1, "h": 2}, (), {"h": np.array([[0.5, 2.0], [-0.5, 2.0]])}, frozenset("x"))
    assert mirrored(net, {"h"}).signs["h"].tolist() == [1, 1]
    assert len(set(mirrored(net, {"h"}).classes["h"].tolist())) == 2
    assert mirrored(net, {"h"}, even={"h": [1]}).signs["h"].tolist() == [1, -1]


@pytest.mark.parametrize(("act", "stays"), [(nn.Tanh, True), (nn.Softsign, True), (nn.ReLU, False), (nn.GELU, False)])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_opposite_units_in_training(act: type[nn.Module], stays: bool, kind: type[torch.optim.Optimizer]) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), act(), nn.Linear(4, 2)).double()
    signs = torch.tensor([1.0, -1.0, -1.0, 1.0]).double()
    with torch.no_grad():
        for row in (net[0].weight, net[0].bias, net[2].weight.T):
            row[:] = row[:1] * (signs[:, None] if row.ndim > 1 else signs)
    before = found_in(net)
    assert before.signs["1"].tolist() == [1, -1, -1, 1]
    optimizer = kind(net.parameters(), lr=0.01)
    for _ in range(50):
        x = torch.randn(8, 3).double()
        optimizer.zero_grad()
        (net(x) - x[:, :2] ** 2).square().mean().backward()
        optimizer.step()
    w = net[0].weight.detach() * signs[:, None]
    assert bool((w - w[0]).abs().max() < 1e-12) == stays


def found_in(net: nn.Sequential) -> Mirrored:
    layers = [m for m in net if isinstance(m, nn.Linear)]
    return mirrored(chain([m.weight.detach() for m in layers], [m.bias.detach() for m in layers]), {"1"})
