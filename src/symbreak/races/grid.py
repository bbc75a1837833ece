"""The runs of a race: schemes x seeds x learning rates x scales, and which of them are one and the same."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from symbreak.errors import SchemeError
from symbreak.races.errors import RaceError
from symbreak.schemes import Scheme, parse

AS_BUILT = "as_built"
"""The start a factory's own code gives, with torch's random state seeded; no scheme of the catalogue."""
AUTO = "auto"
"""The start that `symbreak.init_` chooses tensor by tensor from what the model does."""


@dataclass(frozen=True, order=True)
class Cell:
    """One run: a start and a learning rate. The scale multiplies what the scheme drew.

    Example:
        >>> Cell("zeros", 0, 0.1)
        Cell(scheme='zeros', seed=0, eta=0.1, scale=1.0)

    Source: the knobs of `symbreak.race`.
    """

    scheme: str
    seed: int
    eta: float
    scale: float = 1.0


def cells(schemes: Sequence[str], seeds: Sequence[int], etas: Sequence[float], scales: Sequence[float]) -> list[Cell]:
    """Every combination, seeds innermost, so that a chunk holds the seeds of one scheme.

    Example:
        >>> len(cells(["zeros", "torch_default"], [0, 1, 2], [0.1], [1.0]))
        6

    Source: itertools.product.
    """
    grid = itertools.product(schemes, etas, scales, seeds)
    return [Cell(scheme, seed, eta, scale) for scheme, eta, scale, seed in grid]


def scheme_texts(given: Iterable[str | Scheme]) -> list[str]:
    """Schemes in the one notation, each once.

    Raises:
        SchemeError: a name that is not in the catalogue.
        RaceError: none at all.
    Example:
        >>> scheme_texts(["he", "kaiming_normal", "as_built"])
        ['kaiming_normal', 'as_built']

    Source: `symbreak.schemes.parse`.
    """
    if isinstance(given, str | Scheme):
        given = [given]
    found = []
    for one in given:
        if not isinstance(one, str | Scheme):
            raise SchemeError(f"schemes holds {one!r}; expected schemes or their names, such as 'kaiming_normal'.")
        found.append(one if one in (AS_BUILT, AUTO) else repr(parse(one) if isinstance(one, str) else one))
    if not found:
        raise RaceError("schemes is empty: a race needs one at least, such as schemes=['torch_default'].")
    return list(dict.fromkeys(str(one) for one in found))


def positive(name: str, given: Any) -> list[float]:
    """Finite numbers above zero, each once; one number is a list of one.

    Raises:
        RaceError: none, or one that is not positive.
    Example:
        >>> positive("etas", 0.1)
        [0.1]
    """
    try:
        numbers = [float(one) for one in (given if isinstance(given, Iterable) else [given])]
    except (TypeError, ValueError) as err:
        raise RaceError(f"{name}={given!r}: expected numbers above 0.") from err
    if not numbers:
        raise RaceError(f"{name} is empty: a race needs one at least.")
    for one in numbers:
        if not (math.isfinite(one) and one > 0):
            raise RaceError(f"{name} holds {one:g}; expected finite numbers above 0.")
    return list(dict.fromkeys(numbers))


def whole(name: str, given: Any, least: int = 1) -> int:
    """A whole number, at least `least`.

    Raises:
        RaceError: anything else.
    Example:
        >>> whole("steps", 500)
        500
    """
    if isinstance(given, bool) or not hasattr(given, "__index__") or given.__index__() < least:
        raise RaceError(f"{name}={given!r}: expected a whole number, {least} or more.")
    return int(given.__index__())


def seed_list(given: Any) -> list[int]:
    """Seeds, each once; one number is that many: 32 means 0 to 31.

    Raises:
        RaceError: none, or one below 0.
    Example:
        >>> seed_list(3)
        [0, 1, 2]
    """
    seeds = range(whole("seeds", given)) if not isinstance(given, Iterable) else given
    found = [whole("seeds", one, least=0) for one in seeds]
    if not found:
        raise RaceError("seeds is empty: a race needs one at least, such as seeds=range(32).")
    return list(dict.fromkeys(found))
