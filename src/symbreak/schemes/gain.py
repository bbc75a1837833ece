"""What an activation does to a normal signal: gains, edge of chaos, linear and saturated regions.

Everything is an expectation over z ~ N(0, q), by the quadrature next door.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from symbreak.errors import SchemeError
from symbreak.schemes.activations import Activation, activation
from symbreak.schemes.quadrature import TAIL, integral, kinks_of, value_and_slope

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    Reals = NDArray[np.float64]

Phi = str | Activation | Callable[["Tensor"], "Tensor"]
"""A name, a row of the catalogue, or any elementwise torch function or module."""

WINDOW = 10.0  # |z| within which slopes are compared: relu_squared has no steepest one
LINEAR, SATURATED = 2 / 3, 1 / 10  # of the steepest slope
AS_LINEAR_AS_LECUN = 0.9681662231033891
"""Share of the variance of 1.7159 tanh(2z/3) that a straight line explains at q = 1, its design point."""


@dataclass(frozen=True)
class Gains:
    """Moments of phi over z ~ N(0, q), and the gains that undo them. A gain multiplies 1/sqrt(fan).

    Args:
        q: variance of the pre-activation.
        mean: E[phi].
        second_moment: E[phi^2].
        projection: E[z phi], which is q E[phi'] where phi does not jump.
        slope_mean: E[phi'].
        slope_second_moment: E[phi'^2].
    Example:
        >>> round(gains("relu").forward, 4)
        1.4142

    Source: He et al. 2015 for the forward and backward condition; Schoenholz et al. 2017 for chi.
    """

    q: float
    mean: float
    second_moment: float
    projection: float
    slope_mean: float
    slope_second_moment: float

    @property
    def variance(self) -> float:
        """Var[phi]: what still tells inputs apart once the common mean is taken off."""
        return max(self.second_moment - self.mean**2, 0.0)

    @property
    def forward(self) -> float:
        """Keeps the second moment q of the pre-activations from layer to layer, biases zero."""
        return _root_of_ratio(self.q, self.second_moment)

    @property
    def centred(self) -> float:
        """Keeps q when the mean of phi is removed first (by a norm, or by centred weights)."""
        return _root_of_ratio(self.q, self.variance)

    @property
    def backward(self) -> float:
        """Keeps the second moment of the back-signal; with it small differences between inputs neither grow nor die."""
        return _root_of_ratio(1.0, self.slope_second_moment)

    @property
    def chi(self) -> float:
        """Factor by which the squared back-signal changes a layer when the forward gain is used; 1 is critical."""
        return self.forward**2 * self.slope_second_moment if self.second_moment else math.nan

    @property
    def linearity(self) -> float:
        """R^2 of the best straight line through phi: E[z phi]^2 / (q Var[phi])."""
        return self.projection**2 / (self.q * self.variance) if self.variance else 0.0


def _root_of_ratio(wanted: float, kept: float) -> float:
    return math.sqrt(wanted / kept) if kept > 0 else math.inf


@dataclass(frozen=True)
class Edge:
    """Variances at which signals of second moment q neither explode nor vanish, forward and backward.

    W[o, i] ~ N(0, weight_variance / n_in), b[o] ~ N(0, bias_variance).
    """

    q: float
    weight_variance: float
    bias_variance: float

    @property
    def feasible(self) -> bool:
        """Whether such biases exist: sigmoid and softplus would need a negative variance at q = 1."""
        return self.bias_variance >= -1e-12 * self.q


def gains(phi: Phi, q: float = 1.0) -> Gains:
    """Moments and gains of an activation, by name or as any elementwise callable.

    Args:
        phi: "tanh", "leaky_relu(0.2)", a row of ACTIVATIONS, or a torch function or module.
        q: variance of the pre-activation.
    Example:
        >>> round(gains("tanh").forward, 4), round(gains("gelu").backward, 4)
        (1.5925, 1.4811)

    Source: the moments are integrals of the function that torch really computes.
    """
    if isinstance(q, bool) or not isinstance(q, int | float) or not 0 < q < math.inf:
        raise SchemeError(f"q={q!r}: expected the variance of the pre-activation, a positive number.")
    known = activation(phi) if isinstance(phi, str) else phi
    if isinstance(known, Activation):
        return _known(known, float(q))
    return _integrated(known, kinks_of(known, TAIL * math.sqrt(q)), float(q))


@lru_cache(maxsize=4096)
def _known(phi: Activation, q: float) -> Gains:
    return _integrated(phi, phi.kinks, q)


def _integrated(phi: Callable[[Tensor], Tensor], kinks: tuple[float, ...], q: float) -> Gains:
    import numpy as np

    sigma = math.sqrt(q)

    def integrands(z: Reals) -> Reals:  # [n] -> [5, n]
        value, slope = value_and_slope(phi, sigma * z)
        density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
        return np.stack([value, value**2, sigma * z * value, slope, slope**2]) * density

    return Gains(q, *(float(part) for part in integral(integrands, [kink / sigma for kink in kinks])))


# Edge of chaos ----------------------------------------------------------------------------------------------------


def critical(phi: Phi, q: float = 1.0) -> Edge:
    """Weight and bias variance with fixed point q and chi = 1.

    sigma_w^2 E[phi'^2] = 1 and sigma_b^2 = q - sigma_w^2 E[phi^2], both over z ~ N(0, q).

    Example:
        >>> edge = critical("tanh")
        >>> round(edge.weight_variance ** 0.5, 4), round(edge.bias_variance, 4), critical("sigmoid").feasible
        (1.4674, 0.151, False)

    Source: Poole et al. 2016, arXiv:1606.05340; Schoenholz et al. 2017, arXiv:1611.01232.
    """
    found = gains(phi, q)
    if not found.slope_second_moment:
        raise SchemeError(f"{phi!r} is flat: no weights make it critical.")
    weight = 1 / found.slope_second_moment
    bias = q - weight * found.second_moment
    return Edge(q, weight, 0.0 if abs(bias) < 1e-9 * q else bias)


def critical_without_bias(phi: Phi, low: float = 1e-3, high: float = 1e3) -> Edge | None:
    """The critical point with zero biases at a q in [low, high], or None where there is no isolated one.

    Rectifiers and leaky ones have none because every q is one; tanh has none because its only one is q -> 0, at
    sigma_w = 1 / phi'(0).

    Example:
        >>> round(critical_without_bias("sigmoid").q, 2)
        45.62

    Source: root of q E[phi'^2] - E[phi^2].
    """
    import numpy as np
    from scipy.optimize import brentq

    def excess(log_q: float) -> float:
        found = gains(phi, math.exp(log_q))
        if found.slope_second_moment < 1e-12:  # flat as far as this signal reaches
            return math.nan
        return 1 - found.second_moment / (found.q * found.slope_second_moment)

    grid = np.linspace(math.log(low), math.log(high), 61)
    values = [excess(float(at)) for at in grid]
    for left, right, before, after in zip(grid, grid[1:], values, values[1:], strict=False):
        if before * after < 0 and max(abs(before), abs(after)) > 1e-9:
            q = math.exp(brentq(excess, left, right, xtol=1e-12))
            return Edge(q, 1 / gains(phi, q).slope_second_moment, 0.0)
    return None


def linear_up_to(phi: Phi) -> float:
    """Largest standard deviation of the pre-activation at which phi is as linear as LeCun's tanh at 1.

    Example:
        >>> round(linear_up_to("tanh"), 4), linear_up_to("relu"), linear_up_to("identity")
        (0.6667, 0.0, inf)

    Source: R^2 of the best line; 1.7159 tanh(2z/3) was built for unit variance (LeCun et al. 1998).
    """
    from scipy.optimize import brentq

    def excess(log_sigma: float) -> float:
        return gains(phi, math.exp(2 * log_sigma)).linearity - AS_LINEAR_AS_LECUN

    low, high = math.log(1e-3), math.log(1e3)
    if excess(low) < 0:
        return 0.0
    at = low
    while excess(at) >= 0:  # upwards by quarter octaves, so that the first crossing is found
        if at >= high:
            return math.inf
        at += math.log(2) / 4
    return math.exp(brentq(excess, at - math.log(2) / 4, at, xtol=1e-14))


# Regions ----------------------------------------------------------------------------------------------------------


def steepest(phi: Phi) -> float:
    """sup |phi'| over [-10, 10].

    Example:
        >>> round(steepest("gelu"), 4), steepest("sigmoid")
        (1.1289, 0.25)

    Source: a fine grid, refined around its largest values.
    """
    import numpy as np

    function, grid, slopes = _slopes(phi)
    best, at, step = float(slopes.max()), float(grid[int(slopes.argmax())]), float(grid[2] - grid[1])
    for _ in range(6):
        near = np.linspace(max(at - step, -WINDOW), min(at + step, WINDOW), 65)
        slopes = np.abs(value_and_slope(function, near)[1])
        best, at, step = max(best, float(slopes.max())), float(near[int(slopes.argmax())]), step / 16
    return best


def region(phi: Phi, which: Literal["linear", "saturated"]) -> tuple[tuple[float, float], ...]:
    """Intervals where |phi'| is at least 2/3, or at most 1/10, of its steepest; an end beyond |z| = 10 is infinite.

    Example:
        >>> [(round(low, 3), round(high, 3)) for low, high in region("tanh", "saturated")]
        [(-inf, -1.818), (1.818, inf)]

    Source: the thresholds of rules SB205 and SB206.
    """
    if which not in ("linear", "saturated"):
        raise SchemeError(f"which={which!r}: expected 'linear' or 'saturated'.")
    function, grid, slopes = _slopes(phi)
    top = steepest(phi)

    def inside(slope: Any) -> Any:
        return slope >= LINEAR * top * (1 - 1e-12) if which == "linear" else slope <= SATURATED * top * (1 + 1e-12)

    held = inside(slopes)
    turns = [(grid[i], grid[i + 1], held[i]) for i in range(len(grid) - 1) if held[i] != held[i + 1]]
    ends = [_turn(function, low, high, was, inside) for low, high, was in turns]
    ends = [-math.inf] * bool(held[0]) + ends + [math.inf] * bool(held[-1])
    return tuple(zip(ends[::2], ends[1::2], strict=True))


def saturated_share(phi: Phi, q: float = 1.0) -> float:
    """Probability that z ~ N(0, q) lies where phi is saturated.

    Example:
        >>> round(saturated_share("tanh"), 3)
        0.069

    Source: normal measure of `region(phi, "saturated")`.
    """
    return sum(_below(high / math.sqrt(q)) - _below(low / math.sqrt(q)) for low, high in region(phi, "saturated"))


def _below(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2))


def _slopes(phi: Phi) -> tuple[Callable[[Tensor], Tensor], Reals, Reals]:
    """The function, a grid that stands on no round number (so on no kink), and |phi'| there."""
    import numpy as np

    function = activation(phi) if isinstance(phi, str) else phi
    step = 2 * WINDOW / 20_000
    grid = np.arange(-WINDOW + step / math.pi, WINDOW, step)
    grid = np.concatenate([[-WINDOW], grid, [WINDOW]])
    return function, grid, np.abs(value_and_slope(function, grid)[1])


def _turn(phi: Callable[[Tensor], Tensor], low: float, high: float, was: bool, inside: Callable[[Any], Any]) -> float:
    import numpy as np

    for _ in range(6):  # a grid of 33 points a round: 32^-6 of the first step
        points = np.linspace(low, high, 33)
        held = inside(np.abs(value_and_slope(phi, points)[1]))
        first = int(np.argmax(held != was))
        low, high = float(points[max(first - 1, 0)]), float(points[first])
    return (low + high) / 2
