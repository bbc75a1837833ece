"""The numbers that steer a descent, read off an estimator and checked once."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state

from symbreak.exact import arrays
from symbreak.nets.errors import NetError


@dataclass(frozen=True)
class Knobs:
    """What the estimators' arguments of the same names come to.

    Example:
        >>> from symbreak.nets import LinearRegression
        >>> knobs(LinearRegression(batch_size=32, max_epochs=5)).epochs
        5

    Source: `knobs`.
    """

    eta: float | None  # None: "auto", which only the data can tell
    n_steps: int | None  # full-batch steps asked for
    max_epochs: int
    batch_size: int | None  # None: all samples
    momentum: float
    nesterov: bool
    alpha: float
    shuffle: bool
    tol: float | None
    patience: int
    keep_path: int

    @property
    def epochs(self) -> int:
        """Passes over the data; a full-batch step is one."""
        return self.max_epochs if self.n_steps is None else self.n_steps


def knobs(estimator: Any) -> Knobs:
    """The estimator's knobs, each in its range. An argument an estimator does not have takes its neutral value.

    Args:
        estimator: anything with the attributes eta, max_epochs and, if it has them, n_steps, batch_size, momentum,
            nesterov, alpha, shuffle, tol, n_iter_no_change, keep_path.
    Raises:
        NetError: n_steps together with mini-batches.
        ArrayError: a number out of its range.
    Example:
        >>> from symbreak.nets import Perceptron
        >>> knobs(Perceptron()).batch_size
        1

    Source: the arguments' names are scikit-learn's where it has them.
    """
    batch_size = getattr(estimator, "batch_size", None)
    n_steps = getattr(estimator, "n_steps", None)
    tol = getattr(estimator, "tol", None)
    if n_steps is not None and batch_size is not None:
        raise NetError(
            f"n_steps={n_steps!r} counts full-batch steps, and batch_size={batch_size!r} makes mini-batches. "
            "Set max_epochs instead, or batch_size=None."
        )
    return Knobs(
        eta=_eta(estimator.eta),
        n_steps=None if n_steps is None else arrays.at_least_one("n_steps", plain(n_steps)),
        max_epochs=arrays.at_least_one("max_epochs", plain(estimator.max_epochs)),
        batch_size=None if batch_size is None else arrays.at_least_one("batch_size", plain(batch_size)),
        momentum=arrays.share("momentum", getattr(estimator, "momentum", 0.0)),
        nesterov=bool(getattr(estimator, "nesterov", False)),
        alpha=arrays.not_negative("alpha", getattr(estimator, "alpha", 0.0)),
        shuffle=bool(getattr(estimator, "shuffle", False)),
        tol=None if tol is None else arrays.not_negative("tol", tol),
        patience=arrays.at_least_one("n_iter_no_change", plain(getattr(estimator, "n_iter_no_change", 1))),
        keep_path=_points(plain(getattr(estimator, "keep_path", 0))),
    )


def _eta(given: Any) -> float | None:
    if isinstance(given, str):
        if given == "auto":
            return None
        raise NetError(f"eta={given!r}: expected a number above 0, or 'auto'.")
    if isinstance(given, bool) or np.ndim(given):
        raise NetError(f"eta={given!r}: expected one number above 0, or 'auto'.")
    return float(arrays.rates("eta", given)[0])


def _points(given: Any) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or given < 0 or given == 1:
        raise NetError(f"keep_path={given!r}: expected 0 (keep none), or 2 points and more (start and end among them).")
    return given


def plain(given: Any) -> Any:
    """A NumPy number as Python's own, so that it counts as a whole number where it is one.

    Example:
        >>> plain(np.int64(3))
        3

    Source: numpy.generic.item.
    """
    return given.item() if isinstance(given, np.generic) else given


def seed_of(random_state: Any) -> int:
    """One seed for the start and for the order of the samples.

    A whole number is the seed itself, so that the weights are those of `nets.build(..., seed)`. None and a RandomState
    draw one, which moves them, as scikit-learn's estimators do.

    Raises:
        NetError: a seed out of range.
        ValueError: no seed, by scikit-learn's `check_random_state`.
    Example:
        >>> seed_of(7)
        7

    Source: scikit-learn's glossary, random_state.
    """
    if isinstance(random_state, int | np.integer) and not isinstance(random_state, bool):
        if not 0 <= random_state < 2**32:
            raise NetError(f"random_state={random_state}: a seed is from 0 to 2**32 - 1.")
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))


@functools.lru_cache(maxsize=64)
def thinned(last: int, points: int) -> NDArray[np.int64]:
    """At most `points` whole numbers from 0 to `last`, both among them: all where they fit, else ever further apart.

    Example:
        >>> thinned(3, 10).tolist(), thinned(1000, 5).tolist()
        ([0, 1, 2, 3], [0, 1, 10, 100, 1000])

    Source: descent is quick at first and slow at last, so a geometric ladder shows both.
    """
    if last < points:
        chosen = np.arange(last + 1)
    else:
        ladder = {min(round(float(one)), last) for one in np.geomspace(1, last, points - 1)}
        chosen = np.array(sorted({0, last} | ladder), dtype=np.int64)
    chosen.flags.writeable = False  # kept for the next fit
    return chosen
