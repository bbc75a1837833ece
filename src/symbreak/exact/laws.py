"""Scale laws: two runs that are one and the same up to a factor, so that only one of them needs to be run.

    perceptron          (w0, b0, eta)          ~ (c w0, c b0, c eta)               weights x c
    linear regression   (w0, y)                ~ (c w0, c y)                       weights x c
                        (X, w0, eta, alpha)    ~ (c X, w0 / c, eta / c^2, c^2 alpha)   weights / c
                        (X, w0)                ~ (X Q, Q^T w0), Q orthogonal       Q^T weights

They hold in real numbers. In float64 a perceptron decides by the sign of z, and where z is zero but for rounding two
scales may decide differently: the AND gate from zero takes 6 epochs with eta = 1 and 4 with eta = 0.1. Such visits are
counted (`ties`), never passed over.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from symbreak.exact import arrays, descent, perceptron
from symbreak.exact.arrays import ArrayError, Floats, Integers
from symbreak.exact.perceptron import rational, rounds_nothing

CLOSE = 1e-9  # relative; rounding of a few thousand steps stays far below, and a different run far above


@dataclass(frozen=True, eq=False)
class PerceptronSetup:
    """Everything that decides R perceptrons, as `perceptron.run` takes it.

    Example:
        >>> PerceptronSetup([[1.0]], [0], [[0.0]], 0.5, b0=0.0).run().weights
        array([[-0.5]])

    Source: `perceptron.run`.
    """

    X: ArrayLike
    y: ArrayLike
    W0: ArrayLike
    eta: ArrayLike
    b0: ArrayLike | None = None
    epochs: int = 1
    order: ArrayLike | None = None

    def run(self) -> perceptron.Run:
        return perceptron.run(self.X, self.y, self.W0, self.eta, b0=self.b0, epochs=self.epochs, order=self.order)


@dataclass(frozen=True, eq=False)
class DescentRun:
    """Weights [S, E, T, d] of a linear regression."""

    weights: Floats


@dataclass(frozen=True, eq=False)
class DescentSetup:
    """Everything that decides gradient descent for least squares, as `descent.path` takes it.

    Example:
        >>> DescentSetup([[1.0]], [2.0], [0.0], etas=0.5, steps=1).run().weights.item()
        1.0

    Source: `descent.path`.
    """

    X: ArrayLike
    y: ArrayLike
    W0: ArrayLike
    etas: ArrayLike
    steps: ArrayLike
    momentum: float = 0.0
    nesterov: bool = False
    alpha: float = 0.0

    def run(self) -> DescentRun:
        knobs: dict[str, Any] = {"momentum": self.momentum, "nesterov": self.nesterov, "alpha": self.alpha}
        return DescentRun(descent.path(self.X, self.y, self.W0, self.etas, self.steps, **knobs))


S = TypeVar("S", PerceptronSetup, DescentSetup)
R = TypeVar("R", perceptron.Run, DescentRun)


@dataclass(frozen=True)
class Answer:
    """Yes or no, and the sentence that says why. True or false as a condition."""

    holds: bool
    because: str

    def __bool__(self) -> bool:
        return self.holds


@dataclass(frozen=True)
class Law(Generic[S, R]):
    """One scale law: where it applies, what it makes of a setup and of its result, and a test by running both.

    Example:
        >>> law = LAWS["linear-target-scale"]
        >>> setup = DescentSetup([[1.0]], [2.0], [1.0], etas=0.5, steps=[1, 2])
        >>> law.map(setup.run(), 10.0).weights.ravel().tolist(), bool(law.verify(setup, 10.0))
        ([15.0, 17.5], True)

    Source: each law's `source`.
    """

    name: str
    statement: str
    source: str
    of: type[S]
    admits: Callable[[S], Answer]
    rescale: Callable[[S, Any], S]  # the other setup
    carry: Callable[[R, Any], R]  # the other result
    takes: Callable[[Any], Any]  # checks c

    def applies(self, setup: object) -> Answer:
        """Whether the law says anything of this setup, and why."""
        if not isinstance(setup, self.of):
            return Answer(False, f"{self.name} is a law of {self.of.__name__}, not of {type(setup).__name__}")
        return self.admits(setup)

    def map(self, run: R, c: ArrayLike) -> R:
        """The result of the rescaled setup, from the result of the given one, without running it.

        Raises:
            ArrayError: a c that the law does not allow.
        """
        return self.carry(run, self.takes(c))

    def setup(self, setup: S, c: ArrayLike) -> S:
        """The rescaled setup.

        Raises:
            ArrayError: the law does not apply, or does not allow c.
        """
        applies = self.applies(setup)
        if not applies:
            raise ArrayError(f"{self.name} does not apply: {applies.because}.")
        return self.rescale(setup, self.takes(c))

    def verify(self, setup: S, c: ArrayLike) -> Answer:
        """Run both setups in float64 and compare them: mistakes one by one, weights to 1e-9 of the largest.

        Raises:
            ArrayError: the law does not apply, or does not allow c.
        """
        other = self.setup(setup, c)
        first: Any = setup.run()
        return _compare(self.map(first, c), other.run())


def _compare(mapped: Any, found: Any) -> Answer:
    size = max(float(np.abs(found.weights).max()), 1e-300)
    apart = float(np.abs(mapped.weights - found.weights).max()) / size
    if isinstance(found, perceptron.Run):
        ties = int(max(mapped.ties.max(), found.ties.max()))
        if not np.array_equal(mapped.mistakes, found.mistakes):
            return Answer(False, _tied(ties) if ties else "the mistakes differ, and no tie explains it")
    if not apart <= CLOSE:
        return Answer(False, f"the weights differ by {apart:.1e} of the largest")
    return Answer(True, f"run side by side, the weights differ by {apart:.1e} of the largest")


def _tied(ties: int) -> str:
    return (
        f"the mistakes differ: at up to {ties} visits of a run z is zero but for rounding, and float64 decides "
        "them by its rounding; perceptron.run_rational decides them exactly"
    )


# ---- the catalogue --------------------------------------------------------------------------------------------------


def _positive(c: ArrayLike) -> float:
    array = arrays.numbers("c", c)
    if array.size != 1 or array.item() <= 0:
        raise ArrayError(f"c is {c!r}; this law needs one number above 0.")
    return float(array.item())


def _orthogonal(c: ArrayLike) -> Floats:
    Q = arrays.numbers("c", c)
    if Q.ndim != 2 or Q.shape[0] != Q.shape[1] or np.abs(Q @ Q.T - np.eye(len(Q))).max() > 1e-12:
        raise ArrayError(f"c has shape {Q.shape}; this law needs an orthogonal matrix (features, features), Q Q^T = 1.")
    return Q


def _always(because: str) -> Callable[[Any], Answer]:
    return lambda _setup: Answer(True, because)


def _starts_at_zero(setup: PerceptronSetup) -> Answer:
    if np.any(arrays.numbers("W0", setup.W0)) or np.any(arrays.numbers("b0", 0.0 if setup.b0 is None else setup.b0)):
        return Answer(
            False, "the start is not zero, so eta also sets how far it is from the start: only w0 / eta matters"
        )
    return Answer(True, "from zero every weight is eta times a sum of samples, and no sign depends on eta")


def _scaled_perceptron(setup: PerceptronSetup, c: float) -> PerceptronSetup:
    b0 = None if setup.b0 is None else c * np.asarray(setup.b0, dtype=float)
    return replace(setup, W0=c * arrays.numbers("W0", setup.W0), b0=b0, eta=c * arrays.numbers("eta", setup.eta))


def _perceptron_times(run: perceptron.Run, c: float) -> perceptron.Run:
    return replace(run, weights=c * run.weights, biases=c * run.biases)


PERCEPTRON_SCALE = Law(
    name="perceptron-scale",
    statement="(w0, b0, eta) and (c w0, c b0, c eta) make the same mistakes, and the weights are c times as large",
    source="z is linear in (w, b), its sign does not see c, and every update is eta times a sample",
    of=PerceptronSetup,
    admits=_always("both runs multiply z by c > 0 alone; exact in float64 for c a power of two, else up to ties"),
    rescale=_scaled_perceptron,
    carry=_perceptron_times,
    takes=_positive,
)

PERCEPTRON_ETA = Law(
    name="perceptron-eta",
    statement="from w0 = b0 = 0 the learning rate only scales the weights",
    source="perceptron-scale with w0 = b0 = 0, where c w0 = w0",
    of=PerceptronSetup,
    admits=_starts_at_zero,
    rescale=_scaled_perceptron,
    carry=_perceptron_times,
    takes=_positive,
)

LINEAR_TARGET_SCALE = Law(
    name="linear-target-scale",
    statement="start and targets c times as large give weights c times as large, at the same learning rate",
    source="the gradient X^T (X w - y) / n + alpha w is linear in (w, y)",
    of=DescentSetup,
    admits=_always("the gradient is linear in start and target together"),
    rescale=lambda s, c: replace(s, W0=c * arrays.numbers("W0", s.W0), y=c * arrays.numbers("y", s.y)),
    carry=lambda run, c: DescentRun(c * run.weights),
    takes=_positive,
)

LINEAR_FEATURE_SCALE = Law(
    name="linear-feature-scale",
    statement="features c times as large need eta / c^2, alpha c^2 and a start / c, and give weights / c",
    source="with v = w / c the loss is the same, and its gradient in v is c times that in w",
    of=DescentSetup,
    admits=_always("the product of features and weights is what the loss sees"),
    rescale=lambda s, c: replace(
        s,
        X=c * arrays.numbers("X", s.X),
        W0=arrays.numbers("W0", s.W0) / c,
        etas=arrays.numbers("etas", s.etas) / c**2,
        alpha=s.alpha * c**2,
    ),
    carry=lambda run, c: DescentRun(run.weights / c),
    takes=_positive,
)

LINEAR_ROTATION = Law(
    name="linear-rotation",
    statement="features turned by Q give weights turned by Q: (X Q, Q^T w0) gives Q^T w",
    source="Q Q^T = 1, so X Q Q^T w = X w, and |Q^T w| = |w|",
    of=DescentSetup,
    admits=_always("gradient descent has no preferred axes"),
    rescale=lambda s, Q: replace(s, X=arrays.numbers("X", s.X) @ Q, W0=arrays.numbers("W0", s.W0) @ Q),
    carry=lambda run, Q: DescentRun(run.weights @ Q),
    takes=_orthogonal,
)

LAWS: dict[str, Law[Any, Any]] = {
    law.name: law
    for law in (PERCEPTRON_SCALE, PERCEPTRON_ETA, LINEAR_TARGET_SCALE, LINEAR_FEATURE_SCALE, LINEAR_ROTATION)
}


# ---- a grid of perceptrons, reduced to its essential runs ------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Reduction:
    """The essential runs of a grid of starts and learning rates, and which of them each cell is, times what.

    Example:
        >>> reduce([[0.0], [1.0], [2.0]], [0.5, 1.0]).run_of.tolist()      # 1 at 0.5 is 2 at 1
        [[0, 0], [1, 2], [3, 1]]

    Source: `PERCEPTRON_SCALE`.
    """

    W0: Floats  # [K, d]
    eta: Floats  # [K]
    b0: Floats | None  # [K]
    run_of: Integers  # [S, E]
    scale: Floats  # [S, E]


@dataclass(frozen=True, eq=False)
class Grid:
    """A grid of perceptrons, expanded from its essential runs.

    standing, of each cell, says what a run of that very cell in float64 would do:
        "safe"   no tie: the same mistakes.
        "exact"  ties, and the essential run is free of rounding: this is the run of real numbers; float64 may differ.
        "tied"   ties, decided by rounding: `perceptron.run_rational` gives the run of real numbers.
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


