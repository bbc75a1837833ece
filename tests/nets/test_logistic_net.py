"""Logistic regression against a loop, torch's autograd and scikit-learn."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.linear_model import LogisticRegression as Sk
from sklearn.preprocessing import StandardScaler

from symbreak.nets import LogisticRegression, NetWarning


def standard(load):
    X, y = load(return_X_y=True)
    return StandardScaler().fit_transform(X), y


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def loop(X, y, w, b, eta, steps, alpha=0.0):
    losses = []
    for _ in range(steps):
        p = sigmoid(X @ w + b)
        losses.append(-(y * np.log(p) + (1 - y) * np.log(1 - p)).mean() + alpha * w @ w / 2)
        w, b = w - eta * (X.T @ (p - y) / len(y) + alpha * w), b - eta * (p - y).mean()
    return w, b, losses


def test_two_classes_are_the_textbook_loop():
    X, y = standard(load_breast_cancer)
    w0 = np.random.default_rng(0).normal(size=X.shape[1]) / 10
    model = LogisticRegression(init=w0, init_bias=0.3, eta=0.2, n_steps=50, alpha=0.01, keep_path=100).fit(X, y)
    w, b, losses = loop(X, y, w0, 0.3, 0.2, 50, 0.01)
    np.testing.assert_allclose(model.coef_[0], w, rtol=1e-10)
    np.testing.assert_allclose(model.intercept_, b, rtol=1e-10)
    np.testing.assert_allclose(model.loss_path_, losses, rtol=1e-10)
    np.testing.assert_array_equal(model.coef_path_[-1], model.coef_)
    np.testing.assert_allclose(model.coef_path_[3, 0], loop(X, y, w0, 0.3, 0.2, 3, 0.01)[0], rtol=1e-10)
    np.testing.assert_allclose(model.predict_proba(X)[:, 1], sigmoid(X @ w + b), rtol=1e-9)


def descend_with_torch(model, X, codes, *, epochs, batch, **options):
    """The same training by autograd and torch.optim.SGD, from the model's own start."""
    W = torch.tensor(np.atleast_2d(model.w0_), requires_grad=True)
    b = torch.tensor(model.b0_, requires_grad=True)
    alpha = options.pop("alpha", 0.0)
    optimizer, losses = torch.optim.SGD([W, b], **options), []
    X, codes = torch.from_numpy(X), torch.from_numpy(codes)
    for _ in range(epochs):
        total = 0.0
        for first in range(0, len(X), batch):
            x, target = X[first : first + batch], codes[first : first + batch]
            z = x @ W.T + b
            if len(W) == 1:
                loss = torch.nn.functional.binary_cross_entropy_with_logits(z[:, 0], target.double())
            else:
                loss = torch.nn.functional.cross_entropy(z, target)
            loss = loss + alpha / 2 * (W * W).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(x)
        losses.append(total / len(X))
    return W.detach().numpy(), b.detach().numpy(), losses


