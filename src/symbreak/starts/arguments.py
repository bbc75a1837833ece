"""What a scheme was called with."""

from __future__ import annotations

import inspect
from typing import Any

from symbreak.schemes import CATALOGUE, Scheme


def arguments(scheme: Scheme) -> dict[str, Any]:
    """Every argument of a scheme, defaults included.

    Example:
        >>> from symbreak.schemes import lsuv
        >>> arguments(lsuv(tol=0.1))
        {'tol': 0.1, 'attempts': 10}

    Source: the function's own signature.
    """
    slots = inspect.signature(CATALOGUE[scheme.name]).parameters.values()
    return {slot.name: slot.default for slot in slots} | dict(scheme.arguments)
