"""Operations that move entries: reshapes, slices, concatenations, and what is written into a part."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from .algebra import Algebra
from .ledger import PLACE, row_numbers
from .operations import (
    Call,
    NotUnderstoodError,
    Shape,
    operation,
    words,
)
from .tracked import Label, Tracked, aligned, expanded, permuted, picked, reshaped, squeezed, unsqueezed


@operation(*words("view reshape _unsafe_view flatten unflatten view_as _reshape_alias ravel reshape_as view_copy"))
def viewed(call: Call) -> Tracked:
    return reshaped(call.first, call.shape)


@operation("permute", "permute_copy")
def permute(call: Call) -> Tracked:
    return permuted(call.first, call["dims"])


@operation(*words("transpose swapaxes swapdims t numpy_T mT adjoint transpose_copy t_copy"))
def transposed(call: Call) -> Tracked:
    x = call.first
    if x.ndim < 2:
        return x
    a, b = call.get("dim0", call.get("axis0", x.ndim - 2)), call.get("dim1", call.get("axis1", x.ndim - 1))
    order = list(range(x.ndim))
    order[a], order[b] = order[b], order[a]
    return permuted(x, order)


@operation("movedim", "moveaxis")
def movedim(call: Call) -> Tracked:
    x = call.first
    given = [call["source"], call["destination"]]
    source, destination = ([d % x.ndim for d in (g if isinstance(g, list | tuple) else [g])] for g in given)
    places = dict(zip(destination, source, strict=True))
    left = iter([d for d in range(x.ndim) if d not in source])
    return permuted(x, [places[d] if d in places else next(left) for d in range(x.ndim)])


@operation("unsqueeze", "unsqueeze_copy")
def unsqueeze(call: Call) -> Tracked:
    return unsqueezed(call.first, call["dim"])


@operation("squeeze", "squeeze_copy")
def squeeze(call: Call) -> Tracked:
    dims = call.get("dim", list(range(call.first.ndim)))
    return squeezed(call.first, dims if isinstance(dims, list | tuple) else [dims])


@operation(*words("expand expand_as broadcast_to expand_copy"))
def expand(call: Call) -> Tracked:
    return expanded(call.first, call.shape)


@operation("repeat", "tile")
def repeat(call: Call) -> Tracked:
    x = call.first
    times = list(call.get("repeats", call.get("dims")))
    x = aligned(x, max(len(times), x.ndim))
    times = [1] * (x.ndim - len(times)) + times
    for d in reversed(range(x.ndim)):  # a copy is a level dimension in front, merged
        if times[d] != 1:
            x = unsqueezed(x, d)
            x = expanded(x, [times[d] if k == d else n for k, n in enumerate(x.shape)])
            x = reshaped(x, [*x.shape[:d], x.shape[d] * x.shape[d + 1], *x.shape[d + 2 :]])
    return replace(x, owner=None) if x.owner is None else call.algebra.exposed(x)


@operation("repeat_interleave")
def repeat_interleave(call: Call) -> Tracked:
    x, times, dim = call.first, call.get("repeats"), call.get("dim")
    if not isinstance(times, int) or dim is None:
        raise NotUnderstoodError
    dim %= x.ndim
    x = unsqueezed(call.algebra.exposed(x), dim + 1)
    x = expanded(x, [times if k == dim + 1 else n for k, n in enumerate(x.shape)])
    return reshaped(x, call.shape)


def chosen(algebra: Algebra, t: Tracked, dim: int, where: Sequence[int]) -> Tracked:
    """Some entries along a dimension: units that are left out differ from those that are not."""
    dim %= t.ndim
    at = np.asarray(where, dtype=np.int64)
    inside = np.zeros(t.shape[dim])
    inside[at] = 1
    if len(at) == t.shape[dim] and np.array_equal(at, np.arange(len(at))):
        return t
    if not inside.all():
        told_by(algebra, t, dim, inside)
    value = None
    if t.value is not None:
        value = t.value.index_select(dim, torch.as_tensor(at, device=t.value.device))
    return picked(t, dim, at, value)


def told_by(algebra: Algebra, t: Tracked, dim: int, number: np.ndarray[Any, Any]) -> None:
    """Along a dimension the units that lie there have these numbers: parts of a space that go different ways."""
    for label in t.labels:
        if label.ids.shape[dim] > 1:
            shape = [-1 if d == dim else 1 for d in range(t.ndim)]
            ids, taps = algebra.resolved(label)
            if t.owner is not None and algebra.ledger.is_axis(ids):
                continue  # parts of a weight: nothing has happened to them yet
            table = np.broadcast_to(number.reshape(shape), label.ids.shape).reshape(-1, 1)
            algebra.ledger.attribute(ids, taps, table.astype(np.float64), of=PLACE)


def cut_up(algebra: Algebra, t: Tracked, dim: int, sizes: Sequence[int]) -> list[Tracked]:
    dim %= t.ndim
    ends = np.cumsum([0, *sizes])
    if len(sizes) > 1:
        told_by(algebra, t, dim, np.repeat(np.arange(len(sizes)), sizes))
    parts = []
    for a, b in pairwise(ends.tolist()):
        value = None if t.value is None else t.value.narrow(dim, a, b - a)
        parts.append(picked(t, dim, np.arange(a, b), value))
    return parts


@operation("slice", "slice_copy")
def slice_(call: Call) -> Tracked:
    x, dim = call.first, call.get("dim", 0) % call.first.ndim
    return chosen(
        call.algebra, x, dim, range(*slice(call.get("start"), call.get("end"), call.get("step")).indices(x.shape[dim]))
    )


@operation("narrow", "narrow_copy")
def narrow(call: Call) -> Tracked:
    start = int(call["start"])
    return chosen(call.algebra, call.first, call["dim"], range(start, start + call["length"]))


@operation("select", "select_copy")
def select(call: Call) -> Tracked:
    x, dim = call.first, call["dim"] % call.first.ndim
    return squeezed(chosen(call.algebra, x, dim, [int(call["index"]) % x.shape[dim]]), [dim])


@operation(*words("split split_with_sizes chunk unsafe_chunk unsafe_split unsafe_split_with_sizes tensor_split"))
def split(call: Call) -> list[Tracked]:
    dim = call.get("dim", 0) % call.first.ndim
    return cut_up(call.algebra, call.first, dim, [shape[dim] for shape in call.shapes])


@operation("unbind")
def unbind(call: Call) -> list[Tracked]:
    dim = call.get("dim", 0) % call.first.ndim
    return [squeezed(t, [dim]) for t in cut_up(call.algebra, call.first, dim, [1] * call.first.shape[dim])]


@operation("flip")
def flip(call: Call) -> Tracked:
    x = call.algebra.exposed(call.first)
    for d in call["dims"]:
        x = chosen(call.algebra, x, d, range(x.shape[d] - 1, -1, -1))
    return x


@operation("roll")
def roll(call: Call) -> Tracked:
    x = call.algebra.exposed(call.first)
    if not call.get("dims", ()):
        raise NotUnderstoodError
    for d, n in zip(call["dims"], call["shifts"], strict=True):
        x = chosen(call.algebra, x, d, np.roll(np.arange(x.shape[d]), n).tolist())
    return x


@operation(*words("cat concat concatenate"))
def cat(call: Call) -> Tracked:
    parts = [t for t in call["tensors"] if t.shape != (0,)]
    return joined(call.algebra, parts, call.get("dim", 0) % parts[0].ndim, call.shape)


@operation("stack")
def stack(call: Call) -> Tracked:
    dim = call.get("dim", 0) % len(call.shape)
    return joined(call.algebra, [unsqueezed(t, dim) for t in call["tensors"]], dim, call.shape)


def joined(algebra: Algebra, parts: Sequence[Tracked], dim: int, shape: Shape) -> Tracked:
    """Laid end to end: as units where that dimension has any, as positions where it has none."""
    if len(parts) == 1:
        return parts[0]
    parts = [algebra.exposed(t) for t in parts]
    beside = {d for t in parts for a in t.labels if dim in a.dims for d in a.dims - {dim}}
    ways = {a.dims - {dim} for t in parts for a in t.labels if dim in a.dims}
    odd = len(ways) > 1 or any(dim not in a.dims and a.dims & beside for t in parts for a in t.labels)
    if odd or any(sum(dim in a.dims for a in t.labels) > 1 for t in parts):
        parts = [algebra.forget(t, dims=beside | {dim}) for t in parts]
    found = across(algebra, parts, dim, shape)
    if not any(dim in a.dims for t in parts for a in t.labels):
        return found
    (way,) = {a.dims - {dim} for t in parts for a in t.labels if dim in a.dims}
    laid = [_laid(algebra, t, dim, way) for t in parts]
    full = [max(a.ids.shape[d] for a in laid) if d != dim else 0 for d in range(len(shape))]
    wide = [_widened(a, [a.ids.shape[d] if d == dim else n for d, n in enumerate(full)]) for a in laid]
    units = [np.unique(algebra.resolved(a)[0]) for a in laid]
    if sum(len(u) for u in units) > len(np.unique(np.concatenate(units))):  # a unit in two parts has two entries
        wide = [Label(a.ids, a.taps * len(wide) + n) for n, a in enumerate(wide)]
    label = Label(*(np.concatenate([getattr(a, key) for a in wide], axis=dim) for key in ("ids", "taps")))
    return replace(found, labels=(*found.labels, label))


def _widened(label: Label, shape: Sequence[int]) -> Label:
    return label.each(lambda x: np.broadcast_to(x, shape))


def _laid(algebra: Algebra, t: Tracked, dim: int, way: frozenset[int]) -> Label:
    """The label of one part along the dimension; entries without one become a space of their own."""
    for label in t.labels:
        if dim in label.dims:
            return label
    shape = [n if d == dim or d in way else 1 for d, n in enumerate(t.shape)]
    ids = algebra.ledger.fresh(f"{algebra.where}.part", math.prod(shape))
    if t.fixed and t.value is not None:
        order = [d for d in range(t.ndim) if shape[d] > 1 or d == dim or d in way]
        rest = [d for d in range(t.ndim) if d not in order]
        rows = t.value.detach().cpu().to(torch.float64).permute([*order, *rest]).reshape(len(ids), -1).numpy()
        algebra.ledger.attribute(ids, np.zeros_like(ids), row_numbers(rows))
    elif any(t.varies(d) for d in (dim, *way)):
        algebra.ledger.tell_apart(ids)
    else:
        algebra.ledger.use(ids)
    return Label(ids.reshape(shape), np.zeros(shape, np.int64))


def across(algebra: Algebra, parts: Sequence[Tracked], dim: int, shape: Shape) -> Tracked:
    """What the parts say of the other dimensions, whatever lies along this one."""
    flat = []
    for t in parts:
        labels = tuple(a for a in t.labels if dim not in a.dims)
        size = tuple(1 if d == dim else n for d, n in enumerate(t.shape))
        flat.append(replace(t, shape=size, labels=labels, level=t.level - {dim}))
    ones = tuple(1 if d == dim else n for d, n in enumerate(shape))
    found = algebra.elementwise(flat, ones)
    return replace(found, shape=tuple(shape))


@operation("slice_scatter")
def slice_scatter(call: Call) -> Tracked:
    x, src, dim = call.first, call["src"], call.get("dim", 0) % call.first.ndim
    where = list(range(*slice(call.get("start"), call.get("end"), call.get("step")).indices(x.shape[dim])))
    return scattered(call.algebra, x, src, dim, where)


@operation("select_scatter")
def select_scatter(call: Call) -> Tracked:
    x, dim = call.first, call["dim"] % call.first.ndim
    return scattered(call.algebra, x, unsqueezed(call["src"], dim), dim, [int(call["index"]) % x.shape[dim]])


def scattered(algebra: Algebra, x: Tracked, src: Tracked, dim: int, where: Sequence[int]) -> Tracked:
    """Some entries along a dimension replaced by others."""
    if len(where) == x.shape[dim] and where[0] == 0:
        return src
    x, src = algebra.exposed(x), algebra.exposed(src)
    if not any(dim in a.dims for t in (x, src) for a in t.labels):
        return across(algebra, [x, src], dim, x.shape)
    if list(where) != list(range(where[0], where[0] + len(where))):
        return across(algebra, [algebra.forget(t, dims=[dim]) for t in (x, src)], dim, x.shape)
    end = where[0] + len(where)
    parts = [chosen(algebra, x, dim, range(where[0])), src, chosen(algebra, x, dim, range(end, x.shape[dim]))]
    return joined(algebra, [t for t in parts if t.shape[dim]], dim, x.shape)


@operation("pixel_shuffle")
def pixel_shuffle(call: Call) -> Tracked:
    x, r = call.algebra.exposed(call.first), call["upscale_factor"]
    *b, c, h, w = x.shape
    x = reshaped(x, [*b, c // r**2, r, r, h, w])
    k = len(b)
    x = permuted(x, [*range(k), k, k + 3, k + 1, k + 4, k + 2])
    x = call.algebra.only(x, {k})
    return reshaped(x, call.shape)


@operation("pixel_unshuffle")
def pixel_unshuffle(call: Call) -> Tracked:
    x, r = call.algebra.exposed(call.first), call["downscale_factor"]
    *b, c, h, w = x.shape
    k = len(b)
    x = reshaped(x, [*b, c, h // r, r, w // r, r])
    return reshaped(permuted(x, [*range(k), k, k + 2, k + 4, k + 1, k + 3]), call.shape)


@operation("channel_shuffle")
def channel_shuffle(call: Call) -> Tracked:
    x, g = call.algebra.exposed(call.first), call["groups"]
    b, c, *rest = x.shape
    x = reshaped(x, [b, g, c // g, *rest])
    return reshaped(permuted(x, [0, 2, 1, *range(3, x.ndim)]), call.shape)


@operation("glu")
def glu(call: Call) -> Tracked:
    dim = call.get("dim", -1) % call.first.ndim
    n = call.first.shape[dim] // 2
    halves = cut_up(call.algebra, call.first, dim, [n, n])
    return call.algebra.elementwise(halves, call.shape)
