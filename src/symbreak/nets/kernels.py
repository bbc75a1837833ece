"""Descent for one layer of neurons as a compiled loop: full batch, mini-batches or one sample at a time.

Imported when the first fit needs it, because it imports numba. Compiled at the first call of a machine and kept on disk
where a folder can be written; the compiled loops hold no lock.

    z = W x + b,   g = mean over the batch of dL/dz x^T + alpha W
    v <- momentum v + g,   W <- W - eta v,   or with Nesterov W <- W - eta (g + momentum v)

as torch.optim.SGD has it (dampening 0, buffer empty at first). Biases alike, without alpha.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

from symbreak.exact.arrays import Floats, Integers
from symbreak.nets.neuron import LOGISTIC, PERCEPTRON, SOFTMAX, SQUARES

F = TypeVar("F", bound=Callable[..., Any])


def compiled(**options: Any) -> Callable[[F], F]:
    """numba.njit, cached on disk where that is possible."""

    def jit(function: F) -> F:
        try:
            return numba.njit(nogil=True, cache=True, **options)(function)  # type: ignore[no-any-return]
        except RuntimeError:  # numba finds no folder to write to
            return numba.njit(nogil=True, **options)(function)  # type: ignore[no-any-return]

    return jit


def lent(array: Floats) -> Floats:
    """The array in rows, for reading only, as memory-mapped samples are: one type, so one compilation."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


# Two sums, because numba's cache does not tell one function under two options apart. Only a free order of the terms
# lets the processor add several at once; only the textbook's order gives the textbook's ties.


@compiled(fastmath={"reassoc", "contract"})
def _dot(w: Floats, x: Floats) -> float:
    total = 0.0
    for j in range(len(w)):
        total += w[j] * x[j]
    return total


@compiled()
def _dot_in_order(w: Floats, x: Floats) -> float:
    total = 0.0
    for j in range(len(w)):
        total += w[j] * x[j]
    return total


@compiled()
def shuffle(order: Integers, state: NDArray[np.uint64]) -> None:
    """Fisher and Yates's shuffle of 0 .. n - 1 into order [n], by the SplitMix64 generator. state [1] moves on.

    It starts from the natural order each time, so that the state alone says what comes next.

    Source: Steele, Lea and Flood 2014, Fast splittable pseudorandom number generators; Lemire 2019, for the range.
    """
    for k in range(len(order)):
        order[k] = k
    for k in range(len(order) - 1, 0, -1):
        state[0] += np.uint64(0x9E3779B97F4A7C15)
        bits = state[0]
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        bits = bits ^ (bits >> np.uint64(31))
        other = np.int64(((bits >> np.uint64(32)) * np.uint64(k + 1)) >> np.uint64(32))
        order[k], order[other] = order[other], order[k]


@compiled()
def rosenblatt(
    X: Floats,  # [n, d]
    y: Floats,  # [n] 0 or 1; class numbers for several neurons
    W: Floats,  # [o, d] in and out
    b: Floats,  # [o] in and out
    learns_bias: bool,
    eta: float,
    shuffled: bool,
    state: NDArray[np.uint64],  # [1] of the shuffles, in and out
    mistakes: Integers,  # [epochs, o] out
) -> int:
    """The perceptron's rule, as `descend` has it for batches of one, bit for bit; the number of epochs done.

    Four samples are looked at together, because a sum in order waits for each of its additions, and four such sums wait
    at the same time. Weights that a mistake changes make the samples behind it be looked at again.
    """
    n_samples, n_features = X.shape
    order = np.arange(n_samples)
    for epoch in range(len(mistakes)):
        if shuffled:
            shuffle(order, state)
        for o in range(len(W)):
            if epoch > 0 and mistakes[epoch - 1, o] == 0:  # right about every sample, so right for good
                continue
            w, place = W[o], 0
            while place < n_samples:
                ahead = min(4, n_samples - place)
                last = n_samples - 1
                i0, i1 = order[place], order[min(place + 1, last)]
                i2, i3 = order[min(place + 2, last)], order[min(place + 3, last)]
                z0, z1, z2, z3 = 0.0, 0.0, 0.0, 0.0
                for j in range(n_features):
                    z0 += w[j] * X[i0, j]
                    z1 += w[j] * X[i1, j]
                    z2 += w[j] * X[i2, j]
                    z3 += w[j] * X[i3, j]
                for k in range(ahead):
                    i = order[place]
                    z = (z0 if k == 0 else z1 if k == 1 else z2 if k == 2 else z3) + b[o]
                    wanted = y[i] > 0 if len(W) == 1 else int(y[i]) == o
                    place += 1
                    if (z >= 0) == wanted:
                        continue
                    mistakes[epoch, o] += 1
                    step = eta if wanted else -eta
                    if learns_bias:
                        b[o] += step
                    for j in range(n_features):
                        w[j] += step * X[i, j]
                    break
        if mistakes[epoch].sum() == 0:
            return epoch + 1
    return len(mistakes)


