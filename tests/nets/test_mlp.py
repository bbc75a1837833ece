"""MLPClassifier and MLPRegressor: against scikit-learn's and a torch loop written by hand; starts, files, bad input."""

from __future__ import annotations

import copy
import functools
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier as ScikitClassifier
from sklearn.neural_network import MLPRegressor as ScikitRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

import symbreak as sb
from symbreak.errors import SymbreakError
from symbreak.nets import MLPClassifier, MLPRegressor, NetError, NetWarning, build
from symbreak.nets.multilayer import FitWarning, auto_schemes
from symbreak.nets.training import order
from symbreak.schemes import ACTIVATIONS, activation, constant, gains, parse

PLAIN = {"max_epochs": 30, "random_state": 0}


@functools.cache
def scaled(load, several: bool = False):
    X, y = load(return_X_y=True)
    return StandardScaler().fit_transform(X), (y - y.mean()) / y.std() if load is load_diabetes else y


@pytest.fixture
def iris():
    return scaled(load_iris)


@pytest.fixture
def diabetes():
    return scaled(load_diabetes)


# scikit-learn's own checks, none excused.
@parametrize_with_checks([
    MLPClassifier(),
    MLPRegressor(),
    MLPClassifier((), "tanh", solver="sgd", n_steps=200),
    MLPRegressor((20, 10), "prelu", solver="sgd", batch_size=8, max_epochs=20),
])  # fmt: skip
def test_scikit_learns_conventions(estimator, check):
    check(estimator)


# Oracles that share no code ------------------------------------------------------------------------------------------


def of_scikit(cls, X, y, start, *, epochs: int, **knobs):
    theirs = cls(hidden_layer_sizes=(6, 5), shuffle=False, warm_start=True, max_iter=1, tol=0.0, alpha=0.0, **knobs)
    theirs.n_iter_no_change = 10**6
    with pytest.warns(ConvergenceWarning):
        theirs.fit(X, y)
    theirs.coefs_, theirs.intercepts_ = ([one.copy() for one in part] for part in start)
    theirs.loss_curve_, theirs.max_iter = [], epochs
    with pytest.warns(ConvergenceWarning):
        return theirs.fit(X, y)


@pytest.mark.parametrize("phi", ["relu", "tanh", "logistic", "identity"])
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
@pytest.mark.parametrize("load", [load_iris, load_breast_cancer, load_diabetes])
def test_sgd_walks_as_scikit_learns(load, phi, momentum, nesterov):
    X, y = scaled(load)
    X, y = X[::5], y[::5]
    ours, theirs = (MLPRegressor, ScikitRegressor) if load is load_diabetes else (MLPClassifier, ScikitClassifier)
    steps = {"momentum": momentum, "batch_size": 16}
    mlp = ours((6, 5), phi, solver="sgd", eta=0.05, nesterov=nesterov, shuffle=False, max_epochs=20,
               random_state=3, init_bias="normal(0.1)", **steps).fit(X, y)  # fmt: skip
    oracle = of_scikit(theirs, X, y, (mlp.w0_, mlp.b0_), epochs=20, activation=phi, solver="sgd",
                       learning_rate_init=0.05, nesterovs_momentum=nesterov, **steps)  # fmt: skip
    np.testing.assert_allclose(mlp.loss_path_, oracle.loss_curve_, rtol=1e-10)
    for ours_w, theirs_w in zip(mlp.coefs_ + mlp.intercepts_, oracle.coefs_ + oracle.intercepts_, strict=True):
        np.testing.assert_allclose(ours_w, theirs_w, rtol=1e-8, atol=1e-11)
    np.testing.assert_allclose(mlp.predict(X), oracle.predict(X), rtol=1e-8)
    if ours is MLPClassifier:
        np.testing.assert_allclose(mlp.predict_proba(X), oracle.predict_proba(X), rtol=1e-8, atol=1e-12)


def test_adam_walks_as_scikit_learns_but_for_where_eps_stands(iris):
    X, y = iris
    mlp = MLPClassifier((6, 5), "tanh", eta=0.01, shuffle=False, batch_size=30, **PLAIN).fit(X, y)
    oracle = of_scikit(ScikitClassifier, X, y, (mlp.w0_, mlp.b0_), epochs=30, activation="tanh", solver="adam",
                       learning_rate_init=0.01, batch_size=30)  # fmt: skip
    np.testing.assert_allclose(mlp.loss_path_, oracle.loss_curve_, rtol=1e-4)


def by_hand(net, loss, X, Y, make, *, epochs, batch_size, seed, alpha=0.0):
    """The loop of every torch tutorial."""
    optimizer, path = make(net.parameters()), []
    for epoch in range(epochs):
        total = 0.0
        rows = torch.arange(len(X)) if batch_size >= len(X) else order(len(X), seed=seed, epoch=epoch)
        for chosen in rows.split(batch_size):
            optimizer.zero_grad()
            value = loss(net(X[chosen]), Y[chosen])
            for layer in net:
                if alpha and isinstance(layer, nn.Linear):
                    value = value + alpha / 2 * layer.weight.square().sum()
            value.backward()
            optimizer.step()
            total += value.item() * len(chosen)
        path.append(total / len(X))
    return path


