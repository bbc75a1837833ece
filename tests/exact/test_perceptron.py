"""The compiled perceptron against a textbook loop, scikit-learn and fractions; bit for bit, or it says why not."""

from __future__ import annotations

import decimal
import multiprocessing
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_runs import perceptron as textbook
from scipy.sparse import csr_array
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.linear_model import Perceptron
from sklearn.preprocessing import StandardScaler

from symbreak.exact import ArrayError, perceptron

AND = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]), np.array([0, 0, 0, 1])


def problem(n=12, d=3, runs=5, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.integers(0, 2, n), rng.normal(size=(runs, d)), rng.uniform(0.01, 3, runs)


@settings(max_examples=80, deadline=None)
@given(
    st.tuples(st.integers(1, 9), st.integers(1, 5), st.integers(1, 4), st.integers(0, 2**32 - 1)),
    st.integers(1, 6),
    st.booleans(),
    st.sampled_from(["normal", "whole", "decimal"]),
    st.sampled_from([None, "one", "by epoch", "by run"]),
)
def test_equals_the_textbook_loop_bit_for_bit(shape, epochs, bias, kind, ordered):
    X, y, W0, eta = problem(*shape)
    rng = np.random.default_rng(shape[3])
    if kind != "normal":
        X, W0 = np.round(X * 2), np.round(W0 * 2)
        eta = np.full(len(eta), 1.0 if kind == "whole" else 0.1)
    sizes = {None: None, "one": (7,), "by epoch": (epochs, 7), "by run": (len(W0), epochs, 7)}
    order = None if ordered is None else rng.integers(0, len(X), sizes[ordered])
    b0 = rng.normal(size=len(W0)) if bias else None
    done = perceptron.run(X, y, W0, eta, b0=b0, epochs=epochs, order=order)
    for r in range(len(W0)):
        own = order[r] if ordered == "by run" else order
        w, b, mistakes, _ = textbook(X, y, W0[r], eta[r], b0[r] if bias else 0.0, epochs, own, bias)
        assert (done.weights[r].tolist(), done.biases[r], done.mistakes[r].tolist()) == (w, b, mistakes)


def test_equals_the_textbook_loop_after_every_single_visit():
    X, y, W0, eta = problem(20, 4, runs=70)
    for k in range(1, 21):
        done = perceptron.run(X, y, W0, eta, b0=0.5, order=np.arange(k))
        w, b, *_ = textbook(X, y, W0[67], eta[67], 0.5, 1, np.arange(k))
        assert (done.weights[67].tolist(), done.biases[67]) == (w, b)


def scikit(X, y, w0, b0, epochs, eta=1.0, **knobs):
    model = Perceptron(shuffle=False, tol=None, max_iter=epochs, eta0=eta, **knobs)
    model.fit(X, y, coef_init=w0[None].copy(), intercept_init=np.array([b0]))  # it writes into coef_init
    return model.coef_[0], model.intercept_[0]


@pytest.mark.parametrize("epochs", [1, 7])
@pytest.mark.parametrize("eta", [1.0, 0.3])
def test_equals_scikit_learn_bit_for_bit(epochs, eta):
    X, y = load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    rng = np.random.default_rng(0)
    W0, b0 = rng.normal(size=(150, X.shape[1])), rng.normal(size=150)
    done = perceptron.run(X, y, W0, eta, b0=b0, epochs=epochs)
    assert done.ties.max() == 0
    for r in range(0, 150, 7):
        w, b = scikit(X, y, W0[r], b0[r], epochs, eta)
        assert np.array_equal(done.weights[r], w)
        assert done.biases[r] == b


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["normal", "whole", "decimal", "badly scaled", "sparse"]),
    st.sampled_from(["zero", "normal", "whole"]),
    st.sampled_from([1, 3, 20]),
    st.sampled_from([1.0, 0.1, 0.3, 1e-5]),
    st.booleans(),
)
def test_scikit_learn_differs_only_where_a_positive_sample_has_z_exactly_zero(seed, kind, start, epochs, eta, bias):
    """To the last bit: the kernel is the textbook loop, scikit-learn is the loop that updates at y z <= 0."""
    rng = np.random.default_rng(seed)
    n, d = rng.integers(2, 30), rng.integers(1, 20)
    X = {
        "normal": lambda: rng.normal(size=(n, d)),
        "whole": lambda: rng.integers(-3, 4, (n, d)).astype(float),
        "decimal": lambda: rng.integers(-20, 21, (n, d)) / 10,
        "badly scaled": lambda: rng.normal(size=(n, d)) * 10.0 ** rng.integers(-8, 9, d),
        "sparse": lambda: rng.normal(size=(n, d)) * (rng.random((n, d)) < 0.2),
    }[kind]()
    y = np.r_[0, 1, rng.integers(0, 2, n - 2)]
    w0 = {"zero": np.zeros(d), "normal": rng.normal(size=d), "whole": rng.integers(-2, 3, d).astype(float)}[start]
    b0 = float(rng.integers(-2, 3)) if bias and start != "zero" else 0.0
    done = perceptron.run(X, y, w0, eta, b0=b0 if bias else None, epochs=epochs)
    ours = textbook(X, y, w0, eta, b0, epochs, bias=bias)
    theirs = textbook(X, y, w0, eta, b0, epochs, bias=bias, update_at_zero=True)
    w, b = scikit(X, y, w0, b0, epochs, eta, fit_intercept=bias)
    assert (done.weights[0].tolist(), done.biases[0]) == (ours[0], ours[1])
    assert (w.tolist(), b if bias else 0.0) == (theirs[0], theirs[1])
    if theirs[3] == 0:
        assert (w.tolist(), b if bias else 0.0) == (done.weights[0].tolist(), done.biases[0])