@compiled()
def orders(n_samples: int, state: NDArray[np.uint64], epochs: int) -> Integers:
    """The next orders [epochs, n] in which `descend` would visit the samples; state [1] moves on."""
    visits = np.empty((epochs, n_samples), np.int64)
    for epoch in range(epochs):
        shuffle(visits[epoch], state)
    return visits


@compiled()
def scores(X: Floats, W: Floats, b: Floats) -> Floats:
    """z [n, o], each summed feature by feature and then the bias, as `descend` sums a perceptron's."""
    z = np.empty((len(X), len(W)))
    for i in range(len(X)):
        for o in range(len(W)):
            z[i, o] = _dot_in_order(W[o], X[i]) + b[o]
    return z


@compiled()
def _loss(kind: int, z: Floats, y: float, mistakes: Integers) -> float:
    """The loss of one sample; z [o] becomes dL/dz. Mistakes [o] are counted for the perceptron."""
    if kind == SQUARES:
        z[0] -= y
        squared: float = 0.5 * z[0] * z[0]
        return squared
    if kind == LOGISTIC:
        small = math.exp(-abs(z[0]))  # nothing overflows
        loss: float = math.log1p(small) + max(z[0], 0.0) - y * z[0]
        z[0] = (1.0 / (1.0 + small) if z[0] >= 0 else small / (1.0 + small)) - y
        return loss
    own = int(y)
    if kind == SOFTMAX:
        top, total = z.max(), 0.0
        loss = top - z[own]
        for o in range(len(z)):
            z[o] = math.exp(z[o] - top)
            total += z[o]
        for o in range(len(z)):
            z[o] /= total
        z[own] -= 1.0
        loss += math.log(total)
        return loss
    wrong = 0
    for o in range(len(z)):
        target = y if len(z) == 1 else (1.0 if o == own else 0.0)
        z[o] = (1.0 if z[o] >= 0 else 0.0) - target
        if z[o] != 0:
            wrong += 1
            mistakes[o] += 1
    return wrong / len(z)


@compiled()
def _online_epoch(
    kind: int, X: Floats, y: Floats, order: Integers, w: Floats, b: Floats, learns_bias: bool, eta: float, alpha: float
) -> float:
    """One neuron, one sample at a time, no momentum: the loss of the epoch. w [d] and b [1] in and out."""
    total, bias, kept = 0.0, b[0], 1.0 - eta * alpha
    z, none = np.empty(1), np.empty(0, np.int64)
    for i in order:
        x = X[i]
        if alpha > 0:
            total += 0.5 * alpha * _dot(w, w)
        z[0] = _dot(w, x) + bias
        if kind == SQUARES:
            slope = z[0] - y[i]
            total += 0.5 * slope * slope
        else:
            total += _loss(kind, z, y[i], none)
            slope = z[0]
        step = eta * slope
        if learns_bias:
            bias -= step
        if alpha > 0:
            for j in range(len(w)):
                w[j] = w[j] * kept - step * x[j]
        else:
            for j in range(len(w)):
                w[j] -= step * x[j]
    b[0] = bias
    return total