MAKERS = {
    "sgd": functools.partial(torch.optim.SGD, lr=0.05, momentum=0.9, nesterov=True),
    "adam": functools.partial(torch.optim.Adam, lr=0.05),
    "rmsprop": functools.partial(torch.optim.RMSprop, lr=0.05),
}


@pytest.mark.parametrize("solver", MAKERS)
@pytest.mark.parametrize("batch_size", [None, 32])
@pytest.mark.parametrize("phi", ["relu", "gelu", "prelu"])
def test_the_loss_path_is_that_of_a_torch_loop(solver, batch_size, phi, iris):
    X, y = iris
    mlp = MLPClassifier((6, 5), phi, solver=solver, eta=0.05, batch_size=batch_size, alpha=0.01, **PLAIN)
    net = mlp.build(X, y)
    path = by_hand(net, nn.functional.cross_entropy, torch.tensor(X), torch.tensor(y), MAKERS[solver],
                   epochs=30, batch_size=batch_size or len(X), seed=0, alpha=0.01)  # fmt: skip
    mlp.fit(X, y)
    np.testing.assert_allclose(mlp.loss_path_, path, rtol=1e-10)
    for (name, ours), theirs in zip(mlp.net_.named_parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9, msg=name)


@pytest.mark.parametrize("phi", ACTIVATIONS)
def test_every_activation_fits(phi, iris):
    X, y = iris
    mlp = MLPClassifier((8, 8), phi, solver="sgd", n_steps=60, random_state=0)
    mlp.fit(X, y)
    assert mlp.loss_path_[-1] < 0.8 * mlp.loss_path_[0]
    assert type(mlp.net_.act1) is type(activation(phi).module())


@pytest.mark.parametrize("hidden", [(), 5, (5,), [4, 3], (3,) * 12])
def test_any_depth(hidden, iris):
    mlp = MLPClassifier(hidden, "tanh", **PLAIN).fit(*iris)
    depth = 1 if hidden == 5 else len(hidden)
    assert len(mlp.coefs_) == len(mlp.intercepts_) == depth + 1
    assert [w.shape[0] for w in mlp.coefs_[1:]] == ([5] if hidden == 5 else list(hidden))


def test_without_hidden_layers_the_regressor_is_gradient_descent_on_least_squares(diabetes):
    X, y = diabetes
    mlp = MLPRegressor((), solver="sgd", init="zeros", momentum=0.0, n_steps=300, eta=0.1).fit(X, y)
    w = sb_path(X, y, 0.1, 300)
    np.testing.assert_allclose(mlp.coefs_[0][:, 0], w[:-1], rtol=1e-9, atol=1e-12)


def sb_path(X, y, eta, steps):
    from symbreak.exact import descent

    A = np.hstack([X, np.ones((len(X), 1))])
    return descent.path(A, y, np.zeros(A.shape[1]), eta, steps)[0, 0, 0]


# Targets -------------------------------------------------------------------------------------------------------------


def test_two_classes_have_one_output_and_text_labels_come_back():
    X, y = scaled(load_breast_cancer)
    names = np.array(["malignant", "benign"])[y]
    mlp = MLPClassifier((8,), eta=0.01, **PLAIN).fit(X, names)
    assert mlp.coefs_[-1].shape == (8, 1)
    assert set(mlp.predict(X)) == {"malignant", "benign"}
    assert mlp.score(X, names) > 0.95
    np.testing.assert_allclose(mlp.predict_proba(X).sum(1), 1)
    np.testing.assert_allclose(np.exp(mlp.predict_log_proba(X)), mlp.predict_proba(X), atol=1e-15)


def test_log_probabilities_do_not_round_to_minus_infinity():
    X = np.array([[-1.0], [1.0]])
    mlp = MLPClassifier((), init=[[[1000.0]]], max_epochs=1, eta=1e-9).fit(X, [0, 1])
    assert np.isfinite(mlp.predict_log_proba(X)).all()
    assert mlp.predict_log_proba(X)[0, 1] == pytest.approx(-1000.0, rel=1e-6)


