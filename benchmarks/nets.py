"""Single fits of the estimators against scikit-learn's, side by side in one run, on data that ships with scikit-learn.

    OMP_NUM_THREADS=1 python benchmarks/nets.py [one_neuron] [multilayer]

Times are medians over repeats; the contestants take turns, so that a busy machine slows both. Budget of each line: no
slower than scikit-learn, once the kernels are compiled (the first line says what that takes).
"""

from __future__ import annotations

import functools
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Perceptron as ScikitPerceptron
from sklearn.linear_model import SGDClassifier, SGDRegressor
from sklearn.neural_network import MLPClassifier as ScikitMLP
from sklearn.preprocessing import StandardScaler
from torch import nn

from symbreak.nets import LinearRegression, LogisticRegression, MLPClassifier, Perceptron, Spec, build
from symbreak.schemes import torch_default

REPEATS = 41
EPOCHS = 20  # of the multilayer perceptrons
ROOM = 1.05  # two runs of one program differ by this much


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def against(what: str, ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int = REPEATS) -> bool:
    """Print both medians and the median of the paired ratios; whether ours is no slower."""
    ours(), theirs()
    rounds = [(seconds(ours), seconds(theirs)) for _ in range(repeats)]
    mine, other = (statistics.median(column) for column in zip(*rounds, strict=True))
    ratio = statistics.median(b / a for a, b in rounds)
    met = ratio * ROOM >= 1
    print(f"  {what:<78} {mine * 1e3:8.2f} ms {other * 1e3:8.2f} ms {ratio:6.2f} x{'' if met else '  MISSED'}")
    return met


def standard(load: Callable[..., Any]) -> tuple[np.ndarray, np.ndarray]:
    X, y = load(return_X_y=True)
    return StandardScaler().fit_transform(X), y


# One neuron ------------------------------------------------------------------------------------------------------


def one_neuron() -> bool:
    X, y = standard(load_diabetes)
    first = seconds(lambda: LinearRegression(batch_size=1, max_epochs=1).fit(X, y))
    print(f"one neuron; ours, scikit-learn's, how many times faster. First call, compiling or loading: {first:.2f} s")
    return all([*linear(X, y), *perceptrons(), *logistic()])


def linear(X: np.ndarray, y: np.ndarray) -> list[bool]:
    rng = np.random.default_rng(0)
    A = rng.normal(size=(20_000, 50))
    b = A @ rng.normal(size=50) + rng.normal(size=len(A))
    scikit: dict[str, Any] = {
        "random_state": 0,
        "tol": None,
        "penalty": None,
        "learning_rate": "constant",
        "eta0": 1e-3,
    }
    ours: dict[str, Any] = {"random_state": 0, "eta": 1e-3, "batch_size": 1}
    return [
        against(
            f"LinearRegression, to the minimum; SGDRegressor: diabetes {X.shape}",
            lambda: LinearRegression().fit(X, y),
            lambda: SGDRegressor(random_state=0).fit(X, y),
        ),
        against(
            f"the same: made data {A.shape}",
            lambda: LinearRegression().fit(A, b),
            lambda: SGDRegressor(random_state=0).fit(A, b),
            repeats=7,
        ),
        against(
            "online, 20 epochs, one eta: diabetes",
            lambda: LinearRegression(max_epochs=20, **ours).fit(X, y),
            lambda: SGDRegressor(max_iter=20, **scikit).fit(X, y),
        ),
        against(
            f"online, 5 epochs, one eta: made data {A.shape}",
            lambda: LinearRegression(max_epochs=5, **ours).fit(A, b),
            lambda: SGDRegressor(max_iter=5, **scikit).fit(A, b),
            repeats=7,
        ),
    ]


