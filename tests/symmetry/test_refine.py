"""The coarsest partition against brute force over all partitions, in fractions; laws; bad input."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symbreak.symmetry import Block, Network, SymmetryError, chain, coarsest
from symbreak.symmetry.units import Floats, Level

LEVELS: tuple[Level, ...] = ("biequitable", "elementwise", "block-constant")


def partitions(n: int) -> Iterator[tuple[int, ...]]:
    """Every partition of n units, as restricted growth strings."""

    def grow(prefix: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        if len(prefix) == n:
            yield prefix
            return
        for c in range(max(prefix, default=-1) + 2):
            yield from grow((*prefix, c))

    return grow(())


def holds(net: Network, colours: dict[str, tuple[int, ...]], level: Level) -> bool:
    """The definition of THEORY.md section 1, entry by entry, in fractions."""
    for space, table in net.attributes.items():
        seen: dict[int, tuple[float, ...]] = {}
        if any(seen.setdefault(c, tuple(row)) != tuple(row) for c, row in zip(colours[space], table, strict=True)):
            return False
    for b in net.blocks:
        taps = b.weight[..., None] if b.weight.ndim == 2 else b.weight
        for k in range(taps.shape[-1]):
            w = taps[..., k]
            if not (_one_way(w, colours[b.target], colours[b.source], level)
                    and _one_way(w.T, colours[b.source], colours[b.target], level)):  # fmt: skip
                return False
    return True


def _one_way(w: Floats, rows: tuple[int, ...], columns: tuple[int, ...], level: Level) -> bool:
    seen: dict[int, object] = {}
    for u, c in enumerate(rows):
        sides: list[object] = []
        for d in range(max(columns) + 1):
            entries = [Fraction(float(x)) for x, e in zip(w[u], columns, strict=True) if e == d]
            sides.append(sum(entries) if level == "biequitable" else sorted(entries))
            if level == "block-constant" and len(set(entries)) > 1:
                return False
        if seen.setdefault(c, sides) != sides:
            return False
    return True


def brute_force(net: Network, level: Level) -> dict[str, tuple[int, ...]]:
    """The coarsest partition that holds, found among all of them; it refines no other one, so it is unique."""
    names = list(net.sizes)
    choices = [[tuple(range(net.sizes[s]))] if s in net.told_apart else list(partitions(net.sizes[s])) for s in names]
    found = [c for c in (dict(zip(names, p, strict=True)) for p in product(*choices)) if holds(net, c, level)]
    fewest = min(sum(len(set(c)) for c in f.values()) for f in found)
    best = [f for f in found if sum(len(set(c)) for c in f.values()) == fewest]
    assert len(best) == 1
    return best[0]


def planted(rng: np.random.Generator, *, kind: int) -> Network:
    """A tiny net with few values, copied units, or a middle block whose row and column sums agree."""
    n1, n2 = (int(x) for x in rng.integers(2, 5, size=2))
    draw = lambda *shape: rng.choice([-0.5, 0.1, 0.3, 0.1 + 0.2], size=shape)
    w1, w2, w3 = draw(n1, 2), draw(n2, n1), draw(2, n2)
    b1, b2 = np.zeros(n1), rng.choice([0.0, 1.0], size=n2)
    if kind % 3 == 0:  # copies
        w1[1], w2[:, 1] = w1[0], w2[:, 0]
    elif kind % 3 == 1:  # equitable without an automorphism
        n1 = n2 = 3
        w1, w3, b1, b2 = np.repeat(draw(1, 2), 3, 0), np.repeat(draw(2, 1), 3, 1), np.zeros(3), np.zeros(3)
        a, b, c, d = rng.integers(-4, 5, size=4) / 8
        w2 = np.array([[a, b, 1 - a - b], [c, d, 1 - c - d], [1 - a - c, 1 - b - d, a + b + c + d - 1]])
    if kind % 2:
        return chain([w1, w2, w3], [b1, b2])
    head = draw(2, len(w1))
    head[:, 1] = head[:, 0]
    skip = Block("x", "h", w1), Block("h", "m", w2), Block("m", "h", w2.T.copy()), Block("h", "y", head)
    return Network({"x": 2, "h": len(w1), "m": len(w2), "y": 2}, skip, {"m": b2[:, None]}, frozenset("xy"))


@pytest.mark.parametrize("level", LEVELS)
def test_brute_force_over_all_partitions(level: Level) -> None:
    rng = np.random.default_rng(7)
    merged = 0
    for kind in range(120):
        net = planted(rng, kind=kind)
        found = {s: tuple(c.tolist()) for s, c in coarsest(net, level=level).items()}
        assert found == brute_force(net, level), (kind, net)
        merged += any(len(set(c)) < len(c) for c in found.values())
    assert merged >= 30  # a test on nets without symmetry would show nothing


def test_the_three_levels_differ() -> None:
    """Row and column sums agree, no automorphism: one class at the first level only."""
    middle = np.array([[1, 2, 3], [4, 1, 1], [1, 3, 2.0]])
    net = chain([np.ones((3, 1)), middle, np.ones((1, 3))])
    assert [len(set(coarsest(net, level=v)["2"].tolist())) for v in LEVELS] == [1, 2, 3]
    circulant = chain([np.ones((3, 1)), np.array([[1, 2, 3], [3, 1, 2], [2, 3, 1.0]]), np.ones((1, 3))])
    assert [len(set(coarsest(circulant, level=v)["2"].tolist())) for v in LEVELS] == [1, 1, 3]


def test_sums_are_exact() -> None:
    """0.1 + 0.2 and 0.3 + 0.0 differ by a rounding error, so they are two classes; 0.5 + 0.25 and 0.75 + 0 are one."""
    spread = lambda a, b, c: chain([np.ones((2, 1)), [[a, b], [b, a], [c, 0], [0, c]], np.ones((1, 4))])
    assert coarsest(spread(0.1, 0.2, 0.3))["2"].tolist() == [0, 0, 1, 1]
    assert coarsest(spread(0.5, 0.25, 0.75))["2"].tolist() == [0, 0, 0, 0]
    assert coarsest(spread(1e300, 5e-324, 1e300))["2"].tolist() == [0, 0, 1, 1]


def test_taps_are_kept_apart() -> None:
    one, other = np.array([[[1.0, 2.0]], [[2.0, 1.0]]]), np.array([[[1.0, 2.0]], [[1.0, 2.0]]])
    assert coarsest(chain([one, np.ones((1, 2))]))["1"].tolist() == [0, 1]
    assert coarsest(chain([other, np.ones((1, 2))]))["1"].tolist() == [0, 0]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**20), copies=st.integers(1, 4), level=st.sampled_from(LEVELS))
def test_copied_and_shuffled_units_come_back(seed: int, copies: int, level: Level) -> None:
    rng = np.random.default_rng(seed)
    w1, w2 = rng.standard_normal((5, 3)), rng.standard_normal((2, 5))
    order = rng.permutation(5 * copies)
    net = chain([np.repeat(w1, copies, 0)[order], np.repeat(w2, copies, 1)[:, order]])
    colours, truth = coarsest(net, level=level, seed=seed)["1"], np.repeat(np.arange(5), copies)[order]
    assert ((colours[:, None] == colours) == (truth[:, None] == truth)).all()


def test_bad_input_is_refused() -> None:
    with pytest.raises(SymmetryError, match=r"holds 1 NaN or infinite values, the first at \(1, 0\)"):
        chain([[[1.0], [np.nan]], [[1.0, 1.0]]])
    with pytest.raises(SymmetryError, match=r"has shape \(1, 3\); expected \(1, 2\)"):
        chain([[[1.0], [2.0]], [[1.0, 1.0, 1.0]]])
    with pytest.raises(SymmetryError, match=r"no space 'hiden' among the units. Nearest: hidden"):
        Network({"hidden": 2}, (), told_apart=frozenset({"hiden"}))
    with pytest.raises(SymmetryError, match=r"attributes of 'h' have shape \(2,\)"):
        Network({"h": 2}, (), {"h": np.zeros(2)})
