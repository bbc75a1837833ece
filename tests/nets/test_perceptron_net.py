"""The perceptron against a loop, scikit-learn and the exact engine, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.linear_model import Perceptron as Sk
from sklearn.preprocessing import StandardScaler

from symbreak.exact import perceptron as exact
from symbreak.nets import Perceptron, kernels

AND = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]), np.array([0, 0, 0, 1])


def standard(load):
    X, y = load(return_X_y=True)
    return StandardScaler().fit_transform(X), y


def textbook(X, y, w, b, eta, epochs, orders=None, bias=True):
    """w += eta (y - phi(z)) x, one sample at a time, in plain Python floats; stops after an epoch without mistakes."""
    w, b, mistakes = [float(one) for one in w], float(b), []
    for t in range(epochs):
        mistakes.append(0)
        for i in range(len(X)) if orders is None else orders[t]:
            z = 0.0
            for p, q in zip(w, X[i], strict=True):
                z += p * float(q)
            error = float(y[i]) - (1.0 if z + b >= 0 else 0.0)
            if error:
                w = [p + eta * error * float(q) for p, q in zip(w, X[i], strict=True)]
                b += eta * error * bias
                mistakes[-1] += 1
        if not mistakes[-1]:
            break
    return w, b, mistakes


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(2, 12), st.integers(1, 6), st.integers(0, 2**32 - 1)),
    st.integers(1, 70), st.booleans(), st.booleans(), st.sampled_from(["normal", "whole", "decimal"]),
)  # fmt: skip
def test_equals_the_textbook_loop_bit_for_bit(shape, epochs, bias, shuffle, kind):
    n, d, seed = shape
    rng = np.random.default_rng(seed)
    X, w0, eta = rng.normal(size=(n, d)), rng.normal(size=d), 0.3
    if kind != "normal":
        X, w0, eta = np.round(2 * X), np.round(2 * w0), 1.0 if kind == "whole" else 0.1
    y = np.arange(n) % 2
    knobs = {"init": w0, "eta": eta, "max_epochs": epochs, "fit_intercept": bias, "shuffle": shuffle, "random_state": 5}
    orders = kernels.orders(n, np.array([5], np.uint64), epochs) if shuffle else None
    w, b, mistakes = textbook(X, y, w0, 0.0, eta, epochs, orders, bias)
    at_once = Perceptron(**knobs).fit(X, y)
    by_steps = Perceptron(**knobs, keep_path=2).fit(X, y)  # another kernel
    for one in (at_once, by_steps):
        assert one.coef_[0].tolist() == w
        assert one.intercept_.tolist() == [b]
        assert one.mistakes_.tolist() == mistakes
        assert one.n_iter_ == len(mistakes)
        assert one.loss_path_.tolist() == [m / n for m in mistakes]
    assert by_steps.coef_path_[0, 0].tolist() == w0.tolist()
    assert by_steps.coef_path_[-1, 0].tolist() == w


@pytest.mark.parametrize("load", [load_breast_cancer, load_wine])
def test_equals_the_exact_engine_bit_for_bit(load):
    X, y = standard(load)
    y = (y == 1).astype(int)
    for seed in range(20):
        model = Perceptron(init="normal(1)", init_bias="normal(1)", eta=0.3, max_epochs=30, random_state=seed).fit(X, y)
        run = exact.run(X, y, model.w0_, 0.3, b0=model.b0_, epochs=30)
        np.testing.assert_array_equal(model.coef_, run.weights)
        np.testing.assert_array_equal(model.intercept_, run.biases)
        assert model.mistakes_.tolist() == run.mistakes[0, : model.n_iter_].tolist()


def test_orders_are_permutations_and_even():
    counts = np.zeros((4, 4))
    for seed in range(300):
        for order in kernels.orders(4, np.array([seed], np.uint64), 3):
            assert sorted(order) == [0, 1, 2, 3]
            counts[np.arange(4), order] += 1
    assert np.abs(counts / 900 - 0.25).max() < 0.06  # four standard errors


@pytest.mark.parametrize("load", [load_breast_cancer, load_iris, load_wine, load_digits])
def test_equals_scikit_learn_where_the_conventions_agree(load):
    X, y = standard(load)
    classes = np.unique(y)
    n_out = 1 if len(classes) == 2 else len(classes)
    w0, b0 = np.random.default_rng(1).normal(size=(n_out, X.shape[1])), np.random.default_rng(2).normal(size=n_out)
    sk = Sk(shuffle=False, tol=None, max_iter=20, eta0=0.3)
    sk.fit(X, y, coef_init=w0.copy(), intercept_init=b0.copy())  # it writes into both
    ours = Perceptron(init=w0, init_bias=b0, eta=0.3, max_epochs=20).fit(X, y)
    np.testing.assert_array_equal(ours.coef_, sk.coef_)
    np.testing.assert_array_equal(ours.intercept_, sk.intercept_)
    np.testing.assert_array_equal(ours.predict(X), sk.predict(X))


def test_and_gate_and_the_learning_rate():
    gate = Perceptron(max_epochs=20).fit(*AND)
    assert gate.mistakes_.tolist() == [2, 3, 3, 2, 1, 0]
    assert gate.predict(AND[0]).tolist() == [0, 0, 0, 1]
    for eta in (0.25, 2.0, 1024.0):
        scaled = Perceptron(eta=eta).fit(*AND)
        np.testing.assert_array_equal(scaled.coef_, eta * gate.coef_)
        assert scaled.mistakes_.tolist() == gate.mistakes_.tolist()
    decimal = Perceptron(eta=0.1).fit(*AND)
    assert decimal.n_iter_ == 4  # ties in floats: DESIGN's own example
    assert decimal.score(*AND) == 1.0


def test_both_conventions_are_one():
    X, y = standard(load_breast_cancer)
    zero_one = Perceptron(labels=(0, 1), max_epochs=10).fit(X, y)
    minus_plus = Perceptron(labels=(-1, 1), max_epochs=10).fit(X, 2 * y - 1)
    np.testing.assert_array_equal(zero_one.coef_, minus_plus.coef_)
    assert minus_plus.predict(X).tolist() == (2 * zero_one.predict(X) - 1).tolist()
    assert (zero_one.positive_class_, minus_plus.positive_class_) == (1, 1)


def test_at_zero_it_fires():
    unit = Perceptron(max_epochs=1).fit([[1.0], [2.0]], [1, 1 - 1])
    assert unit.mistakes_.tolist() == [1]  # the positive sample at z = 0 was right; scikit-learn counts it as wrong
    assert unit.coef_.tolist() == [[-2.0]]
    blank = Perceptron(init=0.0, max_epochs=1, eta=1e-300).fit([[0.0], [0.0]], [1, 1 - 1])
    assert blank.predict([[0.0]]).tolist() == [0]


def test_ties_fall_on_the_same_side_in_training_and_prediction():
    rng = np.random.default_rng(0)
    for seed in range(200):
        X, y = np.round(rng.normal(size=(8, 7)) * 2) / 10, np.arange(8) % 2
        unit = Perceptron(eta=0.1, max_epochs=200, random_state=seed).fit(X, y)
        if not unit.mistakes_[-1]:
            assert unit.score(X, y) == 1.0


def test_one_neuron_a_class_against_the_rest():
    X, y = standard(load_iris)
    model = Perceptron(max_epochs=30, init="normal(1)", random_state=0).fit(X, y)
    assert model.mistakes_.shape == (30, 3)
    for own in range(3):
        alone = Perceptron(max_epochs=30, init=model.w0_[own]).fit(X, y == own)
        np.testing.assert_array_equal(model.coef_[own], alone.coef_[0])
        made = np.zeros(30, int)
        made[: alone.n_iter_] = alone.mistakes_
        np.testing.assert_array_equal(model.mistakes_[:, own], made)
    assert (model.predict(X) == model.decision_function(X).argmax(axis=1)).all()
    with pytest.raises(AttributeError, match="one neuron a class for 3 classes"):
        _ = model.positive_class_
    by_steps = Perceptron(max_epochs=30, init=model.w0_, keep_path=2).fit(X, y)
    np.testing.assert_array_equal(model.coef_, by_steps.coef_)
    np.testing.assert_array_equal(model.mistakes_, by_steps.mistakes_)


def test_separable_data_stop_by_themselves():
    X, y = standard(load_iris)
    model = Perceptron(max_epochs=1000, shuffle=True, random_state=0).fit(X, y == 0)
    assert model.n_iter_ < 20
    assert model.mistakes_[-1] == 0
    assert model.score(X, y == 0) == 1.0


def test_a_batch_averages_its_mistakes():
    X, y = standard(load_breast_cancer)
    model = Perceptron(batch_size=None, n_steps=3, eta=0.5, init="normal(0.1)", random_state=0).fit(X, y)
    w, b = model.w0_[0].copy(), 0.0
    for made in model.mistakes_:
        error = (X @ w + b >= 0) - y
        assert (error != 0).sum() == made
        w, b = w - 0.5 * X.T @ error / len(X), b - 0.5 * error.mean()
    np.testing.assert_allclose(model.coef_[0], w, rtol=1e-12)


def test_tol_and_alpha_end_or_shrink():
    X, y = standard(load_breast_cancer)
    stopped = Perceptron(tol=0.01, max_epochs=500, shuffle=True, random_state=0).fit(X, y)
    assert stopped.n_iter_ < 100
    assert stopped.score(X, y) > 0.95
    shrunk = Perceptron(alpha=0.1, max_epochs=20).fit(X, y)
    assert np.linalg.norm(shrunk.coef_) < np.linalg.norm(Perceptron(max_epochs=20).fit(X, y).coef_)


@pytest.mark.parametrize("shuffle", [False, True])
def test_partial_fit_is_fit_epoch_by_epoch(shuffle):
    X, y = standard(load_breast_cancer)
    whole = Perceptron(max_epochs=5, shuffle=shuffle, random_state=3).fit(X, y)
    parts = Perceptron(shuffle=shuffle, random_state=3)
    told = Perceptron(shuffle=shuffle, random_state=3, labels=(0, 1))
    for epoch in range(5):
        parts.partial_fit(X, y, classes=[0, 1] if epoch == 0 else None)
        told.partial_fit(X, y)
    for one in (parts, told):
        np.testing.assert_array_equal(one.coef_, whole.coef_)
        assert one.mistakes_.tolist() == whole.mistakes_.tolist()
        assert one.n_iter_ == 5


def test_warm_start_goes_on():
    X, y = standard(load_breast_cancer)
    model = Perceptron(max_epochs=3, warm_start=True).fit(X, y)
    model.fit(X, y)
    np.testing.assert_array_equal(model.coef_, Perceptron(max_epochs=6).fit(X, y).coef_)


@pytest.mark.parametrize("labels", [["ham", "spam"], [False, True], [3, 9]])
def test_save_and_load(tmp_path, labels):
    X, y = standard(load_breast_cancer)
    model = Perceptron(max_epochs=4, eta=0.5).fit(X, np.array(labels)[y])
    back = Perceptron.load(model.save(tmp_path / "p.safetensors"))
    assert back.classes_.tolist() == labels
    assert (back.predict(X) == model.predict(X)).all()
    assert back.mistakes_.tolist() == model.mistakes_.tolist()
    assert back.positive_class_ == labels[1]