def test_several_labels_are_logistic_each():
    X, y = scaled(load_wine)
    Y = np.stack([y == 0, y != 2], axis=1).astype(int)
    mlp = MLPClassifier((8,), solver="sgd", n_steps=200, random_state=0).fit(X, Y)
    plain = MLPClassifier((), solver="sgd", n_steps=50, eta=0.1, init="zeros")
    alone, both = [clone(plain).fit(X, Y[:, k]) for k in (0, 1)], clone(plain).fit(X, Y)
    assert mlp.score(X, Y) > 0.95
    hasty = MLPClassifier((8,), max_epochs=2, random_state=0).fit(X, Y)
    assert np.array_equal(hasty.predict(X), hasty.predict_proba(X) > 0.5)
    assert mlp.predict(X).shape == mlp.predict_proba(X).shape == mlp.predict_log_proba(X).shape == Y.shape
    np.testing.assert_allclose(both.coefs_[0], np.hstack([one.coefs_[0] for one in alone]), rtol=1e-12)


def test_several_targets_are_fitted_together_or_alone(diabetes):
    X, y = diabetes
    Y = np.stack([y, -2 * y], axis=1)
    knobs = {"solver": "sgd", "n_steps": 50, "eta": 0.1, "init": "zeros"}
    both = MLPRegressor((), **knobs).fit(X, Y)
    assert both.predict(X).shape == Y.shape
    np.testing.assert_allclose(both.coefs_[0][:, :1], MLPRegressor((), **knobs).fit(X, y).coefs_[0], rtol=1e-12)
    assert MLPRegressor((4,), **PLAIN).fit(X, y).predict(X).shape == y.shape


# Starts --------------------------------------------------------------------------------------------------------------


def test_weights_and_biases_start_by_their_own_schemes(iris):
    mlp = MLPClassifier((50, 40), init="xavier_normal", init_bias=[0.5, "zeros", constant(2.0)],
                        **PLAIN).fit(*iris)  # fmt: skip
    assert [set(b) for b in mlp.b0_] == [{0.5}, {0.0}, {2.0}]
    assert mlp.w0_[1].std() == pytest.approx(np.sqrt(2 / 90), rel=0.05)


def test_a_scheme_a_layer(iris):
    mlp = MLPClassifier((5, 4), init=["zeros", 0.25, parse("normal(3.0)")], **PLAIN).fit(*iris)
    assert set(mlp.w0_[0].ravel()) == {0.0}
    assert set(mlp.w0_[1].ravel()) == {0.25}
    assert np.abs(mlp.w0_[2]).max() > 1


@pytest.mark.parametrize("phi", ["relu", "tanh", "sigmoid"])
def test_auto_keeps_the_size_of_the_signal(phi):
    X = np.random.default_rng(0).normal(size=(400, 300))
    net = MLPRegressor((300, 300, 300), phi, random_state=0).build(X, X[:, 0])
    h, sizes = torch.tensor(X), []
    for layer in net:
        h = layer(h)
        if isinstance(layer, nn.Linear):
            sizes.append(float(h.detach().square().mean()))
    assert sizes[:-1] == pytest.approx([1, 1, 1], abs=0.15)
    assert auto_schemes(activation(phi), 2)[1].moments(fan_in=100).std == pytest.approx(gains(phi).forward / 10)


def test_arrays_are_those_of_coefs(iris):
    X, y = iris
    first = MLPClassifier((5,), **PLAIN).fit(X, y)
    second = MLPClassifier((5,), init=first.coefs_, init_bias=first.intercepts_, **PLAIN).fit(X, y)
    for a, b in zip(first.coefs_ + first.intercepts_, second.w0_ + second.b0_, strict=True):
        assert np.array_equal(a, b)
    alone = MLPClassifier((), **PLAIN).fit(X, y)
    for given in (alone.coefs_, alone.coefs_[0]):
        again = MLPClassifier((), init=given, init_bias=alone.intercepts_, **PLAIN).fit(X, y)
        assert np.array_equal(again.w0_[0], alone.coefs_[0])
        assert np.array_equal(again.b0_[0], alone.intercepts_[0])


@pytest.mark.parametrize("load", [load_iris, load_breast_cancer, load_diabetes])
def test_scikit_learns_weights_are_kept_and_trained_further(load):
    X, y = scaled(load)
    ours, theirs = (MLPRegressor, ScikitRegressor) if load is load_diabetes else (MLPClassifier, ScikitClassifier)
    with pytest.warns(ConvergenceWarning):
        trained = theirs(hidden_layer_sizes=(6,), max_iter=50, random_state=0).fit(X, y)
    still = ours((6,), init=trained, eta=1e-300, n_steps=1).fit(X, y)
    np.testing.assert_allclose(still.predict(X), trained.predict(X))
    further = ours((6,), init=trained, **PLAIN).fit(X, y)
    assert np.array_equal(further.w0_[0], trained.coefs_[0])
    assert further.loss_ < still.loss_


def test_the_seed_alone_decides_and_the_global_states_stay(iris):
    torch_state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    one, two, other = (MLPClassifier((8,), "rrelu", max_epochs=5, random_state=s).fit(*iris) for s in (7, 7, 8))
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert all(np.array_equal(a, b) for a, b in zip(one.coefs_, two.coefs_, strict=True))
    assert not np.array_equal(one.coefs_[0], other.coefs_[0])


