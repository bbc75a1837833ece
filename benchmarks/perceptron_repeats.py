"""Is the compiled perceptron scikit-learn's, to the last bit? Thousands of runs, and where the two part.

    OMP_NUM_THREADS=1 python benchmarks/perceptron_repeats.py [SECONDS]

Every run is made four times: by the kernel (with 1, 2, 3 and 8 threads), by scikit-learn, and by a loop in Python
floats in both conventions: phi(0) = 1, and an update wherever y z <= 0. Exit 0 if the kernel is the first loop,
scikit-learn the second, and the two differ only where a positive sample has z = 0 exactly.
"""

from __future__ import annotations

import collections
import sys
import time
from unittest import mock

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.linear_model import Perceptron
from sklearn.preprocessing import StandardScaler

from symbreak.exact import perceptron
from symbreak.exact.arrays import Floats

THREADS = (1, 2, 3, 8)
COMPARED = 12  # runs of a batch that are made by scikit-learn and the loops too
UNEXPECTED = (
    "batches that depend on the number of threads",
    "kernel is not the textbook loop",
    "scikit-learn is not the loop with y z <= 0",
    "of them, kernel is not scikit-learn",
)
REAL = {"breast_cancer": load_breast_cancer, "digits": load_digits, "wine": load_wine}


def loop(
    X: list[list[float]],
    signs: list[float],
    w: list[float],
    b: float,
    eta: float,
    epochs: int,
    bias: bool,
    at_zero: bool,
) -> tuple[list[float], float, int]:
    """Weights, bias, and at how many visits a positive sample had z = 0; at_zero: update there too."""
    zeros = 0
    for _ in range(epochs):
        for x, s in zip(X, signs, strict=True):
            z = 0.0
            for p, q in zip(w, x, strict=True):
                z += p * q
            z += b
            zeros += z == 0 and s > 0
            if s * z <= 0 if at_zero else (z >= 0) != (s > 0):
                w = [p + eta * s * q for p, q in zip(w, x, strict=True)]
                b += eta * s if bias else 0.0
    return w, b, zeros


def samples(rng: np.random.Generator) -> tuple[str, Floats, np.ndarray]:
    kind = str(rng.choice(["normal", "whole", "decimal", "badly scaled", "sparse", "float32", "binary", *REAL]))
    if kind in REAL:
        X, y = REAL[kind](return_X_y=True)
        rows = rng.choice(len(X), 150, replace=False)
        X = StandardScaler().fit_transform(X)[rows] if rng.random() < 0.5 else X[rows]
        return kind, np.ascontiguousarray(X), np.r_[0, 1, y[rows[2:]] == y[rows[0]]].astype(int)
    n, d = int(rng.integers(2, 60)), int(rng.integers(1, 40))
    normal = rng.normal(size=(n, d))
    X = {
        "normal": normal,
        "whole": rng.integers(-3, 4, (n, d)).astype(float),
        "decimal": rng.integers(-20, 21, (n, d)) / 10,
        "badly scaled": normal * 10.0 ** rng.integers(-8, 9, d),
        "sparse": normal * (rng.random((n, d)) < 0.2),
        "float32": normal.astype(np.float32).astype(float),
        "binary": rng.integers(0, 2, (n, d)).astype(float),
    }[kind]
    return kind, X, rng.permutation(np.r_[0, 1, rng.integers(0, 2, n - 2)])


def compare(rng: np.random.Generator, count: collections.Counter[str]) -> None:
    kind, X, y = samples(rng)
    n_runs, d, bias = int(rng.choice([1, 5, 63, 64, 65, 200])), X.shape[1], bool(rng.random() < 0.7)
    epochs = int(rng.choice([1, 2, 10] if kind in REAL else [1, 2, 10, 100]))
    eta = float(rng.choice([1.0, 0.1, 0.3, 2.0, 1e-5]))
    start = [np.zeros((n_runs, d + 1)), rng.normal(size=(n_runs, d + 1)), rng.integers(-2, 3, (n_runs, d + 1)) * 1.0]
    whole = start[rng.integers(3)]
    W0, b0 = whole[:, :d].copy(), whole[:, d] * bias
    batches = []
    for threads in THREADS:
        with mock.patch.object(perceptron, "_threads", lambda threads=threads: threads):
            batches.append(perceptron.run(X, y, W0, eta, b0=b0 if bias else None, epochs=epochs))
    for other in batches[1:]:
        same = (
            np.array_equal(getattr(batches[0], f), getattr(other, f)) for f in ("weights", "biases", "mistakes", "ties")
        )
        count[UNEXPECTED[0]] += not all(same)
    rows, signs = X.tolist(), np.where(y > 0, 1.0, -1.0).tolist()
    for r in rng.permutation(n_runs)[:COMPARED]:
        model = Perceptron(shuffle=False, tol=None, max_iter=epochs, eta0=eta, fit_intercept=bias)
        model.fit(X, y, coef_init=W0[r : r + 1].copy(), intercept_init=b0[r : r + 1].copy())
        scikit = model.coef_[0].tolist(), float(model.intercept_[0]) if bias else 0.0
        kernel = batches[0].weights[r].tolist(), float(batches[0].biases[r])
        textbook = loop(rows, signs, W0[r].tolist(), float(b0[r]), eta, epochs, bias, at_zero=False)
        at_zero = loop(rows, signs, W0[r].tolist(), float(b0[r]), eta, epochs, bias, at_zero=True)
        count["runs"] += 1
        count[UNEXPECTED[1]] += kernel != textbook[:2]
        count[UNEXPECTED[2]] += scikit != at_zero[:2]
        count["runs without a positive sample at z = 0"] += not at_zero[2]
        count[UNEXPECTED[3]] += not at_zero[2] and kernel != scikit
        count["runs with one"] += bool(at_zero[2])
        count["of these, kernel is not scikit-learn: expected"] += bool(at_zero[2]) and kernel != scikit


def main(seconds: float) -> int:
    start, count, rng = time.monotonic(), collections.Counter[str](), np.random.default_rng(0)
    while time.monotonic() - start < seconds:
        compare(rng, count)
    for what, n in count.items():
        print(f"{n:8,d}  {what}")
    return int(any(n for what, n in count.items() if what in UNEXPECTED))


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 60))
