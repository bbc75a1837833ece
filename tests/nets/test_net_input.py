"""What an estimator says to data, starts and knobs that do not fit. Every message names the estimator."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

from symbreak import SymbreakError
from symbreak.nets import LinearRegression, LogisticRegression, NetError, NetWarning, Perceptron, saved

ALL = [LinearRegression, LogisticRegression, Perceptron]
X, Y = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0], [3.0, 1.0]]), np.array([0, 1, 0, 1])


@pytest.mark.parametrize("net", ALL)
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.where(X == 2, np.nan, X), Y, "contains NaN"),
        (np.where(X == 2, np.inf, X), Y, "contains infinity"),
        (X, [0, 1, 0], r"inconsistent numbers of samples: \[4, 3\]"),
        (X[:, 0], Y, "Expected 2D array, got 1D array"),
        (X[:0], Y[:0], r"0 sample\(s\)"),
        (X[:, :0], Y, r"0 feature\(s\)"),
        (X, np.eye(4), "y should be a 1d array"),
        ([["a", "b"]] * 4, Y, "could not convert string to float: 'a'"),
        (X, None, "requires y to be passed"),
    ],
)
def test_data(net, x, y, message):
    with pytest.raises(NetError, match=rf"(?s)^{net.__name__}: .*{message}") as told:
        net().fit(x, y)
    assert isinstance(told.value, SymbreakError)
    assert isinstance(told.value, ValueError)


@pytest.mark.parametrize("net", ALL)
@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"eta": 0}, "etas? holds 0; a learning rate is above 0"),
        ({"eta": -0.1}, "holds -0.1; a learning rate is above 0"),
        ({"eta": np.nan}, "eta holds 1 NaN or infinite value"),
        ({"eta": "fast"}, "eta='fast': expected a number above 0, or 'auto'"),
        ({"eta": [0.1, 0.2]}, r"eta=\[0.1, 0.2\]: expected one number above 0"),
        ({"eta": True}, "eta=True: expected one number above 0"),
        ({"momentum": 1.0}, "momentum is 1; from 0 up to, but not including, 1"),
        ({"alpha": -1}, "alpha is -1; 0 or more"),
        ({"max_epochs": 0}, "max_epochs is 0; at least 1"),
        ({"max_epochs": 2.5}, "max_epochs holds 2.5; steps are counted in whole numbers"),
        ({"batch_size": 0}, "batch_size is 0; at least 1"),
        ({"n_steps": 5, "batch_size": 2}, "n_steps=5 counts full-batch steps, and batch_size=2 makes mini-batches"),
        ({"n_steps": 0, "batch_size": None}, "n_steps is 0; at least 1"),
        ({"tol": -1}, "tol is -1; 0 or more"),
        ({"n_iter_no_change": 0}, "n_iter_no_change is 0; at least 1"),
        ({"keep_path": 1}, r"keep_path=1: expected 0 \(keep none\), or 2 points"),
        ({"warm_start": "maybe"}, r"warm_start='maybe': expected False \(start again\), True"),
        ({"random_state": -1}, "random_state=-1: a seed is from 0 to"),
        ({"random_state": "x"}, "'x' cannot be used to seed"),
        ({"init": "normla(1)"}, "no scheme is called 'normla'. Nearest: normal"),
        ({"init": np.ones(3)}, r"init has shape \(3,\); coef_ needs \(1, 2\) or \(2,\)"),
        ({"init": np.ones((2, 1))}, r"init has shape \(2, 1\); coef_ needs"),
        ({"init": [np.inf, 0.0]}, "init holds 1 NaN or infinite value"),
        ({"init": "nowhere.safetensors"}, "there is no file 'nowhere.safetensors'"),
        ({"init": LinearRegression()}, "init is a LinearRegression that is not fitted yet. Fit it first"),
        ({"init_bias": [1.0, 2.0]}, r"init_bias has shape \(2,\); intercept_ needs"),
        ({"init_bias": 1.0, "fit_intercept": False}, "init_bias=1.0, but fit_intercept=False leaves no intercept"),
    ],
)  # fmt: skip
def test_knobs_and_starts(net, knobs, message):
    with pytest.raises(NetError, match=rf"^{net.__name__}: .*{message}"):
        net(**knobs).fit(X, Y)
    if "n_steps" not in knobs and knobs != {"max_epochs": 0}:
        told = {} if net is LinearRegression else {"classes": [0, 1]}
        with pytest.raises(NetError, match=rf"^{net.__name__}: .*{message}"):
            net(**knobs).partial_fit(X, Y, **told)


def test_solvers():
    with pytest.raises(NetError, match="solver='magic': expected 'auto', 'exact' or 'steps'"):
        LinearRegression(solver="magic").fit(X, Y)
    with pytest.raises(NetError, match=r"solver='exact' is for full batches without tol, and batch_size=2 is set"):
        LinearRegression(solver="exact", batch_size=2).fit(X, Y)
    with pytest.raises(NetError, match=r"solver='exact' is for full batches without tol, and tol=0.1 is set"):
        LinearRegression(solver="exact", tol=0.1).fit(X, Y)


@pytest.mark.parametrize("net", [LogisticRegression, Perceptron])
def test_classes(net):
    with pytest.raises(NetError, match=rf"^{net.__name__}: y holds one class, .*1.*; two classes or more are needed"):
        net().fit(X, np.ones(4, int))
    with pytest.raises(NetError, match="Unknown label type: continuous"):
        net().fit(X, [0.1, 0.2, 0.3, 0.4])
    with pytest.raises(NetError, match=r"Input y contains NaN"):
        net().fit(X, [0.0, 1.0, np.nan, 1.0])
    with pytest.raises(NetError, match="the first partial_fit needs classes=, all labels there will ever be"):
        net().partial_fit(X, Y)
    with pytest.raises(NetError, match=r"classes=\[1\] holds one class"):
        net().partial_fit(X, [1, 1, 1, 1], classes=[1])
    begun = net().partial_fit(X, Y, classes=[0, 1])
    with pytest.raises(
        NetError, match=rf"^{net.__name__}: y holds 2, 7, which is not among the classes \[0, 1\]\. Name all"
    ):
        begun.partial_fit(X, [0, 2, 7, 1])
    with pytest.raises(NetError, match=r"classes=\[0, 1, 2\] differs from those of the first call, \[0, 1\]"):
        begun.partial_fit(X, Y, classes=[0, 1, 2])
    assert begun.classes_.tolist() == [0, 1]
    with pytest.raises(NetError, match="y holds 2, which is not among"):
        net().partial_fit(X, [0, 2, 0, 1], classes=[0, 1])


def test_the_perceptrons_conventions():
    for labels, y in (((0, 1), [-1, 1, 1, -1]), ((-1, 1), Y), ((0, 1), ["a", "b", "a", "b"]), ((0, 1), [0, 1, 2, 0])):
        with pytest.raises(
            NetError, match=rf"^Perceptron: y holds .*, and labels=\({labels[0]}, 1\) was asked for. Recode y"
        ):
            Perceptron(labels=labels).fit(X, y)
    with pytest.raises(NetError, match="y holds -1, and labels"):
        Perceptron(labels=(0, 1)).partial_fit(X, [-1, 1, 1, 1])
    with pytest.raises(NetError, match=r"labels=\(1, 2\): expected \(0, 1\), \(-1, 1\) or None"):
        Perceptron(labels=(1, 2)).fit(X, Y)
    with pytest.raises(NetError, match=r"labels='01': expected \(0, 1\)"):
        Perceptron(labels="01").fit(X, Y)
    with pytest.raises(NetError, match="y holds one class"):
        Perceptron(labels=(0, 1)).fit(X, [1, 1, 1, 1])


@pytest.mark.parametrize("net", ALL)
def test_before_and_after_fit(net, tmp_path):
    for use in (
        lambda one: one.predict(X),
        lambda one: one.save(tmp_path / "w.safetensors"),
        lambda one: one.tensors(),
    ):
        with pytest.raises(NotFittedError, match=f"This {net.__name__} instance is not fitted yet"):
            use(net())
    fitted = net().fit(X, Y)
    with pytest.raises(NetError, match=rf"^{net.__name__}: X has 3 features, but {net.__name__} is expecting 2"):
        fitted.predict(np.ones((2, 3)))
    with pytest.raises(NetError, match="X has 1 features"):
        fitted.partial_fit(X[:, :1], Y)
    with pytest.raises(NetError, match="contains NaN"):
        fitted.predict([[np.nan, 1.0]])


@pytest.mark.parametrize("net", ALL)
def test_a_fit_that_fails_leaves_the_estimator_unfitted(net):
    broken = net(init=np.ones(5))
    with pytest.raises(NetError):
        broken.fit(X, Y)
    with pytest.raises(NotFittedError):
        broken.predict(X)


@pytest.mark.parametrize("net", ALL)
def test_warm_starts_that_do_not_fit(net):
    again = net(warm_start=True).fit(X, Y)
    with pytest.raises(NetError, match=r"warm_start=True goes on from weights of shapes .*'coef_': \(1, 2\).*need"):
        again.fit(X[:, :1], Y)
    if net is not LinearRegression:
        again = net(warm_start=True).fit(X, Y)
        with pytest.raises(
            NetError, match=r"warm_start=True goes on with the classes \[0, 1\], and y holds \[0, 1, 2\]"
        ):
            again.fit(X, [0, 1, 2, 0])


@pytest.mark.parametrize("net", ALL)
def test_files_of_other_models(net, tmp_path):
    other = ALL[(ALL.index(net) + 1) % 3]().fit(X, Y)
    path = other.save(tmp_path / "w.safetensors")
    with pytest.raises(
        NetError, match=rf"^{net.__name__}: .*w.safetensors holds {type(other).__name__}, with coef_, intercept_"
    ):
        net.load(path)
    net(init=path).fit(X, Y)  # the weights of one neuron are those of another
    with pytest.raises(NetError, match=r"holds \w+, with coef_ of shape \(1, 2\); coef_ needs \(1, 1\)"):
        net(init=path).fit(X[:, :1], Y)
    with pytest.raises(NetError, match=r"there is no file .*Nearest: .*w.safetensors"):
        net.load(tmp_path / "v.safetensors")
    with pytest.raises(NetError, match=rf"^{net.__name__}: .*ends in .safetensors"):
        net().fit(X, Y).save(tmp_path / "w.pkl")
    strange = {"coef_": np.ones((1, 2)), "intercept_": np.ones(1)}
    saved.write(tmp_path / "s.safetensors", saved.Saved(net.__name__, {"depth": 3}, {}, strange))
    with pytest.raises(NetError, match=f"has the parameter 'depth', which {net.__name__} does not have"):
        net.load(tmp_path / "s.safetensors")


def test_weights_of_a_deep_net_are_no_start_of_one_neuron(tmp_path):
    from symbreak.nets.start import layer, start

    deep = start((*layer("fc1", n_in=2, n_out=3), *layer("fc2", n_in=3, n_out=1)), "torch")
    path = saved.write(tmp_path / "deep.safetensors", saved.Saved("MLPClassifier", tensors=deep))
    with pytest.raises(
        NetError, match=r"holds MLPClassifier, with .*; this model has coef_ \(1, 2\), intercept_ \(1,\)"
    ):
        LogisticRegression(init=path).fit(X, Y)


@pytest.mark.parametrize("knobs", [{"batch_size": 2}, {"solver": "steps"}, {}])
def test_an_eta_too_large_is_a_lesson_not_an_error(knobs):
    net = LinearRegression(eta=100.0, max_epochs=3, **knobs)
    for train in (net.fit, LinearRegression(eta=100.0, **knobs).partial_fit):
        with pytest.warns(NetWarning, match="beyond the stability limit") as told:
            train(X, Y)
        assert [one.filename for one in told] == [__file__]  # the user's line, not ours
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Perceptron(eta=1e6).fit(X, Y)  # no rate is too large for a perceptron
