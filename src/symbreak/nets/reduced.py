"""Least squares brought down to its modes once, so that any step of gradient descent costs next to nothing.

A, the samples with a column of ones for the intercept and sqrt(n alpha) I below for the penalty (which leaves the
intercept alone), is first made small: with more samples than features by R of A = Q R, with more features than samples
by the span of the samples. Its modes A = U diag(s) V^T are one-dimensional problems, and `exact.descent.path` solves
those."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from symbreak.exact.arrays import Floats, Integers
from symbreak.exact.modes import decay

LATEST = 2**62  # steps
SETTLED = 2.0**-54  # of an error left: adding it changes no float64


@dataclass(frozen=True, eq=False)
class Reduced:
    """The modes of a least-squares problem. p parameters: d weights, then the intercept if there is one; r modes.

    Example:
        >>> problem = reduce(np.array([[0.0], [1.0]]), np.array([1.0, 3.0]), bias=True)
        >>> problem.path(np.zeros(2), 0.5, np.array([0, 10**6])).weights.round(6).tolist()
        [[0.0, 0.0], [2.0, 1.0]]

    Source: thin SVD; ridge as least squares with d more samples, Golub and Van Loan, Matrix Computations, section 6.1.
    """

    s: Floats  # [r] singular values that stand out of rounding, descending
    V: Floats  # [p, r] modes
    target: Floats  # [r] U^T y
    rest: float  # |y|^2 that no weights explain
    n_samples: int
    unseen_decay: float  # curvature of what no sample sees: alpha where it is not among the modes, else 0

    @property
    def curvature(self) -> float:
        """lambda_max of A^T A / n."""
        return float(self.s[0]) * (float(self.s[0]) / self.n_samples) if len(self.s) else self.unseen_decay

    def steps_to_settle(self, eta: float, *, momentum: float = 0.0, nesterov: bool = False) -> int:
        """A power of two after which no mode moves any more; 2^62 where one would take longer. eta must converge."""
        h = np.append(self.s * (self.s / self.n_samples), [self.unseen_decay] * (self.unseen_decay > 0))
        ladder = 2 ** np.arange(63)
        left = np.abs(decay(eta * h, ladder, momentum, nesterov=nesterov)[0]).max(axis=0, initial=0.0)
        late = np.flatnonzero(~(left <= SETTLED))
        return int(ladder[min(late[-1] + 1, 62)]) if len(late) else 1

    def path(
        self, start: Floats, eta: float, steps: Integers, *, momentum: float = 0.0, nesterov: bool = False
    ) -> Path:
        """Weights [T, p] and losses [T] after any numbers of steps.

        Args:
            start: weights, and the intercept if there is one [p].
            eta, momentum, nesterov: as `exact.descent.path` has them.
            steps: counts [T].
        """
        h = np.append(self.s * (self.s / self.n_samples), self.unseen_decay)  # the last is what no sample sees
        left, gone = (m.T for m in decay(eta * h, steps, momentum, nesterov=nesterov))  # [T, r + 1]
        z0, minimum = self.V.T @ start, self.target / self.s
        with np.errstate(over="ignore", invalid="ignore"):  # beyond 1e308: inf, as stepping has it
            error = left[:, :-1] * (z0 - minimum)  # what is left of each mode's way to its minimum
            moved = np.where(np.abs(left[:, :-1]) > 1, error + (minimum - z0), gone[:, :-1] * (minimum - z0))
            weights = start + moved @ self.V.T
            losses = (self.rest + ((error * self.s) ** 2).sum(axis=1)) / (2 * self.n_samples)
            if self.unseen_decay:
                unseen = start - self.V @ z0
                unseen -= self.V @ (self.V.T @ unseen)
                weights -= gone[:, -1:] * unseen
                losses += self.unseen_decay / 2 * (left[:, -1] * np.linalg.norm(unseen)) ** 2
        return Path(weights, losses)


@dataclass(frozen=True, eq=False)
class Path:
    """What descent came to, by step count.

    Source: `Reduced.path`.
    """

    weights: Floats  # [T, p]
    losses: Floats  # [T]


def reduce(X: Floats, y: Floats, *, bias: bool, alpha: float = 0.0) -> Reduced:
    """The modes of  |A w - y|^2 / (2 n) + alpha |w|^2 / 2.

    Args:
        X: features [n, d].
        y: targets [n].
        bias: whether there is an intercept, the last parameter; the penalty leaves it alone.
        alpha: L2 penalty.
    Example:
        >>> reduce(np.array([[3.0], [0.0]]), np.array([1.0, 1.0]), bias=False).curvature
        4.5

    Source: Golub and Van Loan, Matrix Computations, sections 5.3 and 6.1.
    """
    n, d = X.shape
    span: Floats | None = None
    if d > n:  # descent stays in the span of the samples, plus where it started
        span, triangle = np.linalg.qr(X.T)
        X = triangle.T
    table = np.zeros((n + (X.shape[1] if alpha else 0), X.shape[1] + bias + 1))
    table[:n, : X.shape[1]], table[:n, -1] = X, y
    if bias:
        table[:n, -2] = 1.0
    if alpha:
        inner = np.arange(X.shape[1])
        table[n + inner, inner] = np.sqrt(n * alpha)
    if len(table) > table.shape[1]:
        table = np.asarray(np.linalg.qr(table, mode="r"))
    U, s, Vt = np.linalg.svd(table[:, :-1], full_matrices=False)
    told_apart = s > s[0] * max(n, d) * np.finfo(np.float64).eps
    U, s, V = U[:, told_apart], s[told_apart], Vt[told_apart].T
    target = table[:, -1] @ U
    rest = table[:, -1] - U @ target
    if span is not None:
        V = np.vstack([span @ V[: X.shape[1]], V[X.shape[1] :]])
    return Reduced(s, V, target, float(rest @ rest), n, alpha if span is not None else 0.0)
