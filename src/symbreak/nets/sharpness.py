"""How steep the loss bends at the start: the largest eigenvalue of its Hessian, and the learning rate that allows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

Floats = NDArray[np.float64]

STEP = (
    1e-5  # of the central difference: its error is 1e-10 of the third derivative, and of rounding 1e-11 of the gradient
)
PRECISION = 1e-3  # of the eigenvalue: a learning rate needs no more
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


def largest_eta(curvature: float, *, momentum: float = 0.0, nesterov: bool = False) -> float:
    """The learning rate at which a quadratic of this curvature stops converging.

    2/h for plain descent, 2 (1 + momentum)/h with momentum, 2 (1 + momentum) / (1 + 2 momentum) / h with Nesterov's.

    Args:
        curvature: h > 0, the largest eigenvalue of the Hessian.
        momentum: from 0 up to 1.
        nesterov: as torch.optim.SGD has it.
    Example:
        >>> largest_eta(4.0), largest_eta(4.0, momentum=0.5), largest_eta(4.0, momentum=0.5, nesterov=True)
        (0.5, 0.75, 0.375)

    Source: the roots of each recursion's characteristic polynomial reach -1 there; Polyak 1964, Cohen et al. 2021.
    """
    reach = 1 + momentum
    return 2 * reach / curvature / (1 + 2 * momentum if nesterov else 1)
