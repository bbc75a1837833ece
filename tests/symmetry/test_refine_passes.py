"""How often refinement reads a weight: all but the largest part of a split class, and nothing to confirm the end."""

from __future__ import annotations

import numpy as np
import pytest

from symbreak.symmetry import Block, Network, chain
from symbreak.symmetry.refine import PRIMES, _exact, refinement


def test_copied_units_are_found_in_two_passes() -> None:
    rng = np.random.default_rng(0)
    w1, w2 = np.repeat(rng.standard_normal((20, 8)), 4, 0), rng.standard_normal((20, 20))
    net = chain([w1, np.repeat(np.repeat(w2, 4, 0), 4, 1), np.repeat(rng.standard_normal((8, 20)), 4, 1)])
    found = refinement(net)
    assert found.rounds == 2
    assert found.passes <= 2


@pytest.mark.parametrize("units", [50, 200])
def test_news_that_travels_a_unit_a_round_does_not_cost_a_pass_a_round(units: int) -> None:
    """A path of units of which one end differs: as many rounds as units, each splitting one unit off."""
    path = np.eye(units, k=-1)
    first = np.eye(units, 1)
    net = Network({"x": 1, "h": units}, (Block("x", "h", first), Block("h", "h", path)), {}, frozenset("x"))
    found = refinement(net)
    assert len(set(found.partition["h"].tolist())) == units
    assert found.rounds >= units // 2 - 1
    assert found.passes < 2 + np.log2(units)


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -0.1, 5e-324, -2.5e-310, 1.7976931348623157e308, 2.0**-1022])
def test_residues_are_those_of_the_rational_number(value: float) -> None:
    numerator, denominator = value.as_integer_ratio()
    for p, residue in zip(PRIMES, _exact(np.array([value])), strict=True):
        assert int(residue[0]) < 2**37
        assert (int(residue[0]) * denominator - numerator) % p == 0
