"""A tensor of the graph, with what is known of it: which of its axes run over which units, and how views move them.

A tensor has independent unit axes, its labels. A label gives each entry a unit, and a tap where one unit has several
entries along it (a flattened map). Its arrays have the tensor's number of dimensions, and size 1 along those that it
does not depend on: over these, and over the units of other labels, the tensor may vary freely. What it claims: where
two units are one class, entries that differ in nothing else are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from .units import Integers


@dataclass(frozen=True, eq=False)
class Label:
    """One unit axis of a tensor: units and taps, shaped as the tensor, 1 where they do not vary."""

    ids: Integers
    taps: Integers

    @property
    def dims(self) -> frozenset[int]:
        return frozenset(d for d, n in enumerate(self.ids.shape) if n > 1)

    def each(self, change: Callable[[Integers], Integers]) -> Label:
        """The same view of both arrays."""
        return Label(change(self.ids), change(self.taps))


@dataclass(frozen=True, eq=False)
class Tracked:
    """A tensor while its graph is read.

    Attributes:
        labels: its unit axes.
        level: dimensions along which its values are all equal (expanded).
        value: its numbers, where they do not depend on data.
        owner: the parameter or buffer of which it is a view, entry by entry.
        fixed: True where the numbers depend on nothing that is trained or changes.
        random: True where it was drawn by this call.
    """

    shape: tuple[int, ...]
    labels: tuple[Label, ...] = ()
    level: frozenset[int] = frozenset()
    value: Tensor | None = None
    owner: str | None = None
    fixed: bool = False
    random: bool = False

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def varies(self, dim: int) -> bool:
        return self.shape[dim] > 1 and dim not in self.level

    def viewed(
        self, shape: Sequence[int], labels: Iterable[Label], level: Iterable[int], value: Tensor | None
    ) -> Tracked:
        """The same entries in another shape; labels that no longer vary are gone."""
        kept = tuple(label for label in labels if label.ids.size > 1)
        return replace(self, shape=tuple(shape), labels=kept, level=frozenset(level), value=value)


def permuted(t: Tracked, order: Sequence[int]) -> Tracked:
    order = [d % t.ndim for d in order]
    labels = (label.each(lambda a: a.transpose(order)) for label in t.labels)
    value = None if t.value is None else t.value.permute(*order)
    return t.viewed([t.shape[d] for d in order], labels, (i for i, d in enumerate(order) if d in t.level), value)


def reshaped(t: Tracked, shape: Sequence[int]) -> Tracked:
    """Entries in row-major order in another shape.

    Dimensions that are merged with units become taps, unless the tensor is level along them: then they are copies.
    """
    shape = tuple(shape)
    if shape == t.shape:
        return t
    groups = _groups(t.shape, shape)
    labels = [_reshaped_label(t, label, shape, groups) for label in t.labels]
    level = [d for old, new in groups for d in new if all(not t.varies(o) for o in old)]
    value = None if t.value is None else t.value.reshape(shape)
    return t.viewed(shape, labels, level, value)


def _groups(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The finest lists of old and new dimensions with equal products, in order."""
    found, i, j = [], 0, 0
    while i < len(old) or j < len(new):
        a, b = [i] if i < len(old) else [], [j] if j < len(new) else []
        m, n = (old[i] if a else 1), (new[j] if b else 1)
        i, j = i + len(a), j + len(b)
        while m != n:
            if m < n:
                a.append(i)
                m, i = m * old[i], i + 1
            else:
                b.append(j)
                n, j = n * new[j], j + 1
        found.append((a, b))
    return found


def _reshaped_label(t: Tracked, label: Label, shape: Sequence[int], groups: list[tuple[list[int], list[int]]]) -> Label:
    ids, taps = label.ids, label.taps
    target = [1] * len(shape)
    for old, new in groups:
        if not any(ids.shape[d] > 1 for d in old):
            continue
        for d in new:
            target[d] = shape[d]
        for d in old:
            if ids.shape[d] == 1 and t.shape[d] > 1:
                along = [t.shape[k] if k == d else 1 for k in range(t.ndim)]
                at = np.arange(t.shape[d]).reshape(along) if t.varies(d) else np.zeros(along, np.int64)
                size = t.shape[d] if t.varies(d) else 1
                ids = np.broadcast_to(ids, [max(a, b) for a, b in zip(ids.shape, along, strict=True)])
                taps = taps * size + at
    return settled(Label(ids.reshape(target), np.broadcast_to(taps, ids.shape).reshape(target)))


def settled(label: Label) -> Label:
    """Without the dimensions along which only the tap varies, alike for every unit: they are positions again."""
    ids, taps = label.ids, label.taps
    for d in label.dims:
        first = np.take(ids, [0], axis=d)
        if ids.shape[d] == 1 or not (ids == first).all():
            continue
        moved = taps - np.take(taps, [0], axis=d)
        pattern = (
            moved.reshape(-1)[:1]
            if moved.ndim == 0
            else moved[tuple(slice(None) if k == d else slice(0, 1) for k in range(moved.ndim))]
        )
        if (moved == pattern).all() and len(np.unique(pattern)) in (1, ids.shape[d]):
            ids, taps = first, np.take(taps, [0], axis=d)
    return Label(ids, taps)


def picked(t: Tracked, dim: int, where: Integers, value: Tensor | None) -> Tracked:
    """Some entries along one dimension, in this order."""
    labels = [a.each(lambda x: np.take(x, where, axis=dim)) if a.ids.shape[dim] > 1 else a for a in t.labels]
    shape = [len(where) if d == dim else n for d, n in enumerate(t.shape)]
    return t.viewed(shape, labels, t.level, value)


def expanded(t: Tracked, shape: Sequence[int]) -> Tracked:
    """Broadcast to a shape: leading dimensions are new, and what was 1 is level."""
    t = aligned(t, len(shape))
    full = tuple(n if s == -1 else s for s, n in zip(shape, t.shape, strict=True))
    level = t.level | {d for d, n in enumerate(t.shape) if n == 1 and full[d] > 1}
    value = None if t.value is None else t.value.expand(full)
    return t.viewed(full, t.labels, level, value)


def aligned(t: Tracked, ndim: int) -> Tracked:
    """With leading dimensions of size 1."""
    extra = ndim - t.ndim
    if not extra:
        return t
    shape = (1,) * extra + t.shape
    labels = (a.each(lambda x: x.reshape((1,) * extra + x.shape)) for a in t.labels)
    return t.viewed(shape, labels, (d + extra for d in t.level), None if t.value is None else t.value.reshape(shape))


def unsqueezed(t: Tracked, dim: int) -> Tracked:
    dim %= t.ndim + 1
    labels = (a.each(lambda x: np.expand_dims(x, dim)) for a in t.labels)
    level = (d + (d >= dim) for d in t.level)
    value = None if t.value is None else t.value.unsqueeze(dim)
    return t.viewed([*t.shape[:dim], 1, *t.shape[dim:]], labels, level, value)


def squeezed(t: Tracked, dims: Iterable[int]) -> Tracked:
    gone = {d % t.ndim for d in dims if t.ndim and t.shape[d] == 1}
    kept = [d for d in range(t.ndim) if d not in gone]
    labels = (a.each(lambda x: x.reshape([x.shape[d] for d in kept])) for a in t.labels)
    level = (i for i, d in enumerate(kept) if d in t.level)
    value = None if t.value is None else t.value.reshape([t.shape[d] for d in kept])
    return t.viewed([t.shape[d] for d in kept], labels, level, value)