def test_the_start_is_that_of_the_textbook(iris):
    mlp = MLPClassifier((8, 5), "tanh", init="torch", random_state=11)
    theirs = build("mlp:8-5:tanh", 4, 3, parse("torch"), seed=11)
    mine = mlp.build(*iris)
    assert [name for name, _ in mine.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    # torch draws float32 and float64 from different bits, so the laws agree and not the numbers
    assert all(float(w.detach().abs().max()) <= 0.5 for w in mine.parameters())


def test_build_and_task_change_nothing_and_show_what_fit_starts_from(iris):
    X, y = iris
    mlp = MLPClassifier((8,), "tanh", **PLAIN)
    before = copy.deepcopy(vars(mlp))
    net, (features, targets), loss = mlp.task(X, y)
    assert vars(mlp) == before
    mlp.fit(X, y)
    assert np.array_equal(net.fc1.weight.detach().numpy().T, mlp.w0_[0])
    theirs = nn.functional.cross_entropy(net(torch.tensor(X)), torch.tensor(y))
    torch.testing.assert_close(loss(net(features), targets), theirs)
    with pytest.raises(NotFittedError):
        clone(mlp).predict(X)
    assert not hasattr(clone(mlp), "coefs_")
    assert not hasattr(clone(mlp), "objective_")


@pytest.mark.parametrize(
    ("knobs", "verdict"),
    [({}, "healthy"), ({"init": "zeros"}, "stuck"), ({"init": 0.5}, "redundant"),
     ({"init": ["kaiming", "zeros"]}, "healthy"), ({"activation": "sigmoid", "init": "zeros"}, "redundant")],
)  # fmt: skip
def test_check_looks_at_a_start_before_training(knobs, verdict, iris):
    mlp = MLPClassifier(**{"hidden_layer_sizes": (6,), "activation": "tanh", "random_state": 0, **knobs})
    assert sb.check(*mlp.task(*iris)).verdict == verdict
    assert sb.check(mlp.build(*iris), iris).verdict == verdict
    mlp.set_params(max_epochs=2).fit(*iris)
    later = sb.check(mlp.net_, iris, loss=mlp.objective_).verdict
    assert later in ("healthy", "degraded") if verdict == "healthy" else later == verdict


def test_what_check_calls_stuck_does_not_learn(iris):
    stuck = MLPClassifier((6,), "tanh", init="zeros", **PLAIN).fit(*iris)
    assert not stuck.coefs_[0].any()
    assert not stuck.coefs_[1].any()
    twins = MLPClassifier((6,), "tanh", init=0.5, **PLAIN).fit(*iris)
    np.testing.assert_allclose(twins.coefs_[0], twins.coefs_[0][:, :1] @ np.ones((1, 6)), rtol=1e-9)


# Training again ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["sgd", "adam", "rmsprop"])
@pytest.mark.parametrize("batch_size", [None, 32])
def test_epochs_at_once_or_by_partial_fit(solver, batch_size, iris):
    X, y = iris
    knobs = {"solver": solver, "eta": 0.02, "batch_size": batch_size, "random_state": 0}
    whole = MLPClassifier((6,), max_epochs=7, **knobs).fit(X, y)
    parts = MLPClassifier((6,), **knobs)
    for number in range(7):
        if number == 3:
            parts = pickle.loads(pickle.dumps(parts))  # with the momentum
        parts.partial_fit(X, y, classes=[0, 1, 2] if number == 0 else None)
    assert np.array_equal(parts.loss_path_, whole.loss_path_)
    assert parts.n_iter_ == whole.n_iter_ == 7
    assert all(np.array_equal(a, b) for a, b in zip(parts.coefs_, whole.coefs_, strict=True))


def test_partial_fit_need_not_see_every_class_at_once(diabetes):
    X, y = scaled(load_wine)
    mlp = MLPClassifier((6,), eta=0.01, random_state=0)
    for label in (0, 1, 2) * 30:
        mlp.partial_fit(X[y == label], y[y == label], classes=[0, 1, 2])
    assert mlp.predict_proba(X).shape == (len(X), 3)
    assert mlp.n_iter_ == len(mlp.loss_path_) == 90
    line = MLPRegressor((6,), random_state=0).partial_fit(*diabetes).partial_fit(*diabetes)
    assert line.n_iter_ == 2


def test_again_further_or_in_between(iris):
    X, y = iris
    mlp = MLPClassifier((6,), solver="sgd", momentum=0.0, eta=0.05, **PLAIN).fit(X, y)
    end = [w.copy() for w in mlp.coefs_]
    start = [w.copy() for w in mlp.w0_]
    mlp.fit(X, y)
    assert np.array_equal(mlp.w0_[0], start[0])
    mlp.set_params(warm_start=True).fit(X, y)
    assert np.array_equal(mlp.w0_[0], end[0])
    assert mlp.n_iter_ == 30
    twice = MLPClassifier((6,), solver="sgd", momentum=0.0, eta=0.05, **PLAIN | {"max_epochs": 60}).fit(X, y)
    assert np.array_equal(mlp.coefs_[0], twice.coefs_[0])  # no momentum: 30 + 30 epochs are 60
    end = mlp.coefs_[0].copy()
    mlp.set_params(warm_start="shrink_perturb(shrink=0.5, noise=0.0)").fit(X, y)
    np.testing.assert_allclose(mlp.w0_[0], 0.5 * end)


def test_the_noise_of_shrink_and_perturb_is_new_each_time(iris):
    mlp = MLPClassifier((6,), init="xavier", warm_start="shrink_perturb(shrink=0.0, noise=1.0)", **PLAIN)
    starts = [mlp.fit(*iris).w0_[0].copy() for _ in range(3)]
    assert len({one.tobytes() for one in starts}) == 3


@pytest.mark.parametrize("phi", ["relu", "prelu", "leaky_relu(0.2)", "snake"])
def test_saved_and_loaded(phi, iris, tmp_path):
    X, y = iris
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    mlp = MLPClassifier((6, 4), activation(phi), init_bias=0.1, batch_size=32, **PLAIN).fit(X, names)
    file = mlp.save(tmp_path / "mlp.safetensors")
    back = MLPClassifier.load(file)
    assert np.array_equal(back.predict_proba(X), mlp.predict_proba(X))
    assert list(back.predict(X)) == list(mlp.predict(X))
    assert np.array_equal(back.loss_path_, mlp.loss_path_)
    assert all(np.array_equal(a, b) for a, b in zip(back.w0_ + back.b0_, mlp.w0_ + mlp.b0_, strict=True))
    assert (back.n_iter_, back.eta_, back.seed_) == (mlp.n_iter_, mlp.eta_, mlp.seed_)
    for made in (MLPClassifier((6, 4), phi, init=file, **PLAIN), MLPClassifier((6, 4), phi, init=back, **PLAIN)):
        further = made.fit(X, names)
        assert np.array_equal(further.w0_[1], mlp.coefs_[1])
        began, learned = further.start_tensors(), mlp.tensors()
        assert all(np.array_equal(began[name], learned[name]) for name in learned)  # PReLU's slopes among them
        assert further.loss_ < mlp.loss_
    went_on = back.set_params(warm_start=True).fit(X, names)
    assert np.array_equal(went_on.coefs_[0], mlp.set_params(warm_start=True).fit(X, names).coefs_[0])
    assert went_on.partial_fit(X, names).n_iter_ == 31


def test_a_start_of_arrays_is_saved_as_arrays(diabetes, tmp_path):
    X, y = diabetes
    first = MLPRegressor((4,), "prelu", **PLAIN).fit(X, y)
    second = MLPRegressor((4,), "prelu", init=first, **PLAIN).fit(X, y)
    back = MLPRegressor.load(second.save(tmp_path / "w.safetensors"))
    assert [w.shape for w in back.init] == [(10, 4), (4, 1)]
    assert np.array_equal(back.predict(X), second.predict(X))


def test_copies_are_independent_and_pickles_small(iris):
    mlp = MLPClassifier((50,), **PLAIN).fit(*iris)
    twin = pickle.loads(pickle.dumps(mlp))
    kept = mlp.coefs_[0].copy()
    twin.partial_fit(*iris)
    assert np.array_equal(mlp.coefs_[0], kept)
    numbers = sum(w.size for w in mlp.coefs_ + mlp.intercepts_)
    assert len(pickle.dumps(mlp.net_)) < 8 * numbers + 8000


def test_old_weights_are_no_window_on_later_training(iris):
    mlp = MLPClassifier((5,), **PLAIN).fit(*iris)
    held, copied = mlp.coefs_[0], mlp.coefs_[0].copy()
    mlp.partial_fit(*iris)
    assert np.array_equal(held, copied)
    mlp.coefs_[1][:] = 0  # but what is there now may be written to
    assert not mlp.net_.fc2.weight.any()


def test_the_path_of_the_weights(iris):
    mlp = MLPClassifier((5,), keep_path=6, **PLAIN).fit(*iris)
    assert mlp.coef_steps_[[0, -1]].tolist() == [0, 30]
    assert len(mlp.coef_steps_) <= 6
    assert [one.shape for one in mlp.coef_path_] == [(len(mlp.coef_steps_), 4, 5), (len(mlp.coef_steps_), 5, 3)]
    for kept, start, end in zip(mlp.coef_path_ + mlp.intercept_path_, mlp.w0_ + mlp.b0_,
                                mlp.coefs_ + mlp.intercepts_, strict=True):  # fmt: skip
        assert np.array_equal(kept[0], start)
        assert np.array_equal(kept[-1], end)
    early = MLPClassifier((5,), keep_path=6, max_epochs=1000, tol=0.1, random_state=0).fit(*iris)
    assert early.coef_steps_[-1] == early.n_iter_ < 1000


# The learning rate, the end ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("load", [load_diabetes, load_wine, load_digits])
def test_auto_is_safe_and_four_times_as_much_is_not_for_a_quadratic(load, momentum, nesterov):
    X, y = scaled(load)
    made = MLPRegressor((), solver="sgd", momentum=momentum, nesterov=nesterov, n_steps=400, random_state=0)
    steady = clone(made).fit(X, y)
    assert steady.loss_ < steady.loss_path_[0]
    wild = clone(made).set_params(eta=4 * steady.eta_, n_steps=100).fit(X, y)
    assert wild.loss_ > 1e6 * wild.loss_path_[0]


@pytest.mark.parametrize("phi", ["relu", "tanh", "sigmoid", "sin"])
@pytest.mark.parametrize("batch_size", [None, 32, 1])
def test_auto_trains(phi, batch_size, iris):
    mlp = MLPClassifier((10, 10), phi, solver="sgd", batch_size=batch_size, **PLAIN).fit(*iris)
    assert mlp.eta_ > 0
    assert mlp.loss_ < 0.7 * mlp.loss_path_[0]


def test_other_solvers_take_a_thousandth(iris):
    assert MLPClassifier((4,), **PLAIN).fit(*iris).eta_ == 1e-3


def test_any_torch_optimizer(iris):
    muon_like = functools.partial(torch.optim.AdamW, weight_decay=0.1)
    mlp = MLPClassifier((8,), solver=muon_like, eta=0.01, **PLAIN).fit(*iris)
    assert mlp.loss_ < 0.5 * mlp.loss_path_[0]
    with pytest.raises(NetError, match=r"solver=functools.partial.* cannot be written to a file"):
        mlp.save("x.safetensors")


def test_it_stops_when_nothing_falls_any_more_and_says_when_it_does_not(iris):
    mlp = MLPClassifier((8,), max_epochs=1000, tol=1e-2, random_state=0).fit(*iris)
    assert mlp.n_iter_ < 1000
    with pytest.warns(FitWarning, match=r"MLPClassifier reached max_epochs=3 while the loss still fell") as caught:
        MLPClassifier((8,), max_epochs=3, tol=1e-4, random_state=0).fit(*iris)
    assert issubclass(FitWarning, ConvergenceWarning)
    assert caught[0].filename == __file__
    with pytest.warns(FitWarning, match=r"reached n_steps=3 .* Raise n_steps"):
        MLPClassifier((8,), n_steps=3, tol=1e-4, random_state=0).fit(*iris)


def five_parts(mlp, X, y):
    for _ in range(5):
        mlp.partial_fit(X, y)


def test_divergence_is_told_and_the_weights_are_finite(diabetes):
    X, y = diabetes
    mlp = MLPRegressor((8,), solver="sgd", eta=1e6, random_state=0, keep_path=3)
    with pytest.warns(FitWarning, match=r"MLPRegressor diverged: at step \d+ \(epoch \d+\) .* eta=1e\+06") as caught:
        mlp.fit(X, y)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert mlp.loss_ == np.inf
    assert mlp.diverged_at_ >= 1
    assert len(mlp.loss_path_) == mlp.n_iter_
    assert np.isfinite(mlp.predict(X)).all()
    assert np.array_equal(mlp.coefs_[0], mlp.w0_[0])  # the first epoch had the lowest loss and began at the start
    mlp.set_params(eta="auto", max_epochs=30, warm_start=True).fit(X, y)
    assert mlp.diverged_at_ is None
    assert mlp.loss_ < 0.5
    parts = MLPRegressor((8,), solver="sgd", eta=1e6, random_state=0)
    with pytest.warns(FitWarning, match="diverged"):
        five_parts(parts, X, y)
    assert np.isfinite(parts.predict(X)).all()


# Company -------------------------------------------------------------------------------------------------------------


def test_in_a_pipeline_and_a_grid():
    X, y = load_wine(return_X_y=True)
    mlp = MLPClassifier((6,), max_epochs=40, eta=0.02, random_state=0)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), mlp),
        {"mlpclassifier__init": ["auto", "zeros"], "mlpclassifier__activation": ["tanh"]},
    ).fit(X, y)
    assert search.best_params_["mlpclassifier__init"] == "auto"
    assert search.best_score_ > 0.9


