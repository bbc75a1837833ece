"""Scale laws: both sides are run, the map is exact, and where floats break a law it is said."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ortho_group

from symbreak.exact import ArrayError, laws, perceptron
from symbreak.exact.laws import LAWS, DescentSetup, PerceptronSetup

AND = [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], [0, 0, 0, 1]


def setup_of(law, seed=0):
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(15, 3)), rng.normal(size=15)
    if law.of is DescentSetup:
        momentum = [0.0, 0.8][seed % 2]
        return DescentSetup(X, y, rng.normal(size=(2, 3)), [0.05, 0.4], [0, 1, 50], momentum=momentum, alpha=0.1)
    W0 = np.zeros((2, 3)) if law.name == "perceptron-eta" else rng.normal(size=(2, 3))
    b0 = 0.0 if law.name == "perceptron-eta" else 0.7
    return PerceptronSetup(X, y > 0, W0, [0.3, 1.1], b0=b0, epochs=6)


def factors_of(law):
    return [ortho_group.rvs(3, random_state=1)] if law.name == "linear-rotation" else [0.1, 2.0, 7.3]


every_law = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)


@every_law
@pytest.mark.parametrize("seed", range(4))
def test_both_sides_run_alike(law, seed):
    setup = setup_of(law, seed)
    assert law.applies(setup)
    for c in factors_of(law):
        answer = law.verify(setup, c)
        assert answer or "zero but for rounding" in answer.because, answer.because
        if law.of is DescentSetup or law.name == "perceptron-scale":
            assert answer, answer.because


@every_law
def test_a_wrong_law_is_noticed(law):
    """The same test, with a rescaled setup that is off by a little, must fail."""
    setup, c = setup_of(law), factors_of(law)[0]
    field = "eta" if law.of is PerceptronSetup else "etas"

    def off(s, factor):
        right = law.rescale(s, factor)
        return laws.replace(right, **{field: 1.001 * np.asarray(getattr(right, field))})

    assert not laws.replace(law, rescale=off).verify(setup, c)


@every_law
def test_a_law_of_another_model_does_not_apply(law):
    other = LAWS["perceptron-scale" if law.of is DescentSetup else "linear-rotation"]
    assert "is a law of" in law.applies(setup_of(other)).because
    with pytest.raises(ArrayError, match="does not apply"):
        law.setup(setup_of(other), factors_of(law)[0])


@every_law
def test_a_factor_that_the_law_does_not_allow(law):
    wrong = np.ones((3, 3)) if law.name == "linear-rotation" else -1.0
    with pytest.raises(ArrayError, match="this law needs"):
        law.verify(setup_of(law), wrong)


def test_powers_of_two_are_exact_to_the_bit():
    setup = setup_of(LAWS["perceptron-scale"])
    law = LAWS["perceptron-scale"]
    assert np.array_equal(law.map(setup.run(), 0.25).weights, law.setup(setup, 0.25).run().weights)


def test_eta_only_scales_from_zero():
    started = setup_of(LAWS["perceptron-scale"])
    answer = LAWS["perceptron-eta"].applies(started)
    assert not answer
    assert "only w0 / eta matters" in answer.because


def test_the_and_gate_breaks_the_law_in_floats_and_the_tie_is_named():
    setup = PerceptronSetup(*AND, [[0.0, 0.0]], 1.0, b0=0.0, epochs=10)
    answer = LAWS["perceptron-eta"].verify(setup, 0.1)
    assert not answer
    assert "zero but for rounding" in answer.because
    assert LAWS["perceptron-eta"].verify(setup, 0.5)


# ---- grids --------------------------------------------------------------------------------------------------------


def test_from_zero_one_run_is_all():
    etas = [0.01, 0.1, 0.3, 1.0, 50.0]
    grid = laws.run_grid(*AND, [[0.0, 0.0]], etas, b0=0.0, epochs=10)
    assert grid.n_essential == 1
    assert grid.epochs_to_converge.tolist() == [[6] * 5]
    assert (grid.standing == "exact").all()
    for e, eta in enumerate(("1/100", "1/10", "3/10", 1, 50)):
        exact = perceptron.run_rational(*AND, [[0, 0]], eta, b0=0, epochs=10)
        assert np.array_equal(grid.mistakes[0, e], exact.mistakes[0])
        assert grid.weights[0, e] == pytest.approx([float(w) for w in exact.weights[0]], rel=1e-15)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_a_grid_is_what_running_every_cell_gives(seed, bias):
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(10, 3)), rng.integers(0, 2, 10)
    W0 = np.r_[np.zeros((1, 3)), rng.normal(size=(2, 3)), rng.integers(-2, 3, (2, 3)) * 0.1]
    W0 = np.r_[W0, 3 * W0[1:2], 2 * W0[4:]]
    etas, b0 = [0.1, 0.2, 0.3, 1.0], rng.choice([0.0, 0.1], len(W0)) if bias else None
    grid = laws.run_grid(X, y, W0, etas, b0=b0, epochs=6)
    assert bias or grid.n_essential <= len(W0) * len(etas) - 3
    for e, eta in enumerate(etas):
        one = perceptron.run(X, y, W0, eta, b0=b0, epochs=6)
        safe = grid.standing[:, e] == "safe"
        assert np.array_equal(grid.mistakes[safe, e], one.mistakes[safe])
        assert np.allclose(grid.weights[safe, e], one.weights[safe], rtol=0, atol=1e-11)
        assert np.allclose(grid.biases[safe, e], one.biases[safe], rtol=0, atol=1e-11)


def test_a_cell_on_its_own_is_run_as_it_is():
    X, y = np.random.default_rng(3).normal(size=(10, 3)), np.arange(10) % 2
    grid = laws.run_grid(X, y, [[0.3, 0.1, 0.2]], [0.7], epochs=6)
    assert np.array_equal(grid.weights[0], perceptron.run(X, y, [[0.3, 0.1, 0.2]], 0.7, epochs=6).weights)


def test_decimals_that_are_one_ratio_are_one_run_and_near_misses_are_not():
    same = laws.reduce([[0.3, 0.0], [0.6, 0.0], [0.9, 0.0]], [0.1, 0.2, 0.3])
    assert same.run_of[0, 0] == same.run_of[1, 1] == same.run_of[2, 2]
    near = laws.reduce([[1.0], [1.0 + 1e-14]], [1.0])
    assert len(near.eta) == 2


def test_decimal_data_with_ties_is_called_tied():
    X, y = [[0.1, 0.3], [0.3, 0.1], [0.2, 0.2]], [0, 1, 0]
    grid = laws.run_grid(X, y, [[0.0, 0.0]], [1.0, 0.1], epochs=5)
    assert (grid.standing == "tied").all()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"order": np.zeros((1, 1, 2), int)}, "order has an axis of runs"),
        ({"b0": [0.0, 1.0, 2.0]}, "b0 needs one number, or one for each of the 1 starts"),
        ({"etas": [0.1, -1.0]}, "etas holds -1"),
        ({"W0": [[0.0, 0.0, 0.0]]}, r"W0 needs the shape \(starts, 2\)"),
    ],
)
def test_a_mistake_is_named(wrong, says):
    given = {"X": AND[0], "y": AND[1], "W0": [[0.0, 0.0]], "etas": [1.0], **wrong}
    with pytest.raises(ArrayError, match=says):
        laws.run_grid(**given)
