"""Start again, keep training, shrink and perturb: one argument."""

from __future__ import annotations

import numpy as np
import pytest

from symbreak.errors import SymbreakError
from symbreak.nets import NetError, shrink_perturb
from symbreak.nets.again import parse_warm_start


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (True, True),
        (np.False_, False),
        ("shrink_perturb", shrink_perturb()),
        (" shrink_perturb( noise = 0 ) ", shrink_perturb(noise=0)),
        (shrink_perturb(shrink=1), shrink_perturb(shrink=1)),
        (repr(shrink_perturb(shrink=0.2, noise=0.3)), shrink_perturb(shrink=0.2, noise=0.3)),
    ],
)
def test_the_argument_is_read(given, meant):
    assert parse_warm_start(given) == meant
    assert isinstance(parse_warm_start(given), type(meant))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("again", "warm_start='again': expected False"),
        (1, "warm_start=1: expected False"),
        (None, "warm_start=None: expected False"),
        ("shrink_perturb(0.4)", "its numbers are given by name"),
        ("shrink_perturb(shrik=0.4)", "unexpected keyword argument 'shrik'"),
        ("shrink_perturb(shrink=2)", "shrink is 2; from 0 to 1 is needed"),
        ("shrink_perturb(noise=-1)", "noise is -1; 0 or more is needed"),
        ("shrink_perturb(noise=open('x'))", "expected False"),
        ("shrink_perturb(", "expected False"),
        ("shrink_perturb(shrink=1) or g(2)", "expected False"),
    ],
)
def test_anything_else_is_told(given, message):
    with pytest.raises(NetError, match=message.replace("(", r"\(").replace(")", r"\)")):
        parse_warm_start(given)


def test_a_bad_value_is_told_where_it_is_made():
    with pytest.raises(SymbreakError, match="shrink is -1"):
        shrink_perturb(shrink=-1)


def test_shrink_and_perturb_is_the_formula():
    learned, fresh = (
        {"w": np.array([1.0, -2.0]), "b": np.array([3.0])},
        {"w": np.array([0.5, 0.5]), "b": np.array([1.0])},
    )
    new = shrink_perturb(shrink=0.4, noise=0.1).apply(learned, fresh)
    np.testing.assert_allclose(new["w"], [0.45, -0.75])
    np.testing.assert_allclose(new["b"], [1.3])
    assert learned["w"].tolist() == [1.0, -2.0]