def test_a_clone_keeps_a_fitted_start(iris):
    first = MLPClassifier((5,), **PLAIN).fit(*iris)
    second = clone(MLPClassifier((5,), init=first, **PLAIN)).fit(*iris)
    assert np.array_equal(second.w0_[0], first.coefs_[0])


def test_real_data_is_learned():
    X, y = scaled(load_digits)
    mlp = MLPClassifier((64,), batch_size=64, max_epochs=20, random_state=0).fit(X[:1200], y[:1200])
    assert mlp.score(X[1200:], y[1200:]) > 0.9


# Bad input -----------------------------------------------------------------------------------------------------------

X3 = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0]])


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        ([[0.0, np.nan], [1.0, 0.0], [2.0, 2.0]], [0, 1, 1], "MLPClassifier: Input X contains NaN"),
        ([[0.0, np.inf], [1.0, 0.0], [2.0, 2.0]], [0, 1, 1], "MLPClassifier: Input X contains infinity"),
        (X3, [0, 1], "inconsistent numbers of samples"),
        (X3[0], [0, 1], "Expected 2D array, got 1D array"),
        (X3, [0.5, 1.2, 0.1], "Unknown label type: continuous"),
        (X3, [2, 2, 2], "MLPClassifier: y holds one class, .*2.*; two classes or more are needed"),
        (X3, [[0, 2], [1, 1], [2, 0]], "y has shape|multiclass-multioutput"),
        (X3, ["a", "b", None], "None|NaN|label"),
    ],
)
def test_bad_data_for_a_classifier(X, y, message):
    with pytest.raises(NetError, match=message) as caught:
        MLPClassifier((3,), **PLAIN).fit(X, np.array(y, dtype=object) if None in np.ravel(y) else y)
    assert isinstance(caught.value, SymbreakError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0.0, np.nan, 1.0], "MLPRegressor: Input y contains NaN"),
        (["a", "b", "c"], "MLPRegressor: "),
        ([0.0, 1.0], "inconsistent numbers of samples"),
    ],
)
def test_bad_targets_for_a_regressor(y, message):
    with pytest.raises(NetError, match=message):
        MLPRegressor((3,), **PLAIN).fit(X3, y)


