"""How large a learning rate may be: the largest curvature of a loss over the data, and what follows from it.

With A = [X 1] (A = X without intercept) the loss bends by at most c A^T A / n + alpha along any direction, where c is 1
for least squares, 1/4 for the logistic loss, 1/2 for softmax. Gradient descent is stable below 2 / lambda_max.
"""

from __future__ import annotations

import numpy as np

from symbreak.exact.arrays import Floats


def largest(X: Floats, *, bias: bool, bend: float = 1.0, alpha: float = 0.0) -> float:
    """lambda_max of bend A^T A / n + alpha, alpha on the weights alone. 0 where nothing bends.

    Taken from A^T A or A A^T, whichever is smaller: squaring spoils small singular values, never the largest. With A
    A^T and an intercept it is an upper bound, too large by less than alpha.

    Args:
        X: features [n, d].
        bias: whether there is an intercept.
        bend: largest second derivative of the loss of one sample by z.
        alpha: L2 penalty.
    Example:
        >>> largest(np.array([[2.0], [0.0]]), bias=False)
        2.0

    Source: Boehning 1992 for softmax; the logistic function's slope is at most 1/4.
    """
    n, d = X.shape
    if d < n:
        gram = X.T @ X
        if bias:
            mean = X.sum(axis=0)[:, None]
            gram = np.block([[gram, mean], [mean.T, np.full((1, 1), float(n))]])
        gram *= bend / n
        gram[np.arange(d), np.arange(d)] += alpha
        return float(np.linalg.eigvalsh(gram)[-1])
    return float(np.linalg.eigvalsh((X @ X.T + float(bias)) * (bend / n))[-1]) + alpha


def largest_of_a_sample(X: Floats, *, bias: bool, bend: float = 1.0, alpha: float = 0.0) -> float:
    """The largest curvature a mini-batch can have, whichever samples are drawn into it: that of one sample.

    Example:
        >>> largest_of_a_sample(np.array([[2.0], [0.0]]), bias=True)
        5.0

    Source: |A x|^2 = |x|^2 + 1 for one sample; a mean of matrices has no larger eigenvalue than its largest member.
    """
    return bend * (float(np.einsum("ij,ij->i", X, X).max()) + float(bias)) + alpha


def limit(curvature: float, *, momentum: float = 0.0, nesterov: bool = False) -> float:
    """The learning rate above which full-batch descent on a quadratic of this largest curvature diverges.

    2 / lambda_max; with momentum x (1 + beta); with Nesterov's x (1 + beta) / (1 + 2 beta).

    Example:
        >>> limit(2.0), limit(2.0, momentum=0.5)
        (1.0, 1.5)

    Source: Jury's conditions on the roots of the recurrence; `symbreak.exact.descent.largest_eta`.
    """
    widened = (1 + momentum) / (1 + 2 * momentum) if nesterov else 1 + momentum
    return 2 * widened / curvature if curvature > 0 else float("inf")
