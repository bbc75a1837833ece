"""Operations that mix positions: pooling, padding, sorting, and what is picked by an index."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from .algebra import Algebra
from .operations import (
    Call,
    NotUnderstoodError,
    Shape,
    constant,
    operation,
    tensors,
    words,
)
from .tracked import Tracked, aligned, reshaped, unsqueezed
from .views import across, chosen, joined


def along(algebra: Algebra, t: Tracked, dims: Iterable[int], shape: Shape) -> Tracked:
    """Entries along some dimensions mixed by a rule of their own; the same number of dimensions comes out."""
    some = {d % t.ndim for d in dims} if t.ndim else set()
    t = algebra.forget(algebra.exposed(t), dims=some)
    if len(shape) == t.ndim:
        return Tracked(tuple(shape), t.labels, t.level - some, random=t.random)
    if len(shape) == t.ndim - len(some):
        kept = [d for d in range(t.ndim) if d not in some]
        labels = (a.each(lambda x: x.reshape([x.shape[d] for d in kept])) for a in t.labels)
        found = t.viewed(shape, labels, (i for i, d in enumerate(kept) if d in t.level), None)
        return replace(found, fixed=False)
    raise NotUnderstoodError


POOLS = {f"{kind}{n}d{tail}": n for n in (1, 2, 3) for tail in ("", "_with_indices")
         for kind in ("max_pool", "avg_pool", "adaptive_avg_pool", "_adaptive_avg_pool", "adaptive_max_pool", "lp_pool",
                      "reflection_pad", "replication_pad")}  # fmt: skip
POOLS |= {f"upsample_{kind}": int(kind[-2]) for kind in
          ("nearest1d", "nearest2d", "nearest3d", "bilinear2d", "bicubic2d", "trilinear3d", "linear1d")}  # fmt: skip
POOLS |= {"_upsample_nearest_exact2d": 2, "_upsample_bilinear2d_aa": 2, "_upsample_bicubic2d_aa": 2,
          "_upsample_nearest_exact1d": 1, "grid_sampler_2d": 2, "tril": 2, "triu": 2}  # fmt: skip


@operation(*POOLS)
def pooled(call: Call) -> Any:
    x, n = call.first, POOLS[call.name]
    windows = range(x.ndim - n, x.ndim)
    if "adaptive_avg" in call.name and all(call.shape[d] == 1 for d in windows):  # one window: the mean of all
        return call.algebra.reduced(x, windows, keepdim=True)
    found = along(call.algebra, x, windows, call.shape)
    if call.name.startswith("grid"):
        call.algebra.forget(call["grid"], "a grid to sample at, made of units")
    return found if len(call.shapes) == 1 else tuple(replace(found, shape=s) for s in call.shapes)


@operation(*words("cumsum cumprod logcumsumexp cummax cummin sort argsort topk max_dim min_dim argmax argmin "
                  "median_dim mode kthvalue diff nanmedian_dim"))  # fmt: skip
def ordered(call: Call) -> Any:
    """By order or by position: where it meets units it tells them apart, since ties are broken by index."""
    x, dim = call.first, call.get("dim", -1)
    if dim is None or (call.name in ("argmax", "argmin") and call.given.get("dim") is None):
        return call.algebra.reduced(call.algebra.forget(x), range(x.ndim), keepdim=False)
    found = tuple(along(call.algebra, x, [dim], s) for s in call.shapes)
    return found if len(found) > 1 else found[0]


@operation("unfold")
def unfold(call: Call) -> Tracked:
    dim = call["dimension"] % call.first.ndim
    x = call.algebra.forget(call.algebra.exposed(call.first), dims=[dim])
    x = unsqueezed(x, x.ndim)
    return replace(x, shape=call.shape, level=x.level - {dim}, value=None, fixed=False)


@operation("im2col")
def im2col(call: Call) -> Tracked:
    x = call.algebra.only(call.algebra.exposed(call.first), {1})
    x = call.algebra.forget(x, dims=[2, 3])
    kernel = math.prod(call["kernel_size"])
    x = Tracked((x.shape[0], x.shape[1], kernel, call.shape[2]), x.labels)
    return reshaped(x, call.shape)


@operation("constant_pad_nd", "pad")
def pad(call: Call) -> Tracked:
    x, amounts = call.first, list(call["pad"])
    for n in range(len(amounts) // 2):
        dim, before, after = x.ndim - 1 - n, amounts[2 * n], amounts[2 * n + 1]
        if not (before or after):
            continue
        x = call.algebra.exposed(x)
        shape = tuple(m + before + after if d == dim else m for d, m in enumerate(x.shape))
        touched = any(dim in a.dims for a in x.labels)
        if touched and before >= 0 and after >= 0 and call.get("mode", "constant") == "constant":
            sizes = [[k if d == dim else m for d, m in enumerate(x.shape)] for k in (before, after)]
            zeros = [constant(torch.full(size, float(call.get("value", 0.0)))) for size in sizes]
            x = joined(call.algebra, [t for t in (zeros[0], x, zeros[1]) if t.shape[dim]], dim, shape)
        else:
            x = along(call.algebra, x, [dim], shape)
    return x


@operation(*words("gather scatter scatter_add scatter_reduce take_along_dim"))
def by_index(call: Call) -> Tracked:
    dim = call["dim"] % call.first.ndim
    parts = [call.algebra.forget(call.algebra.exposed(t), dims=[dim]) for t in call.tracked]
    return across(call.algebra, [t for t in parts if t.ndim == call.first.ndim], dim, call.shape)


@operation(*words("index_add index_copy index_fill"))
def index_add(call: Call) -> Tracked:
    dim = call["dim"] % call.first.ndim
    parts = [call.algebra.forget(call.algebra.exposed(t), dims=[dim]) for t in call.tracked]
    return across(call.algebra, [t for t in parts if t.ndim == call.first.ndim], dim, call.shape)


@operation("index_select")
def index_select(call: Call) -> Tracked:
    x, index = call.first, call["index"]
    if not index.fixed or x.owner is not None:
        return along(call.algebra, x, [call["dim"]], call.shape)
    return chosen(call.algebra, x, call["dim"], index.value.reshape(-1).tolist())


@operation("index", "_unsafe_index")
def index(call: Call) -> Tracked:
    x, indices = call.first, call["indices"]
    algebra = call.algebra
    given = {d: i for d, i in enumerate(indices) if i is not None}
    if any(i.labels for i in given.values()):
        raise NotUnderstoodError
    known = all(i.fixed and i.value is not None and i.value.dtype != torch.bool for i in given.values())
    touched = [a for a in x.labels if a.dims & set(given)]
    if touched and (not known or x.owner is not None or len(given) > 1):
        x = algebra.forget(x, dims=given)
        touched = []
    x = algebra.exposed(x)
    if touched:
        ((dim, where),) = given.items()
        flat = where.value.reshape(-1) % x.shape[dim]
        found = chosen(algebra, x, dim, flat.tolist())
        return reshaped(found, call.shape)
    wide = max(i.ndim for i in given.values())
    if any(i.value is not None and i.value.dtype == torch.bool for i in given.values()):
        raise NotUnderstoodError
    zero = np.zeros([1] * wide, np.int64)
    key = tuple(zero if d in given else slice(None) for d in range(x.ndim))
    labels = [a.each(lambda y: y[key]) for a in x.labels]
    return Tracked(call.shape, tuple(a for a in labels if a.ids.size > 1), random=x.random)


@operation("index_put", "_unsafe_index_put")
def index_put(call: Call) -> Tracked:
    x, indices, values = call.first, call["indices"], call["values"]
    dims = [d for d, i in enumerate(indices) if i is not None]
    algebra = call.algebra
    if dims != list(range(len(dims))) or any(t.labels for t in tensors(indices)):
        raise NotUnderstoodError
    x = algebra.forget(algebra.exposed(x), dims=dims)
    rest = x.ndim - len(dims)
    values = algebra.exposed(values)
    lead = values.ndim - rest
    values = algebra.forget(values, dims=range(max(0, lead)))
    tail = values.shape[lead:] if lead > 0 else values.shape
    labels = tuple(a.each(lambda y: y.reshape(y.shape[lead:])) for a in values.labels) if lead > 0 else values.labels
    level = frozenset(d - max(lead, 0) for d in values.level if d >= lead)
    tail_values = Tracked(tail, labels, level, random=values.random)
    mine = Tracked(x.shape[len(dims):], tuple(a.each(lambda y: y.reshape(y.shape[len(dims):])) for a in x.labels),
                   frozenset(d - len(dims) for d in x.level if d >= len(dims)))  # fmt: skip
    found = algebra.elementwise([mine, tail_values], x.shape[len(dims) :])
    return replace(aligned(found, x.ndim), shape=x.shape, level=frozenset())


@operation("embedding")
def embedding(call: Call) -> Tracked:
    weight, indices = call["weight"], call["indices"]
    if indices.labels:
        raise NotUnderstoodError
    weight = call.algebra.forget(call.algebra.exposed(weight), dims=[0])
    labels = tuple(a.each(lambda x: x.reshape([1] * indices.ndim + [-1])) for a in weight.labels)
    return Tracked(call.shape, labels)
