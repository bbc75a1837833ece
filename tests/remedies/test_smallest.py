"""The smallest set that heals, against brute force."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from symbreak.remedies.smallest import FEW, fewer, smallest


@st.composite
def needs(draw: st.DrawFn, most: int = 14) -> tuple[int, list[frozenset[int]]]:
    """A number of items, and the sets any of which is enough: whatever holds one of them heals."""
    n = draw(st.integers(1, most))
    sets = draw(st.lists(st.frozensets(st.integers(0, n - 1), min_size=1), min_size=1, max_size=4))
    return n, sets


@given(needs(FEW))
def test_few_items_give_the_smallest_set_and_the_earliest_of_that_size(case: tuple[int, list[frozenset[int]]]) -> None:
    n, enough = case

    def heals(some: object) -> bool:
        return any(s <= set(some) for s in enough)  # type: ignore[call-overload]

    expected = next(list(c) for k in range(1, n + 1) for c in combinations(range(n), k) if heals(c))
    assert smallest(range(n), heals, tries=1000) == expected


@given(needs())
@settings(max_examples=200)
def test_of_many_items_none_can_be_left_out(case: tuple[int, list[frozenset[int]]]) -> None:
    n, enough = case

    def heals(some: object) -> bool:
        return any(s <= set(some) for s in enough)  # type: ignore[call-overload]

    found = smallest(range(n), heals, tries=10_000)
    assert found is not None
    assert heals(found)
    assert found == sorted(found)
    assert not any(heals([i for i in found if i != out]) for out in found) or len(found) == 1


@given(needs())
@settings(max_examples=100)
def test_what_heals_together_loses_what_it_does_not_take(case: tuple[int, list[frozenset[int]]]) -> None:
    n, enough = case

    def heals(some: object) -> bool:
        return any(s <= set(some) for s in enough)  # type: ignore[call-overload]

    found = fewer(range(n), heals, tries=10_000)
    assert heals(found)
    assert not any(heals([i for i in found if i != out]) for out in found) or len(found) == 1
    assert fewer(range(n), lambda some: False, tries=10_000) == list(range(n))


@given(st.integers(1, 30), st.integers(1, 60))
def test_it_never_asks_more_often_than_it_may(n: int, tries: int) -> None:
    asked = 0

    def heals(some: object) -> bool:
        nonlocal asked
        asked += 1
        return len(list(some)) == n  # type: ignore[call-overload]

    smallest(range(n), heals, tries=tries)
    assert asked <= tries


def test_nothing_heals() -> None:
    assert smallest("abc", lambda some: False) is None
    assert smallest(range(20), lambda some: False) is None
    assert smallest([], lambda some: True) is None


def test_of_equally_small_sets_the_clean_one() -> None:
    assert smallest("abc", lambda some: True, clean=lambda some: some == ["c"]) == ["c"]
    assert smallest("abc", lambda some: True, clean=lambda some: False) == ["a"]
