"""What a scale law is: when it applies, what it makes of a setup and of a result, and a test that runs both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from symbreak.exact.arrays import ArrayError, Floats

CLOSE = 1e-9  # relative; rounding of a few thousand steps stays far below, and a different run far above


class Run(Protocol):
    """A result. Where it also has `ties`, they are the visits that rounding may have decided."""

    @property
    def weights(self) -> Floats: ...


class Setup(Protocol):
    """Everything that decides a run."""

    def run(self) -> Any: ...


S = TypeVar("S", bound=Setup)
R = TypeVar("R", bound=Run)


@dataclass(frozen=True)
class Answer:
    """Yes or no, and the sentence that says why. True or false as a condition."""

    holds: bool
    because: str

    def __bool__(self) -> bool:
        return self.holds


def always(because: str) -> Callable[[Any], Answer]:
    """Of every setup of its kind."""
    return lambda _setup: Answer(True, because)


def the_weights(run: Run) -> Floats:
    return run.weights


@dataclass(frozen=True)
class Law(Generic[S, R]):
    """One law: two setups whose results are one and the same, up to a factor c that is known beforehand.

    A conserved quantity is a law too. Its c is a number of steps, and what it tells is the quantity after so many.

    Example:
        >>> from symbreak.exact.laws import LAWS
        >>> from symbreak.exact.setups import DescentSetup
        >>> law, setup = LAWS["linear-target-scale"], DescentSetup([[1.0]], [2.0], [1.0], etas=0.5, steps=[1, 2])
        >>> law.map(setup.run(), 10.0).weights.ravel().tolist(), bool(law.verify(setup, 10.0))
        ([15.0, 17.5], True)

    Source: each law's `source`.
    """

    name: str
    statement: str
    source: str  # why it is so
    breaks: str  # where it does not hold, or what has to be scaled along and is easily forgotten
    of: type[S]
    admits: Callable[[S], Answer]
    rescale: Callable[[S, Any], S]  # the other setup
    carry: Callable[[R, Any], Any]  # the other result, as far as `sees`
    takes: Callable[[Any], Any]  # checks c
    sees: Callable[[Any], Floats] = the_weights  # what of a run the law speaks of

    def applies(self, setup: object) -> Answer:
        """Whether the law says anything of this setup, and why."""
        if not isinstance(setup, self.of):
            return Answer(False, f"{self.name} is a law of {self.of.__name__}, not of {type(setup).__name__}")
        return self.admits(setup)

    def map(self, run: R, c: ArrayLike) -> Any:
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
        """Run both setups in float64 and compare: decisions one by one, numbers to 1e-9 of the largest.

        Raises:
            ArrayError: the law does not apply, or does not allow c; or as the runs.
        """
        other = self.setup(setup, c)
        mapped, found = self.map(setup.run(), c), other.run()
        apart = _apart(self.sees(mapped), self.sees(found))
        if apart <= CLOSE and _same_decisions(mapped, found):
            return Answer(True, f"run side by side, the results differ by {apart:.1e} of the largest")
        return Answer(False, _why(apart, mapped, found))


def _apart(mapped: Floats, found: Floats) -> float:
    """The largest difference, relative to the largest of its column, or to a thousandth of the largest of all."""
    if not np.array_equal(np.isfinite(mapped), np.isfinite(found)) or not np.isfinite(found).all():
        return float("nan")
    size = np.abs(found).max(axis=tuple(range(found.ndim - 1)))
    size = np.maximum(size, max(1e-3 * float(size.max()), 1e-300))
    return float((np.abs(mapped - found) / size).max())


def _decisions(run: Any) -> Any:
    return getattr(run, "mistakes", getattr(run, "updates", None))


def _same_decisions(mapped: Any, found: Any) -> bool:
    return bool(np.array_equal(_decisions(mapped), _decisions(found)))


def _why(apart: float, mapped: Any, found: Any) -> str:
    if np.isnan(apart):
        return "a run has left the range of float64, so there is nothing to compare; take fewer steps or a smaller rate"
    ties = max((int(run.ties.max()) for run in (mapped, found) if hasattr(run, "ties")), default=0)
    if ties and not _same_decisions(mapped, found):
        return (
            f"the decisions differ: at up to {ties} visits of a run z is at the boundary but for rounding, and float64 "
            "decides them by its rounding; exact fractions (perceptron.run_rational) decide them as real numbers do"
        )
    what = "the numbers" if _same_decisions(mapped, found) else "the decisions and the numbers"
    return f"{what} differ, by {apart:.1e} of the largest" + (
        ", and no tie explains it" if hasattr(found, "ties") else ""
    )
