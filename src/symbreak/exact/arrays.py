"""What comes in: arrays and numbers are checked here once, so that the engines only compute."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from symbreak.errors import SymbreakError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
LONGEST = 2**63 - 1  # steps are counted in int64


class ArrayError(SymbreakError):
    """An array or a number that does not fit: wrong shape, not finite, out of range."""


def numbers(name: str, given: ArrayLike) -> Floats:
    """Any array as finite float64.

    Raises:
        ArrayError: not numbers, or NaN or infinity among them.
    Example:
        >>> numbers("eta", [1, 2])
        array([1., 2.])

    Source: numpy.asarray.
    """
    try:
        array: Floats = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as err:
        raise ArrayError(f"{name} holds something that is no number, or rows of different lengths: {err}.") from err
    bad = int(array.size - np.isfinite(array).sum())
    if bad:
        where = tuple(map(int, np.argwhere(~np.isfinite(array))[0]))
        at = f"; the first at {where}" if where else ""
        raise ArrayError(f"{name} holds {bad} NaN or infinite {plural(bad, 'value')}{at}. Fill or drop them first.")
    return array


def samples(X: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
    """Features X [n, d] and targets y [n] that belong together.

    Raises:
        ArrayError: another number of axes, no sample, no feature, or lengths that differ.
    Example:
        >>> samples([[1, 2]], [3])
        (array([[1., 2.]]), array([3.]))

    Source: scikit-learn's convention, samples x features.
    """
    features, target = table("X", X), numbers("y", y)
    if target.ndim != 1:
        raise ArrayError(f"y needs one axis, (samples,); its shape is {target.shape}. Fit one target at a time.")
    if len(target) != len(features):
        raise ArrayError(f"X has {len(features)} samples and y has {len(target)}; they need to be as many.")
    return features, target


def table(name: str, given: ArrayLike) -> Floats:
    """Features [n, d], at least one of each.

    Raises:
        ArrayError: another number of axes, no sample or no feature.
    Example:
        >>> table("X", [[1.0, 2.0]]).shape
        (1, 2)

    Source: scikit-learn's convention, samples x features.
    """
    features = numbers(name, given)
    if features.ndim != 2:
        raise ArrayError(f"{name} needs two axes, (samples, features); its shape is {features.shape}.")
    if 0 in features.shape:
        raise ArrayError(f"{name} needs at least one sample and one feature; its shape is {features.shape}.")
    return features


def rows(name: str, given: ArrayLike, width: int) -> Floats:
    """Starts [S, width]; one row may come without its axis.

    Raises:
        ArrayError: another width, another number of axes, or no row.
    Example:
        >>> rows("W0", [0.0, 0.0], 2).shape
        (1, 2)

    Source: numpy.atleast_2d.
    """
    array = np.atleast_2d(numbers(name, given))
    if array.ndim != 2 or array.shape[1] != width or not array.size:
        raise ArrayError(
            f"{name} needs the shape (starts, {width}), a weight for each feature of X; it is {np.shape(given)}."
        )
    return array


def labelled(X: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
    """Features [n, d] and the sign of each sample [n], +1 or -1.

    Raises:
        ArrayError: as `samples`, or labels other than {0, 1} or {-1, +1}.
    Example:
        >>> labelled([[1], [2]], [0, 1])[1]
        array([-1.,  1.])

    Source: both conventions of the perceptron; a mistake moves the weights by eta times this sign.
    """
    features, target = samples(X, y)
    labels = set(np.unique(target).tolist())
    if not (labels <= {0.0, 1.0} or labels <= {-1.0, 1.0}):
        shown = ", ".join(f"{one:g}" for one in sorted(labels)[:6])
        raise ArrayError(f"y holds the labels {shown}; all in {{0, 1}} or all in {{-1, +1}} are needed.")
    return np.ascontiguousarray(features), np.where(target > 0, 1.0, -1.0)


def one_each(name: str, given: np.ndarray, n_runs: int) -> np.ndarray:
    """A number for each run [R], from one or from R.

    Raises:
        ArrayError: any other shape.
    Example:
        >>> one_each("eta", np.array([0.1]), 2)
        array([0.1, 0.1])

    Source: numpy.broadcast_to, into an array of its own.
    """
    if given.shape not in ((1,), (n_runs,)):
        raise ArrayError(f"{name} needs one number, or one for each of the {n_runs} runs; its shape is {given.shape}.")
    return np.array(np.broadcast_to(given, (n_runs,)))


def visits(order: ArrayLike | None, n_samples: int, n_runs: int, n_epochs: int) -> Integers:
    """Sample numbers in the order of their visits [R or 1, epochs or 1, k].

    Raises:
        ArrayError: another shape, not whole numbers, or no such sample.
    Example:
        >>> visits(None, 3, n_runs=2, n_epochs=5).tolist()
        [[[0, 1, 2]]]

    Source: an epoch is one pass over the samples.
    """
    if order is None:
        return np.arange(n_samples, dtype=np.int64)[None, None]
    numbered = np.asarray(order)
    expected = f"(k,), ({n_epochs}, k) or ({n_runs}, {n_epochs}, k)"
    if numbered.ndim not in (1, 2, 3) or not numbered.size:
        raise ArrayError(f"order needs the shape {expected}; it is {numbered.shape}.")
    numbered = numbered.reshape((1,) * (3 - numbered.ndim) + numbered.shape)
    fits = numbered.shape[0] in (1, n_runs) and (numbered.shape[1] == n_epochs or np.ndim(order) == 1)
    if not fits:
        raise ArrayError(f"order needs the shape {expected}; it is {np.shape(order)}.")
    if numbered.dtype.kind not in "iu":
        raise ArrayError(f"order holds {numbered.dtype} values; sample numbers are whole.")
    if numbered.min() < 0 or numbered.max() >= n_samples:
        bad = numbered.min() if numbered.min() < 0 else numbered.max()
        raise ArrayError(f"order names sample {bad}; X has samples 0 to {n_samples - 1}.")
    return np.ascontiguousarray(numbered, dtype=np.int64)


def rates(name: str, given: ArrayLike) -> Floats:
    """Learning rates [E], each above zero; one may come without its axis.

    Raises:
        ArrayError: zero or below, two axes, or none given.
    Example:
        >>> rates("etas", 0.1)
        array([0.1])

    Source: a negative one climbs, and zero never moves.
    """
    array = np.atleast_1d(numbers(name, given))
    if array.ndim != 1 or not array.size:
        raise ArrayError(f"{name} needs a number or one axis of numbers; its shape is {np.shape(given)}.")
    if array.min() <= 0:
        raise ArrayError(f"{name} holds {array.min():g}; a learning rate is above 0.")
    return array


def each_from_zero_on(name: str, given: ArrayLike, n_runs: int) -> Floats:
    """A number >= 0 for each run [R], from one or from R.

    Raises:
        ArrayError: below zero, or any other shape.
    Example:
        >>> each_from_zero_on("margin", 1, 2)
        array([1., 1.])

    Source: `one_each`.
    """
    array: Floats = one_each(name, np.atleast_1d(numbers(name, given)), n_runs)
    if array.min() < 0:
        raise ArrayError(f"{name} holds {array.min():g}; 0 or more is needed.")
    return array


def counts(name: str, given: ArrayLike) -> Integers:
    """Step counts [T], whole numbers from 0 to 2**63 - 1; one may come without its axis. 1e18 is a whole number.

    Raises:
        ArrayError: negative, not whole, too large, two axes, or none given.
    Example:
        >>> counts("steps", [0, 1e18])
        array([                  0, 1000000000000000000])

    Source: numpy.int64.
    """
    array = np.atleast_1d(np.asarray(given))
    if array.ndim != 1 or not array.size:
        raise ArrayError(f"{name} needs a count or one axis of counts; its shape is {np.shape(given)}.")
    return np.array([_count(name, one) for one in array.tolist()], dtype=np.int64)


def _count(name: str, given: Any) -> int:
    given = given.item() if isinstance(given, np.generic) else given
    whole = (
        isinstance(given, int | float) and not isinstance(given, bool) and math.isfinite(given) and given == int(given)
    )
    if not whole:
        raise ArrayError(f"{name} holds {given!r}; steps are counted in whole numbers.")
    if not 0 <= given <= LONGEST:
        raise ArrayError(f"{name} holds {given:g}; steps are counted from 0 to 2**63 - 1.")
    return int(given)


def at_least_one(name: str, given: object) -> int:
    """A whole number above zero.

    Raises:
        ArrayError: anything else.
    Example:
        >>> at_least_one("epochs", 3)
        3

    Source: an epoch is one pass over the samples.
    """
    counted = _count(name, given)
    if counted < 1:
        raise ArrayError(f"{name} is {counted}; at least 1 is needed.")
    return counted


def share(name: str, given: float) -> float:
    """A number from 0 up to, but not including, 1.

    Raises:
        ArrayError: outside.
    Example:
        >>> share("momentum", 0.9)
        0.9

    Source: a momentum of 1 or more never forgets, so no learning rate converges.
    """
    number = _scalar(name, given)
    if not 0 <= number < 1:
        raise ArrayError(f"{name} is {number:g}; from 0 up to, but not including, 1 is needed.")
    return number


def not_negative(name: str, given: float) -> float:
    """A number from 0 on.

    Raises:
        ArrayError: below zero.
    Example:
        >>> not_negative("alpha", 0)
        0.0

    Source: a negative L2 penalty rewards large weights without bound.
    """
    number = _scalar(name, given)
    if number < 0:
        raise ArrayError(f"{name} is {number:g}; 0 or more is needed.")
    return number


def _scalar(name: str, given: ArrayLike) -> float:
    array = numbers(name, given)
    if array.size != 1:
        raise ArrayError(f"{name} needs one number; its shape is {array.shape}.")
    return float(array.item())


def plural(n: int, noun: str) -> str:
    """The noun, in the plural unless n is 1.

    Example:
        >>> plural(2, "value")
        'values'

    Source: English.
    """
    return noun if n == 1 else f"{noun}s"
