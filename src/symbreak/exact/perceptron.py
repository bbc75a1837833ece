"""Perceptrons by the thousand: one compiled loop in float64, and the same loop in fractions.

    z = w . x + b,   predicted: positive where z >= 0,   on a mistake: w += eta s x,  b += eta s   (s = +1 or -1)

Targets {0, 1} with phi(0) = 1, or {-1, +1} with sgn(0) = +1: the same runs, bit for bit, because y - phi(z) is s on a
mistake. The form w += eta (y - sgn z) x with {-1, +1} takes steps twice as long: it is eta doubled.

scikit-learn's `Perceptron(shuffle=False, tol=None)`, with `coef_init` and `intercept_init`, is the same loop but for
one visit: it updates on y z <= 0, so also where a positive sample has z = 0 exactly, which this one counts as right.
From zero weights the first sample has z = 0, so with a positive one first the two differ at once. Without such a visit
they are equal to the last bit: its dot product is a sum feature by feature in Cython, no BLAS; it keeps weights as
wscale x w, and wscale stays 1 without a penalty; its builds for x86-64 have no fused multiply-add. 30,773 runs
(benchmarks/perceptron_repeats.py: random, whole, decimal, sparse, badly scaled and real data, 1 to 100 epochs, with and
without bias, 1 to 8 threads) differed nowhere else, and scikit-learn nowhere from the textbook loop of its convention.

Runs that are not the same, though they look it: with a penalty (wscale rounds), `tol` (stops early) or shuffling; with
float32 features (it then learns in float32); with sparse features (it damps steps of the intercept by 0.01); on builds
with fused multiply-add (the default of gcc for arm64: reasoned, not run). And `fit` writes the result into
`coef_init`: hand it a copy, or whoever reads those starts next starts elsewhere.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from symbreak.exact import arrays
from symbreak.exact.arrays import ArrayError, Floats, Integers

BLOCK = 64  # runs side by side: each sums in its own order, and the processor adds 4 or 8 of them at once
UNIT = 2.0**-53  # rounding of one operation in float64, relative
SMALLEST = -1074  # float64 ends at 2^-1074, subnormal numbers included


@dataclass(frozen=True, eq=False)
class Run:
    """What R perceptrons came to.

    Example:
        >>> run([[0.0], [1.0]], [0, 1], [[0.0]], 1.0, b0=0.0, epochs=5).epochs_to_converge.tolist()
        [3]

    Source: `run`.
    """

    weights: Floats = field(repr=False)  # [R, d]
    biases: Floats = field(repr=False)  # [R]; zeros where there is no bias
    mistakes: Integers = field(repr=False)  # [R, epochs]
    ties: Integers  # [R] visits where z is zero but for rounding: real numbers may decide otherwise there

    @property
    def epochs_to_converge(self) -> Integers:
        """The first epoch without a mistake, counted from 1; 0 where there was none. [R]"""
        return _first_clean(self.mistakes)


@dataclass(frozen=True)
class RationalRun:
    """What R perceptrons came to in exact arithmetic.

    Example:
        >>> run_rational([[1]], [0], [[0]], "0.1", b0=0).weights
        ((Fraction(-1, 10),),)

    Source: `run_rational`.
    """

    weights: tuple[tuple[Fraction, ...], ...]  # [R, d]
    biases: tuple[Fraction, ...]  # [R]
    mistakes: Integers  # [R, epochs]
    ties: Integers  # [R] visits with z = 0

    @property
    def epochs_to_converge(self) -> Integers:
        """The first epoch without a mistake, counted from 1; 0 where there was none. [R]"""
        return _first_clean(self.mistakes)


def run(
    X: ArrayLike,
    y: ArrayLike,
    W0: ArrayLike,
    eta: ArrayLike,
    *,
    b0: ArrayLike | None = None,
    epochs: int = 1,
    order: ArrayLike | None = None,
) -> Run:
    """Train R perceptrons on the same samples, each from its own start with its own learning rate.

    Every sum is taken feature by feature and then the bias, as a textbook loop and scikit-learn do, so that the weights
    are theirs to the last bit. A run that has passed an epoch over all samples without a mistake stops there.

    Args:
        X: features [n, d].
        y: targets [n], all in {0, 1} or all in {-1, +1}.
        W0: starts [R, d], or one start [d].
        eta: learning rate > 0, one or [R].
        b0: start of the bias, one or [R]; None: no bias.
        epochs: passes, at least 1.
        order: sample numbers in the order of their visits: [k] for every epoch, [epochs, k] or [R, epochs, k];
            None: 0 .. n - 1.
    Returns:
        the weights, biases and mistakes by epoch, and at how many visits z was zero but for rounding; inf or nan where
        weights have left the range of float64.
    Raises:
        ArrayError: NaN, shapes that do not match, other labels, a learning rate <= 0, an order that names no sample.
    Example:
        >>> X, y = [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], [0, 0, 0, 1]
        >>> done = run(X, y, [[0.0, 0.0]], 1.0, b0=0.0, epochs=10)
        >>> done.weights.tolist(), done.biases.tolist(), done.epochs_to_converge.tolist()
        ([[2.0, 1.0]], [-3.0], [6])

    Source: Rosenblatt 1958; Novikoff 1962. The bound behind `ties`: Higham 2002, section 3.1.
    """
    features, signs = arrays.labelled(X, y)
    weights = arrays.rows("W0", W0, features.shape[1]).copy()
    n_runs, n_epochs = len(weights), arrays.at_least_one("epochs", epochs)
    etas = arrays.one_each("eta", arrays.rates("eta", eta), n_runs)
    biases = arrays.one_each("b0", np.atleast_1d(arrays.numbers("b0", 0.0 if b0 is None else b0)), n_runs)
    visits = arrays.visits(order, len(features), n_runs, n_epochs)
    mistakes, ties = np.zeros((n_runs, n_epochs), np.int64), np.zeros(n_runs, np.int64)
    complete = _complete(visits, len(features))

    def learn(first: int, last: int) -> None:
        own = slice(first, last)
        its_visits = visits if len(visits) == 1 else visits[own]
        its_run = (weights[own], biases[own], etas[own], mistakes[own], ties[own])
        _kernel()(features, signs, its_visits, b0 is not None, complete, *its_run)

    _share_out(learn, n_runs, visits_of_a_run=n_epochs * visits.shape[2] * features.shape[1])
    return Run(weights, biases, mistakes, ties)


def run_rational(
    X: Any,
    y: ArrayLike,
    W0: Any,
    eta: Any,
    *,
    b0: Any = None,
    epochs: int = 1,
    order: ArrayLike | None = None,
) -> RationalRun:
    """The same perceptrons in exact arithmetic, for small problems: no rounding, so every tie is a tie.

    Floats are read as the decimals they print as: 0.1 is one tenth. Fractions, whole numbers, strings such as "1/3" and
    Decimals are taken as they are. Fractions grow with the steps; count on some 100,000 visits a second.

    Args:
        X, y, W0, eta, b0, epochs, order: as in `run`.
    Returns:
        Fractions, mistakes by epoch, and at how many visits z was 0.
    Raises:
        ArrayError: as `run`.
    Example:
        >>> X, y = [[0, 0], [0, 1], [1, 0], [1, 1]], [0, 0, 0, 1]
        >>> run_rational(X, y, [[0, 0]], 0.1, b0=0, epochs=10).epochs_to_converge.tolist()
        [6]

    Source: `fractions`, Python's standard library.
    """
    samples, starts = _fractions("X", X), np.atleast_2d(_fractions("W0", W0))
    floats, signs = arrays.labelled(samples.astype(float), y)
    n_runs, n_epochs = (
        len(arrays.rows("W0", starts.astype(float), floats.shape[1])),
        arrays.at_least_one("epochs", epochs),
    )
    etas = arrays.one_each("eta", np.atleast_1d(_fractions("eta", eta)), n_runs)
    arrays.rates("eta", etas.astype(float))
    biases = arrays.one_each("b0", np.atleast_1d(_fractions("b0", 0 if b0 is None else b0)), n_runs).tolist()
    visits = arrays.visits(order, len(floats), n_runs, n_epochs)
    complete = _complete(visits, len(floats))
    exact, weights = samples.tolist(), starts.tolist()
    mistakes, ties = np.zeros((n_runs, n_epochs), np.int64), np.zeros(n_runs, np.int64)
    for r, (w, step) in enumerate(zip(weights, etas.tolist(), strict=True)):
        for t in range(n_epochs):
            for i in visits[r % len(visits), t % visits.shape[1]]:
                x, s = exact[i], int(signs[i])
                z = sum((p * q for p, q in zip(w, x, strict=True)), biases[r])
                ties[r] += z == 0
                if (z >= 0) == (s > 0):
                    continue
                w[:] = [p + step * s * q for p, q in zip(w, x, strict=True)]
                biases[r] += 0 if b0 is None else step * s
                mistakes[r, t] += 1
            if mistakes[r, t] == 0 and complete:
                break
    return RationalRun(tuple(map(tuple, weights)), tuple(biases), mistakes, ties)


def _fractions(name: str, given: Any) -> np.ndarray:
    whole = np.asarray(given, dtype=object)
    return np.array([rational(name, one) for one in whole.ravel()], dtype=object).reshape(whole.shape)


def rational(name: str, given: Any) -> Fraction:
    """A number as the fraction it is written as: 0.1 is 1/10, not the nearest float.

    Raises:
        ArrayError: no finite number.
    Example:
        >>> rational("eta", 0.1)
        Fraction(1, 10)

    Source: repr of a float is the shortest decimal that rounds to it.
    """
    try:
        if isinstance(given, np.generic):
            given = given.item()
        return Fraction(repr(given)) if isinstance(given, float) else Fraction(given)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError) as err:
        raise ArrayError(f"{name} holds {given!r}, which is no finite number.") from err


def rounds_nothing(X: ArrayLike, W0: ArrayLike, eta: ArrayLike, *, b0: ArrayLike | None = None, visits: int) -> bool:
    """Whether float64 is exact for these runs: all weights and all z are multiples of one power of two, below 2^53.

    Then ties are decided as in real numbers. Whole numbers with eta = 1 are such a case, decimals are not.

    Args:
        X, W0, eta, b0: as in `run`.
        visits: of one run, epochs x samples; that many updates at most.
    Raises:
        ArrayError: NaN.
    Example:
        >>> rounds_nothing([[1.0, 3.0]], [0.0, 0.0], 1.0, visits=100), rounds_nothing([[1.0]], [0.0], 0.1, visits=100)
        (True, False)

    Source: IEEE 754, 53 bits of significand.
    """
    features, starts, etas = (arrays.numbers(name, a) for name, a in (("X", X), ("W0", W0), ("eta", eta)))
    bias = arrays.numbers("b0", 0.0 if b0 is None else b0)
    x_bit = min(_lowest_bit(features), 0)  # the bias sees a feature of 1
    w_bit = min(_lowest_bit(starts), _lowest_bit(bias), _lowest_bit(etas) + x_bit)
    start = max(float(np.abs(starts).max(initial=0)), float(np.abs(bias).max(initial=0)))
    x_max = max(float(np.abs(features).max(initial=0)), 1.0)
    w_max = start + visits * float(etas.max(initial=0)) * x_max
    z_max = w_max * (float(np.abs(features).sum(axis=-1).max(initial=0)) + 1)
    return bool(w_bit + x_bit >= SMALLEST and np.log2(max(z_max, 1e-300)) - (w_bit + x_bit) <= 53)


def _lowest_bit(array: Floats) -> int:
    """The largest k for which every number is a multiple of 2^k; 0 where all are zero."""
    mantissa, exponent = np.frexp(array[array != 0])
    if not mantissa.size:
        return 0
    whole = (np.abs(mantissa) * 2**53).astype(np.int64)
    trailing = np.log2((whole & -whole).astype(np.float64)).astype(np.int64)
    return int((exponent + trailing).min()) - 53


def _first_clean(mistakes: Integers) -> Integers:
    clean = mistakes == 0
    first: Integers = np.where(clean.any(axis=1), clean.argmax(axis=1) + 1, 0)
    return first


def _complete(visits: Integers, n_samples: int) -> bool:
    """Whether every epoch visits every sample once: then an epoch without a mistake is the last that matters."""
    return visits.shape[2] == n_samples and bool((np.sort(visits) == np.arange(n_samples)).all())


def _share_out(learn: Callable[[int, int], None], n_runs: int, visits_of_a_run: int) -> None:
    """Runs are independent, so each thread takes its share; the kernel holds no lock.

    Threads of our own, not numba's parallel loops: those abort the process after a fork (OpenMP) or on a second caller
    (workqueue), which a race with worker processes would meet.
    """
    threads = min(_threads(), -(-n_runs // BLOCK))
    if threads == 1 or n_runs * visits_of_a_run < 100_000:  # below 0.1 ms of work a thread costs more than it saves
        return learn(0, n_runs)
    edges = np.unique(np.linspace(0, n_runs, threads + 1).astype(int)).tolist()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(learn, edges[:-1], edges[1:]))
    return None


def _threads() -> int:
    import numba

    return int(vars(numba.config)["NUMBA_NUM_THREADS"])  # set by the environment variable of that name


Kernel = Callable[..., None]


@functools.cache
def _kernel() -> Kernel:
    """Compiled at the first call, and kept on disk where a folder can be written."""
    import numba

    try:
        compiled: Kernel = numba.njit(nogil=True, cache=True)(_learn)
    except RuntimeError:  # numba finds no folder to write to
        compiled = numba.njit(nogil=True)(_learn)
    return compiled


def _learn(
    X: Floats,  # [n, d]
    signs: Floats,  # [n] +1 or -1
    visits: Integers,  # [R or 1, epochs or 1, k]
    has_bias: bool,
    complete: bool,  # every epoch visits every sample once
    weights: Floats,  # [R, d] in and out
    biases: Floats,  # [R] in and out
    etas: Floats,  # [R]
    mistakes: Integers,  # [R, epochs] out
    ties: Integers,  # [R] out
) -> None:
    """Up to BLOCK runs at a time, side by side in W[j, r]: the inner loop, over runs r, becomes vector instructions.

    (A reordered or fused sum of one run would be as fast, and decide ties in another way. `lanes` stays a variable: a
    loop of constant length is unrolled before it is vectorised. Runs with visits of their own go one by one.)

    doubt[r] bounds the error that rounding, of the start too, has put into any weight of run r so far, and
    reach[r] |x|_1 twice the error of z: room for this run and for the same run at another scale. Within it the sign of
    z is not known. Most visits are right and beyond reach in all runs: one test for the block.
    """
    n_features, n_epochs = X.shape[1], mistakes.shape[1]
    lanes = 1 if len(visits) > 1 else min(BLOCK, len(weights))
    dot = 2 * (n_features + 2) * UNIT
    W = np.empty((n_features, lanes))
    z, b, largest, doubt, reach = np.empty(lanes), np.empty(lanes), np.empty(lanes), np.empty(lanes), np.empty(lanes)
    norm, x_largest = np.empty(len(X)), np.empty(len(X))  # |x|_1 and the largest |x_j|, the bias's 1 included
    for i in range(len(X)):
        norm[i], x_largest[i] = 1.0, 1.0
        for j in range(n_features):
            norm[i] += abs(X[i, j])
            x_largest[i] = max(x_largest[i], abs(X[i, j]))
    for first in range(0, len(weights), lanes):
        width = min(lanes, len(weights) - first)
        W[:], b[:], doubt[:] = 0.0, 0.0, 0.0
        reach[:] = -np.inf  # an idle lane, or a run that has converged: right by definition
        for r in range(width):
            b[r] = biases[first + r]
            largest[r] = abs(b[r])
            for j in range(n_features):
                W[j, r] = weights[first + r, j]
                largest[r] = max(largest[r], abs(W[j, r]))
            doubt[r] = UNIT * largest[r]
            reach[r] = 2 * doubt[r] + dot * largest[r]
        for t in range(n_epochs):
            order = visits[first if len(visits) > 1 else 0, t if visits.shape[1] > 1 else 0]
            for i in order:
                s = signs[i]
                z[:] = 0.0
                for j in range(n_features):
                    x = X[i, j]
                    for r in range(lanes):
                        z[r] += W[j, r] * x
                sure = 0
                for r in range(lanes):
                    z[r] += b[r]
                    sure += s * z[r] > norm[i] * reach[r]
                if sure == lanes:
                    continue
                for r in range(width):
                    if reach[r] < 0 or s * z[r] > norm[i] * reach[r]:
                        continue
                    ties[first + r] += abs(z[r]) <= norm[i] * reach[r]
                    if (z[r] >= 0) == (s > 0):
                        continue
                    mistakes[first + r, t] += 1
                    step = etas[first + r] * s
                    if has_bias:
                        b[r] += step
                        largest[r] = max(largest[r], abs(b[r]))
                    for j in range(n_features):
                        W[j, r] += step * X[i, j]
                        largest[r] = max(largest[r], abs(W[j, r]))
                    doubt[r] += UNIT * (largest[r] + abs(step) * x_largest[i])
                    reach[r] = 2 * doubt[r] + dot * largest[r]
            if complete:
                left = 0
                for r in range(width):
                    if mistakes[first + r, t] == 0:
                        reach[r] = -np.inf
                    left += reach[r] >= 0
                if left == 0:
                    break
        for r in range(width):
            biases[first + r] = b[r]
            for j in range(n_features):
                weights[first + r, j] = W[j, r]