def reduce(W0: ArrayLike, etas: ArrayLike, *, b0: ArrayLike | None = None) -> Reduction:
    """The runs of a grid that differ by more than scale: one for each (w0, b0) / eta.

    Floats count as the decimals they print as, so that 0.3 / 0.1 and 0.6 / 0.2 are one. A class of several cells is run
    at eta = 1, where whole numbers stay whole; a cell on its own is run as it is.

    Args:
        W0: starts [S, d].
        etas: learning rates [E] > 0.
        b0: start of the bias, one or [S]; None: no bias.
    Returns:
        essential runs [K], and run and scale of each cell [S, E].
    Raises:
        ArrayError: NaN, wrong shapes, a learning rate <= 0.
    Example:
        >>> len(reduce([[0.0, 0.0]], [0.001, 0.1, 1.0, 30.0]).eta)         # from zero, one run for all
        1

    Source: `PERCEPTRON_SCALE`.
    """
    starts, rates = np.atleast_2d(arrays.numbers("W0", W0)), arrays.rates("etas", etas)
    starts = arrays.rows("W0", starts, starts.shape[1])
    biases = np.broadcast_to(_bias_of_each(b0, len(starts)), (len(starts),))
    whole = np.c_[starts, biases]  # [S, d + 1]
    run_of, scale = np.zeros((len(starts), len(rates)), np.int64), np.ones((len(starts), len(rates)))
    essential: list[tuple[Floats, float]] = []
    for cells, ratio in _classes(whole, rates):
        for s, e in cells:
            run_of[s, e] = len(essential)
            scale[s, e] = rates[e] if len(cells) > 1 else 1.0
        s, e = cells[0]
        essential.append((np.array([float(q) for q in ratio]), 1.0) if len(cells) > 1 else (whole[s], rates[e]))
    runs = np.array([w for w, _ in essential])
    return Reduction(
        runs[:, :-1], np.array([eta for _, eta in essential]), None if b0 is None else runs[:, -1], run_of, scale
    )


