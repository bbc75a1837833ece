"""How steep the loss bends at the start: the largest eigenvalue of its Hessian, and the learning rate that allows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor

from symbreak.nets import curvature
from symbreak.nets.backprop import Backprop
from symbreak.nets.solvers import Sgd

Floats = NDArray[np.float64]
Pair = tuple[Tensor, Tensor]

STEP = (
    1e-5  # of the central difference: its error is 1e-10 of the third derivative, and of rounding 1e-11 of the gradient
)
PRECISION = 1e-3  # of the eigenvalue: a learning rate needs no more
FLAT = 1e-8  # a curvature that is none
TRIALS, HALVINGS = 100, 60  # steps, and how often eta is halved at most
DENSE = 16  # so few parameters that the whole Hessian is quicker


def sharpness(gradient: Callable[[Floats], Floats], theta: Floats) -> float:
    """The largest eigenvalue of the Hessian at theta, by Lanczos; no Hessian is formed.

    Hessian times vector is a central difference of two gradients along the vector. Differentiating twice would be
    exact, yet costs more, and torch cannot do it for every activation (hardsigmoid).

    Args:
        gradient: theta [p] -> gradient [p].
        theta: [p].
    Returns:
        The eigenvalue, in units of loss per squared weight, to a thousandth of the largest in size. It may be zero or
        below, and is NaN where a gradient is not finite.
    Example:
        >>> bends = np.array([1.0, 9.0, -20.0])                     # L = sum of bends theta^2 / 2
        >>> round(sharpness(lambda theta: bends * theta, np.ones(3)), 6)
        9.0

    Source: Pearlmutter 1994, Fast exact multiplication by the Hessian, section 2; Cohen et al. 2021, arXiv:2103.00065.
    """
    size = len(theta)

    def times(vector: Floats) -> Floats:
        length = float(np.linalg.norm(vector))
        step = (STEP / length if length else 0.0) * vector.ravel()
        return (gradient(theta + step) - gradient(theta - step)) * (length / (2 * STEP))

    if not np.isfinite(gradient(theta)).all():
        return float("nan")
    if size <= DENSE:
        whole = np.stack([times(row) for row in np.eye(size)])
        return float(np.linalg.eigvalsh((whole + whole.T) / 2)[-1])
    start = np.random.default_rng(0).normal(size=size)  # fixed: same data, same answer
    hessian = LinearOperator((size, size), matvec=times, dtype=np.float64)
    try:
        found = eigsh(hessian, k=1, which="LA", v0=start, tol=PRECISION, return_eigenvectors=False)
    except ArpackNoConvergence as err:
        found = err.eigenvalues
    return float(found[0]) if len(found) else float("nan")


def safe_eta(backprop: Backprop, pairs: Sequence[Pair], *, momentum: float, nesterov: bool, stochastic: bool) -> float:
    """A learning rate for "sgd" that the start allows: large, and tried out.

    From the largest eigenvalue h of the Hessian at the start, of the steepest of these batches: half the limit of
    stability on all samples at once (1/h without momentum); (1 - momentum)/h on mini-batches, each of which pulls for
    1 / (1 - momentum) steps. A net is no quadratic: where targets are far beyond its outputs, h grows as the weights
    do. So it is halved until some trial steps from the start no longer raise the loss, nor lead to where the curvature
    allows less than half of it.

    Args:
        backprop: of the net; theta is as before afterwards.
        pairs: batches (x [b, i], y [b, o]).
        momentum: as `Sgd`.
        nesterov: as `Sgd`.
        stochastic: whether there are more batches than these.
    Returns:
        eta > 0; 1 where nothing bends, and where nothing helps: training will say so.
    Source: Cohen et al. 2021, arXiv:2103.00065, for the limit; Armijo 1966 for halving.
    """

    def allowed() -> float:
        """What the curvature where theta now is allows: 1 where nothing bends, 0 where it is no number."""
        here = backprop.theta.numpy().copy()
        steepest = float(np.max([sharpness(_gradient_at(backprop, *pair), here) for pair in pairs]))
        if not FLAT < steepest < math.inf:
            return 1.0 if steepest <= FLAT else 0.0
        limit = curvature.limit(steepest, momentum=momentum, nesterov=nesterov)
        return (1 - momentum) / steepest if stochastic else limit / 2

    start = backprop.theta.clone()
    eta = allowed() or 1.0
    for tried in (eta / 2**times for times in range(HALVINGS)):
        backprop.theta.copy_(start)
        stepper = Sgd(tried, momentum=momentum, nesterov=nesterov)
        if _lowers(backprop, pairs, stepper) and tried <= 2 * allowed():  # twice: training moves to the edge by itself
            eta = tried
            break
    backprop.theta.copy_(start)
    return eta


def _lowers(backprop: Backprop, pairs: Sequence[Pair], stepper: Sgd) -> bool:
    before = sum(float(backprop(*pair)) for pair in pairs)
    for pair in itertools.islice(itertools.cycle(pairs), TRIALS):
        backprop(*pair)
        stepper.step(backprop.theta, backprop.gradient)
    return sum(float(backprop(*pair)) for pair in pairs) <= before  # False where it is no number


def _gradient_at(backprop: Backprop, x: Tensor, y: Tensor) -> Callable[[Floats], Floats]:
    def gradient(theta: Floats) -> Floats:
        backprop.theta.copy_(torch.from_numpy(theta))
        backprop(x, y)
        return backprop.gradient.numpy().copy()

    return gradient