@compiled()
def descend(
    kind: int,
    X: Floats,  # [n, d]
    y: Floats,  # [n] targets; class numbers for several neurons
    W: Floats,  # [o, d] in and out
    b: Floats,  # [o] in and out
    VW: Floats,  # [o, d] velocity, in and out
    Vb: Floats,  # [o] velocity, in and out
    learns_bias: bool,
    eta: float,
    momentum: float,
    nesterov: bool,
    alpha: float,
    batch: int,
    shuffled: bool,
    state: NDArray[np.uint64],  # [1] of the shuffles, in and out
    tol: float,  # below 0: never stop early
    patience: int,
    snapshots: Integers,  # [k] epochs before which the weights are copied, ascending
    path_W: Floats,  # [k, o, d] out
    path_b: Floats,  # [k, o] out
    losses: Floats,  # [epochs] out: mean over the samples, each at the weights it was visited with, alpha included
    mistakes: Integers,  # [epochs, o] out, for the perceptron
) -> int:
    """Train; the number of epochs done. A perceptron that has passed a whole epoch without a mistake stops there."""
    n_samples, n_features = X.shape
    n_out = len(W)
    order = np.arange(n_samples)
    gradient, z, pull = np.zeros((n_out, n_features)), np.empty(n_out), np.zeros(n_out)
    online = batch == 1 and momentum == 0
    best, waited, kept = np.inf, 0, 0
    for epoch in range(len(losses)):
        if kept < len(snapshots) and snapshots[kept] == epoch:
            path_W[kept], path_b[kept] = W, b
            kept += 1
        if shuffled:
            shuffle(order, state)
        total = 0.0
        alone = online and n_out == 1 and kind != PERCEPTRON
        if alone:
            total = _online_epoch(kind, X, y, order, W[0], b, learns_bias, eta, alpha)
        for first in range(0, 0 if alone else n_samples, batch):
            last = min(first + batch, n_samples)
            if alpha > 0:
                total += 0.5 * alpha * (W * W).sum() * (last - first)
            if not online:
                gradient[:], pull[:] = 0.0, 0.0
            for place in range(first, last):
                x = X[order[place]]
                for o in range(n_out):
                    z[o] = (_dot_in_order(W[o], x) if kind == PERCEPTRON else _dot(W[o], x)) + b[o]
                total += _loss(kind, z, y[order[place]], mistakes[epoch])
                for o in range(n_out):
                    slope = z[o]
                    if online:
                        if slope != 0 or alpha > 0:
                            for j in range(n_features):
                                W[o, j] -= eta * (slope * x[j] + alpha * W[o, j])
                            if learns_bias:
                                b[o] -= eta * slope
                    elif slope != 0:
                        pull[o] += slope
                        for j in range(n_features):
                            gradient[o, j] += slope * x[j]
            if online:
                continue
            size = last - first
            for o in range(n_out):
                for j in range(n_features):
                    g = gradient[o, j] / size + alpha * W[o, j]
                    VW[o, j] = momentum * VW[o, j] + g
                    W[o, j] -= eta * (g + momentum * VW[o, j] if nesterov else VW[o, j])
                if learns_bias:
                    g = pull[o] / size
                    Vb[o] = momentum * Vb[o] + g
                    b[o] -= eta * (g + momentum * Vb[o] if nesterov else Vb[o])
        losses[epoch] = total / n_samples
        if kind == PERCEPTRON and momentum == 0 and alpha == 0 and mistakes[epoch].sum() == 0:
            return epoch + 1
        waited = waited + 1 if losses[epoch] > best - tol else 0
        best = min(best, losses[epoch])
        if tol >= 0 and waited >= patience:
            return epoch + 1
    return len(losses)
