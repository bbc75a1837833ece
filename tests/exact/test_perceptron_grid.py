"""Grids: the essential runs, expanded, are what running every cell gives, or it is said that they are not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symbreak.exact import ArrayError, grid, online, perceptron

AND = [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], [0, 0, 0, 1]


def test_from_zero_one_run_is_all():
    etas = [0.01, 0.1, 0.3, 1.0, 50.0]
    cells = grid.run_grid(*AND, [[0.0, 0.0]], etas, b0=0.0, epochs=10)
    assert cells.n_essential == 1
    assert cells.epochs_to_converge.tolist() == [[6] * 5]
    assert (cells.standing == "exact").all()
    for e, eta in enumerate(("1/100", "1/10", "3/10", 1, 50)):
        exact = perceptron.run_rational(*AND, [[0, 0]], eta, b0=0, epochs=10)
        assert np.array_equal(cells.mistakes[0, e], exact.mistakes[0])
        assert cells.weights[0, e] == pytest.approx([float(w) for w in exact.weights[0]], rel=1e-15)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_a_grid_is_what_running_every_cell_gives(seed, bias):
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(10, 3)), rng.integers(0, 2, 10)
    W0 = np.r_[np.zeros((1, 3)), rng.normal(size=(2, 3)), rng.integers(-2, 3, (2, 3)) * 0.1]
    W0 = np.r_[W0, 3 * W0[1:2], 2 * W0[4:]]
    etas, b0 = [0.1, 0.2, 0.3, 1.0], rng.choice([0.0, 0.1], len(W0)) if bias else None
    cells = grid.run_grid(X, y, W0, etas, b0=b0, epochs=6)
    assert bias or cells.n_essential <= len(W0) * len(etas) - 3
    for e, eta in enumerate(etas):
        one = perceptron.run(X, y, W0, eta, b0=b0, epochs=6)
        safe = cells.standing[:, e] == "safe"
        assert np.array_equal(cells.mistakes[safe, e], one.mistakes[safe])
        assert np.allclose(cells.weights[safe, e], one.weights[safe], rtol=0, atol=1e-11)
        assert np.allclose(cells.biases[safe, e], one.biases[safe], rtol=0, atol=1e-11)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.5]))
def test_a_grid_of_margin_perceptrons(seed, margin):
    rng = np.random.default_rng(seed)
    X, y, etas = rng.normal(size=(10, 3)), rng.integers(0, 2, 10), [0.1, 0.2, 1.0]
    W0 = np.r_[np.zeros((1, 3)), rng.normal(size=(2, 3))]
    W0, margins = np.r_[W0, 2 * W0], margin * np.repeat([1.0, 2.0], 3)
    part = grid.reduce(W0, etas, margin=margins)
    assert len(part.eta) == (18 - 3 if margin else 1 + 12 - 2)  # without a margin all starts at zero are one run
    done = online.hinge(X, y, part.W0, part.eta, margin=part.margin, epochs=5)
    cells, updates = part.expand(done.weights), done.updates[part.run_of]
    for e, eta in enumerate(etas):
        one = online.hinge(X, y, W0, eta, margin=margins, epochs=5)
        sure = one.ties + done.ties[part.run_of[:, e]] == 0
        assert np.array_equal(updates[sure, e], one.updates[sure])
        assert np.allclose(cells[sure, e], one.weights[sure], rtol=0, atol=1e-11)


def test_a_cell_on_its_own_is_run_as_it_is():
    X, y = np.random.default_rng(3).normal(size=(10, 3)), np.arange(10) % 2
    cells = grid.run_grid(X, y, [[0.3, 0.1, 0.2]], [0.7], epochs=6)
    assert np.array_equal(cells.weights[0], perceptron.run(X, y, [[0.3, 0.1, 0.2]], 0.7, epochs=6).weights)


def test_decimals_that_are_one_ratio_are_one_run_and_near_misses_are_not():
    same = grid.reduce([[0.3, 0.0], [0.6, 0.0], [0.9, 0.0]], [0.1, 0.2, 0.3])
    assert same.run_of[0, 0] == same.run_of[1, 1] == same.run_of[2, 2]
    near = grid.reduce([[1.0], [1.0 + 1e-14]], [1.0])
    assert len(near.eta) == 2


def test_ratios_out_of_range_are_run_as_they_are():
    part = grid.reduce([[1e300], [2e300], [1e-320], [0.0]], [1e-20, 2e-20, 1e300])
    assert np.isfinite(part.W0).all()
    assert part.run_of[0, 0] != part.run_of[1, 1]
    whole = part.expand(part.W0)
    assert (np.abs(whole[..., 0] - [[1e300], [2e300], [1e-320], [0.0]]) <= 1e-15 * np.array([[1e300]])).all()


def test_powers_of_two_are_one_run_to_the_last_bit():
    rng = np.random.default_rng(0)
    X, y, w0 = rng.normal(size=(20, 3)), rng.integers(0, 2, 20), rng.normal(size=3)
    W0, etas = np.array([w0, 2 * w0, 4 * w0]), [0.3, 0.6, 1.2]
    cells = grid.run_grid(X, y, W0, etas, b0=[0.1, 0.2, 0.4], epochs=7)
    assert cells.n_essential == 5
    for e, eta in enumerate(etas):
        one = perceptron.run(X, y, W0, eta, b0=[0.1, 0.2, 0.4], epochs=7)
        assert np.array_equal(cells.weights[:, e], one.weights)
        assert np.array_equal(cells.biases[:, e], one.biases)


def test_a_float_that_is_no_decimal_is_not_called_exact():
    """1000000.2 is a multiple of 2^-33, so nothing rounds; but it is not the number it prints as."""
    X, y, w0 = [[1.0], [-1.0]], [1, 0], [[1000000.2]]
    assert perceptron.rounds_nothing(X, [1048576.125], 1.0, visits=4)
    exact = grid.run_grid([[1.0], [0.0]], y, [[1048576.125]], [1.0], epochs=2)
    assert exact.standing.item() == "exact"
    assert grid.run_grid([[1.0], [0.0]], y, w0, [1.0], epochs=2).standing.item() == "tied"
    assert grid.run_grid(X, y, w0, [1.0], epochs=2).standing.item() == "safe"


def decimal_ties():
    return [[0.1, 0.3], [0.3, 0.1], [0.2, 0.2]], [0, 1, 0]


def test_decimal_data_with_ties_is_called_tied():
    cells = grid.run_grid(*decimal_ties(), [[0.0, 0.0]], [1.0, 0.1], epochs=5)
    assert (cells.standing == "tied").all()


@pytest.mark.parametrize("b0", [None, 0.2])
def test_ties_are_settled_in_fractions(b0):
    X, y = decimal_ties()
    W0, etas = [[0.0, 0.0], [0.1, -0.2], [0.3, 0.1]], [0.1, 0.3, 1.0]
    cells = grid.run_grid(X, y, W0, etas, b0=b0, epochs=9, settle=True)
    assert "tied" not in cells.standing
    assert "exact" in cells.standing
    for s, w0 in enumerate(W0):
        for e, eta in enumerate(etas):
            exact = perceptron.run_rational(X, y, [w0], eta, b0=b0, epochs=9)
            assert np.array_equal(cells.mistakes[s, e], exact.mistakes[0])
            assert cells.weights[s, e] == pytest.approx([float(w) for w in exact.weights[0]], abs=1e-14)
            assert cells.biases[s, e] == pytest.approx(float(exact.biases[0]), abs=1e-14)


def test_settling_changes_what_rounding_had_decided():
    """AND from zero at eta = 0.1 alone: 4 epochs in float64, 6 in real numbers."""
    free, settled = (grid.run_grid(*AND, [[0.0, 0.0]], [0.1], b0=0.0, epochs=9, settle=one) for one in (False, True))
    assert (free.standing.item(), free.epochs_to_converge.item()) == ("tied", 4)
    assert (settled.standing.item(), settled.epochs_to_converge.item()) == ("exact", 6)
    assert settled.weights[0, 0].tolist() == [0.2, 0.1]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"order": np.zeros((1, 1, 2), int)}, "order has an axis of runs"),
        ({"b0": [0.0, 1.0, 2.0]}, "b0 needs one number, or one for each of the 1 starts"),
        ({"etas": [0.1, -1.0]}, "etas holds -1"),
        ({"W0": [[0.0, 0.0, 0.0]]}, r"W0 needs the shape \(starts, 2\)"),
        ({"epochs": 0}, "epochs is 0"),
    ],
)
def test_a_mistake_is_named(wrong, says):
    given = {"X": AND[0], "y": AND[1], "W0": [[0.0, 0.0]], "etas": [1.0], **wrong}
    with pytest.raises(ArrayError, match=says):
        grid.run_grid(**given)


def test_mistakes_of_a_reduction():
    with pytest.raises(ArrayError, match="margin holds -1; 0 or more"):
        grid.reduce([[0.0]], [1.0], margin=-1.0)
    with pytest.raises(ArrayError, match="W0 needs the shape"):
        grid.reduce([], 1.0)
    with pytest.raises(ArrayError, match="weights has 3 runs; the grid has 1 essential ones"):
        grid.reduce([[0.0]], [1.0, 2.0]).expand(np.ones((3, 1)))