def test_what_makes_scikit_learn_another_run():
    """Each of these is no fault of either side, and would look like one in a comparison."""
    X, y, W0, _ = problem(40, 3, runs=1)
    ours = perceptron.run(X, y, W0, 1.0, b0=0.0, epochs=5)
    assert np.array_equal(scikit(X, y, W0[0], 0.0, 5)[0], ours.weights[0])
    assert scikit(X, y, W0[0], 0.0, 5, penalty="l2", alpha=1e-4)[0] != pytest.approx(ours.weights[0], abs=1e-12)
    single = Perceptron(shuffle=False, tol=None, max_iter=5).fit(X.astype(np.float32), y)
    assert single.coef_.dtype == np.float32
    damped = Perceptron(shuffle=False, tol=None, max_iter=5).fit(csr_array(X), y)
    assert damped.intercept_ != Perceptron(shuffle=False, tol=None, max_iter=5).fit(X, y).intercept_
    start = W0.copy()
    Perceptron(shuffle=False, tol=None, max_iter=5).fit(X, y, coef_init=start, intercept_init=np.zeros(1))
    assert np.array_equal(start, ours.weights)  # the start was overwritten: whoever reads it next starts elsewhere


def test_scikit_learn_updates_a_positive_sample_at_zero_and_the_textbook_does_not():
    X, y, zero = np.array([[2.0], [1.0]]), np.array([1, 0]), np.zeros(1)
    one_visit = perceptron.run(X, y, zero, 1.0, b0=0.0, order=[0])
    assert (one_visit.weights.item(), one_visit.mistakes.item(), one_visit.ties.item()) == (0.0, 0, 1)
    ours = perceptron.run(X, y, zero, 1.0, b0=0.0)
    assert (ours.weights.item(), ours.biases.item()) == (-1.0, -1.0)
    assert scikit(X, y, zero, 0.0, 1) == (1.0, 0.0)  # +2 and +1 at z = 0, then -1 and -1
    negative_at_zero = np.array([0, 1])
    same = perceptron.run(X, negative_at_zero, zero, 1.0, b0=0.0)
    assert scikit(X, negative_at_zero, zero, 0.0, 1) == (same.weights.item(), same.biases.item())


def test_both_kinds_of_targets_are_the_same_runs():
    X, y, W0, eta = problem()
    a = perceptron.run(X, y, W0, eta, b0=0.1, epochs=5)
    b = perceptron.run(X, 2 * y - 1, W0, eta, b0=0.1, epochs=5)
    assert np.array_equal(a.weights, b.weights)
    assert np.array_equal(a.mistakes, b.mistakes)


def test_a_converged_run_stops_and_the_others_go_on():
    X, y = load_iris(return_X_y=True)
    rng = np.random.default_rng(1)
    W0 = rng.normal(size=(200, 4))
    done = perceptron.run(X, y == 0, W0, 0.5, b0=0.0, epochs=30)
    assert (done.epochs_to_converge > 0).all()
    assert len(set(done.epochs_to_converge.tolist())) > 1
    assert all(done.mistakes[r, k - 1 :].max() == 0 for r, k in enumerate(done.epochs_to_converge))
    assert ((X @ done.weights.T + done.biases >= 0) == (y == 0)[:, None]).all()


