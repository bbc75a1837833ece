"""Linear regression against lstsq, scikit-learn, torch and a loop that anyone would write."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression as Least
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from symbreak.exact import descent
from symbreak.nets import LinearRegression, NetWarning, shrink_perturb


def problem(n=30, d=4, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    return X, X @ rng.normal(size=d) + rng.normal(size=n) + 2.0


def diabetes():
    X, y = load_diabetes(return_X_y=True)
    return StandardScaler().fit_transform(X), y


def loop(X, y, w, b, eta, steps, *, momentum=0.0, nesterov=False, alpha=0.0, bias=True):
    """Full-batch descent as a textbook has it; the losses before each step, and all weights."""
    w, b, vw, vb, losses, path = np.array(w, float), float(b), 0.0, 0.0, [], []
    for _ in range(steps):
        path.append((w.copy(), b))
        error = X @ w + b - y
        losses.append(error @ error / (2 * len(y)) + alpha * w @ w / 2)
        gw, gb = X.T @ error / len(y) + alpha * w, error.mean() * bias
        vw, vb = momentum * vw + gw, momentum * vb + gb
        w = w - eta * (gw + momentum * vw if nesterov else vw)
        b = b - eta * (gb + momentum * vb if nesterov else vb)
    return w, b, losses, [*path, (w, b)]


KNOBS = st.sampled_from(
    [{}, {"momentum": 0.9}, {"momentum": 0.5, "nesterov": True}, {"alpha": 0.3}, {"alpha": 0.1, "momentum": 0.8}]
)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 40), st.booleans(), KNOBS, st.integers(0, 2**32 - 1))
def test_closed_form_steps_and_loop_agree(n, d, steps, bias, knobs, seed):
    X, y = problem(n, d, seed)
    w0, b0 = np.random.default_rng(seed).normal(size=d), 0.7 if bias else 0.0
    given_ = {"init": w0, "init_bias": b0 if bias else None, "fit_intercept": bias, "eta": 0.02, "n_steps": steps}
    with warnings.catch_warnings(action="ignore"):  # of one sample the target is constant
        exact = LinearRegression(**given_, **knobs, keep_path=100).fit(X, y)
        steps_ = LinearRegression(**given_, **knobs, keep_path=100, solver="steps").fit(X, y)
    w, b, losses, path = loop(X, y, w0, b0, 0.02, steps, **knobs, bias=bias)
    for line in (exact, steps_):
        np.testing.assert_allclose(line.coef_, w, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(line.intercept_, b, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(line.loss_path_, losses, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(line.coef_path_, [w for w, _ in path], rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(line.intercept_path_, [b for _, b in path], rtol=1e-9, atol=1e-11)
        assert line.coef_steps_.tolist() == list(range(steps + 1))
        assert line.loss_steps_.tolist() == list(range(steps))
        assert line.n_iter_ == steps
        assert line.w0_.tolist() == w0.tolist()
        assert line.b0_ == b0


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_it_is_the_closed_form_of_the_exact_engine(n, d, seed):
    X, y = problem(n, d, seed)
    w0 = np.random.default_rng(seed).normal(size=d + 1)
    line = LinearRegression(init=w0[:-1], init_bias=w0[-1], n_steps=1000, eta=0.05)
    with warnings.catch_warnings(action="ignore"):
        line.fit(X, y)
    direct = descent.path(np.c_[X, np.ones(n)], y, w0, 0.05, 1000)[0, 0, 0]
    np.testing.assert_allclose(np.append(line.coef_, line.intercept_), direct, rtol=1e-9, atol=1e-11)


def test_the_end_is_the_least_squares_line_on_real_data():
    for X, y in (load_diabetes(return_X_y=True), diabetes()):  # raw: the slowest mode takes ten million steps
        least = Least().fit(X, y)
        for init in ("zeros", "normal(100.0)"):
            line = LinearRegression(init=init, random_state=0).fit(X, y)
            np.testing.assert_allclose(line.coef_, least.coef_, rtol=1e-8, atol=1e-6)
            assert line.intercept_ == pytest.approx(least.intercept_)
            assert line.score(X, y) == pytest.approx(least.score(X, y))


@pytest.mark.parametrize("knobs", [{"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}, {"eta": 1.0}])
def test_every_form_of_descent_ends_there(knobs):
    X, y = problem()
    np.testing.assert_allclose(LinearRegression(**knobs).fit(X, y).coef_, Least().fit(X, y).coef_, rtol=1e-10)


@pytest.mark.parametrize(("n", "d"), [(30, 4), (4, 30)])
def test_the_penalty_is_ridges_and_leaves_the_intercept_alone(n, d):
    X, y = problem(n, d)
    ridge = Ridge(alpha=n * 0.3).fit(X, y)
    line = LinearRegression(alpha=0.3, init="normal(1)", random_state=1).fit(X, y)
    np.testing.assert_allclose(line.coef_, ridge.coef_, rtol=1e-9, atol=1e-12)
    assert line.intercept_ == pytest.approx(ridge.intercept_)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_more_features_than_samples_keep_what_no_sample_sees(n, extra, seed):
    X, y = problem(n, n + extra, seed)
    w0 = np.random.default_rng(seed).normal(size=n + extra)
    with warnings.catch_warnings(action="ignore"):
        zero = LinearRegression(fit_intercept=False).fit(X, y).coef_
        other = LinearRegression(fit_intercept=False, init=w0).fit(X, y).coef_
    least_norm = np.linalg.lstsq(X, y, rcond=None)[0]
    np.testing.assert_allclose(zero, least_norm, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(other, least_norm + w0 - np.linalg.pinv(X) @ X @ w0, rtol=1e-6, atol=1e-8)


def test_columns_that_repeat_or_are_empty():
    X, y = problem(200, 3)
    X = np.c_[X, X[:, 0], np.zeros(200), X @ [1.0, -2.0, 0.5]]
    line = LinearRegression(init=np.arange(6.0)).fit(X, y)
    assert line.coef_[4] == 4.0  # never seen, to the last bit
    assert line.coef_[0] - line.coef_[3] == pytest.approx(0.0 - 3.0)  # twins keep their distance
    np.testing.assert_allclose(line.predict(X), Least().fit(X, y).predict(X), rtol=1e-9)


def test_nothing_to_see_at_all():
    line = LinearRegression(fit_intercept=False, init=[3.0]).fit(np.zeros((4, 1)), [1.0, 2.0, 3.0, 4.0])
    assert line.coef_.tolist() == [3.0]
    assert line.eta_ == 1.0
    assert line.loss_path_[0] == pytest.approx(30 / 8)


def test_many_steps_cost_nothing_and_lose_nothing():
    X, y = problem()
    line = LinearRegression(n_steps=10**18, eta=1e-18).fit(X, y)
    w = descent.path(np.c_[X, np.ones(30)], y, np.zeros(5), 1e-18, 10**18)[0, 0, 0]
    np.testing.assert_allclose(np.append(line.coef_, line.intercept_), w, rtol=1e-10)
    assert len(line.loss_path_) <= 100
    assert line.n_iter_ == 10**18
    assert (np.diff(line.loss_path_) <= 0).all()


def test_eta_auto_is_half_the_limit():
    X, y = diabetes()
    largest = np.linalg.eigvalsh(np.c_[X, np.ones(len(X))].T @ np.c_[X, np.ones(len(X))] / len(X))[-1]
    assert LinearRegression().fit(X, y).eta_ == pytest.approx(1 / largest)
    assert LinearRegression(solver="steps", max_epochs=1).fit(X, y).eta_ == pytest.approx(1 / largest)
    assert LinearRegression(momentum=0.5).fit(X, y).eta_ == pytest.approx(1.5 / largest)
    wide = LinearRegression(solver="steps", max_epochs=1).fit(X[:5], y[:5])
    assert wide.eta_ == pytest.approx(LinearRegression().fit(X[:5], y[:5]).eta_)


@pytest.mark.parametrize("batch_size", [1, 7])
def test_eta_auto_makes_no_batch_worse(batch_size):
    X, y = diabetes()
    line = LinearRegression(batch_size=batch_size, max_epochs=1, alpha=0.5).fit(X, y)
    assert line.eta_ == pytest.approx(1 / ((X**2).sum(axis=1).max() + 1 + 0.5))
    assert LinearRegression(batch_size=batch_size, max_epochs=20, random_state=0).fit(X, y).score(X, y) > 0.35


@pytest.mark.parametrize(
    ("knobs", "limit"),
    [({}, 2.0), ({"momentum": 0.5}, 3.0), ({"momentum": 0.5, "nesterov": True}, 1.5), ({"alpha": 1.0}, 1.0)],
)
@pytest.mark.parametrize("solver", ["exact", "steps"])
def test_beyond_the_limit_it_says_so_and_diverges(knobs, limit, solver):
    X, y = np.array([[1.0], [1.0]]), np.array([1.0, 2.0])
    both = {"fit_intercept": False, "solver": solver, "n_steps": 200, "init": 1.0} | knobs
    converged = LinearRegression(eta=limit * 0.999, **both).fit(X, y)
    assert converged.loss_path_[-1] <= converged.loss_path_[0] * 1.1
    with pytest.warns(
        NetWarning, match=rf"eta={limit * 1.05:g} is beyond the stability limit 2 / lambda_max.* = {limit:g} "
    ):
        diverged = LinearRegression(eta=limit * 1.05, **both).fit(X, y)
    assert diverged.loss_path_[-1] > 10 * diverged.loss_path_[0]
    assert abs(diverged.coef_[0]) > 10


def test_divergence_is_followed_into_infinity_without_a_crash():
    X, y = problem()
    for solver in ("exact", "steps"):
        with pytest.warns(NetWarning, match=r"loss and weights grow without bound \(they diverge\)"):
            line = LinearRegression(eta=50.0, solver=solver).fit(X, y)
        assert not np.isfinite(line.coef_).all()
        assert line.n_iter_ == 1000


def test_torch_takes_the_same_mini_batch_steps():
    X, y = diabetes()
    y = y / 100
    line = LinearRegression(
        batch_size=50,
        shuffle=False,
        max_epochs=3,
        eta=0.01,
        momentum=0.9,
        nesterov=True,
        alpha=0.1,
        init="normal(0.5)",
        random_state=4,
    ).fit(X, y)
    w = torch.tensor(line.w0_, requires_grad=True)
    b = torch.tensor(line.b0_, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([w, b], lr=0.01, momentum=0.9, nesterov=True)
    losses = []
    for _ in range(3):
        total = 0.0
        for first in range(0, len(X), 50):
            x, target = torch.from_numpy(X[first : first + 50]), torch.from_numpy(y[first : first + 50])
            optimizer.zero_grad()
            loss = ((x @ w + b - target) ** 2).mean() / 2 + 0.05 * (w @ w)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(x)
        losses.append(total / len(X))
    np.testing.assert_allclose(line.coef_, w.detach(), rtol=1e-10)
    np.testing.assert_allclose(line.intercept_, b.item(), rtol=1e-10)
    np.testing.assert_allclose(line.loss_path_, losses, rtol=1e-10)


def test_online_is_one_sample_after_another():
    X, y = problem(10, 3)
    line = LinearRegression(batch_size=1, shuffle=False, max_epochs=2, eta=0.1, alpha=0.01).fit(X, y)
    w, b = np.zeros(3), 0.0
    for _ in range(2):
        for x, target in zip(X, y, strict=True):
            error = x @ w + b - target
            w, b = w - 0.1 * (error * x + 0.01 * w), b - 0.1 * error
    np.testing.assert_allclose(line.coef_, w, rtol=1e-12)
    np.testing.assert_allclose(line.intercept_, b, rtol=1e-12)


def test_same_seed_same_weights():
    X, y = diabetes()
    knobs = {"batch_size": 16, "init": "torch", "max_epochs": 3}
    one, two, other = (LinearRegression(**knobs, random_state=seed).fit(X, y) for seed in (3, 3, 4))
    assert (one.coef_ == two.coef_).all()
    assert (one.w0_ != other.w0_).all()
    same_start = LinearRegression(**knobs | {"init": one.w0_, "init_bias": one.b0_}, random_state=4).fit(X, y)
    assert (same_start.coef_ != one.coef_).all()  # another order of the samples
    assert one.b0_ != 0  # torch draws biases too


def test_tol_stops_early():
    X, y = diabetes()
    line = LinearRegression(tol=1e-3).fit(X, y)
    assert line.n_iter_ < 1000
    assert (line.loss_path_[:-6] - line.loss_path_[5:-1] > 1e-3).all()
    assert line.loss_path_[-6] - line.loss_path_[-1] <= 5e-3
    assert LinearRegression(tol=0.0, max_epochs=50).fit(X, y).n_iter_ == 50


def test_the_path_is_thinned():
    X, y = problem()
    for solver in ("exact", "steps"):
        line = LinearRegression(solver=solver, n_steps=500, keep_path=6).fit(X, y)
        assert line.coef_steps_.tolist() == [0, 1, 5, 22, 106, 500]
        assert line.coef_path_.shape == (6, 4)
        assert line.intercept_path_.shape == (6,)
        assert (line.coef_path_[0] == line.w0_).all()
        assert (line.coef_path_[-1] == line.coef_).all()
    stopped = LinearRegression(tol=1e-2, keep_path=1000).fit(X, y)
    assert stopped.coef_steps_[-1] == stopped.n_iter_ < 1000
    assert not hasattr(LinearRegression().fit(X, y), "coef_path_")


def test_start_again_keep_training_and_in_between():
    X, y = problem()
    line = LinearRegression(n_steps=5, eta=0.1).fit(X, y)
    five = line.coef_
    assert (line.fit(X, y).coef_ == five).all()
    line.set_params(warm_start=True).fit(X, y)
    assert (line.w0_ == five).all()
    np.testing.assert_allclose(line.coef_, LinearRegression(n_steps=10, eta=0.1).fit(X, y).coef_, rtol=1e-12)
    ten = line.coef_
    line.set_params(warm_start="shrink_perturb(shrink=0.5, noise=0.0)").fit(X, y)
    np.testing.assert_array_equal(line.w0_, 0.5 * ten)
    before = line.coef_
    line.set_params(warm_start=shrink_perturb(), random_state=1).fit(X, y)
    drawn = LinearRegression(init="torch", random_state=1, n_steps=1).fit(X, y)
    np.testing.assert_allclose(line.w0_, 0.4 * before + 0.1 * drawn.w0_)


def test_shrink_and_perturb_draws_from_init_where_that_is_random():
    X, y = problem()
    line = LinearRegression(
        init="normal(3.0)", random_state=2, n_steps=2, warm_start="shrink_perturb(shrink=0, noise=1)"
    )
    assert (line.fit(X, y).w0_ == line.fit(X, y).w0_).all()  # the same fresh start, of the same seed
    assert line.w0_.std() > 0.5


def test_partial_fit_is_fit_epoch_by_epoch():
    X, y = problem()
    knobs = {"eta": 0.05, "momentum": 0.9, "alpha": 0.1}
    for how in ({"batch_size": 7}, {"batch_size": 1, "shuffle": False}, {"solver": "steps"}):
        whole = LinearRegression(**knobs, **how, max_epochs=4, random_state=1).fit(X, y)
        parts = LinearRegression(**knobs, **how, random_state=1)
        for _ in range(4):
            parts.partial_fit(X, y)
        assert (parts.coef_ == whole.coef_).all()
        assert (parts.loss_path_ == whole.loss_path_).all()
        assert parts.n_iter_ == 4
        assert (parts.w0_ == 0).all()


def test_partial_fit_goes_on_after_fit_and_after_load(tmp_path):
    X, y = problem()
    whole = LinearRegression(eta=0.1, n_steps=6).fit(X, y)
    part = LinearRegression(eta=0.1, n_steps=5).fit(X, y)
    loaded = LinearRegression.load(part.save(tmp_path / "w.safetensors"))
    for line in (part, loaded):
        np.testing.assert_allclose(line.partial_fit(X, y).coef_, whole.coef_, rtol=1e-12)
        assert line.n_iter_ == 6


def test_pretrained_weights_are_kept_and_trained_further(tmp_path):
    X, y = problem()
    taught = LinearRegression(n_steps=20, eta=0.1).fit(X, y)
    path = taught.save(tmp_path / "taught.safetensors")
    for init in (taught, path, str(path)):
        student = LinearRegression(init=init, n_steps=20, eta=0.1).fit(X, y)
        assert (student.w0_ == taught.coef_).all()
        assert student.b0_ == taught.intercept_
        np.testing.assert_allclose(student.coef_, LinearRegression(n_steps=40, eta=0.1).fit(X, y).coef_, rtol=1e-12)
    done = Least().fit(X, y)
    assert LinearRegression(init=done, n_steps=1).fit(X, y).loss_path_[0] == pytest.approx(
        ((done.predict(X) - y) ** 2).mean() / 2
    )


@pytest.mark.parametrize("init", ["normal(0.5)", 0.25, [1.0, 2.0, 3.0, 4.0]])
def test_save_and_load(tmp_path, init):
    X, y = problem()
    line = LinearRegression(
        init=init, init_bias="constant(2)", random_state=1, n_steps=9, warm_start=shrink_perturb()
    ).fit(X, y)
    back = LinearRegression.load(line.save(tmp_path / "line.safetensors"))
    assert back.get_params() == line.get_params() | {"warm_start": repr(shrink_perturb())}
    for name in ("coef_", "intercept_", "w0_", "b0_", "loss_path_", "loss_steps_", "n_iter_", "eta_", "n_features_in_"):
        np.testing.assert_array_equal(getattr(back, name), getattr(line, name))
    assert (back.predict(X) == line.predict(X)).all()


def test_what_cannot_be_written_down_is_saved_as_the_start_it_was(tmp_path):
    X, y = problem()
    taught = LinearRegression().fit(X, y)
    line = LinearRegression(
        init=taught, init_bias=np.array([3.0]), n_steps=2, random_state=np.random.RandomState(0)
    ).fit(X, y)
    back = LinearRegression.load(line.save(tmp_path / "line.safetensors"))
    assert (back.fit(X, y).coef_ == line.coef_).all()
    assert back.b0_ == 3.0
    assert back.random_state is None


def test_one_number_everywhere_is_told():
    X, _ = problem()
    with pytest.warns(NetWarning, match="y is 3 in every sample, so the features have nothing to explain"):
        line = LinearRegression().fit(X, np.full(30, 3.0))
    np.testing.assert_allclose(line.predict(X), 3.0)
