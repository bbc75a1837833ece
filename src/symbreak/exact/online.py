"""Linear classifiers that learn one sample at a time and want a margin: the hinge loss, and passive-aggressive updates.

    hinge                w <- (1 - eta alpha) w + [s z <= margin] eta s x          z = w . x,  s = +1 or -1
    passive-aggressive   w <- w + tau s x,   loss = max(0, margin - s z)
        "pa"   tau = loss / |x|^2                  all the way to the margin
        "pa1"  tau = min(C, loss / |x|^2)          at most C
        "pa2"  tau = loss / (|x|^2 + 1 / (2 C))    part of the way

With alpha = 0 the first is the margin perceptron. With margin = 1 it is scikit-learn's SGDClassifier of hinge loss and
constant learning rate, and its "pa1" and "pa2"; there the margin cannot be set. An intercept is a column of ones in X,
which the penalty then sees too. A loop in NumPy over the visits, all runs at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from symbreak.exact import arrays
from symbreak.exact.arrays import ArrayError, Floats, Integers

Truths = NDArray[np.bool_]
Variant = Literal["pa", "pa1", "pa2"]
NEAR = 1e-12  # of |w| . |x| + margin: far above the rounding of one z, far below what data hit by chance


@dataclass(frozen=True, eq=False)
class OnlineRun:
    """What R classifiers came to.

    Example:
        >>> hinge([[1.0]], [1], [[0.0]], 0.5, epochs=3)
        OnlineRun(ties=array([1]))

    Source: `hinge`, `passive_aggressive`.
    """

    weights: Floats = field(repr=False)  # [R, d]
    updates: Integers = field(repr=False)  # [R, epochs] visits within the margin, which pull at the weights
    ties: Integers  # [R] visits that meet the margin but for rounding, where real numbers may decide otherwise


def hinge(
    X: ArrayLike,
    y: ArrayLike,
    W0: ArrayLike,
    eta: ArrayLike,
    *,
    margin: ArrayLike = 1.0,
    alpha: ArrayLike = 0.0,
    epochs: int = 1,
    order: ArrayLike | None = None,
) -> OnlineRun:
    """Stochastic gradient descent on max(0, margin - s z) + alpha |w|^2 / 2; alpha = 0: the margin perceptron.

    Args:
        X: features [n, d].
        y: targets [n], all in {0, 1} or all in {-1, +1}.
        W0: starts [R, d], or one start [d].
        eta: learning rate > 0, one or [R].
        margin: what s z has to exceed, >= 0, one or [R].
        alpha: L2 penalty >= 0, one or [R].
        epochs: passes, at least 1.
        order: sample numbers in the order of their visits, [k] or [epochs, k]; None: 0 .. n - 1.
    Returns:
        weights, updates by epoch, and visits at the margin.
    Raises:
        ArrayError: NaN, shapes that do not match, other labels, a number out of its range.
    Example:
        >>> hinge([[1.0], [-2.0]], [1, 0], [[0.0]], 0.5, epochs=1).weights    # the second meets the margin, and pulls
        array([[1.5]])

    Source: Rosenblatt 1958 with a margin: Krauth and Mezard 1987; with L2, Pegasos: Shalev-Shwartz et al. 2007.
    """
    problem = _problem(X, y, W0, epochs, order)
    n_runs = len(problem.weights)
    step = arrays.one_each("eta", arrays.rates("eta", eta), n_runs)
    wanted, penalty = (
        arrays.each_from_zero_on("margin", margin, n_runs),
        arrays.each_from_zero_on("alpha", alpha, n_runs),
    )
    shrink = (1 - step * penalty)[:, None]

    def learn(weights: Floats, _short: Floats, pulled: Truths, x: Floats, s: float) -> Floats:
        return shrink * weights + np.where(pulled, step * s, 0.0)[:, None] * x

    return _visit(problem, wanted, learn, at_the_margin_too=True)


def passive_aggressive(
    X: ArrayLike,
    y: ArrayLike,
    W0: ArrayLike,
    *,
    variant: Variant = "pa1",
    C: ArrayLike = 1.0,
    margin: ArrayLike = 1.0,
    epochs: int = 1,
    order: ArrayLike | None = None,
) -> OnlineRun:
    """The smallest change of the weights that brings each sample to the margin, or part of the way.

    A sample of zeros cannot be brought anywhere and changes nothing; nor does one whose |x|^2 leaves float64.

    Args:
        X, y, W0, margin, epochs, order: as in `hinge`.
        variant: "pa", "pa1" or "pa2".
        C: how far one sample may pull, > 0, one or [R]; "pa" has none and ignores it.
    Returns:
        weights, updates by epoch, and visits at the margin.
    Raises:
        ArrayError: NaN, shapes that do not match, other labels, an unknown variant, a number out of its range.
    Example:
        >>> passive_aggressive([[3.0, 4.0]], [1], [[0.0, 0.0]], variant="pa").weights     # now w . x = 1
        array([[0.12, 0.16]])

    Source: Crammer, Dekel, Keshet, Shalev-Shwartz and Singer 2006, JMLR 7:551.
    """
    if variant not in get_args(Variant):
        raise ArrayError(f"variant is {variant!r}; 'pa', 'pa1' or 'pa2' is needed.")
    problem = _problem(X, y, W0, epochs, order)
    n_runs = len(problem.weights)
    wanted = arrays.each_from_zero_on("margin", margin, n_runs)
    cap = arrays.each_from_zero_on("C", C, n_runs)
    if cap.min() == 0:
        raise ArrayError("C holds 0; above 0 is needed, for nothing would be learned.")

    def learn(weights: Floats, short: Floats, pulled: Truths, x: Floats, s: float) -> Floats:
        square = float(x @ x)
        if not square:
            return weights
        pull = short / (square + 1 / (2 * cap)) if variant == "pa2" else short / square
        pull = np.minimum(pull, cap) if variant == "pa1" else pull
        return weights + (np.where(pulled, pull, 0.0) * s)[:, None] * x

    return _visit(problem, wanted, learn, at_the_margin_too=False)


@dataclass(frozen=True, eq=False)
class _Problem:
    X: Floats  # [n, d]
    signs: Floats  # [n] +1 or -1
    weights: Floats  # [R, d]
    epochs: int
    visits: Integers  # [epochs or 1, k]


def _problem(X: ArrayLike, y: ArrayLike, W0: ArrayLike, epochs: int, order: ArrayLike | None) -> _Problem:
    features, signs = arrays.labelled(X, y)
    n_epochs = arrays.at_least_one("epochs", epochs)
    visits = arrays.visits(order, len(features), n_runs=1, n_epochs=n_epochs)[0]
    return _Problem(features, signs, arrays.rows("W0", W0, features.shape[1]), n_epochs, visits)


Learn = Callable[[Floats, Floats, Truths, Floats, float], Floats]


def _visit(problem: _Problem, margin: Floats, learn: Learn, *, at_the_margin_too: bool) -> OnlineRun:
    weights, n_runs = problem.weights, len(problem.weights)
    updates, ties = np.zeros((n_runs, problem.epochs), np.int64), np.zeros(n_runs, np.int64)
    for t in range(problem.epochs):
        for i in problem.visits[t % len(problem.visits)]:
            x, s = problem.X[i], float(problem.signs[i])
            with np.errstate(over="ignore", invalid="ignore"):  # weights that leave float64 come back as inf or nan
                short = margin - s * (weights @ x)  # [R]
                ties += np.abs(short) <= NEAR * (np.abs(weights) @ np.abs(x) + margin)
                pulled = short >= 0 if at_the_margin_too else short > 0
                updates[:, t] += pulled
                weights = learn(weights, short, pulled, x, s)
    return OnlineRun(weights, updates, ties)
