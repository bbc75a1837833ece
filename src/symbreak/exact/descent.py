"""Full-batch gradient descent for least squares without the steps: any start, learning rate and step count at once.

    L(w) = |X w - y|^2 / (2 n) + alpha |w|^2 / 2,   gradient = X^T (X w - y) / n + alpha w

Along the right singular vectors of X every weight moves on its own, as one mode (`modes.py`); what no sample sees, the
null space, keeps the start for ever, or decays with alpha. An intercept is a column of ones in X.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from symbreak.exact import arrays
from symbreak.exact.arrays import Floats, Integers
from symbreak.exact.modes import decay


def path(
    X: ArrayLike,
    y: ArrayLike,
    W0: ArrayLike,
    etas: ArrayLike,
    steps: ArrayLike,
    *,
    momentum: float = 0.0,
    nesterov: bool = False,
    alpha: float = 0.0,
) -> Floats:
    """Weights after any number of steps of gradient descent, in closed form.

    With X = U diag(s) V^T, z = V^T w, z* = U^T y / (s + n alpha / s) and e_t the share of the error left (`decay`):

        w_t = V (e_t z_0 + (1 - e_t) z*) + e_t(curvature alpha) (w_0 - V V^T w_0)

    Args:
        X: features [n, d].
        y: targets [n].
        W0: starts [S, d], or one start [d].
        etas: learning rates [E] > 0, or one. Beyond `largest_eta` the path diverges, and is still given.
        steps: counts [T], from 0 to 2**63 - 1, in any order, or one. Step 0 is the start, bit for bit.
        momentum: beta, 0 <= beta < 1, as torch.optim.SGD (dampening 0, buffer empty at first).
        nesterov: as torch.optim.SGD; without momentum it changes nothing.
        alpha: L2 penalty, as torch's weight_decay; in units of the loss per squared weight.
    Returns:
        weights [S, E, T, d]; inf or nan where a diverging path has left the range of float64.
    Raises:
        ArrayError: NaN, shapes that do not match, a learning rate <= 0, negative steps, momentum outside [0, 1).
    Example:
        >>> W = path([[1.0, 0.0]], [2.0], [[0.0, 5.0]], etas=[0.5], steps=[0, 1, 10**18])
        >>> W[0, 0].tolist()                        # the second weight has no data and stays
        [[0.0, 5.0], [1.0, 5.0], [2.0, 5.0]]

    Singular values below max(n, d) x 2.2e-16 of the largest cannot be told from rounding and count as null space.
    The error is some units of 1e-16 of the largest weight on the path, of start and minimum included; where the path
    diverges, times the logarithm of its growth.

    Source: thin SVD; Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, sections 3.4 and 10.12.
    """
    problem = _problem(X, y, W0, etas, steps, momentum, nesterov, alpha)
    seen = problem.X.any(axis=0)  # a column of zeros is null space, to the last bit
    spectrum = _spectrum(problem.X[:, seen], problem.y, problem.alpha)
    with np.errstate(over="ignore"):  # an infinite rate: the first step leaves float64
        a = np.c_[spectrum.rates(problem.etas), problem.etas * problem.alpha]  # [E, r + 1]: the last is the null space
    left, gone = (np.moveaxis(m, 2, 1) for m in decay(a, problem.steps, problem.momentum, nesterov=problem.nesterov))
    weights = np.empty((len(problem.W0), *left.shape[:2], problem.X.shape[1]))
    with np.errstate(over="ignore", invalid="ignore"):  # beyond 1e308: inf, as stepping has it
        kept = left[..., -1][None, ..., None]  # [1, E, T, 1]
        weights[..., ~seen] = _times(kept, problem.W0[:, None, None, ~seen])
        weights[..., seen] = _seen(spectrum, problem.W0[:, seen], left[..., :-1], gone[..., :-1], kept)
    weights[:, :, problem.steps == 0] = problem.W0[:, None, None]
    return weights


def step_by_step(
    X: ArrayLike,
    y: ArrayLike,
    W0: ArrayLike,
    etas: ArrayLike,
    steps: ArrayLike,
    *,
    momentum: float = 0.0,
    nesterov: bool = False,
    alpha: float = 0.0,
) -> Floats:
    """The same weights by taking every step: the oracle of `path`, and what it is timed against.

    All starts and learning rates are stepped together, so the cost is max(steps) x S x E x n x d.

    Args:
        X, y, W0, etas, steps, momentum, nesterov, alpha: as in `path`.
    Returns:
        weights [S, E, T, d].
    Raises:
        ArrayError: as `path`.
    Example:
        >>> step_by_step([[1.0]], [2.0], [0.0], etas=0.5, steps=[1, 2, 3]).ravel().tolist()
        [1.0, 1.5, 1.75]

    Source: torch.optim.SGD's documentation, its update rule.
    """
    problem = _problem(X, y, W0, etas, steps, momentum, nesterov, alpha)
    eta = problem.etas[:, None]
    weights = np.empty((len(problem.W0), len(eta), len(problem.steps), problem.X.shape[1]))
    w = np.repeat(problem.W0[:, None], len(eta), axis=1)  # [S, E, d]
    velocity = np.zeros_like(w)
    with np.errstate(over="ignore", invalid="ignore"):
        for t in range(int(problem.steps.max()) + 1):
            weights[:, :, problem.steps == t] = w[:, :, None]
            gradient = (w @ problem.X.T - problem.y) @ problem.X / len(problem.y) + problem.alpha * w
            velocity = problem.momentum * velocity + gradient
            w = w - eta * (gradient + problem.momentum * velocity if problem.nesterov else velocity)
    return weights


def largest_eta(X: ArrayLike, alpha: float = 0.0, *, momentum: float = 0.0, nesterov: bool = False) -> float:
    """The learning rate below which gradient descent converges, and above which it diverges.

    2 / (h + alpha) for the largest curvature h = s^2 / n; momentum: x (1 + beta); Nesterov: x (1 + beta) / (1 + 2 beta)

    Args:
        X: features [n, d].
        alpha: L2 penalty.
        momentum: beta, 0 <= beta < 1.
        nesterov: torch's Nesterov form.
    Returns:
        a learning rate; inf where there is no curvature.
    Raises:
        ArrayError: NaN, a wrong shape, alpha < 0, momentum outside [0, 1).
    Example:
        >>> largest_eta([[2.0], [0.0]])
        1.0

    Source: |roots of the recurrence| < 1 (Jury's conditions), `modes.py`.
    """
    features = arrays.table("X", X)
    beta, penalty = arrays.share("momentum", momentum), arrays.not_negative("alpha", alpha)
    longest = float(np.linalg.norm(features, 2))
    curvature = longest * (longest / len(features)) + penalty
    widened = (1 + beta) / (1 + 2 * beta) if nesterov else 1 + beta
    return 2 * widened / curvature if curvature else float("inf")


@dataclass(frozen=True)
class _Problem:
    X: Floats  # [n, d]
    y: Floats  # [n]
    W0: Floats  # [S, d]
    etas: Floats  # [E]
    steps: Integers  # [T]
    momentum: float
    nesterov: bool
    alpha: float


def _problem(
    X: ArrayLike,
    y: ArrayLike,
    W0: ArrayLike,
    etas: ArrayLike,
    steps: ArrayLike,
    momentum: float,
    nesterov: bool,
    alpha: float,
) -> _Problem:
    features, target = arrays.samples(X, y)
    return _Problem(
        X=features,
        y=target,
        W0=arrays.rows("W0", W0, features.shape[1]),
        etas=arrays.rates("etas", etas),
        steps=arrays.counts("steps", steps),
        momentum=arrays.share("momentum", momentum),
        nesterov=nesterov,
        alpha=arrays.not_negative("alpha", alpha),
    )


@dataclass(frozen=True)
class _Spectrum:
    s: Floats  # [r] singular values that stand out of rounding
    V: Floats  # [d, r]
    minimum: Floats  # [r] z*, the minimum in the coordinates of V
    n_samples: int
    alpha: float

    def rates(self, etas: Floats) -> Floats:
        """eta x curvature [E, r]; in this order no s^2 underflows that eta would bring back."""
        return etas[:, None] * self.s * (self.s / self.n_samples) + etas[:, None] * self.alpha


def _spectrum(X: Floats, y: Floats, alpha: float) -> _Spectrum:
    if not X.shape[1]:
        return _Spectrum(np.empty(0), np.empty((0, 0)), np.empty(0), len(y), alpha)
    U, s, Vt = np.linalg.svd(X, full_matrices=False)
    told_apart = s > s[0] * max(X.shape) * np.finfo(np.float64).eps
    U, s, V = U[:, told_apart], s[told_apart], Vt[told_apart].T
    with np.errstate(over="ignore"):  # a minimum beyond float64; `gone` is 0 there for any learning rate
        minimum = y @ U / (s + len(y) * alpha / s)
    return _Spectrum(s, V, minimum, len(y), alpha)


def _seen(spectrum: _Spectrum, W0: Floats, left: Floats, gone: Floats, kept: Floats) -> Floats:
    """Weights of the features that have data: the modes rotated back, and the null space."""
    z0 = W0 @ spectrum.V  # [S, r]
    z = left * z0[:, None, None] + np.where(gone == 0, 0.0, gone * spectrum.minimum)  # [S, E, T, r]
    growing = np.abs(left) > 1
    if growing.any():  # far out, the difference of start and minimum is what counts; the sum would cancel it
        error = (z0 - spectrum.minimum)[:, None, None]
        z = np.where(growing, spectrum.minimum + _times(left, error), z)
    weights: Floats = z @ spectrum.V.T
    if spectrum.V.shape[0] > spectrum.V.shape[1]:
        weights += _times(kept, _null_space(W0, spectrum.V)[:, None, None])
    return weights


def _null_space(W0: Floats, V: Floats) -> Floats:
    """The part of the starts that no sample sees; projected twice, for a remainder orthogonal to rounding."""
    once = W0 - W0 @ V @ V.T
    twice: Floats = once - once @ V @ V.T
    return twice


def _times(growth: Floats, start: Floats | NDArray[np.float64]) -> Floats:
    """growth x start, where infinitely often nothing is nothing."""
    return np.where(start == 0, 0.0, growth * start)