def _bias_of_each(b0: ArrayLike | None, n_starts: int) -> Floats:
    biases = np.atleast_1d(arrays.numbers("b0", 0.0 if b0 is None else b0))
    if biases.shape not in ((1,), (n_starts,)):
        raise ArrayError(f"b0 needs one number, or one for each of the {n_starts} starts; its shape is {biases.shape}.")
    return biases


Cell = tuple[int, int]


def _classes(whole: Floats, rates: Floats) -> list[tuple[list[Cell], tuple[Fraction, ...]]]:
    """Cells with the same start / eta, in order of their first cell. Fractions are slow, so they confirm."""
    candidates: dict[bytes, list[Cell]] = defaultdict(list)
    for e, eta in enumerate(rates):
        for s, ratio in enumerate(_to_12_digits(whole / eta)):
            candidates[ratio.tobytes()].append((s, e))
    found: list[tuple[list[Cell], tuple[Fraction, ...]]] = []
    for cells in candidates.values():
        if len(cells) == 1:
            found.append((cells, ()))
            continue
        same: dict[tuple[Fraction, ...], list[Cell]] = defaultdict(list)
        for s, e in cells:
            same[_ratio(whole[s], rates[e])].append((s, e))
        found += [(sorted(group), ratio) for ratio, group in same.items()]
    return sorted(found, key=lambda one: one[0])


