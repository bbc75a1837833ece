"""The c of a law: what it may be, and the sentence where it may not."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from symbreak.exact import arrays
from symbreak.exact.arrays import ArrayError, Floats


def positive(c: ArrayLike) -> float:
    """One number above 0.

    Raises:
        ArrayError: anything else.
    Example:
        >>> positive(2)
        2.0

    Source: a factor of 0 or below turns signs, and with them decisions.
    """
    array = arrays.numbers("c", c)
    if array.size != 1 or array.item() <= 0:
        raise ArrayError(f"c is {c!r}; this law needs one number above 0.")
    return float(array.item())


def orthogonal(c: ArrayLike) -> Floats:
    """A square matrix whose transpose is its inverse, to 1e-12.

    Raises:
        ArrayError: anything else.
    Example:
        >>> orthogonal([[0, 1], [1, 0]]).tolist()
        [[0.0, 1.0], [1.0, 0.0]]

    Source: it keeps lengths.
    """
    Q = arrays.numbers("c", c)
    if Q.ndim != 2 or Q.shape[0] != Q.shape[1] or np.abs(Q @ Q.T - np.eye(len(Q))).max() > 1e-12:
        raise ArrayError(f"c has shape {Q.shape}; this law needs an orthogonal matrix (features, features), Q Q^T = 1.")
    return Q


def some_positive(c: ArrayLike) -> Floats:
    """Numbers above 0, one axis of them.

    Raises:
        ArrayError: anything else.
    Example:
        >>> some_positive([2, 0.5])
        array([2. , 0.5])

    Source: `positive`, for each layer or unit.
    """
    array = np.atleast_1d(arrays.numbers("c", c))
    if array.ndim != 1 or not array.size or array.min() <= 0:
        raise ArrayError(f"c is {c!r}; this law needs one axis of numbers above 0.")
    return array


def of_product_one(c: ArrayLike) -> Floats:
    """Numbers above 0 whose product is 1, to 1e-12.

    Raises:
        ArrayError: anything else.
    Example:
        >>> of_product_one([2, 0.5])
        array([2. , 0.5])

    Source: what one layer takes, the others give.
    """
    array = some_positive(c)
    if abs(np.log(array).sum()) > 1e-12:
        raise ArrayError(f"c has the product {np.prod(array):g}; this law needs a factor for each layer, of product 1.")
    return array


def steps(c: ArrayLike) -> int:
    """A number of steps, from 0 on.

    Raises:
        ArrayError: anything else.
    Example:
        >>> steps(3)
        3

    Source: the c of a conserved quantity.
    """
    if np.ndim(c):
        raise ArrayError(f"c is {c!r}; this law needs one number of steps.")
    return int(arrays.counts("c, to this law a number of steps,", c)[0])