@pytest.mark.parametrize("load", [load_breast_cancer, load_iris, load_wine, load_digits])
@pytest.mark.parametrize(
    "knobs",
    [{}, {"momentum": 0.9}, {"momentum": 0.8, "nesterov": True, "alpha": 0.05}, {"batch_size": 32}, {"batch_size": 1}],
)
def test_autograd_takes_the_same_steps(load, knobs):
    X, y = standard(load)
    X, y = X[::4], y[::4]
    batch, epochs = knobs.get("batch_size", len(X)), 3
    model = LogisticRegression(
        init="normal(0.1)", init_bias="normal(0.1)", random_state=0, eta=0.02, max_epochs=epochs, shuffle=False, **knobs
    ).fit(X, y)
    options = {"lr": 0.02} | {name: one for name, one in knobs.items() if name != "batch_size"}
    W, b, losses = descend_with_torch(model, X, y, epochs=epochs, batch=batch, **options)
    np.testing.assert_allclose(model.coef_, W, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(model.intercept_, b, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(model.loss_path_, losses, rtol=1e-10)


def test_the_first_step_from_zero():
    X, y = standard(load_breast_cancer)
    model = LogisticRegression(n_steps=1, eta=0.5).fit(X, y)
    np.testing.assert_allclose(model.coef_[0], 0.5 * ((y - 0.5)[:, None] * X).mean(axis=0), atol=1e-15)
    assert model.loss_path_[0] == pytest.approx(np.log(2))


@pytest.mark.parametrize("load", [load_breast_cancer, load_iris, load_wine])
def test_with_a_penalty_every_start_ends_at_scikit_learns_minimum(load):
    X, y = standard(load)
    alpha = 0.1
    sk = Sk(C=1 / (len(X) * alpha), tol=1e-10, max_iter=10_000).fit(X, y)
    for init in ("zeros", "normal(1.0)"):
        model = LogisticRegression(alpha=alpha, init=init, random_state=0, n_steps=5000, momentum=0.9).fit(X, y)
        np.testing.assert_allclose(model.coef_, sk.coef_, atol=1e-6)
        np.testing.assert_allclose(model.predict_proba(X), sk.predict_proba(X), atol=1e-6)
        np.testing.assert_allclose(model.predict_log_proba(X), sk.predict_log_proba(X), atol=1e-5)
        assert (model.predict(X) == sk.predict(X)).all()


def test_softmax_keeps_the_sum_of_its_start():
    X, y = standard(load_iris)
    model = LogisticRegression(init="normal(1)", random_state=0, n_steps=200, momentum=0.5).fit(X, y)
    np.testing.assert_allclose(model.coef_.sum(axis=0), model.w0_.sum(axis=0), atol=1e-12)
    shrinking = LogisticRegression(init="normal(1)", random_state=0, n_steps=20, eta=0.1, alpha=0.3).fit(X, y)
    np.testing.assert_allclose(shrinking.coef_.sum(axis=0), (1 - 0.03) ** 20 * shrinking.w0_.sum(axis=0), rtol=1e-10)


def test_where_a_line_separates_the_weights_grow_for_ever():
    X, y = standard(load_iris)
    X, y = X[y < 2], y[y < 2]
    lengths = [np.linalg.norm(LogisticRegression(n_steps=n).fit(X, y).coef_) for n in (100, 1000, 10_000)]
    assert lengths[0] < lengths[1] - 1 < lengths[2] - 2


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([2, 3, 5]), st.integers(2, 20), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_auto_never_climbs(n_classes, n, d, seed):
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(n, d)) * rng.choice([0.1, 1, 100]), rng.permutation(np.arange(n) % n_classes)
    losses = LogisticRegression(init="normal(1)", random_state=1, n_steps=50).fit(X, y).loss_path_
    assert (np.diff(losses) <= 1e-12 * np.abs(losses[:-1])).all()


def test_eta_auto_is_the_bound_of_the_curvature():
    X, y = standard(load_iris)
    A = np.c_[X, np.ones(len(X))]
    largest = np.linalg.eigvalsh(A.T @ A / len(X))[-1]
    assert LogisticRegression(n_steps=1).fit(X, y).eta_ == pytest.approx(2 / largest)  # softmax bends half as much
    assert LogisticRegression(n_steps=1).fit(X, y > 0).eta_ == pytest.approx(4 / largest)  # one neuron a quarter
    # softmax really bends by 1/2: for two classes at probability 1/2 its Hessian is (1/4) [[1, -1], [-1, 1]]
    p = np.array([0.5, 0.5])
    assert np.linalg.eigvalsh(np.diag(p) - np.outer(p, p))[-1] == pytest.approx(0.5)


def test_beyond_the_limit_it_says_so_and_swings():
    X, y = np.array([[1.0], [1.0], [1.0]]), np.array([0, 0, 1])
    below = LogisticRegression(eta=7.9, n_steps=300, fit_intercept=False, init=-0.7).fit(X, y)
    assert below.loss_path_[-1] == pytest.approx(0.6365, abs=1e-4)
    with pytest.warns(
        NetWarning, match=r"eta=30 is beyond the stability limit 2 / lambda_max = 8 .*the loss may rise and swing"
    ):
        above = LogisticRegression(eta=30.0, n_steps=300, fit_intercept=False, init=-0.7).fit(X, y)
    assert above.loss_path_[-1] > 1.0
    assert np.abs(above.coef_).max() < 100


def test_huge_scores_neither_overflow_nor_lose_the_loss():
    X, y = np.array([[1e4], [-1e4], [1e4]]), np.array([1, 0, 0])
    with warnings.catch_warnings(action="ignore"):
        model = LogisticRegression(init=1.0, eta=1e-9, n_steps=1).fit(X, y)
    assert model.loss_path_[0] == pytest.approx(1e4 / 3)
    assert np.isfinite(model.predict_log_proba(X)).all()
    three = LogisticRegression(init=[[1.0], [0.0], [-1.0]], eta=1e-9, n_steps=1).fit(X, [0, 2, 1])
    assert three.loss_path_[0] == pytest.approx(1e4 / 3)


def test_labels_of_any_kind():
    X = np.array([[-1.0], [-2.0], [3.0]])
    for labels in (["no", "no", "yes"], [False, False, True], [-1, -1, 1], [2.0, 2.0, 7.0]):
        model = LogisticRegression(n_steps=100).fit(X, labels)
        assert model.classes_.tolist() == sorted(set(labels))
        assert model.predict(X).tolist() == labels
        assert model.decision_function([[3.0]]) > 0


def test_partial_fit_is_fit_epoch_by_epoch_for_classes_seen_late():
    X, y = standard(load_iris)
    knobs = {"eta": 0.05, "momentum": 0.9, "batch_size": 10, "shuffle": False, "init": "normal(0.1)", "random_state": 1}
    whole = LogisticRegression(**knobs, max_epochs=3).fit(X, y)
    parts = LogisticRegression(**knobs)
    for epoch in range(3):
        parts.partial_fit(X, y, classes=[2, 0, 1] if epoch == 0 else None)
    assert (parts.coef_ == whole.coef_).all()
    late = LogisticRegression(eta=0.1).partial_fit(X[:50], y[:50], classes=[0, 1, 2])
    assert late.partial_fit(X[50:], y[50:]).predict_proba(X).shape == (150, 3)


def test_partial_fit_shuffles_on_where_it_stopped():
    X, y = standard(load_iris)
    knobs = {"eta": 0.05, "batch_size": 10, "random_state": 1}
    whole = LogisticRegression(**knobs, max_epochs=1).fit(X, y)
    parts = LogisticRegression(**knobs).partial_fit(X, y, classes=[0, 1, 2])
    assert (parts.coef_ == whole.coef_).all()
    first = parts.coef_.copy()
    again = LogisticRegression(**knobs, init=first).partial_fit(X, y, classes=[0, 1, 2])
    assert (parts.partial_fit(X, y).coef_ != again.coef_).any()  # another order


def test_safe_eta_of_parts_is_the_least_so_far():
    X, y = standard(load_breast_cancer)
    model = LogisticRegression().partial_fit(X, y, classes=[0, 1])
    first = model.eta_
    assert model.partial_fit(X / 10, y).eta_ == first
    assert model.partial_fit(X * 10, y).eta_ < first / 50


def test_save_and_load(tmp_path):
    X, y = standard(load_iris)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    model = LogisticRegression(init="torch", random_state=0, n_steps=30).fit(X, names)
    back = LogisticRegression.load(model.save(tmp_path / "iris.safetensors"))
    assert back.classes_.tolist() == ["setosa", "versicolor", "virginica"]
    assert (back.predict_proba(X) == model.predict_proba(X)).all()
    assert (back.predict(X) == model.predict(X)).all()
    assert back.score(X, names) > 0.9
    on = LogisticRegression(init=tmp_path / "iris.safetensors", n_steps=1).fit(X, names)
    assert (on.w0_ == model.coef_).all()
