"""Arguments of schemes, looked at once: what was given, what was expected."""

from __future__ import annotations

import math
from collections.abc import Sequence

from symbreak.errors import SchemeError


def number(name: str, given: float, *, least: float = -math.inf, above: float = -math.inf) -> float:
    """A finite number within its bounds, as float.

    Example:
        >>> number("std", 2)
        2.0

    Raises:
        SchemeError: it is anything else.
    """
    good = isinstance(given, int | float) and not isinstance(given, bool)
    if not good or not math.isfinite(given) or given < least or given <= above:
        limits = f", {least:g} or more" if least > -math.inf else f" above {above:g}" if above > -math.inf else ""
        raise SchemeError(f"{name}={given!r}: expected a finite number{limits}.")
    return float(given)


def whole(name: str, given: int, *, least: int = 1) -> int:
    """A whole number, `least` or more.

    Example:
        >>> whole("layers", 12)
        12

    Raises:
        SchemeError: it is anything else.
    """
    if isinstance(given, bool) or not isinstance(given, int) or given < least:
        raise SchemeError(f"{name}={given!r}: expected a whole number, {least} or more.")
    return given


def choice(name: str, given: str, known: Sequence[str]) -> str:
    """One of a few words.

    Example:
        >>> choice("mode", "fan_in", ("fan_in", "fan_out"))
        'fan_in'

    Raises:
        SchemeError: it is none of them.
    """
    if given not in known:
        *others, last = [repr(word) for word in known]
        raise SchemeError(f"{name}={given!r}: expected {', '.join(others)} or {last}.")
    return given
