"""Networks in NumPy against torch: autograd and torch.optim, every optimizer, loss and activation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from plain_runs import network

from symbreak.exact import ArrayError
from symbreak.exact.setups import NetSetup
from symbreak.exact.training import ACTIVATIONS, EPS

N, D = 9, 3


def net(widths=(4, 2, 1), *, biases=True, seed=0, **knobs):
    rng = np.random.default_rng(seed)
    sizes = (D, *widths)
    weights = [rng.normal(size=(o, i)) * 0.7 for i, o in zip(sizes, widths, strict=False)]
    own = [rng.normal(size=o) * 0.3 for o in widths] if biases else None
    loss = knobs.get("loss", "mse")
    y = {
        "mse": rng.normal(size=(N, widths[-1])),
        "margin": rng.choice([-1.0, 1.0], N),
        "logistic": rng.choice([-1.0, 1.0], N),
        "cross_entropy": np.arange(N) % widths[-1],
    }[loss]
    return NetSetup(rng.normal(size=(N, D)), y, weights, own, **{"steps": 12, "eta": 0.05, **knobs})


CASES = [
    *({"optimizer": one, "weight_decay": 0.1} for one in EPS),
    {"momentum": 0.8},
    {"momentum": 0.8, "nesterov": True, "weight_decay": 0.1},
    *({"activation": one} for one in ACTIVATIONS),
    *({"loss": one, "margin": 0.3} for one in ("margin", "logistic")),
    {"loss": "cross_entropy", "widths": (4, 3)},
    {"norm_eps": 1e-5},
    {"norm_eps": 0.0, "optimizer": "adam", "biases": False},
    {"widths": (1,), "loss": "logistic"},
    {"widths": (3,), "loss": "cross_entropy", "loss_scale": 2.5},
    {"optimizer": "adam", "eta": [0.1, 0.02, 0.3], "eps": [1e-3, 0.1, np.ones((1, 2))], "biases": False},
    {"eta": [np.full((4, 1), 0.1), 0.02, 0.3], "biases": False, "weight_decay": 0.2},
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_torch(case):
    setup = net(**case)
    run = setup.run()
    path, gradients = network(setup)
    assert np.abs(run.weights - path).max() < 1e-12
    assert np.abs(run.gradients - gradients).max() < 1e-12
    assert len(run.losses) == 13
    assert [t.shape for t in run.tensors(12)] == [t.shape for t in setup.tensors]


def test_zero_steps_are_the_start():
    setup = net(steps=0)
    assert np.array_equal(setup.run().weights[0], np.concatenate([t.ravel() for t in setup.tensors]))


def test_a_diverging_run_comes_back():
    assert not np.isfinite(net(eta=1e3, steps=200).run().weights[-1]).all()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"optimizer": "muon"}, "optimizer is 'muon'; one of sgd, adam"),
        ({"loss": "hinge"}, "loss is 'hinge'; one of mse, margin"),
        ({"activation": "gelu"}, "activation is 'gelu'; one of identity, relu"),
        ({"weights": []}, "weights is empty"),
        (
            {"weights": [np.ones((2, 2))], "biases": None},
            r"weights\[0\] has shape \(2, 2\); \(out units, 3\) is needed",
        ),
        ({"biases": [np.ones(4)]}, "biases has 1 entries for 3 layers"),
        ({"biases": [np.ones(4), np.ones(3), np.ones(1)]}, r"biases\[1\] has shape \(3,\); \(2,\) is needed"),
        ({"y": np.ones(4)}, "X has 9 samples and y has 4"),
        ({"y": np.ones((9, 2))}, r"y has shape \(9, 2\), and the network 1 outputs"),
        ({"loss": "logistic", "y": np.arange(9.0)}, "y needs -1 and"),
        ({"loss": "cross_entropy", "y": np.arange(9.0)}, "y needs classes 0 to 0"),
        ({"X": np.ones((1, 3)), "y": [1.0], "norm_eps": 0.1}, "X has 1 sample; a batch to normalise"),
        ({"norm_eps": -1.0}, "norm_eps is -1"),
        ({"eta": [0.1, 0.2]}, "eta has 2 entries for 6 tensors"),
        ({"eta": [np.ones(7)] * 6}, "eta does not broadcast"),
        ({"eta": 0.0}, "eta holds 0"),
        ({"eps": -1.0}, "eps holds -1"),
        ({"weight_decay": -1.0}, "weight_decay holds -1"),
        ({"momentum": 1.0}, "momentum is 1"),
        ({"steps": -1}, "steps holds -1"),
        ({"loss_scale": 0.0}, "loss_scale holds 0"),
        ({"margin": -1.0}, "margin is -1"),
    ],
)
def test_a_mistake_is_named(wrong, says):
    with pytest.raises(ArrayError, match=says):
        replace(net(), **wrong).run()
