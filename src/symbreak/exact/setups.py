"""Everything that decides a run, as one value: what a scale law takes apart and puts together again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import ArrayLike

from symbreak.exact import descent, online, perceptron
from symbreak.exact.arrays import Floats
from symbreak.exact.training import NetSetup

__all__ = ["DescentRun", "DescentSetup", "HingeSetup", "NetSetup", "PassiveAggressiveSetup", "PerceptronSetup"]


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
class HingeSetup:
    """Everything that decides R margin perceptrons, with or without L2, as `online.hinge` takes it.

    Example:
        >>> HingeSetup([[1.0]], [0], [[0.0]], 0.5, margin=0.25).run().weights
        array([[-0.5]])

    Source: `online.hinge`.
    """

    X: ArrayLike
    y: ArrayLike
    W0: ArrayLike
    eta: ArrayLike
    margin: ArrayLike = 1.0
    alpha: ArrayLike = 0.0
    epochs: int = 1
    order: ArrayLike | None = None

    def run(self) -> online.OnlineRun:
        knobs: dict[str, Any] = {"margin": self.margin, "alpha": self.alpha, "epochs": self.epochs, "order": self.order}
        return online.hinge(self.X, self.y, self.W0, self.eta, **knobs)


@dataclass(frozen=True, eq=False)
class PassiveAggressiveSetup:
    """Everything that decides R passive-aggressive classifiers, as `online.passive_aggressive` takes it.

    Example:
        >>> PassiveAggressiveSetup([[2.0]], [1], [[0.0]], variant="pa").run().weights
        array([[0.5]])

    Source: `online.passive_aggressive`.
    """

    X: ArrayLike
    y: ArrayLike
    W0: ArrayLike
    variant: online.Variant = "pa1"
    C: ArrayLike = 1.0
    margin: ArrayLike = 1.0
    epochs: int = 1
    order: ArrayLike | None = None

    def run(self) -> online.OnlineRun:
        knobs: dict[str, Any] = {"C": self.C, "margin": self.margin, "epochs": self.epochs, "order": self.order}
        return online.passive_aggressive(self.X, self.y, self.W0, variant=self.variant, **knobs)


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