def perceptrons() -> list[bool]:
    X, y = standard(load_breast_cancer)
    w0 = np.random.default_rng(0).normal(size=X.shape[1])  # from zeros the two differ, at z = 0
    met = []
    for shuffle in (False, True):
        for epochs in (5, 20, 100):
            ours = Perceptron(init=w0, shuffle=shuffle, max_epochs=epochs, random_state=0)
            scikit = ScikitPerceptron(shuffle=shuffle, tol=None, max_iter=epochs, random_state=0)
            met.append(
                against(
                    f"Perceptron, {epochs} epochs{', shuffled' if shuffle else ''}: breast_cancer {X.shape}",
                    lambda one=ours: one.fit(X, y),  # type: ignore[misc]
                    lambda one=scikit: one.fit(X, y, coef_init=w0[None].copy()),  # type: ignore[misc]
                )
            )
            if not shuffle:
                met.append(equal(ours, scikit))
    X, y = standard(load_digits)
    W0 = np.random.default_rng(0).normal(size=(10, X.shape[1]))
    many, others = Perceptron(init=W0, max_epochs=20), ScikitPerceptron(shuffle=False, tol=None, max_iter=20)
    return [
        *met,
        against(
            f"Perceptron, one of ten against the rest, 20 epochs: digits {X.shape}",
            lambda: many.fit(X, y),
            lambda: others.fit(X, y, coef_init=W0.copy()),
            repeats=7,
        ),
        equal(many, others),
    ]


def equal(ours: Any, scikit: Any) -> bool:
    same = np.array_equal(ours.coef_, scikit.coef_) and np.array_equal(ours.intercept_, scikit.intercept_)
    print(f"    weights equal to the last bit: {same}")
    return same


def logistic() -> list[bool]:
    X, y = standard(load_breast_cancer)
    scikit: dict[str, Any] = {"loss": "log_loss", "tol": None, "penalty": None, "learning_rate": "constant"}
    return [
        against(
            f"LogisticRegression online, 20 epochs; SGDClassifier: breast_cancer {X.shape}",
            lambda: LogisticRegression(batch_size=1, eta=1e-3, max_epochs=20, random_state=0).fit(X, y),
            lambda: SGDClassifier(eta0=1e-3, max_iter=20, random_state=0, **scikit).fit(X, y),
        )
    ]


# Multilayer perceptrons ------------------------------------------------------------------------------------------


def multilayer() -> bool:
    """The same batch size, epochs and solver; and what a loop over autograd and torch.optim takes."""
    X, y = load_digits(return_X_y=True)
    print(f"multilayer perceptrons, digits {X.shape}, {EPOCHS} epochs; ours, the other's, how many times faster")
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = [
            fits(X / 16, y, hidden, activation, solver, batch_size, repeats)
            for hidden, batch_size, repeats in (((64,), 64, 15), ((64,), 200, 15), ((256, 256), 200, 5))
            for activation in ("relu", "tanh")
            for solver in ("adam", "sgd")
        ]
    return all(met for line in fitted for met in line)


def fits(
    X: np.ndarray, y: np.ndarray, hidden: tuple[int, ...], activation: str, solver: str, batch_size: int, repeats: int
) -> list[bool]:
    plan = {"activation": activation, "solver": solver, "batch_size": batch_size, "random_state": 0}
    ours = MLPClassifier(hidden, max_epochs=EPOCHS, eta=1e-3, **plan)
    scikit = ScikitMLP(hidden, max_iter=EPOCHS, tol=0.0, n_iter_no_change=EPOCHS, alpha=0.0, **plan)
    what = f"{hidden} {activation}, {solver}, batch {batch_size}"
    loop = functools.partial(torch_loop, X, y, hidden, activation, solver, batch_size)
    return [
        against(f"{what}; MLPClassifier", lambda: ours.fit(X, y), lambda: scikit.fit(X, y), repeats),
        against(f"{what}; torch loop", lambda: ours.fit(X, y), loop, repeats),
    ]


def torch_loop(
    X: np.ndarray, y: np.ndarray, hidden: tuple[int, ...], activation: str, solver: str, batch_size: int
) -> nn.Module:
    """The loop one writes down, in float64 as the others."""
    net = build(Spec("mlp", hidden, activation), X.shape[1], 10, torch_default()).double()
    options: dict[str, Any] = {"momentum": 0.9, "nesterov": True} if solver == "sgd" else {}
    make: Callable[..., torch.optim.Optimizer] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[solver]
    optimizer = make(net.parameters(), lr=1e-3, **options)
    features, labels = torch.tensor(X), torch.tensor(y)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(X)).split(batch_size):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(features[rows]), labels[rows]).backward()
            optimizer.step()
    return net


SECTIONS: dict[str, Callable[[], bool]] = {"one_neuron": one_neuron, "multilayer": multilayer}

if __name__ == "__main__":
    chosen = sys.argv[1:] or list(SECTIONS)
    met = [SECTIONS[name]() for name in chosen]  # all of them, also after one that missed
    sys.exit(0 if all(met) else 1)
