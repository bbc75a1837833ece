"""Laws x catalogue: each against plain runs that share no code with it, and shown to break where it says so."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import plain_runs
import pytest
import torch
from scipy.stats import ortho_group
from test_net_training import net

from symbreak.exact import ArrayError
from symbreak.exact.law import always
from symbreak.exact.laws import LAWS
from symbreak.exact.setups import DescentSetup, HingeSetup, PassiveAggressiveSetup, PerceptronSetup
from symbreak.exact.training import EPS

AND = [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], [0, 0, 0, 1]
OPTIMIZERS = [*EPS]


def data(seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(15, 3))
    return rng, X, rng.normal(size=15)


def perceptrons(seed=0, zero=False, **knobs):
    rng, X, y = data(seed)
    W0 = np.zeros((2, 3)) if zero else rng.normal(size=(2, 3))
    return PerceptronSetup(X, y > 0, W0, [0.3, 1.1], b0=0.0 if zero else 0.7, epochs=6, **knobs)


def hinges(**knobs):
    rng, X, y = data()
    return HingeSetup(X, y > 0, rng.normal(size=(2, 3)), **{"eta": [0.3, 1.1], "margin": 0.8, "epochs": 4, **knobs})


def passive(variant):
    rng, X, y = data()
    return PassiveAggressiveSetup(X, y > 0, rng.normal(size=(2, 3)), variant, C=[0.05, 0.3], margin=0.8, epochs=4)


def descents(**knobs):
    rng, X, y = data()
    return DescentSetup(X, y, rng.normal(size=(2, 3)), [0.05, 0.4], [0, 1, 50], alpha=0.1, **knobs)


LOGISTIC = net((1,), loss="logistic", steps=1)
LOGISTIC = replace(LOGISTIC, weights=[np.zeros((1, 3))], biases=[np.zeros(1)])
SOFTMAX = {"widths": (3,), "loss": "cross_entropy"}
RIGHT = np.array([0.5, 4.0, 0.5])  # factors of three layers, product 1
UNITS = np.array([0.5, 3.0, 1.0, 0.2, 2.0, 0.7])  # factors of 4 + 2 hidden units
DECAYED = [{"optimizer": one, "weight_decay": 0.1, "eps": 1e-6} for one in OPTIMIZERS] + [
    {"momentum": 0.8, "weight_decay": 0.1},
    {"momentum": 0.8, "nesterov": True},
]
SCALES = [0.1, 2.0, 7.3]

CATALOGUE: dict[str, list[tuple[Any, list[Any]]]] = {
    "perceptron-scale": [(perceptrons(seed), SCALES) for seed in range(4)],
    "perceptron-eta": [(perceptrons(seed, zero=True), [2.0, 0.25]) for seed in range(4)],
    "hinge-scale": [(hinges(), SCALES), (hinges(alpha=0.1), SCALES), (hinges(margin=0.0), SCALES)],
    "passive-aggressive-scale": [(passive(variant), SCALES) for variant in ("pa", "pa1", "pa2")],
    "linear-target-scale": [(descents(), SCALES), (descents(momentum=0.8), SCALES)],
    "linear-feature-scale": [(descents(), SCALES), (descents(momentum=0.8, nesterov=True), SCALES)],
    "linear-rotation": [(descents(momentum=m), [ortho_group.rvs(3, random_state=1)]) for m in (0.0, 0.8)],
    "homogeneous-margin": [
        (net(widths, loss="margin", margin=margin, **own), [0.6, 1.7])
        for widths in ((1,), (4, 1), (4, 2, 1))
        for margin in (0.0, 0.5)
        for own in DECAYED
    ],
    "homogeneous-mse": [
        (net(widths, activation=phi, **own), [0.6, 1.7])
        for widths, phi in (((1,), "relu"), ((4, 2), "leaky_relu"), ((4, 2, 1), "identity"))
        for own in DECAYED
    ],
    "scale-invariant": [
        (net(norm_eps=0.0, activation=phi, biases=False, **own), SCALES) for phi in ("relu", "tanh") for own in DECAYED
    ]
    + [(net(norm_eps=0.0, biases=True), SCALES)],
    "relu-gauge": [(net(**own), [RIGHT]) for own in DECAYED],
    "diagonal-gauge": [(net(activation="leaky_relu", **own), [UNITS]) for own in DECAYED],
    "loss-scale": [(net(activation="tanh", **own), SCALES) for own in DECAYED],
    "logistic-first-step": [(LOGISTIC, SCALES)],
    "softmax-sum": [
        (net(**SOFTMAX, biases=biases, **own), [0, 1, 30])
        for biases in (True, False)
        for own in ({}, {"weight_decay": 0.3}, {"momentum": 0.8, "weight_decay": 0.3}, DECAYED[-1])
    ],
    "relu-balance": [
        (net(activation=phi, biases=biases), [0, 1, 30])
        for phi in ("relu", "leaky_relu", "identity")
        for biases in (True, False)
    ],
}
CASES = [
    pytest.param(LAWS[name], setup, c, id=f"{name}-{i}-{j}")
    for name, of_law in CATALOGUE.items()
    for i, (setup, cs) in enumerate(of_law)
    for j, c in enumerate(cs)
]
every_law = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)


def first_case(law):
    setup, cs = CATALOGUE[law.name][0]
    return setup, cs[-1]


def test_every_law_is_in_the_catalogue():
    assert CATALOGUE.keys() == LAWS.keys()
    assert all(law.name == name for name, law in LAWS.items())


@dataclass
class Plain:
    """A run that owes symbreak nothing, in the fields that a law may look at."""

    weights: np.ndarray
    biases: Any = None
    gradients: Any = None
    setup: Any = None


def plainly(setup):
    if isinstance(setup, PerceptronSetup):
        b0 = np.broadcast_to(setup.b0, 2)
        runs = [plain_runs.perceptron(setup.X, setup.y, setup.W0[r], setup.eta[r], b0[r], setup.epochs) for r in (0, 1)]
        return Plain(np.array([w for w, *_ in runs]), biases=np.array([b for _, b, *_ in runs]))
    if isinstance(setup, HingeSetup):
        rest = setup.margin, setup.alpha, setup.epochs
        return Plain(np.array([plain_runs.hinge(setup.X, setup.y, setup.W0[r], setup.eta[r], *rest) for r in (0, 1)]))
    if isinstance(setup, PassiveAggressiveSetup):
        runs = [
            plain_runs.passive_aggressive(
                setup.X, setup.y, setup.W0[r], setup.variant, setup.C[r], setup.margin, setup.epochs
            )
            for r in (0, 1)
        ]
        return Plain(np.array(runs))
    if isinstance(setup, DescentSetup):
        knobs = {"momentum": setup.momentum, "nesterov": setup.nesterov, "weight_decay": setup.alpha}
        return Plain(
            np.array(
                [
                    [
                        plain_runs.least_squares(setup.X, setup.y, w0, eta, 50, **knobs)[setup.steps]
                        for eta in setup.etas
                    ]
                    for w0 in setup.W0
                ]
            )
        )
    path, gradients = plain_runs.network(setup)
    return Plain(path, gradients=gradients, setup=setup)


@pytest.mark.parametrize(("law", "setup", "c"), CASES)
def test_the_law_holds_between_plain_runs(law, setup, c):
    """What the law makes of one run is what torch.optim, or a loop in Python floats, makes of the rescaled setup."""
    assert law.applies(setup)
    mapped, found = law.sees(law.map(setup.run(), c)), law.sees(plainly(law.setup(setup, c)))
    assert mapped.shape == found.shape
    assert np.abs(mapped - found).max() <= 1e-9 * max(1e-3, np.abs(found).max())


@pytest.mark.parametrize(("law", "setup", "c"), CASES)
def test_the_law_verifies_itself(law, setup, c):
    answer = law.verify(setup, c)
    assert answer, answer.because
    assert "differ by" in answer.because


# ---- where it breaks ------------------------------------------------------------------------------------------------


def keep(*fields):
    """The rescaled setup with some fields left as they were."""
    return lambda right, given: replace(right, **{f: getattr(given, f) for f in fields})


def common(right, given):
    """One learning rate for all: the one of the first weight."""
    return replace(right, eta=float(np.asarray(right.eta[0]).ravel()[0]))


def wider_eta(right, given):
    return replace(given, etas=7.3 * np.asarray(given.etas), W0=right.W0)


BREAKS = [
    ("perceptron-scale", perceptrons(), 7.3, keep("W0")),
    ("perceptron-scale", perceptrons(), 7.3, keep("b0")),
    ("hinge-scale", hinges(), 7.3, keep("margin")),
    ("hinge-scale", hinges(alpha=0.1), 7.3, keep("alpha")),
    ("hinge-scale", hinges(), 7.3, keep("eta")),
    *(("passive-aggressive-scale", passive(one), 7.3, keep("margin")) for one in ("pa", "pa1", "pa2")),
    ("passive-aggressive-scale", passive("pa1"), 7.3, keep("C")),
    ("passive-aggressive-scale", passive("pa2"), 7.3, lambda right, given: replace(right, C=7.3 * np.asarray(given.C))),
    ("linear-target-scale", descents(), 7.3, wider_eta),
    ("linear-target-scale", descents(), 7.3, keep("y")),
    ("linear-feature-scale", descents(), 0.1, keep("alpha")),
    ("linear-feature-scale", descents(), 2.0, keep("etas")),
    ("linear-rotation", descents(), np.eye(3)[::-1], keep("W0")),
    ("homogeneous-margin", net((4, 1), loss="margin", margin=1.0), 1.7, keep("margin")),
    ("homogeneous-margin", net((4, 1), loss="margin"), 1.7, common),
    ("homogeneous-margin", net((4, 2, 1), loss="margin", biases=False), 1.7, keep("eta")),
    ("homogeneous-mse", net(), 1.7, keep("y")),
    ("homogeneous-mse", net(), 1.7, common),
    ("scale-invariant", net(norm_eps=0.0, biases=False), 7.3, keep("eta")),
    ("scale-invariant", net(norm_eps=0.0, biases=False, weight_decay=0.1), 7.3, keep("weight_decay")),
    ("relu-gauge", net(), RIGHT, common),
    ("diagonal-gauge", net(optimizer="adam"), UNITS, common),
    ("loss-scale", net(weight_decay=0.1), 7.3, keep("weight_decay")),
    *(("loss-scale", net(optimizer=one, eps=1e-3), 7.3, keep("eps")) for one in OPTIMIZERS if one != "sgd"),
]


@pytest.mark.parametrize(("name", "setup", "c", "spoil"), BREAKS, ids=[f"{b[0]}-{i}" for i, b in enumerate(BREAKS)])
def test_it_breaks_when_something_is_left_as_it_was(name, setup, c, spoil):
    law = LAWS[name]
    assert law.verify(setup, c)
    answer = replace(law, rescale=lambda given, factor: spoil(law.rescale(given, factor), given)).verify(setup, c)
    assert not answer
    assert "differ, by" in answer.because
    assert law.breaks


REFUSED = [
    ("perceptron-eta", perceptrons(), 7.3, "only w0 / eta matters"),
    ("perceptron-eta", replace(perceptrons(zero=True), b0=0.7), 7.3, "the start is not zero"),
    ("homogeneous-margin", net(loss="logistic"), 1.7, "not of 'logistic'"),
    ("homogeneous-margin", net(loss="margin", activation="tanh"), 1.7, r"tanh\(c z\) is not c tanh\(z\)"),
    ("homogeneous-mse", net(activation="sigmoid"), 1.7, "sigmoid"),
    ("homogeneous-mse", net(norm_eps=0.0), 1.7, "the hidden layers are normalised"),
    ("scale-invariant", net(norm_eps=1e-3, biases=False), 7.3, "eps = 0.001 is added to the variance"),
    ("scale-invariant", net(), 7.3, "no hidden layer is normalised"),
    ("relu-gauge", net(activation="tanh"), RIGHT, "tanh"),
    ("diagonal-gauge", net(norm_eps=1e-3), UNITS, "the hidden layers are normalised"),
    ("logistic-first-step", replace(LOGISTIC, steps=2), 7.3, "from the second step on"),
    ("logistic-first-step", net((1,), loss="logistic", steps=1), 7.3, "the start is not zero"),
    *(
        ("softmax-sum", net(**SOFTMAX, optimizer=one), 30, "so they no longer sum")
        for one in OPTIMIZERS
        if one != "sgd"
    ),
    ("softmax-sum", net(**SOFTMAX, eta=[np.array([[0.1], [0.2], [0.3]]), 0.1]), 30, "learning rates or weight decays"),
    *(("relu-balance", net(optimizer=one), 30, "not along the gradient") for one in OPTIMIZERS if one != "sgd"),
    ("relu-balance", net(momentum=0.8), 30, "not along the gradient"),
    ("relu-balance", net(weight_decay=0.1), 30, "not along the gradient"),
    ("relu-balance", net(eta=[0.1, 0.05, 0.02] * 2), 30, "learning rates of their own"),
    ("relu-balance", net(activation="tanh"), 30, "tanh"),
]


@pytest.mark.parametrize(("name", "setup", "c", "says"), REFUSED, ids=[f"{r[0]}-{i}" for i, r in enumerate(REFUSED)])
def test_a_refusal_is_no_overcaution(name, setup, c, says):
    """The law refuses, says why, and run all the same it does break."""
    law = LAWS[name]
    with pytest.raises(ArrayError, match=f"{name} does not apply: .*{says}"):
        law.verify(setup, c)
    assert not replace(law, admits=always("forced")).verify(setup, c)


def test_refusals_that_cannot_be_run():
    assert "there is no hidden layer" in LAWS["relu-gauge"].applies(net((1,))).because
    assert "law of softmax regression" in LAWS["softmax-sum"].applies(net()).because
    assert "law of logistic regression" in LAWS["logistic-first-step"].applies(net()).because


def test_adam_has_preferred_axes_and_gradient_descent_has_none():
    setup, Q = descents(), ortho_group.rvs(3, random_state=1)
    X, y, w0 = setup.X, setup.y, setup.W0[0]
    for optimizer, holds in ((torch.optim.SGD, True), (torch.optim.Adam, False)):
        straight = plain_runs.least_squares(X, y, w0, 0.1, 20, optimizer=optimizer)
        turned = plain_runs.least_squares(X @ Q, y, Q.T @ w0, 0.1, 20, optimizer=optimizer)
        assert (np.abs(straight @ Q - turned).max() < 1e-12) == holds


@every_law
def test_a_law_of_another_model_does_not_apply(law):
    _, c = first_case(law)
    other = descents() if law.of is not DescentSetup else perceptrons()
    assert "is a law of" in law.applies(other).because
    with pytest.raises(ArrayError, match="does not apply"):
        law.setup(other, c)


WRONG = {
    "linear-rotation": (np.ones((3, 3)), np.eye(2), "an orthogonal matrix|a matrix"),
    "relu-gauge": (np.ones(2), np.array([2.0, 2.0, 2.0]), "this law needs|as many are needed"),
    "diagonal-gauge": (np.ones(5), -UNITS, "this law needs|as many are needed"),
    "softmax-sum": (-1, [1, 2], "this law"),
    "relu-balance": (1.5, [1, 2], "this law"),
}


@every_law
def test_a_factor_that_the_law_does_not_allow(law):
    *wrong, says = WRONG.get(law.name, (-1.0, [1.0, 2.0], "this law needs"))
    for one in wrong:
        with pytest.raises(ArrayError, match=says):
            law.verify(CATALOGUE[law.name][0][0], one)


# ---- the laws one by one --------------------------------------------------------------------------------------------


def test_powers_of_two_are_exact_to_the_bit():
    setup, law = perceptrons(), LAWS["perceptron-scale"]
    assert np.array_equal(law.map(setup.run(), 0.25).weights, law.setup(setup, 0.25).run().weights)


def test_the_and_gate_breaks_the_law_in_floats_and_the_tie_is_named():
    setup = PerceptronSetup(*AND, [[0.0, 0.0]], 1.0, b0=0.0, epochs=10)
    answer = LAWS["perceptron-eta"].verify(setup, 0.1)
    assert not answer
    assert "at the boundary but for rounding" in answer.because
    assert LAWS["perceptron-eta"].verify(setup, 0.5)


def test_a_tie_at_the_margin_is_named():
    with_intercept = np.c_[AND[0], np.ones(4)]
    setup = HingeSetup(with_intercept, AND[1], [[0.0, 0.0, 0.0]], 1.0, margin=1.0, epochs=20)
    answer = LAWS["hinge-scale"].verify(setup, 0.1)
    assert not answer
    assert "at the boundary but for rounding" in answer.because
    assert LAWS["hinge-scale"].verify(setup, 0.5)


def test_conventions_of_targets():
    """{-1, +1} with w += (eta / 2) (y - sgn z) x, sgn 0 = +1, is {0, 1}; updating wherever y z <= 0 is not."""
    setup = perceptrons(zero=True)
    X, y = setup.X, 2 * np.asarray(setup.y).astype(int) - 1
    w, b, eta = np.zeros(3), 0.0, 0.3
    for _ in range(setup.epochs):
        for x, label in zip(X, y, strict=True):
            pull = eta / 2 * (label - (1 if x @ w + b >= 0 else -1))
            w, b = w + pull * x, b + pull
    run = setup.run()
    assert run.weights[0] == pytest.approx(w, abs=1e-12)
    one_positive = PerceptronSetup([[2.0]], [1], [[0.0]], 1.0)
    assert one_positive.run().weights.item() == 0.0
    assert plain_runs.perceptron([[2.0]], [1], [0.0], 1.0, 0.0, 1, update_at_zero=True)[0] == [2.0]


def test_the_effective_learning_rate_is_eta_over_the_squared_weights():
    """Twice the weights at four times eta: the same outputs. At the same eta: another path."""
    setup, law = net(norm_eps=0.0, biases=False), LAWS["scale-invariant"]
    assert law.setup(setup, 2.0).run().losses == pytest.approx(setup.run().losses, rel=1e-12)
    same_eta = replace(law.setup(setup, 2.0), eta=setup.eta)
    assert same_eta.run().losses[-1] != pytest.approx(setup.run().losses[-1], rel=1e-3)


def test_two_layers_without_margin_keep_their_learning_rate():
    law, setup = LAWS["homogeneous-margin"], net((4, 1), loss="margin", biases=False)
    assert np.concatenate([one.ravel() for one in law.setup(setup, 1.7).eta]) == pytest.approx(setup.eta)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "rmsprop"])
def test_adaptive_steps_with_the_default_eps_follow_a_scaled_loss_only_nearly(optimizer):
    setup = net(optimizer=optimizer, activation="tanh")
    apart = np.abs(replace(setup, loss_scale=100.0).run().weights - setup.run().weights).max()
    assert 1e-9 < apart < 1e-2


def test_the_first_step_of_logistic_regression():
    y = (np.asarray(LOGISTIC.y) + 1) / 2
    first = LOGISTIC.run().weights[1]
    assert first[:3] == pytest.approx(LOGISTIC.eta * ((y - 0.5)[:, None] * np.asarray(LOGISTIC.X)).mean(axis=0))
    assert first[3] == pytest.approx(LOGISTIC.eta * (y - 0.5).mean())


def test_balance_drifts_in_proportion_to_eta_over_a_given_time():
    def drift(parts):
        run = net(eta=0.02 / parts, steps=50 * parts, activation="identity").run()
        at = [run.tensors(0), run.tensors(50 * parts)]
        start, end = ((t[1] ** 2).sum(axis=1) + t[4] ** 2 - (t[2] ** 2).sum(axis=0) for t in at)
        return end - start

    assert np.abs(drift(1)).min() > 1e-6
    assert drift(1) / drift(2) == pytest.approx([2.0, 2.0], rel=0.1)
    assert drift(2) / drift(4) == pytest.approx([2.0, 2.0], rel=0.05)


def test_a_run_out_of_range_is_not_called_equal():
    answer = LAWS["homogeneous-mse"].verify(net(eta=1e3, steps=400), 1.7)
    assert not answer
    assert "has left the range of float64" in answer.because


def test_importing_the_room_loads_neither_torch_nor_numba():
    ask = "import sys, symbreak.exact; print([name for name in ('torch', 'numba', 'sklearn') if name in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
