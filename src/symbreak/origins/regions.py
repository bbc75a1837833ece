"""Which bytes of a storage a tensor covers: sorted spans that do not overlap, and what is left of them after others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

MOST = 1_000_000
"""Spans; of a view in more pieces than this the region is not followed."""


@dataclass(frozen=True, eq=False)
class Region:
    """Spans of bytes.

    Attributes:
        spans: [n, 2] first byte and the one behind the last, sorted, apart from one another.

    Example:
        >>> Region.span(0, 12).minus(Region.span(4, 8)).spans.tolist()
        [[0, 4], [8, 12]]
    """

    spans: NDArray[np.int64]

    @classmethod
    def span(cls, low: int, high: int) -> Region:
        """The bytes from `low` up to `high`."""
        return cls(np.array([[low, high]], np.int64) if high > low else np.empty((0, 2), np.int64))

    @property
    def size(self) -> int:
        """Bytes."""
        return int((self.spans[:, 1] - self.spans[:, 0]).sum())

    def __bool__(self) -> bool:
        return len(self.spans) > 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Region) and np.array_equal(self.spans, other.spans)

    def within(self, other: Region) -> Region:
        """The bytes of both."""
        return _where(self.spans, other.spans, 2)

    def minus(self, other: Region) -> Region:
        """The bytes of this one alone."""
        return _where(self.spans, self.within(other).spans, 1)

    def joined(self, other: Region) -> Region:
        """The bytes of either."""
        return _merged(np.concatenate([self.spans, other.spans]))

    def scaled(self, to: int, of: int) -> Region:
        """The same elements, `to` bytes each where they had `of`."""
        return Region(self.spans * to // of)


def region_of(t: Tensor) -> Region | None:
    """The bytes of its storage that a strided tensor covers; None where they are in too many pieces."""
    size = t.element_size()
    start = int(t.storage_offset()) * size
    dims = sorted((int(stride), int(n)) for stride, n in zip(t.stride(), t.shape, strict=True) if n > 1 and stride > 0)
    if t.numel() == 0:
        return Region.span(0, 0)
    run = 1
    while dims and dims[0][0] <= run:  # overlapping windows make one run, too
        stride, n = dims.pop(0)
        run = stride * (n - 1) + run
    if np.prod([n for _, n in dims], dtype=np.float64) > MOST:
        return None
    starts: NDArray[np.int64] = np.zeros(1, np.int64)
    for stride, n in reversed(dims):
        starts = (starts[:, None] + np.arange(n, dtype=np.int64) * stride).ravel()
    lows = start + starts * size
    return _merged(np.stack([lows, lows + run * size], 1))


def _merged(spans: NDArray[np.int64]) -> Region:
    """Any spans, in order and with those that touch made one."""
    if len(spans) < 2:
        return Region(spans)
    spans = spans[np.argsort(spans[:, 0], kind="stable")]
    ends = np.maximum.accumulate(spans[:, 1])
    first = np.concatenate([[True], spans[1:, 0] > ends[:-1]])
    last = np.concatenate([first[1:], [True]])
    return Region(np.stack([spans[first, 0], ends[last]], 1))


def _where(a: NDArray[np.int64], b: NDArray[np.int64], depth: int) -> Region:
    """The bytes that exactly `depth` of two sets of spans cover."""
    edges = np.concatenate([a[:, 0], b[:, 0], a[:, 1], b[:, 1]])
    change = np.repeat([1, -1], len(edges) // 2)
    order = np.argsort(edges, kind="stable")
    edges, level = edges[order], np.cumsum(change[order])
    inside = (level[:-1] == depth) & (edges[1:] > edges[:-1])
    return _merged(np.stack([edges[:-1][inside], edges[1:][inside]], 1))
