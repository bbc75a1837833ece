"""What the exact engines save: ratios measured side by side, in one run, on data that ships with scikit-learn.

    OMP_NUM_THREADS=1 python benchmarks/exact.py

Times are medians over repeats; the contestants take turns, so that a busy machine slows both. Budgets: closed form at
least 10,000 times faster than stepping on the data, all starts and learning rates at once in NumPy, and within 1e-10 of
it; 1000 perceptrons at least 15 times faster than scikit-learn one by one, with equal weights.

How to read the first: the budget's baseline evaluates X^T (X w - y) at every step, as a training loop does. Whoever
steps a linear regression by hand can multiply X^T X out once; against that, the fastest stepping we know, the closed
form gains some hundred times, not ten thousand. Both are printed, and so is the loop of one start at a time.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.linear_model import Perceptron
from sklearn.preprocessing import StandardScaler

from symbreak.exact import descent, perceptron
from symbreak.exact.arrays import Floats

REPEATS = 5
STARTS, ETAS, STEPS = 1000, 10, (10, 100, 1000, 3000, 10_000)
MEASURED_STEPS = 40  # of 10,000: every step costs the same, so the rest is this part times 250
CHECKED_STARTS = 5  # starts that are stepped all the way, for the difference
RUNS, SCIKIT_RUNS, EPOCHS = 1000, 100, 10


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def side_by_side(*contestants: Callable[[], Any]) -> list[float]:
    """Median seconds of each, taken in turns."""
    rounds = [[seconds(one) for one in contestants] for _ in range(REPEATS)]
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


def with_the_gram_matrix(X: Floats, y: Floats, W0: Floats, etas: Floats, steps: int) -> Floats:
    """The fastest stepping we know: X^T X once, one small matrix product a step for all starts and etas."""
    H, c = X.T @ X / len(y), X.T @ y / len(y)
    w = np.repeat(W0[:, None], len(etas), axis=1)
    for _ in range(steps):
        w = w - etas[:, None] * (w @ H - c)
    return w


def one_at_a_time(X: Floats, y: Floats, w: Floats, eta: float, steps: int) -> Floats:
    """The loop one writes down: one start, one eta."""
    for _ in range(steps):
        w = w - eta * (X.T @ (X @ w - y) / len(y))
    return w


def closed_form() -> bool:
    X, y = load_diabetes(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    y = (y - y.mean()) / y.std()
    W0 = np.random.default_rng(0).normal(size=(STARTS, X.shape[1]))
    etas = np.linspace(0.05, 0.95, ETAS) * descent.largest_eta(X)
    closed, together, gram, alone = side_by_side(
        lambda: descent.path(X, y, W0, etas, STEPS),
        lambda: descent.step_by_step(X, y, W0, etas, MEASURED_STEPS - 1),
        lambda: with_the_gram_matrix(X, y, W0, etas, MEASURED_STEPS),
        lambda: one_at_a_time(X, y, W0[0], etas[0], MEASURED_STEPS),
    )
    part = STEPS[-1] / MEASURED_STEPS
    apart = np.abs(
        descent.path(X, y, W0[:CHECKED_STARTS], etas, STEPS)
        - descent.step_by_step(X, y, W0[:CHECKED_STARTS], etas, STEPS)
    ).max()
    print(f"closed-form descent, diabetes {X.shape}, {STARTS} starts x {ETAS} etas x steps {STEPS}")
    print(f"  closed form, all of it, SVD included: {closed * 1e3:.1f} ms")
    print("  baselines: stepping in NumPy to the last step count; the earlier ones lie on the way")
    show_stepping("A  X^T (X w - y) a step, all starts and etas at once", together * part, together, closed)
    show_stepping("B  X^T X multiplied out once, all starts and etas at once", gram * part, gram, closed)
    show_stepping("C  X^T (X w - y) a step, one start and eta at a time", alone * part * STARTS * ETAS, alone, closed)
    print(
        f"  largest difference from stepping, {CHECKED_STARTS} starts stepped to {STEPS[-1]:,}: {apart:.1e} (<= 1e-10)"
    )
    return met("closed form against baseline A", together * part / closed, 10_000) and bool(apart <= 1e-10)


def show_stepping(name: str, whole: float, measured: float, closed: float) -> None:
    print(
        f"    {name}: {whole:,.1f} s, extrapolated from {measured * 1e3:.1f} ms for {MEASURED_STEPS} steps: "
        f"{whole / closed:,.0f} x"
    )


def perceptrons() -> bool:
    X, y = load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    rng = np.random.default_rng(0)
    W0, b0 = rng.normal(size=(RUNS, X.shape[1])), rng.normal(size=RUNS)
    first = seconds(lambda: perceptron.run(X, y, W0[:1], 1.0, b0=b0[:1]))
    found: dict[str, Floats] = {}

    def ours() -> None:
        run = perceptron.run(X, y, W0, 1.0, b0=b0, epochs=EPOCHS)
        found["ours"] = np.c_[run.weights, run.biases]

    def scikit() -> None:
        found["scikit"] = np.array([fit(X, y, W0[r], b0[r]) for r in range(SCIKIT_RUNS)])

    batch, some = side_by_side(ours, scikit)
    one_by_one = some * RUNS / SCIKIT_RUNS
    equal = np.array_equal(found["ours"][:SCIKIT_RUNS], found["scikit"])
    print(f"perceptrons, breast_cancer {X.shape}, {RUNS} runs x {EPOCHS} epochs")
    print(f"  first call, compiling or loading: {first:.2f} s")
    print(f"  all runs in one call of perceptron.run: {batch * 1e3:.1f} ms")
    print(f"  baseline: scikit-learn's Perceptron one by one, fit() as it stands: {one_by_one * 1e3:,.0f} ms,")
    print(f"    extrapolated from {SCIKIT_RUNS} runs")
    print(f"  weights equal to the last bit, {SCIKIT_RUNS} runs: {equal}")
    return met("1000 perceptrons against the baseline", one_by_one / batch, 15) and equal


def fit(X: Floats, y: Floats, w0: Floats, b0: float) -> Floats:
    model = Perceptron(shuffle=False, tol=None, max_iter=EPOCHS)
    model.fit(X, y, coef_init=w0[None].copy(), intercept_init=np.array([b0]))  # it writes into coef_init
    return np.r_[model.coef_[0], model.intercept_]


def met(what: str, ratio: float, budget: float) -> bool:
    print(f"  {what}: {ratio:,.0f} x, budget {budget:,.0f} x: {'met' if ratio >= budget else 'MISSED'}")
    return ratio >= budget


if __name__ == "__main__":
    sys.exit(0 if all([closed_form(), perceptrons()]) else 1)