def test_a_constant_target_is_learned_by_the_bias():
    mlp = MLPRegressor((3,), solver="sgd", n_steps=500, random_state=0).fit(X3, [2.0, 2.0, 2.0])
    np.testing.assert_allclose(mlp.predict(X3), 2.0, atol=1e-3)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"activation": "rleu"}, r"MLPClassifier: no activation is called 'rleu'. Nearest: relu, \w+, \w+"),
        ({"activation": "leaky_relu(slop=1)"}, "leaky_relu has no option 'slop' left to set"),
        ({"activation": 3}, "activation=3: expected a name such as 'tanh'"),
        ({"solver": "adma"}, "no solver is called 'adma'. Nearest: adam"),
        ({"eta": 0}, "eta"),
        ({"eta": -0.1}, "eta"),
        ({"eta": "fast"}, "eta='fast': expected a number above 0, or 'auto'"),
        ({"eta": float("nan")}, "eta"),
        ({"max_epochs": 0}, "max_epochs"),
        ({"max_epochs": 1.5}, "max_epochs"),
        ({"n_steps": 5, "batch_size": 2}, "n_steps=5 counts full-batch steps"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": "all"}, r"batch_size='all': expected a whole number, None \(all samples at once\) or 'auto'"),
        ({"momentum": 1.0}, "momentum is 1"),
        ({"alpha": -1.0}, "alpha is -1"),
        ({"tol": -1.0}, "tol is -1"),
        ({"hidden_layer_sizes": (3, 0)}, "hidden_layer_sizes"),
        ({"hidden_layer_sizes": "3"}, "hidden_layer_sizes"),
        ({"hidden_layer_sizes": (2.5,)}, "hidden_layer_sizes"),
        ({"random_state": "seed"}, "seed"),
        ({"warm_start": "maybe"}, "warm_start='maybe': expected False"),
        ({"keep_path": 1}, "keep_path=1"),
        ({"init": "kaimng"}, "no scheme is called 'kaimng'. Nearest: kaiming"),
        ({"init": None}, "init is None; expected a scheme"),
        ({"init": [np.zeros((3, 2)), np.zeros((3, 1))]},
         r"init\[0\] has shape \(3, 2\); fc1.weight needs \(2, 3\), \(units in, units out\) .* pass its transpose"),
        ({"init": [np.zeros((2, 4)), np.zeros((3, 1))]}, r"init\[0\] has shape \(2, 4\); fc1.weight needs \(2, 3\)"),
        ({"init": [np.full((2, 3), np.nan), np.zeros((3, 1))]}, r"init\[0\] holds 6 NaN"),
        ({"init": ["zeros"]}, "init is a list of 1; one for each of fc1.weight, fc2.weight is needed"),
        ({"init": np.zeros((2, 3))}, "init is one array of shape"),
        ({"init_bias": [np.zeros(2), 0.0]}, r"init_bias has shape \(2,\); fc1.bias needs \(3,\)"),
        ({"init": "nowhere.safetensors"}, "there is no file 'nowhere.safetensors'"),
        ({"init": MLPClassifier()}, "init is a MLPClassifier that is not fitted yet"),
        ({"init": ScikitClassifier()}, "init is a MLPClassifier without weights: not fitted yet"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("way", ["fit", "partial_fit"])
def test_bad_knobs_are_explained_and_leave_no_half_fitted_estimator(knobs, message, way):
    mlp = MLPClassifier(**{"hidden_layer_sizes": (3,), "max_epochs": 3, "random_state": 0, **knobs})
    with pytest.raises(NetError, match=message) as caught:
        mlp.fit(X3, [0, 1, 1]) if way == "fit" else mlp.partial_fit(X3, [0, 1, 1], classes=[0, 1])
    assert str(caught.value).startswith("MLPClassifier: ")
    with pytest.raises(NotFittedError):
        mlp.predict(X3)


def test_weights_of_another_model_are_refused(iris, diabetes, tmp_path):
    file = MLPRegressor((5,), **PLAIN).fit(*diabetes).save(tmp_path / "r.safetensors")
    with pytest.raises(NetError, match=r"holds MLPRegressor, with fc1.weight of shape \(5, 10\); fc1.weight needs"):
        MLPClassifier((5,), init=file, **PLAIN).fit(*iris)
    with pytest.raises(NetError, match=r"fc2.weight .* this model has fc1.weight .* fc3.weight"):
        MLPClassifier((5, 5), init=file, **PLAIN).fit(*iris)
    with pytest.raises(NetError, match="holds MLPRegressor"):
        MLPClassifier.load(file)
    three = MLPRegressor((5,), **PLAIN).fit(*diabetes)
    with pytest.raises(NetError, match="warm_start=True goes on from weights of shapes"):
        three.set_params(warm_start=True, hidden_layer_sizes=(6,)).fit(*diabetes)


def test_classes_of_partial_fit():
    with pytest.raises(NetError, match="the first partial_fit needs classes="):
        MLPClassifier((3,)).partial_fit(X3, [0, 1, 1])
    with pytest.raises(NetError, match="one class"):
        MLPClassifier((3,)).partial_fit(X3, [0, 0, 0], classes=[0])
    mlp = MLPClassifier((3,), random_state=0).partial_fit(X3, [0, 1, 1], classes=[0, 1, 2])
    with pytest.raises(NetError, match=r"y holds 5, which is not among the classes \[0, 1, 2\]"):
        mlp.partial_fit(X3, [0, 1, 5])
    with pytest.raises(NetError, match=r"classes=\[0, 1\] are not those of the first call, \[0, 1, 2\]"):
        mlp.partial_fit(X3, [0, 1, 1], classes=[0, 1])
    with pytest.raises(NetError, match="y holds 7"):
        MLPClassifier((3,)).partial_fit(X3, [0, 7, 1], classes=[0, 1])
    with pytest.raises(NetError, match="y has 2 targets, and the net was made for 1"):
        MLPRegressor((3,)).partial_fit(X3, [0.0, 1.0, 2.0]).partial_fit(X3, X3)
    with pytest.raises(NetError, match=r"made for multiclass targets"):
        mlp.partial_fit(X3, [[0, 1], [1, 0], [1, 1]])
    labels = MLPClassifier((3,)).partial_fit(X3, [[0, 1], [1, 0], [1, 1]], classes=[0, 1])
    with pytest.raises(NetError, match="y has 3 labels, and the net was made for 2"):
        labels.partial_fit(X3, [[0, 1, 0], [1, 0, 0], [1, 1, 0]])


def test_other_features_than_those_of_the_fit(iris):
    mlp = MLPClassifier((3,), **PLAIN).fit(*iris)
    with pytest.raises(NetError, match="X has 2 features, but MLPClassifier is expecting 4"):
        mlp.predict(X3)
    with pytest.raises(NetError, match="X has 2 features"):
        mlp.partial_fit(X3, [0, 1, 1])
    with pytest.raises(NetError, match="X has 2 features"):
        mlp.set_params(warm_start=True).fit(X3, [0, 1, 1])


def test_a_batch_larger_than_the_data_takes_all_and_says_so():
    with pytest.warns(NetWarning, match="batch_size=32 is more than the 3 samples there are") as caught:
        large = MLPClassifier((3,), batch_size=32, **PLAIN).fit(X3, [0, 1, 1])
    assert caught[0].filename == __file__
    whole = MLPClassifier((3,), batch_size=None, **PLAIN).fit(X3, [0, 1, 1])
    assert np.array_equal(large.coefs_[0], whole.coefs_[0])


def test_auto_takes_one_where_nothing_bends():
    X, y = np.array([[-1.0], [1.0]]), [0, 1]
    done = MLPClassifier((), solver="sgd", init=[[[1e4]]], n_steps=2).fit(X, y)
    assert (done.eta_, done.loss_) == (1.0, 0.0)