def _to_12_digits(array: Floats) -> Floats:
    mantissa, exponent = np.frexp(array)
    return np.ldexp(np.round(mantissa, 12), exponent) + 0.0  # + 0.0: -0.0 has other bytes


def _ratio(start: Floats, eta: float) -> tuple[Fraction, ...]:
    if not start.any():
        return (Fraction(0),) * len(start)
    step = rational("eta", eta)
    return tuple(rational("W0", one) / step for one in start)


def run_grid(
    X: ArrayLike,
    y: ArrayLike,
    W0: ArrayLike,
    etas: ArrayLike,
    *,
    b0: ArrayLike | None = None,
    epochs: int = 1,
    order: ArrayLike | None = None,
) -> Grid:
    """Every start with every learning rate, running only what differs by more than scale.

    Args:
        X, y, b0, epochs: as in `perceptron.run`, b0 one or [S].
        W0: starts [S, d].
        etas: learning rates [E] > 0.
        order: visits, [k] or [epochs, k], the same for all cells.
    Returns:
        the grid, and what each cell's numbers stand on.
    Raises:
        ArrayError: as `perceptron.run`, and for an order of each run's own, which no law relates.
    Example:
        >>> X, y = [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], [0, 0, 0, 1]
        >>> grid = run_grid(X, y, [[0.0, 0.0]], [0.1, 1.0, 7.0], b0=0.0, epochs=10)
        >>> grid.n_essential, grid.epochs_to_converge.tolist(), grid.standing[0, 0]
        (1, [[6, 6, 6]], np.str_('exact'))

    Source: `PERCEPTRON_SCALE`.
    """
    if np.ndim(np.asarray(order)) == 3:
        raise ArrayError(
            "order has an axis of runs; runs that visit samples in different orders are no multiples of one another."
        )
    part = reduce(W0, etas, b0=b0)
    done = perceptron.run(X, y, part.W0, part.eta, b0=part.b0, epochs=epochs, order=order)
    visits = len(np.asarray(y)) if order is None else np.shape(order)[-1]
    standing = np.array([_standing(X, part, k, int(done.ties[k]), epochs * visits) for k in range(len(part.eta))])
    return Grid(
        weights=done.weights[part.run_of] * part.scale[..., None],
        biases=done.biases[part.run_of] * part.scale,
        mistakes=done.mistakes[part.run_of],
        ties=done.ties[part.run_of],
        standing=standing[part.run_of],
        n_essential=len(part.eta),
    )


def _standing(X: ArrayLike, part: Reduction, k: int, ties: int, visits: int) -> str:
    if not ties:
        return "safe"
    b0 = None if part.b0 is None else part.b0[k]
    return "exact" if rounds_nothing(X, part.W0[k], part.eta[k], b0=b0, visits=visits) else "tied"
