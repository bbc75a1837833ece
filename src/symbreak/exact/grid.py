"""A grid of perceptrons, starts x learning rates, reduced to the runs that differ by more than scale, and back.

    part = reduce(W0, etas, b0=b0)                          # no data needed: which cells are one run
    done = perceptron.run(X, y, part.W0, part.eta, b0=part.b0, epochs=20)
    cells = part.expand(done.weights)                       # [S, E, d]

`run_grid` does all three, and says of every cell what its numbers stand on. From w0 = 0 one run is all of them.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

from symbreak.exact import arrays, perceptron
from symbreak.exact.arrays import ArrayError, Floats, Integers
from symbreak.exact.perceptron import rational, rounds_nothing


@dataclass(frozen=True, eq=False)
class Reduction:
    """The essential runs of a grid of starts and learning rates, and which of them each cell is, times what.

    Example:
        >>> part = reduce([[0.0], [1.0], [2.0]], [0.5, 1.0])
        >>> part.run_of.tolist()                                     # 1 at 0.5 is 2 at 1
        [[0, 0], [1, 2], [3, 1]]
        >>> part.expand(np.array([[1.0], [5.0], [6.0], [7.0]]))[..., 0].tolist()
        [[0.5, 1.0], [2.5, 6.0], [7.0, 5.0]]

    Source: `laws.PERCEPTRON_SCALE`, `laws.HINGE_SCALE`.
    """

    W0: Floats  # [K, d]
    eta: Floats  # [K]
    b0: Floats | None  # [K]
    margin: Floats | None  # [K]
    run_of: Integers  # [S, E]
    scale: Floats  # [S, E]

    def expand(self, weights: Floats) -> Floats:
        """What the essential runs came to [K, ...], as weights or biases of every cell [S, E, ...].

        Raises:
            ArrayError: results of another number of runs.
        """
        if len(weights) != len(self.eta):
            raise ArrayError(f"weights has {len(weights)} runs; the grid has {len(self.eta)} essential ones.")
        whole: Floats = weights[self.run_of] * self.scale.reshape(self.scale.shape + (1,) * (weights.ndim - 1))
        return whole


@dataclass(frozen=True, eq=False)
class Grid:
    """A grid of perceptrons, expanded from its essential runs.

    standing, of each cell, says what a run of that very cell in float64 would do:
        "safe"   no tie: the same mistakes.
        "exact"  ties, and the essential run is free of rounding: this is the run of real numbers; float64 may differ.
        "tied"   ties, decided by rounding: `settle=True` or `perceptron.run_rational` gives the run of real numbers.
    """

    weights: Floats  # [S, E, d]
    biases: Floats  # [S, E]
    mistakes: Integers  # [S, E, epochs]
    ties: Integers  # [S, E]
    standing: NDArray[np.str_]  # [S, E]
    n_essential: int  # runs that were run, of S x E

    @property
    def epochs_to_converge(self) -> Integers:
        """The first epoch without a mistake, counted from 1; 0 where there was none. [S, E]"""
        clean = self.mistakes == 0
        first: Integers = np.where(clean.any(axis=-1), clean.argmax(axis=-1) + 1, 0)
        return first


def reduce(
    W0: ArrayLike, etas: ArrayLike, *, b0: ArrayLike | None = None, margin: ArrayLike | None = None
) -> Reduction:
    """The runs of a grid that differ by more than scale: one for each (w0, b0, margin) / eta.

    Floats count as the decimals they print as, so that 0.3 / 0.1 and 0.6 / 0.2 are one, and such a class is run at
    eta = 1, where whole numbers stay whole. Cells that are another times a power of two are one to the last bit (short
    of under- and overflow), and the first of them is run. A cell on its own is run as it is.

    Args:
        W0: starts [S, d], or one start [d].
        etas: learning rates [E] > 0.
        b0: start of the bias, one or [S]; None: no bias.
        margin: of a margin perceptron without L2 (`online.hinge`), >= 0, one or [S]; None: a perceptron.
    Returns:
        essential runs [K], and run and scale of each cell [S, E].
    Raises:
        ArrayError: NaN, wrong shapes, a learning rate <= 0.
    Example:
        >>> len(reduce([[0.0, 0.0]], [0.001, 0.1, 1.0, 30.0]).eta)         # from zero, one run for all
        1
        >>> len(reduce([[0.0, 0.0]], [0.001, 0.1, 1.0, 30.0], margin=1.0).eta)   # a margin is a scale
        4

    Source: `laws.PERCEPTRON_SCALE`, `laws.HINGE_SCALE`.
    """
    starts, rates = np.atleast_2d(arrays.numbers("W0", W0)), arrays.rates("etas", etas)
    starts = arrays.rows("W0", starts, starts.shape[-1])
    b, m = _of_each("b0", b0, len(starts)), _of_each("margin", margin, len(starts))
    if m.min() < 0:
        raise ArrayError(f"margin holds {m.min():g}; 0 or more is needed.")
    whole = np.c_[starts, b, m]  # [S, d + 2]
    run_of, scale = np.zeros((len(starts), len(rates)), np.int64), np.ones((len(starts), len(rates)))
    classes = _classes(whole, rates)
    for k, one in enumerate(classes):
        for s, e in one.cells:
            run_of[s, e], scale[s, e] = k, rates[e] / one.eta
    runs = np.array([one.start for one in classes])
    return Reduction(
        W0=runs[:, :-2],
        eta=np.array([one.eta for one in classes]),
        b0=None if b0 is None else runs[:, -2],
        margin=None if margin is None else runs[:, -1],
        run_of=run_of,
        scale=scale,
    )


def _of_each(name: str, given: ArrayLike | None, n_starts: int) -> Floats:
    numbers = np.atleast_1d(arrays.numbers(name, 0.0 if given is None else given))
    if numbers.shape not in ((1,), (n_starts,)):
        raise ArrayError(
            f"{name} needs one number, or one for each of the {n_starts} starts; its shape is {numbers.shape}."
        )
    return np.broadcast_to(numbers, (n_starts,))


Cell = tuple[int, int]


@dataclass(frozen=True, eq=False)
class _Class:
    cells: list[Cell]
    start: Floats  # [d + 2], of the run that stands for all
    eta: float


def _classes(whole: Floats, rates: Floats) -> list[_Class]:
    """Cells with the same start / eta, in order of their first cell."""
    found, alone = _same_in_decimals(whole, rates)
    found += _same_but_for_powers_of_two(whole, rates, alone)
    return sorted(found, key=lambda one: one.cells[0])


def _same_in_decimals(whole: Floats, rates: Floats) -> tuple[list[_Class], list[Cell]]:
    """Classes of more than one cell, and the cells left over. Fractions are slow, so they only confirm."""
    candidates: dict[bytes, list[Cell]] = defaultdict(list)
    for e, eta in enumerate(rates):
        with np.errstate(all="ignore"):  # ratios out of float64's range fall into one bin, and are told apart below
            ratios = _to_12_digits(whole / eta)
        for s, ratio in enumerate(ratios):
            candidates[ratio.tobytes()].append((s, e))
    found: list[_Class] = []
    alone: list[Cell] = []
    for cells in candidates.values():
        same: dict[tuple[Fraction, ...], list[Cell]] = defaultdict(list)
        for s, e in cells if len(cells) > 1 else ():
            same[_ratio(whole[s], rates[e])].append((s, e))
        alone += cells if len(cells) == 1 else ()
        for ratio, group in same.items():
            if len(group) > 1 and all(q == 0 or 1e-290 < abs(q) < 1e290 for q in ratio):
                found.append(_Class(sorted(group), np.array([float(q) for q in ratio]), 1.0))
            else:
                alone += group
    return found, alone


def _to_12_digits(array: Floats) -> Floats:
    mantissa, exponent = np.frexp(array)
    return np.ldexp(np.round(mantissa, 12), exponent) + 0.0  # + 0.0: -0.0 has other bytes


def _ratio(start: Floats, eta: float) -> tuple[Fraction, ...]:
    if not start.any():
        return (Fraction(0),) * len(start)
    step = rational("eta", eta)
    return tuple(rational("W0", one) / step for one in start)


def _same_but_for_powers_of_two(whole: Floats, rates: Floats, cells: list[Cell]) -> list[_Class]:
    same: dict[tuple[float, bytes], list[Cell]] = defaultdict(list)
    for s, e in sorted(cells):
        mantissa, exponent = np.frexp(rates[e])
        with np.errstate(all="ignore"):
            unit = np.ldexp(whole[s], -exponent) + 0.0
            fits = np.array_equal(np.ldexp(unit, exponent), whole[s])
        same[(float(mantissa), unit.tobytes()) if fits else (float(rates[e]), whole[s].tobytes())].append((s, e))
    return [_Class(group, whole[group[0][0]], float(rates[group[0][1]])) for group in same.values()]


def run_grid(
    X: ArrayLike,
    y: ArrayLike,
    W0: ArrayLike,
    etas: ArrayLike,
    *,
    b0: ArrayLike | None = None,
    epochs: int = 1,
    order: ArrayLike | None = None,
    settle: bool = False,
) -> Grid:
    """Every start with every learning rate, running only what differs by more than scale.

    Args:
        X, y, b0, epochs: as in `perceptron.run`, b0 one or [S].
        W0: starts [S, d].
        etas: learning rates [E] > 0.
        order: visits, [k] or [epochs, k], the same for all cells.
        settle: redo in fractions what ties left to rounding; for small problems, some 100,000 visits a second.
    Returns:
        the grid, and what each cell's numbers stand on.
    Raises:
        ArrayError: as `perceptron.run`, and for an order of each run's own, which no law relates.
    Example:
        >>> X, y = [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], [0, 0, 0, 1]
        >>> grid = run_grid(X, y, [[0.0, 0.0]], [0.1, 1.0, 7.0], b0=0.0, epochs=10)
        >>> grid.n_essential, grid.epochs_to_converge.tolist(), grid.standing[0, 0]
        (1, [[6, 6, 6]], np.str_('exact'))

    Source: `laws.PERCEPTRON_SCALE`.
    """
    if np.ndim(np.asarray(order)) == 3:
        raise ArrayError(
            "order has an axis of runs; runs that visit samples in different orders are no multiples of one another."
        )
    part = reduce(W0, etas, b0=b0)
    done = perceptron.run(X, y, part.W0, part.eta, b0=part.b0, epochs=epochs, order=order)
    visits = len(np.asarray(y)) if order is None else np.shape(order)[-1]
    standing = _standing(X, part, done.ties, epochs * visits)
    for k in np.flatnonzero(standing == "tied") if settle else ():
        s, e = np.argwhere(part.run_of == k)[0]
        exact = perceptron.run_rational(
            np.asarray(X).tolist(),
            y,
            [np.atleast_2d(W0)[s].tolist()],
            np.atleast_1d(etas)[e],
            b0=None if b0 is None else np.broadcast_to(b0, len(part.run_of))[s],
            epochs=epochs,
            order=order,
        )
        scale = rational("etas", part.scale[s, e])
        done.weights[k] = [float(w / scale) for w in exact.weights[0]]
        done.biases[k] = float(exact.biases[0] / scale)
        done.mistakes[k], done.ties[k], standing[k] = exact.mistakes[0], exact.ties[0], "exact"
    return Grid(
        weights=part.expand(done.weights),
        biases=part.expand(done.biases),
        mistakes=done.mistakes[part.run_of],
        ties=done.ties[part.run_of],
        standing=standing[part.run_of],
        n_essential=len(part.eta),
    )


def _standing(X: ArrayLike, part: Reduction, ties: Integers, visits: int) -> NDArray[np.str_]:
    standing = np.where(ties == 0, "safe", "tied").astype("<U5")  # room for "exact"
    data_are_exact = bool(ties.any()) and _as_printed(X)
    for k in np.flatnonzero(ties) if data_are_exact else ():
        start = part.W0[k] if part.b0 is None else np.r_[part.W0[k], part.b0[k]]
        b0 = None if part.b0 is None else part.b0[k]
        exact = _as_printed(start) and _as_printed(part.eta[k])
        if exact and rounds_nothing(X, part.W0[k], part.eta[k], b0=b0, visits=visits):
            standing[k] = "exact"
    return standing


def _as_printed(array: ArrayLike) -> bool:
    """Whether every float is the very decimal it prints as: 0.5 is, 0.1 is not."""
    return all(rational("a number", one) == Fraction(one) for one in np.unique(arrays.numbers("X", array)).tolist())
