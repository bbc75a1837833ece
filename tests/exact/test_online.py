"""Margin perceptron, hinge with L2 and passive-aggressive updates against plain loops and scikit-learn."""

from __future__ import annotations

import numpy as np
import plain_runs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import SGDClassifier
from sklearn.preprocessing import StandardScaler

from symbreak.exact import ArrayError, online

seeds = st.integers(0, 2**32 - 1)


def problem(seed, n=12, d=3, runs=4):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.integers(0, 2, n), rng.normal(size=(runs, d)), rng


@settings(max_examples=40, deadline=None)
@given(seeds, st.sampled_from([0.0, 0.2]), st.sampled_from([0.0, 1.0]))
def test_hinge_equals_the_plain_loop(seed, alpha, margin):
    X, y, W0, rng = problem(seed)
    eta = rng.uniform(0.01, 1, len(W0))
    run = online.hinge(X, y, W0, eta, margin=margin, alpha=alpha, epochs=4)
    for r in range(len(W0)):
        assert run.weights[r] == pytest.approx(plain_runs.hinge(X, y, W0[r], eta[r], margin, alpha, 4), abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(seeds, st.sampled_from(["pa", "pa1", "pa2"]), st.booleans())
def test_passive_aggressive_equals_the_plain_loop(seed, variant, with_a_sample_of_zeros):
    X, y, W0, rng = problem(seed)
    X[2] *= not with_a_sample_of_zeros
    C, margin = rng.uniform(0.01, 1, len(W0)), rng.uniform(0, 2)
    run = online.passive_aggressive(X, 2 * y - 1, W0, variant=variant, C=C, margin=margin, epochs=3)
    for r in range(len(W0)):
        plain = plain_runs.passive_aggressive(X, y, W0[r], variant, C[r], margin, 3)
        assert run.weights[r] == pytest.approx(plain, abs=1e-12)


@pytest.mark.parametrize("rule", ["hinge", "pa1", "pa2"])
def test_equals_scikit_learn_at_margin_one(rule):
    X, y = load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    W0 = np.random.default_rng(0).normal(size=(3, X.shape[1]))
    how = {"learning_rate": "constant", "alpha": 0.01} if rule == "hinge" else {"learning_rate": rule, "penalty": None}
    if rule == "hinge":
        run = online.hinge(X, y, W0, 0.1, alpha=0.01, epochs=4)
    else:
        run = online.passive_aggressive(X, y, W0, variant=rule, C=0.1, epochs=4)
    for w0, w in zip(W0, run.weights, strict=True):
        model = SGDClassifier(loss="hinge", eta0=0.1, max_iter=4, tol=None, shuffle=False, fit_intercept=False, **how)
        model.fit(X, y, coef_init=w0[None].copy())
        assert model.coef_[0] == pytest.approx(w, abs=1e-10)


def test_pa_brings_every_sample_it_visits_to_the_margin():
    X, y, W0, _ = problem(0)
    for k in range(1, 13):
        run = online.passive_aggressive(X, y, W0, variant="pa", order=np.arange(k), margin=0.7)
        assert ((2 * y[k - 1] - 1) * (run.weights @ X[k - 1]) > 0.7 - 1e-12).all()


def test_order_by_epoch_and_updates():
    X, y, W0, _ = problem(3)
    order = np.array([[0, 5], [7, 2]])
    whole = online.hinge(X, y, W0, 0.3, epochs=2, order=order)
    first = online.hinge(X, y, W0, 0.3, order=order[0])
    then = online.hinge(X, y, first.weights, 0.3, order=order[1])
    assert np.array_equal(whole.weights, then.weights)
    assert np.array_equal(whole.updates, np.c_[first.updates, then.updates])


def test_a_visit_at_the_margin_is_a_tie():
    assert online.hinge([[1.0]], [1], [[1.0], [1.1]], 0.5).ties.tolist() == [1, 0]
    assert online.hinge([[0.1, 0.2, -0.3]], [1], [[1.0, 1.0, 1.0]], 0.5, margin=0.0).ties.tolist() == [1]


def test_at_the_margin_hinge_pulls_and_passive_aggressive_does_not():
    assert online.hinge([[1.0]], [1], [[1.0]], 0.5).weights.item() == 1.5
    done = online.passive_aggressive([[1.0]], [1], [[1.0]], variant="pa2")
    assert (done.weights.item(), done.updates.item()) == (1.0, 0)


def test_what_leaves_float64_comes_back():
    assert not np.isfinite(online.hinge([[1.0]], [1], [[1.0]], 1.0, alpha=1e200, epochs=5).weights).any()
    for size in (0.0, 1e-200, 1e200):
        assert online.passive_aggressive([[size]], [1], [[0.0]], variant="pa").weights.item() == 0.0


GOOD = {"X": [[0.0], [1.0]], "y": [0, 1], "W0": [[0.0]]}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"y": [0, 2]}, "y holds the labels 0, 2"),
        ({"W0": [[0.0, 1.0]]}, r"W0 needs the shape \(starts, 1\)"),
        ({"margin": -1.0}, "margin holds -1; 0 or more"),
        ({"margin": [1.0, 2.0]}, "margin needs one number, or one for each of the 1 runs"),
        ({"epochs": 0}, "epochs is 0; at least 1"),
        ({"order": [2]}, "order names sample 2"),
        ({"order": np.zeros((2, 1, 1), int)}, "order needs the shape"),
    ],
)
@pytest.mark.parametrize("rule", ["hinge", "pa"])
def test_a_mistake_is_named(rule, wrong, says):
    engine = {"hinge": lambda **given: online.hinge(eta=1.0, **given), "pa": online.passive_aggressive}[rule]
    with pytest.raises(ArrayError, match=says):
        engine(**{**GOOD, **wrong})


def test_mistakes_of_one_rule():
    with pytest.raises(ArrayError, match="alpha holds -1"):
        online.hinge(**GOOD, eta=1.0, alpha=-1.0)
    with pytest.raises(ArrayError, match="C holds 0; above 0"):
        online.passive_aggressive(**GOOD, C=0.0)
    with pytest.raises(ArrayError, match="variant is 'pa3'"):
        online.passive_aggressive(**GOOD, variant="pa3")
