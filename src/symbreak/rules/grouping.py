"""How names and numbers are told: what differs only in a number is told once, and a bare number is called a layer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from symbreak.records import Trace

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)|^\d+(?=\.)")
_ENDING = re.compile(r"(?<=[a-z_])\d+(?=\.)")  # stage1.unit12. and the like
_MOST_PATTERNS = 6


def pattern(name: str) -> str:
    """The name with layer numbers as stars.

    Example:
        >>> pattern("layers.3.q_proj.lora_A.weight")
        'layers.*.q_proj.lora_A.weight'
    """
    return _NUMBER.sub("*", name)


def by_pattern(names: Iterable[str]) -> dict[str, list[str]]:
    """Names by pattern; a group of one goes by its name, and numbers inside names are dropped where groups abound.

    Example:
        >>> by_pattern(["a.0.w", "a.1.w", "b.w"])
        {'a.*.w': ['a.0.w', 'a.1.w'], 'b.w': ['b.w']}
    """
    names = list(names)
    groups = _grouped(names, pattern)
    if len(groups) > _MOST_PATTERNS:
        groups = _grouped(names, lambda name: _ENDING.sub("*", pattern(name)))
    return {key if len(group) > 1 else group[0]: group for key, group in groups.items()}


def _grouped(names: Sequence[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(key(name), []).append(name)
    return groups


def listed(names: Sequence[str], most: int = 4) -> str:
    """The first few names, and how many more there are.

    Example:
        >>> listed(["a", "b", "c", "d"], most=2), listed(["a", "b", "c"], most=2)
        ('a, b and 2 more', 'a, b and c')
    """
    if len(names) > most + 1:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def patterns(names: Iterable[str]) -> list[str]:
    """The distinct patterns, in order; a pattern of one name is that name."""
    return list(by_pattern(names))


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
    return ", ".join(texts) if len(texts) <= most else listed(texts, most)


def some(count: int, of: int, noun: str, units: Sequence[int] = ()) -> str:
    """A share of things that a sentence can start with, and their numbers where they are not all.

    Example:
        >>> some(3, 8, "units", [1, 2, 5]), some(8, 8, "units", range(8)), some(1, 8, "units", [4])
        ('3 of 8 units (1-2, 5)', 'all 8 units', '1 of 8 units (4)')
    """
    if count == of:
        return f"all {of} {noun}" if of > 2 else f"both {noun}" if of == 2 else f"the only one of the {noun}"
    return f"{count} of {of} {noun}" + (f" ({numbers(units)})" if units else "")


def called(trace: Trace, place: str) -> str:
    """A layer as a sentence calls it: "layer 0 (linear)" where its name is a number alone, as in nn.Sequential."""
    if not place.isdigit():
        return place
    kind = next((r.kind for r in trace.layers if r.name == place), None)
    kind = kind or next((a.name for a in trace.activations if a.where == place), None)
    return f"layer {place} ({kind})" if kind else f"layer {place}"


def layers(trace: Trace, places: Sequence[str], most: int = 4) -> str:
    """Several layers, as a sentence calls them: "layers 0, 2 and 4" where their names are numbers alone."""
    if len(places) > 1 and all(place.isdigit() for place in places):
        return f"layers {listed(places, most)}"
    return listed([called(trace, place) for place in places], most)


def activation(trace: Trace, place: str, name: str) -> str:
    """An activation with its function, which a call such as `relu` in forward already names."""
    shown = called(trace, place)
    return shown if name in shown else f"{shown} ({name})"
