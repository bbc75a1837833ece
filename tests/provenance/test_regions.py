"""Regions against sets of bytes, which share no code with them."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from symbreak.origins.regions import Region, region_of


def bytes_of(region: Region) -> set[int]:
    return {byte for low, high in region.spans.tolist() for byte in range(low, high)}


@st.composite
def views(draw: st.DrawFn) -> torch.Tensor:
    """A view of sixty numbers: cut, turned, thinned, or with windows that overlap."""
    base = torch.arange(60, dtype=draw(st.sampled_from([torch.int8, torch.int16, torch.int32])))
    shape = draw(st.lists(st.integers(1, 4), min_size=0, max_size=3))
    stride = draw(st.lists(st.integers(0, 6), min_size=len(shape), max_size=len(shape)))
    return base.as_strided(shape, stride, draw(st.integers(0, 5)))


def touched(t: torch.Tensor) -> set[int]:
    """By the numbers that the view shows, which are their own places."""
    size = t.element_size()
    return {int(place) * size + i for place in t.flatten().tolist() for i in range(size)}


@given(views(), views())
def test_regions_are_the_bytes_of_their_views(a: torch.Tensor, b: torch.Tensor) -> None:
    one, two = region_of(a), region_of(b)
    assert one is not None
    assert two is not None
    assert bytes_of(one) == touched(a)
    assert one.size == len(touched(a))
    assert bytes_of(one.within(two)) == touched(a) & touched(b)
    assert bytes_of(one.minus(two)) == touched(a) - touched(b)
    assert bytes_of(one.joined(two)) == touched(a) | touched(b)
    assert bool(one.minus(one)) is False
