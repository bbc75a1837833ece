"""What a second fit starts from: anew, from where the first one ended, or in between."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symbreak.errors import SymbreakError
from symbreak.exact import arrays
from symbreak.nets.errors import NetError

EXPECTED = "expected False (start again), True (keep training) or 'shrink_perturb(shrink=0.4, noise=0.1)'"


@dataclass(frozen=True)
class ShrinkPerturb:
    """Shrink the weights and add a little of a fresh start: it keeps what was learned and can still learn.

        theta <- shrink theta + noise theta_fresh

    theta_fresh is a new start of the same net: drawn by `init=` where that is a random scheme, else by torch's default,
    as the authors' networks had it. Shrinking all weights of a ReLU net keeps its decisions and brings the gradients of
    old and new data back to one size.

    Args:
        shrink: lambda, from 0 (start again, but small) to 1 (keep).
        noise: share of the fresh start, 0 or more.
    Example:
        >>> shrink_perturb(shrink=0.5)
        shrink_perturb(shrink=0.5, noise=0.1)
        >>> shrink_perturb(noise=0.0).apply({"w": np.array([10.0])}, {"w": np.array([1.0])})
        {'w': array([4.])}

    Source: Ash and Adams 2020, On Warm-Starting Neural Network Training, arXiv:1910.08475, section 4; the defaults and
    the fresh network as source of noise are those of the authors' code.
    """

    shrink: float = 0.4
    noise: float = 0.1

    def __post_init__(self) -> None:
        if arrays.not_negative("shrink", self.shrink) > 1:
            raise NetError(f"shrink is {self.shrink:g}; from 0 to 1 is needed.")
        arrays.not_negative("noise", self.noise)

    def __repr__(self) -> str:
        return f"shrink_perturb(shrink={self.shrink!r}, noise={self.noise!r})"

    def apply(self, learned: Mapping[str, NDArray[Any]], fresh: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The weights the next fit starts from; arrays by name, the names of both alike."""
        return {name: self.shrink * weight + self.noise * fresh[name] for name, weight in learned.items()}


def shrink_perturb(*, shrink: float = 0.4, noise: float = 0.1) -> ShrinkPerturb:
    """`ShrinkPerturb` by the name its text has.

    Example:
        >>> shrink_perturb(shrink=0.4) == parse_warm_start("shrink_perturb(shrink=0.4)")
        True

    Source: Ash and Adams 2020, arXiv:1910.08475.
    """
    return ShrinkPerturb(shrink, noise)


def parse_warm_start(given: Any) -> bool | ShrinkPerturb:
    """What `warm_start=` means. Nothing is evaluated: arguments are literals.

    Raises:
        NetError: neither a truth value nor a shrink_perturb, as text or value.
    Example:
        >>> parse_warm_start("shrink_perturb")
        shrink_perturb(shrink=0.4, noise=0.1)

    Source: True and False are scikit-learn's.
    """
    if isinstance(given, bool | np.bool_ | ShrinkPerturb):
        return given if isinstance(given, ShrinkPerturb) else bool(given)
    call = re.fullmatch(r"\s*shrink_perturb\s*(?:\((.*)\))?\s*", given) if isinstance(given, str) else None
    if call is None:
        raise NetError(f"warm_start={given!r}: {EXPECTED}.")
    try:
        node = ast.parse(f"f({call[1] or ''})", mode="eval").body
        if not isinstance(node, ast.Call) or node.args:
            raise ValueError("its numbers are given by name")
        return shrink_perturb(**{str(one.arg): ast.literal_eval(one.value) for one in node.keywords})
    except (SymbreakError, SyntaxError, TypeError, ValueError) as err:
        raise NetError(f"warm_start={given!r}: {EXPECTED}; {err}.") from err