def test_runs_do_not_depend_on_their_company_or_on_threads(monkeypatch):
    X, y, W0, eta = problem(200, 10, runs=300)
    monkeypatch.setattr(perceptron, "_threads", lambda: 3)
    together = perceptron.run(X, y, W0, eta, b0=0.0, epochs=5)
    monkeypatch.setattr(perceptron, "_threads", lambda: 1)
    alone = [perceptron.run(X, y, W0[r], eta[r], b0=0.0, epochs=5) for r in range(0, 300, 23)]
    assert np.array_equal(together.weights[::23], np.concatenate([one.weights for one in alone]))
    assert np.array_equal(together.ties[::23], np.concatenate([one.ties for one in alone]))


def converged_in_child(queue):
    queue.put(perceptron.run(*AND, np.zeros((300, 2)), 1.0, b0=0.0, epochs=400).epochs_to_converge.tolist())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_can_run_them_too():
    perceptron.run(*AND, np.zeros((300, 2)), 1.0, b0=0.0, epochs=400)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=converged_in_child, args=(queue,))
    child.start()
    assert queue.get(timeout=30) == [6] * 300
    child.join()


def test_inputs_are_left_as_they_are():
    X, y, W0, eta = problem()
    before, b0 = W0.copy(), np.zeros(5)
    perceptron.run(X, y, W0, eta, b0=b0, epochs=3)
    assert np.array_equal(W0, before)
    assert not b0.any()


# ---- exact arithmetic and ties ------------------------------------------------------------------------------------


def test_the_and_gate_takes_6_epochs_at_eta_1_and_4_at_a_tenth_in_floats_and_6_in_fractions():
    floats = perceptron.run(*AND, np.zeros((2, 2)), [1.0, 0.1], b0=0.0, epochs=10)
    assert floats.epochs_to_converge.tolist() == [6, 4]
    assert (floats.ties > 0).all()
    for eta in (1, 0.1, "1/10", decimal.Decimal("0.1"), Fraction(1, 10), np.float64(0.1)):
        exact = perceptron.run_rational(AND[0], AND[1], [[0, 0]], eta, b0=0, epochs=10)
        assert exact.epochs_to_converge.tolist() == [6]
        assert exact.ties[0] == floats.ties[0]
    assert exact.weights == ((Fraction(1, 5), Fraction(1, 10)),)
    assert exact.biases == (Fraction(-3, 10),)


@pytest.mark.parametrize(("w0", "ties"), [(1.0, 1), (1.0 + 1e-12, 0)])
def test_a_sum_that_is_zero_but_for_rounding_is_a_tie(w0, ties):
    assert 0.1 + 0.2 - 0.3 != 0
    assert perceptron.run([[0.1, 0.2, -0.3]], [1], [[w0, 1.0, 1.0]], 1.0).ties.tolist() == [ties]


def test_rounding_of_earlier_updates_counts():
    """A thousand steps of 0.1 from -100: zero in decimals, and in floats off by far more than one sum's rounding."""
    done = perceptron.run([[1.0]], [1], [[-100.0]], 0.1, epochs=1001)
    assert abs(done.weights.item()) > 1e-13
    assert done.ties.item() > 0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from([0.1, 0.3, 1.0, 0.7]))
def test_floats_and_fractions_part_only_after_a_reported_tie(seed, bias, eta):
    rng = np.random.default_rng(seed)
    X, y = rng.integers(-3, 4, (6, 2)) / rng.choice([1.0, 10.0]), rng.integers(0, 2, 6)
    W0, b0 = rng.integers(-2, 3, (1, 2)) * 0.1, 0.2 if bias else None
    floats = perceptron.run(X, y, W0, eta, b0=b0, epochs=8)
    exact = perceptron.run_rational(X, y, W0, eta, b0=b0, epochs=8)
    if floats.ties[0] == 0:
        assert np.array_equal(floats.mistakes, exact.mistakes)
        assert np.allclose(floats.weights, np.array(exact.weights, dtype=float), rtol=0, atol=1e-12)
    if not np.array_equal(floats.mistakes, exact.mistakes):
        assert floats.ties[0] > 0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_where_nothing_rounds_floats_are_fractions(seed):
    rng = np.random.default_rng(seed)
    X, y, W0 = rng.integers(-8, 9, (6, 3)) / 4.0, rng.integers(0, 2, 6), rng.integers(-8, 9, (2, 3)) / 8.0
    assert perceptron.rounds_nothing(X, W0, 0.5, b0=0.25, visits=60)
    floats = perceptron.run(X, y, W0, 0.5, b0=0.25, epochs=10)
    exact = perceptron.run_rational(X, y, W0, 0.5, b0=0.25, epochs=10)
    assert floats.weights.tolist() == [[float(p) for p in row] for row in exact.weights]
    assert np.array_equal(floats.mistakes, exact.mistakes)


