"""The smallest set of parts that heals: single ones first, in order of preference, then pairs, then by leaving out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import TypeVar

Item = TypeVar("Item")
Heals = Callable[[Sequence[Item]], bool]
Good = Callable[[tuple[int, ...]], bool]
FEW = 6  # items up to which every single one and every pair is tried


def smallest(
    items: Sequence[Item], heals: Heals[Item], *, clean: Heals[Item] | None = None, tries: int = 40
) -> list[Item] | None:
    """A small subset for which `heals` is true, the earliest items first; None where not even all of them heal.

    Few items: the smallest number there is. Many: all of them, less whatever can be left out, halves before single
    ones; a set from which nothing can be left out, if the tries last.

    Args:
        items: in order of preference.
        heals: asked of subsets; expensive.
        clean: of several subsets of the smallest size, one for which this is true as well is taken; asked of those
            that heal only.
        tries: how often it may be asked.
    Example:
        >>> smallest("abcd", lambda some: "c" in some), smallest("abcdefgh", lambda some: {"b", "g"} <= set(some))
        (['c'], ['b', 'g'])

    Source: Zeller and Hildebrandt 2002, Simplifying and Isolating Failure-Inducing Input, for the many.
    """
    good = _asked_of(items, heals, tries)
    everything = tuple(range(len(items)))
    if len(items) <= FEW:
        for size in range(1, len(items) + 1):
            first: list[Item] | None = None
            for index in combinations(everything, size):
                if good(index):
                    some = [items[i] for i in index]
                    if clean is None or clean(some):
                        return some
                    first = first or some
            if first is not None or not good(everything):
                return first
        return None
    for single in everything[:3]:  # the most likely ones, before all of them
        if good((single,)):
            return [items[single]]
    if not good(everything):
        return None
    return [items[i] for i in _reduced(everything, good)]


def fewer(items: Sequence[Item], heals: Heals[Item], *, tries: int) -> list[Item]:
    """What is left of items that heal together, without those that it takes not; fewer are left if the tries last.

    Example:
        >>> fewer("abcdefgh", lambda some: {"b", "g"} <= set(some), tries=20)
        ['b', 'g']
    """
    return [items[i] for i in _reduced(tuple(range(len(items))), _asked_of(items, heals, tries))]


def _asked_of(items: Sequence[Item], heals: Heals[Item], tries: int) -> Good:
    """`heals` by index, asked once a subset and `tries` times in all; then it says no."""
    asked: dict[tuple[int, ...], bool] = {}

    def good(index: tuple[int, ...]) -> bool:
        if index not in asked:
            if len(asked) >= tries:
                return False
            asked[index] = heals([items[i] for i in index])
        return asked[index]

    return good


def _reduced(index: tuple[int, ...], good: Good) -> tuple[int, ...]:
    """Leave out pieces, from the end, halving their size."""
    piece = (len(index) + 1) // 2
    while piece >= 1:
        start = len(index)
        while start > 0:
            start = max(0, start - piece)
            rest = index[:start] + index[start + piece :]
            if rest and good(rest):
                index = rest
                start = min(start, len(index))
        if piece == 1:
            return index
        piece = (piece + 1) // 2
    return index
