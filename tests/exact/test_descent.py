"""Closed-form descent against three oracles that share no code with it: NumPy steps, torch.optim.SGD, 60 digits."""

from __future__ import annotations

import mpmath as mp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from symbreak.errors import SymbreakError
from symbreak.exact import ArrayError, descent
from symbreak.exact.modes import decay

WAYS = [
    {},
    {"alpha": 0.3},
    {"momentum": 0.9},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.5, "nesterov": True, "alpha": 0.1},
]
ways = pytest.mark.parametrize("way", WAYS, ids=str)


def problem(n=20, d=5, starts=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.normal(size=n), rng.normal(size=(starts, d))


def distance(a, b):
    """Largest difference, relative to the largest weight of each path and step."""
    size = np.maximum(1, np.abs(b).max(axis=-1, keepdims=True))
    return float((np.abs(a - b) / size).max())


@ways
@pytest.mark.parametrize("shape", [(20, 5), (4, 9), (6, 6), (1, 3), (7, 1)])
def test_equals_stepping(shape, way):
    X, y, W0 = problem(*shape)
    etas = np.array([0.01, 0.5, 0.99, 1.01, 1.5]) * descent.largest_eta(X, way.get("alpha", 0.0))
    steps = [0, 1, 2, 3, 10, 101, 400]
    stepped = descent.step_by_step(X, y, W0, etas, steps, **way)
    closed = descent.path(X, y, W0, etas, steps, **way)
    assert closed.shape == (3, 5, 7, shape[1])
    assert distance(closed, stepped) < 2e-11


def matrix(draw, n, d):
    kind = draw(st.sampled_from(["full", "deficient", "zero column", "zeros", "whole numbers", "badly scaled"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    X = rng.normal(size=(n, d))
    if kind == "deficient":
        X = rng.normal(size=(n, 1)) @ rng.normal(size=(1, d))
    elif kind == "zero column":
        X[:, 0] = 0
    elif kind == "zeros":
        X[:] = 0
    elif kind == "whole numbers":
        X = rng.integers(-2, 3, size=(n, d)).astype(float)
    elif kind == "badly scaled":
        X *= np.logspace(-4, 2, d)
    return X


@st.composite
def problems(draw):
    n, d = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    X = matrix(draw, n, d)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return X, rng.normal(size=n), rng.normal(size=(draw(st.integers(1, 3)), d))


@settings(max_examples=120, deadline=None)
@given(problems(), st.sampled_from(WAYS), st.floats(0.01, 1.3), st.lists(st.integers(0, 60), min_size=1, max_size=4))
def test_equals_stepping_on_any_shape_and_rank(drawn, way, share_of_limit, steps):
    X, y, W0 = drawn
    limit = descent.largest_eta(X, way.get("alpha", 0.0))
    eta = share_of_limit * limit if np.isfinite(limit) else share_of_limit
    stepped = descent.step_by_step(X, y, W0, eta, steps, **way)
    assert distance(descent.path(X, y, W0, eta, steps, **way), stepped) < 1e-10


@ways
def test_equals_torch_sgd(way):
    X, y, W0 = problem()
    eta = 0.7 * descent.largest_eta(X, **way)
    w = torch.nn.Parameter(torch.tensor(W0[0]))
    knobs = {"momentum": way.get("momentum", 0.0), "nesterov": way.get("nesterov", False)}
    optimizer = torch.optim.SGD([w], lr=eta, weight_decay=way.get("alpha", 0.0), **knobs)
    seen = [w.detach().numpy().copy()]
    for _ in range(60):
        optimizer.zero_grad()
        (0.5 * ((torch.tensor(X) @ w - torch.tensor(y)) ** 2).mean()).backward()
        optimizer.step()
        seen.append(w.detach().numpy().copy())
    assert distance(descent.path(X, y, W0[0], eta, np.arange(61), **way)[0, 0], np.array(seen)) < 1e-13


def left_in_60_digits(a, t, beta, nesterov):
    """e_t / e_0 by squaring the 2 x 2 matrix of the recurrence, with digits to spare for any t."""
    with mp.workdps(60):
        a, beta = mp.mpf(a), mp.mpf(beta)
        if beta == 0:
            return (1 - a) ** t if t else mp.mpf(1)
        trace, det = ((1 + beta) * (1 - a), beta * (1 - a)) if nesterov else (1 + beta - a, beta)
        first = 1 - a * (1 + beta) if nesterov else 1 - a
        if t == 0:
            return mp.mpf(1)
        power = mp.matrix([[trace, -det], [1, 0]]) ** (t - 1)
        return power[0, 0] * first + power[0, 1]


SLOW = [1e-18, 3e-17, 1e-12, 1e-6, 1e-3]
FAST = [0.1, 0.5, 0.999, 1.0, 1.001, 1.5, 1.9, 1.999999, 2.0]
STEPS = [0, 1, 2, 3, 10, 999, 10**4, 10**6, 10**9, 10**15, 10**18]


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("nesterov", [False, True])
def test_decay_to_60_digits_up_to_a_quintillion_steps(beta, nesterov):
    double_root = [((1 - beta**0.5) ** 2) * (1 + shift) for shift in (-1e-9, 0.0, 1e-9)] if beta else []
    a = np.array(SLOW + FAST + double_root)
    left, gone = decay(a, np.array(STEPS), beta, nesterov=nesterov)
    for i, one in enumerate(a):
        for j, t in enumerate(STEPS):
            truth = left_in_60_digits(float(one), t, beta, nesterov)
            if abs(truth) > 1e300:
                assert not abs(left[i, j]) < 1e299
                continue
            size = max(1, abs(truth))
            assert abs(left[i, j] - truth) <= 3e-12 * size, (one, t)
            assert abs(gone[i, j] - (1 - truth)) <= 3e-12 * min(size, 1e3 * abs(1 - truth)) + 1e-300, (one, t)


@pytest.mark.parametrize(("t", "off_by"), [(10**3, 1e-12), (10**13, 1e-2), (10**18, 0.3)])
def test_powers_of_the_matrix_lose_what_roots_keep(t, off_by):
    """Why modes.py takes roots: a float64 matrix power, with e^-1 left, is off by some t x 1e-16; the roots are not."""
    beta, a = 0.9, 0.1 / t
    truth = left_in_60_digits(a, t, beta, nesterov=False)
    assert abs(truth - mp.exp(-1)) < 1e-3
    power = np.linalg.matrix_power(np.array([[1 + beta - a, -beta], [1.0, 0.0]]), t - 1)
    squared = power[0, 0] * (1 - a) + power[0, 1]
    left, _ = decay(np.array([a]), np.array([t]), beta, nesterov=False)
    assert abs(left[0, 0] - truth) < 3e-12
    assert (abs(squared - truth) > off_by) == (t > 10**3)


@pytest.mark.parametrize("way", [{"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}], ids=str)
@pytest.mark.parametrize("t", [1, 2, 10**3, 10**6, 10**13, 10**18])
def test_momentum_weights_to_60_digits(t, way):
    """Two features and an intercept-free line, one of them slow: curvature such that e^-1 is left after t steps."""
    slow = np.sqrt(0.2 / t)
    X, y, w0 = np.diag([1.0, slow]), np.array([2.0, 3 * slow]), np.array([0.5, -1.0])
    found = descent.path(X, y, w0, 1.0, t, **way)[0, 0, 0]
    for i in range(2):
        with mp.workdps(60):
            curvature = mp.mpf(X[i, i]) ** 2 / 2
            left = left_in_60_digits(curvature, t, 0.9, way.get("nesterov", False))
            minimum = mp.mpf(y[i]) / mp.mpf(X[i, i])
            expected = left * mp.mpf(w0[i]) + (1 - left) * minimum
        assert abs(found[i] - expected) < 1e-11


@pytest.mark.parametrize("t", [1, 10**6, 10**12, 10**18])
@pytest.mark.parametrize("alpha", [0.0, 1e-18])
def test_weights_to_60_digits(t, alpha):
    """Singular values 1 and 1e-9, so curvature 1e-18: one mode is done at once, the other after 10**18 steps."""
    X, y, w0, eta = np.diag([1.0, 1e-9]), np.array([2.0, 3e-9]), np.array([0.5, -1.0]), 1.0
    with mp.workdps(60):
        expected = []
        for i in range(2):
            h, c = mp.mpf(X[i, i]) ** 2 / 2, mp.mpf(X[i, i]) * mp.mpf(y[i]) / 2
            left = (1 - eta * (h + mp.mpf(alpha))) ** t
            expected.append(left * w0[i] + (1 - left) * c / (h + mp.mpf(alpha)))
    found = descent.path(X, y, w0, eta, t, alpha=alpha)[0, 0, 0]
    assert max(abs(found - np.array(expected, dtype=float))) < 1e-14


def test_zero_reaches_the_minimum_of_least_norm_and_any_start_keeps_its_null_space():
    X, y, W0 = problem(4, 9, starts=2)
    W0[0] = 0
    least = np.linalg.pinv(X) @ y
    end = descent.path(X, y, W0, descent.largest_eta(X) / 2, [10**18])[:, 0, 0]
    assert np.abs(end[0] - least).max() < 1e-14
    null = W0[1] - np.linalg.pinv(X) @ X @ W0[1]
    assert np.abs(end[1] - least - null).max() < 1e-14


def test_what_rounding_makes_of_a_zero_singular_value_is_null_space():
    rng = np.random.default_rng(0)
    X, w0 = rng.normal(size=(6, 2)) @ rng.normal(size=(2, 5)), rng.normal(size=5)
    y = rng.normal(size=6)
    end = descent.path(X, y, w0, descent.largest_eta(X) / 2, [10**18])[0, 0, 0]
    expected = w0 + np.linalg.pinv(X, rcond=1e-10) @ (y - X @ w0)
    assert np.abs(end - expected).max() < 1e-13


def test_step_zero_and_unseen_features_are_the_start_bit_for_bit():
    X, y, W0 = problem(5, 8)
    X[:, [2, 6]] = 0
    W = descent.path(X, y, W0, [0.1, 1e6], [7, 0, 10**18])
    assert np.array_equal(W[:, :, 1], np.repeat(W0[:, None], 2, axis=1))
    assert (W[..., [2, 6]] == W0[:, None, None, [2, 6]]).all()


def test_a_diverging_path_overflows_to_infinity_and_a_start_at_the_minimum_stays():
    assert abs(descent.path([[1.0]], [1.0], [0.0], 3.0, [10**4])[0, 0, 0, 0]) == np.inf
    assert descent.path([[1.0]], [0.0], [0.0], 3.0, [10**4])[0, 0, 0, 0] == 0


@ways
def test_the_largest_eta_separates_falling_from_growing(way):
    X, y, W0 = problem()
    limit = descent.largest_eta(X, **way)
    end = descent.path(X, y, W0, [0.999 * limit, 1.001 * limit], [10**5], **way)
    at_minimum = descent.path(X, y, W0, 0.5 * limit, [10**18], **way)
    assert np.abs(end[:, 0] - at_minimum[:, 0]).max() < 1e-9
    assert not np.abs(end[:, 1]).max() < 1e9


@ways
def test_exactly_at_the_limit_the_fastest_mode_neither_falls_nor_grows(way):
    """One mode of curvature 1, alpha included, at its limit: stepping and closed form stay side by side."""
    X, y, w0 = [[np.sqrt(1 - way.get("alpha", 0.0))]], [0.0], [1.0]
    limit = descent.largest_eta(X, **way)
    steps = [1, 2, 3, 100, 101]
    closed = descent.path(X, y, w0, limit, steps, **way).ravel()
    assert closed == pytest.approx(descent.step_by_step(X, y, w0, limit, steps, **way).ravel(), rel=1e-9)
    assert np.abs(closed).min() > 0.9
    assert np.abs(closed).max() < 20


@pytest.mark.parametrize("size", [5e-324, 1e-300, 1e-160, 1e160, 1e300])
def test_features_of_any_size(size):
    """w_1 = w_0 - eta x (x w_0 - y), as long as it is a number at all."""
    for eta in (1e-300, 1.0):
        W = descent.path([[size]], [1.0], [1.0], eta, [0, 1, 10**18])[0, 0, :, 0]
        expected = 1 - eta * size * (size - 1) if size < 1 else 1 - (eta * size) * size
        assert W[0] == 1
        if abs(expected) < 1e290:
            assert W[1] == pytest.approx(expected, rel=1e-12)


def test_no_curvature_has_no_limit():
    assert descent.largest_eta(np.zeros((3, 2))) == np.inf


GOOD = {"X": np.eye(2), "y": np.ones(2), "W0": np.zeros((1, 2)), "etas": [0.1], "steps": [1]}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"X": [[np.nan, 1], [0, 1]]}, r"X holds 1 NaN or infinite value; the first at \(0, 0\)"),
        ({"y": [np.inf, np.nan]}, "y holds 2 NaN or infinite values"),
        ({"X": np.ones(2)}, r"X needs two axes, \(samples, features\); its shape is \(2,\)"),
        ({"X": np.ones((0, 2)), "y": []}, "at least one sample"),
        ({"X": [["a", "b"]]}, "X holds something that is no number"),
        ({"y": np.ones((2, 1))}, r"y needs one axis, \(samples,\); its shape is \(2, 1\)"),
        ({"y": np.ones(3)}, "X has 2 samples and y has 3"),
        ({"W0": np.zeros((4, 3))}, r"W0 needs the shape \(starts, 2\).*; it is \(4, 3\)"),
        ({"etas": [0.1, 0.0]}, "etas holds 0; a learning rate is above 0"),
        ({"etas": [[0.1]]}, r"etas needs a number or one axis of numbers; its shape is \(1, 1\)"),
        ({"steps": [3, -1]}, "steps holds -1; steps are counted from 0"),
        ({"steps": [1.5]}, "steps holds 1.5; steps are counted in whole numbers"),
        ({"steps": [1e30]}, r"steps holds 1e\+30"),
        ({"steps": [[1]]}, "steps needs a count or one axis"),
        ({"momentum": 1.0}, "momentum is 1; from 0 up to, but not including, 1"),
        ({"momentum": [0.1, 0.2]}, "momentum needs one number"),
        ({"alpha": -1.0}, "alpha is -1; 0 or more"),
    ],
)
@pytest.mark.parametrize("engine", [descent.path, descent.step_by_step])
def test_a_mistake_is_named(engine, wrong, says):
    with pytest.raises(ArrayError, match=says) as caught:
        engine(**{**GOOD, **wrong})
    assert isinstance(caught.value, SymbreakError)