@pytest.mark.parametrize(
    ("X", "W0", "eta", "exact"),
    [
        ([[3.0, -7.0]], [0.0, 0.0], 1.0, True),
        ([[0.1]], [0.0], 1.0, False),
        ([[1.0]], [0.1], 1.0, False),
        ([[1.0]], [0.0], 0.1, False),
        ([[2.0**30]], [0.0], 2.0**-30, False),
        ([[2.0**-30]], [1.0], 1.0, False),
        ([[0.0]], [0.0], 1.0, True),
        ([[2.0**-8]], [0.0], 2.0**-1070, False),
    ],
)
def test_rounds_nothing(X, W0, eta, exact):
    assert perceptron.rounds_nothing(X, W0, eta, visits=100) is exact


# ---- mistakes -----------------------------------------------------------------------------------------------------

GOOD = {"X": [[0.0], [1.0]], "y": [0, 1], "W0": [[0.0]], "eta": 1.0}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"X": [[float("nan")], [1.0]]}, "X holds|no finite number"),
        ({"y": [0, 2]}, r"y holds the labels 0, 2; all in \{0, 1\} or all in \{-1, \+1\}"),
        ({"y": [0, 1, 1]}, "X has 2 samples and y has 3"),
        ({"W0": [[0.0, 1.0]]}, r"W0 needs the shape \(starts, 1\)"),
        ({"eta": 0.0}, "eta holds 0; a learning rate is above 0"),
        ({"eta": [1.0, 2.0, 3.0]}, "eta needs one number, or one for each of the 1 runs"),
        ({"b0": [0.0, 0.0]}, "b0 needs one number"),
        ({"epochs": 0}, "epochs is 0; at least 1"),
        ({"epochs": 1.5}, "epochs holds 1.5"),
        ({"order": [0, 2]}, "order names sample 2; X has samples 0 to 1"),
        ({"order": [-1]}, "order names sample -1"),
        ({"order": [0.0]}, "order holds float64 values"),
        ({"order": [[0], [1]]}, r"order needs the shape \(k,\), \(1, k\) or \(1, 1, k\); it is \(2, 1\)"),
        ({"order": []}, "order needs the shape"),
    ],
)
@pytest.mark.parametrize("engine", [perceptron.run, perceptron.run_rational])
def test_a_mistake_is_named(engine, wrong, says):
    with pytest.raises(ArrayError, match=says):
        engine(**{**GOOD, **wrong})


@pytest.mark.parametrize("engine", [perceptron.run, perceptron.run_rational])
def test_one_start_without_its_axis_and_numpy_counts(engine):
    a = engine([[0.5], [-1.0]], [1, 0], [[-1.0]], 0.25, b0=0.0, epochs=3)
    b = engine(np.array([[0.5], [-1.0]]), [1, 0], [-1.0], np.float64(0.25), b0=[0.0], epochs=np.int64(3))
    assert np.asarray(a.weights, dtype=float).tolist() == np.asarray(b.weights, dtype=float).tolist()
    assert a.mistakes.tolist() == b.mistakes.tolist()


def test_weights_that_leave_float64_come_back():
    done = perceptron.run([[1e308, 1e308], [-1e308, 1e308]], [0, 1], [[1e308, 1.0]], 10.0, epochs=3)
    assert not np.isfinite(done.weights).any()


@pytest.mark.parametrize("engine", [perceptron.run, perceptron.run_rational])
@pytest.mark.parametrize("X", [[1.0, 2.0], [[1.0], [1.0, 2.0]]])
def test_features_without_two_axes(engine, X):
    with pytest.raises(ArrayError, match=r"X needs two axes|X holds"):
        engine(X, [0, 1], [[0.0]], 1.0)


@pytest.mark.parametrize("given", ["one", None, float("inf"), "1/0"])
def test_what_is_no_number_is_no_fraction(given):
    with pytest.raises(ArrayError, match="no finite number"):
        perceptron.run_rational(**{**GOOD, "eta": given})
