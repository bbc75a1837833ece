"""One mode of a quadratic under gradient descent: how much of its error is left after t steps, for t up to 1e18.

A mode has curvature h. Its error e_t, the distance from the minimum, obeys with a = eta h

    plain      e_{t+1} = (1 - a) e_t
    momentum   e_{t+1} = (1 + beta - a) e_t - beta e_{t-1},              e_1 = (1 - a) e_0
    Nesterov   e_{t+1} = (1 + beta)(1 - a) e_t - beta (1 - a) e_{t-1},   e_1 = (1 - a (1 + beta)) e_0

Both numbers a caller needs are returned: left = e_t / e_0 and gone = 1 - left. Where a t is small, gone has lost
all its digits in `1 - left`, so it is evaluated by itself.

Why roots, and not powers of the 2 x 2 matrix: squaring a matrix doubles its rounding error, so after t steps the power
is wrong by t x 1e-16. With beta = 0.9 and a t = 0.1, where e^-1 = 0.368 is left, it gives 0.416 at t = 1e13 and 0 at
t = 1e18. The roots, each taken without cancellation, stay within 3e-12 at any t.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from symbreak.exact.arrays import Floats, Integers

Truths = NDArray[np.bool_]


def decay(a: Floats, steps: Integers, momentum: float, *, nesterov: bool) -> tuple[Floats, Floats]:
    """Error left of each mode, e_t / e_0, and its complement.

    Args:
        a: eta x curvature, dimensionless, >= 0; any shape [...].
        steps: t, counts >= 0 [T].
        momentum: beta, 0 <= beta < 1.
        nesterov: torch's Nesterov form.
    Returns:
        left and gone = 1 - left, both [..., T]; infinite where a diverging mode leaves float64.
    Example:
        >>> left, gone = decay(np.array([1e-18]), np.array([10**18]), 0.0, nesterov=False)
        >>> round(float(left[0, 0]), 5)          # (1 - 1e-18) ** 10**18; computed as it stands it gives 1.0
        0.36788

    Source: linear recurrences of order two; Goh 2017, "Why momentum really works", Distill.
    """
    a = a[..., None]
    with np.errstate(all="ignore"):  # both branches of every `where` are evaluated
        left, gone = _plain(a, steps) if momentum == 0 else _two_term(a, steps, momentum, nesterov=nesterov)
    start = steps == 0
    return np.where(start, 1.0, left), np.where(start, 0.0, gone)


def _plain(a: Floats, steps: Integers) -> tuple[Floats, Floats]:
    growth = steps.astype(np.float64) * np.where(a > 1, np.log1p(a - 2), np.log1p(-a))
    return _signed((a > 1) & _odd(steps), growth)


def _signed(negative: Truths, growth: Floats) -> tuple[Floats, Floats]:
    """left = ± exp(growth), and 1 - left."""
    size = np.exp(growth)
    return np.where(negative, -size, size), np.where(negative, 1 + size, -np.expm1(growth))


def _odd(steps: Integers) -> Truths:
    odd: Truths = steps % 2 == 1
    return odd


def _two_term(a: Floats, steps: Integers, beta: float, *, nesterov: bool) -> tuple[Floats, Floats]:
    """e_t of e_{t+1} = trace e_t - det e_{t-1}: roots real or complex, mirrored where the trace is negative.

    A negative trace gives an error that changes sign at each step. f_t = (-1)^t e_t has the trace of opposite sign and
    the same determinant, so only traces >= 0 are left, where the double root is at +sqrt(det) and t x 0 is safe.
    """
    if nesterov:
        trace, det = (1 + beta) * (1 - a), beta * (1 - a)
        square = (1 - a) * ((1 - beta) ** 2 - a * (1 + beta) ** 2)  # trace^2 - 4 det, without its cancellation
        first, at_minus_one = a * (1 + beta), 1 + (1 - a) * (1 + 2 * beta)  # 1 - e_1; 1 + trace + det
    else:
        trace, det = 1 + beta - a, np.full_like(a, beta)
        root = np.sqrt(beta)
        square = ((1 - root) ** 2 - a) * ((1 + root) ** 2 - a)
        first, at_minus_one = a, 2 * (1 + beta) - a
    flipped = trace < 0
    trace = np.abs(trace)
    first = np.where(flipped, 2 - first, first)  # 1 - f_1
    at_one = np.where(flipped, at_minus_one, a)  # 1 - trace + det, the characteristic polynomial at 1
    real = _real_roots(trace, at_one, square, first, steps)
    complex_ = _complex_roots(trace, det, square, first, steps)
    left, gone = (np.where(square >= 0, r, c) for r, c in zip(real, complex_, strict=True))
    turned = flipped & _odd(steps)
    return np.where(turned, -left, left), np.where(turned, 1 + left, gone)


def _real_roots(trace: Floats, at_one: Floats, square: Floats, first: Floats, steps: Integers) -> tuple[Floats, Floats]:
    """e_t = l^t + (e_1 - l) l^(t-1) (1 - rho^t) / (1 - rho), l the larger root, rho the ratio of the roots.

    1 - l is the small root of m^2 - (2 - trace) m + at_one, taken without cancellation: a slow mode lives in it.
    """
    gap = np.sqrt(np.maximum(square, 0))
    total = 2 - trace
    short = np.where(total > 0, 2 * at_one / (total + gap), (total - gap) / 2)  # 1 - l; negative where it diverges
    larger = (trace + gap) / 2
    ratio = (trace - gap) / (trace + gap)
    growth = steps * np.log1p(-short)
    before = np.exp((steps - 1) * np.log1p(-short))
    _, gone_ratio = _signed((ratio < 0) & _odd(steps), _log_of_ratio(ratio, gap, larger) * steps)
    summed = np.where(gap > 0, gone_ratio * larger / np.where(gap > 0, gap, 1), steps)  # 1 + rho + ... + rho^(t-1)
    pull = (short - first) * before * summed
    left, gone = np.exp(growth) + pull, -np.expm1(growth) - pull
    at_rest = larger == 0  # Nesterov at a = 1: both roots are zero, and only e_1 is not
    left = np.where(at_rest, np.where(steps == 1, 1 - first, 0.0), left)
    return left, np.where(at_rest, 1 - left, gone)


def _log_of_ratio(ratio: Floats, gap: Floats, larger: Floats) -> Floats:
    """log |rho|; next to a double root 1 - rho = gap / l is known far better than rho."""
    return np.where(ratio > 0.5, np.log1p(-gap / larger), np.log(np.abs(ratio)))


def _complex_roots(trace: Floats, det: Floats, square: Floats, first: Floats, steps: Integers) -> tuple[Floats, Floats]:
    """e_t = r^t (cos t theta + (e_1 - trace / 2) sin(t theta) / height), r = sqrt(det), roots trace / 2 ± i height."""
    height = np.sqrt(np.maximum(-square, 0)) / 2
    theta = np.arctan2(height, trace / 2)
    growth = steps / 2 * np.log(det)
    turn = (1 - first - trace / 2) * np.sin(steps * theta) / height
    size = np.exp(growth)
    gone = -np.expm1(growth) + size * (2 * np.sin(steps * theta / 2) ** 2 - turn)
    return size * (np.cos(steps * theta) + turn), gone
