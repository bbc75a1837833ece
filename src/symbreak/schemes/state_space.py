"""Schemes of state-space layers. Index letters: A[n, k] states, A_log[d, n] channels and states."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from symbreak.errors import SchemeError
from symbreak.schemes.checks import number
from symbreak.schemes.laws import Law, Moments
from symbreak.schemes.place import Place
from symbreak.schemes.scheme import LawOf, scheme

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class _Legs(Law):
    """The matrix itself; moments from its closed form, entry by entry."""

    states: int

    def moments(self) -> Moments:
        entries = [[legs(n, k) for k in range(self.states)] for n in range(self.states)]
        flat = [entry for row in entries for entry in row]
        mean = math.fsum(flat) / len(flat)
        return Moments(mean, math.sqrt(math.fsum((entry - mean) ** 2 for entry in flat) / len(flat)))

    def fill_(self, weight: Tensor, generator: torch.Generator) -> object:  # noqa: ARG002 (one signature for all laws)
        import torch

        n = torch.arange(self.states, dtype=torch.float64, device=weight.device)
        root = (2 * n + 1).sqrt()
        return weight.copy_(n.diag() - torch.outer(root, root).tril())


def legs(n: int, k: int) -> float:
    """One entry of HiPPO-LegS.

    Example:
        >>> legs(2, 2), legs(0, 1)
        (-3.0, 0.0)

    Source: Gu et al. 2020, arXiv:2008.07669, equation 2, with the sign that makes x' = A x stable.
    """
    return -math.sqrt((2 * n + 1) * (2 * k + 1)) if n > k else -(n + 1.0) if n == k else 0.0


@scheme
def hippo_legs() -> LawOf:
    """The state matrix that remembers all of the past evenly, as its coefficients in Legendre polynomials.

    A[n, k] = -sqrt((2n+1)(2k+1)) for n > k, -(n+1) for n = k, 0 above. Lower triangular, eigenvalues -1, -2, ..., -N.

    Example:
        >>> import torch
        >>> [[round(a, 3) for a in row] for row in hippo_legs().draw((2, 2), generator=torch.Generator()).tolist()]
        [[-1.0, 0.0], [-1.732, -2.0]]

    Source: Gu et al. 2020, arXiv:2008.07669; state-spaces/s4 builds the same matrix from an outer product.
    """

    def law(place: Place) -> Law:
        if len(place.shape) != 2 or place.shape[0] != place.shape[1]:
            raise SchemeError(f"it needs a square matrix [n, n] of states; this one has shape {place.shape}.")
        return _Legs(place.shape[0])

    return law


@dataclass(frozen=True)
class _Decay(Law):
    """log 1, log 2, ..., log N along the last axis."""

    states: int

    def moments(self) -> Moments:
        levels = [math.log(n) for n in range(1, self.states + 1)]
        mean = math.fsum(levels) / self.states
        return Moments(mean, math.sqrt(math.fsum((level - mean) ** 2 for level in levels) / self.states))

    def fill_(self, weight: Tensor, generator: torch.Generator) -> object:  # noqa: ARG002 (one signature for all laws)
        import torch

        levels = torch.arange(1, self.states + 1, dtype=torch.float64, device=weight.device).log()
        return weight.copy_(levels.expand(weight.shape))


@scheme
def mamba_decay() -> LawOf:
    """Mamba's A_log: every channel with states that decay at rates 1, 2, ..., N.

    A_log[d, n] = log(n + 1), and the layer uses A = -exp(A_log). All channels are alike: what tells them apart are the
    projections and the step sizes around them.

    Example:
        >>> import torch
        >>> mamba_decay().draw((1, 3), generator=torch.Generator()).exp().round().tolist()
        [[1.0, 2.0, 3.0]]

    Source: Gu and Dao 2023, arXiv:2312.00752, section 3.6 (S4D-Real); state-spaces/mamba, mamba_simple.py.
    """

    def law(place: Place) -> Law:
        if not place.shape:
            raise SchemeError("it needs a last axis of states.")
        return _Decay(place.shape[-1])

    return law


@dataclass(frozen=True)
class _Steps(Law):
    """softplus^-1 of a log-uniform step size."""

    low: float
    high: float

    def moments(self) -> Moments:
        """By the midpoint rule over the logarithm of the step: smooth, so a thousand points give ten digits."""
        points = 4000
        span = math.log(self.high / self.low)
        steps = (self.low * math.exp(span * (i + 0.5) / points) for i in range(points))
        levels = [step + math.log(-math.expm1(-step)) for step in steps]
        mean = math.fsum(levels) / points
        return Moments(mean, math.sqrt(math.fsum((level - mean) ** 2 for level in levels) / points))

    def fill_(self, weight: Tensor, generator: torch.Generator) -> object:
        step = weight.uniform_(math.log(self.low), math.log(self.high), generator=generator).double().exp()
        return weight.copy_(step + (-(-step).expm1()).log())


@scheme
def mamba_step(*, low: float = 1e-3, high: float = 0.1) -> LawOf:
    """Mamba's step bias: channels that look back for different times.

    b[d] = softplus^-1(dt) = dt + log(1 - e^-dt), with log dt ~ U(log low, log high), so that softplus(b) = dt.

    Args:
        low: smallest step, above 0.
        high: largest step.
    Example:
        >>> import torch
        >>> step = torch.nn.functional.softplus(mamba_step().draw((100,), generator=torch.Generator()))
        >>> bool((step > 0.00099).all() and (step < 0.101).all())
        True

    Source: Gu and Dao 2023, arXiv:2312.00752, section 3.6; state-spaces/mamba, mamba_simple.py (which also floors dt at
        1e-4, below every default draw).
    """
    low, high = number("low", low, above=0.0), number("high", high, above=0.0)
    if low >= high:
        raise SchemeError(f"low={low!r}, high={high!r}: expected low below high.")
    return lambda place: _Steps(low, high)  # noqa: ARG005 (a law may ignore the place)
