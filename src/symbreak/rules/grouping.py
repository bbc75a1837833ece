"""Names that differ only in a layer's number are told in one sentence."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)|^\d+(?=\.)")


def pattern(name: str) -> str:
    """The name with layer numbers as stars.

    Example:
        >>> pattern("layers.3.q_proj.lora_A.weight")
        'layers.*.q_proj.lora_A.weight'
    """
    return _NUMBER.sub("*", name)


def listed(names: Sequence[str], most: int = 4) -> str:
    """The first few names, and how many more there are.

    Example:
        >>> listed(["a", "b", "c"], most=2)
        'a, b and 1 more'
    """
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"


def patterns(names: Iterable[str]) -> list[str]:
    """The distinct patterns, in order; a pattern of one name is that name."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(pattern(name), []).append(name)
    return [key if len(group) > 1 else group[0] for key, group in groups.items()]


def numbers(units: Sequence[int], most: int = 8) -> str:
    """Unit numbers, runs shortened.

    Example:
        >>> numbers([0, 1, 2, 3, 7])
        '0-3, 7'
    """
    runs: list[list[int]] = []
    for unit in sorted(units):
        if runs and unit == runs[-1][1] + 1:
            runs[-1][1] = unit
        else:
            runs.append([unit, unit])
    texts = [f"{a}" if a == b else f"{a}-{b}" for a, b in runs]
    return listed(texts, most)
