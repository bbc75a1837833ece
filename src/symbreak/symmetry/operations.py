"""What each ATen operation is, in terms of the algebra: one row an operation, one short function a kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from string import ascii_letters
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .algebra import Algebra
from .ledger import row_numbers
from .tracked import Label, Tracked, aligned, expanded, permuted, picked, reshaped, squeezed, unsqueezed

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Call:
    """One operation of the graph: arguments by name, and the shapes of what it returns."""

    name: str
    algebra: Algebra
    given: Mapping[str, Any]
    shapes: tuple[Shape, ...]

    def __getitem__(self, key: str) -> Any:
        return self.given[key]

    def get(self, key: str, otherwise: Any = None) -> Any:
        found = self.given.get(key)
        return otherwise if found is None else found

    @property
    def shape(self) -> Shape:
        return self.shapes[0]

    @property
    def first(self) -> Tracked:
        found: Tracked = next(iter(self.given.values()))
        return found

    @property
    def tracked(self) -> list[Tracked]:
        return list(tensors(self.given.values()))


Handler = Callable[[Call], Any]
OPERATIONS: dict[str, Handler] = {}


class NotUnderstoodError(Exception):
    """An operation, or a use of it, for which there is no rule."""


def operation(*names: str) -> Callable[[Handler], Handler]:
    def add(handler: Handler) -> Handler:
        OPERATIONS.update(dict.fromkeys(names, handler))
        return handler

    return add


def tensors(things: Iterable[Any]) -> Iterable[Tracked]:
    """Every tracked tensor in nested lists."""
    for thing in things:
        if isinstance(thing, Tracked):
            yield thing
        elif isinstance(thing, tuple | list):
            yield from tensors(thing)


def words(text: str) -> list[str]:
    return text.split()


# ---- the same function of every entry ----------------------------------------------------------------------------


def elementwise(call: Call) -> Tracked:
    return call.algebra.elementwise(call.tracked, call.shape)


ENTRYWISE = frozenset(
    words(
        "hardtanh hardswish hardsigmoid silu relu6 leaky_relu softplus elu selu celu mish log_sigmoid gelu relu "
        "sigmoid tanh type_as addcmul addcdiv lerp where masked_fill clamp clamp_min clamp_max pow rsqrt float_power "
        "softshrink hardshrink tanhshrink threshold _conj conj real imag view_as_real_copy nan_to_num rsub logical_not "
        "special_expm1 expm1 square complex polar mse_loss_ fill"
    )
)


@operation("copy")
def copied(call: Call) -> Tracked:
    return expanded(call["src"], call.shape)


@operation(*words("clone alias detach contiguous _to_copy lift_fresh_copy lift_fresh to view_of positive "
                  "_unsafe_index_put_none resolve_conj resolve_neg detach_copy alias_copy"))  # fmt: skip
def same(call: Call) -> Tracked:
    return call.first


@operation(*words("dropout native_dropout feature_dropout alpha_dropout feature_alpha_dropout"))
def dropped_out(call: Call) -> Any:
    p, train = call["p"], call["train"]
    if train and p:
        call.algebra.breakers["dropout"] = None
    if len(call.shapes) == 1:
        return call.first
    return call.first, Tracked(call.first.shape, random=True)


@operation("prelu")
def prelu(call: Call) -> Tracked:
    x, w = call["self"], call["weight"]
    return call.algebra.elementwise([x, channels(w, x.ndim)] if x.ndim > 1 else [x, w], call.shape)


@operation("glu")
def glu(call: Call) -> Tracked:
    dim = call.get("dim", -1) % call.first.ndim
    n = call.first.shape[dim] // 2
    halves = cut_up(call.algebra, call.first, dim, [n, n])
    return call.algebra.elementwise(halves, call.shape)


def channels(t: Tracked, ndim: int) -> Tracked:
    """A vector laid along dimension 1."""
    return reshaped(t, [1, t.shape[0], *[1] * (ndim - 2)]) if t.ndim == 1 else t


# ---- views ---------------------------------------------------------------------------------------------------------


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
    order = torch.arange(x.ndim).reshape([1] * 0 + [x.ndim]).tolist()
    given = [call["source"], call["destination"]]
    source, destination = ([d % x.ndim for d in (g if isinstance(g, list | tuple) else [g])] for g in given)
    rest = [d for d in order if d not in source]
    places = dict(zip(destination, source, strict=True))
    left = iter(rest)
    return permuted(x, [places[d] if d in places else next(left) for d in order])


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
            algebra.ledger.attribute(ids, taps, table.astype(np.float64))


def cut_up(algebra: Algebra, t: Tracked, dim: int, sizes: Sequence[int]) -> list[Tracked]:
    dim %= t.ndim
    ends = np.cumsum([0, *sizes])
    if len(sizes) > 1:
        told_by(algebra, t, dim, np.repeat(np.arange(len(sizes)), sizes))
    parts = []
    for a, b in zip(ends[:-1], ends[1:], strict=True):
        value = None if t.value is None else t.value.narrow(dim, int(a), int(b - a))
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


@operation("index_select")
def index_select(call: Call) -> Tracked:
    x, index = call.first, call["index"]
    if not index.fixed or x.owner is not None:
        return along(call.algebra, x, [call["dim"]], call.shape)
    return chosen(call.algebra, x, call["dim"], index.value.reshape(-1).tolist())


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
    wide = [
        a.each(lambda x, a=a: np.broadcast_to(x, [a.ids.shape[dim] if d == dim else n for d, n in enumerate(full)]))
        for a in laid
    ]
    units = [np.unique(algebra.resolved(a)[0]) for a in laid]
    if sum(len(u) for u in units) > len(np.unique(np.concatenate(units))):  # a unit in two parts has two entries
        wide = [Label(a.ids, a.taps * len(wide) + n) for n, a in enumerate(wide)]
    label = Label(*(np.concatenate([getattr(a, key) for a in wide], axis=dim) for key in ("ids", "taps")))
    return replace(found, labels=(*found.labels, label))


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


# ---- mixtures of positions -----------------------------------------------------------------------------------------


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
POOLS |= {f"upsample_{kind}{n}d": n for kind, n in (("nearest", 1), ("nearest", 2), ("nearest", 3), ("_nearest_exact", 1),
          ("bilinear", 2), ("bicubic", 2), ("trilinear", 3), ("linear", 1))}  # fmt: skip
POOLS |= {"_upsample_nearest_exact2d": 2, "_upsample_bilinear2d_aa": 2, "_upsample_bicubic2d_aa": 2,
          "_upsample_nearest_exact1d": 1, "grid_sampler_2d": 2, "tril": 2, "triu": 2}  # fmt: skip


@operation(*POOLS)
def pooled(call: Call) -> Any:
    x, n = call.first, POOLS[call.name]
    found = along(call.algebra, x, range(x.ndim - n, x.ndim), call.shape)
    if call.name.startswith("grid"):
        call.algebra.forget(call["grid"], "a grid to sample at, made of units")
    return found if len(call.shapes) == 1 else tuple(replace(found, shape=s) for s in call.shapes)


@operation(*words("cumsum cumprod logcumsumexp cummax cummin sort argsort topk max_dim min_dim argmax argmin median_dim "
                  "mode kthvalue diff nanmedian_dim"))  # fmt: skip
def ordered(call: Call) -> Any:
    """By order or by position: where it meets units it tells them apart, since ties are broken by index."""
    x, dim = call.first, call.get("dim", -1)
    if dim is None or (call.name in ("argmax", "argmin") and call.given.get("dim") is None):
        return call.algebra.reduced(call.algebra.forget(x), range(x.ndim), call.shape, keepdim=False)
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
            zeros = [constant(torch.full([k if d == dim else m for d, m in enumerate(x.shape)], float(call.get("value", 0.0))))
                     for k in (before, after)]  # fmt: skip
            x = joined(call.algebra, [t for t in (zeros[0], x, zeros[1]) if t.shape[dim]], dim, shape)
        else:
            x = along(call.algebra, x, [dim], shape)
    return x


def constant(value: Tensor) -> Tracked:
    """Numbers that depend on nothing, with the dimensions along which they are all equal."""
    level = frozenset(
        d for d, n in enumerate(value.shape) if n > 1 and value.numel() and bool((value == value.narrow(d, 0, 1)).all())
    )
    return Tracked(tuple(value.shape), level=level, value=value, fixed=True)


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


@operation("one_hot", "isfinite", "isnan", "isinf")
def of_entries(call: Call) -> Tracked:
    x = call.algebra.exposed(call.first)
    if len(call.shape) == x.ndim:
        return call.algebra.elementwise([x], call.shape)
    return replace(unsqueezed(x, x.ndim), shape=call.shape, value=None, fixed=False)


@operation("_weight_norm", "_weight_norm_interface")
def weight_norm(call: Call) -> Any:
    """g v / |v|, the norm over all dimensions but one."""
    v, g, dim = call.given["v"], call.given["g"], call.get("dim", 0)
    v = call.algebra.normalised(v, [d for d in range(v.ndim) if d != dim])
    found = call.algebra.elementwise([v, g], call.shape)
    return found if len(call.shapes) == 1 else (found, *(Unread(found) for _ in call.shapes[1:]))


@operation("embedding")
def embedding(call: Call) -> Tracked:
    weight, indices = call["weight"], call["indices"]
    if indices.labels:
        raise NotUnderstoodError
    weight = call.algebra.forget(call.algebra.exposed(weight), dims=[0])
    labels = tuple(a.each(lambda x: x.reshape([1] * indices.ndim + [-1])) for a in weight.labels)
    return Tracked(call.shape, labels)


# ---- functions of all entries along some dimensions ----------------------------------------------------------------


REDUCTIONS = words("sum mean var std amax amin norm logsumexp any all prod max min var_mean std_mean linalg_vector_norm "
                   "count_nonzero nansum nanmean")  # fmt: skip


@operation(*REDUCTIONS)
def reduction(call: Call) -> Any:
    x, dims = call.first, call.get("dim", ())
    if len(call.tracked) > 1:  # max(a, b)
        return elementwise(call)
    dims = [dims] if isinstance(dims, int) else list(dims)
    dims = dims or list(range(x.ndim))
    keep = len(call.shape) == x.ndim
    found = tuple(call.algebra.reduced(x, dims, s, keepdim=keep) for s in call.shapes)
    return found if len(found) > 1 else found[0]


@operation(*words("softmax log_softmax _softmax _log_softmax softmin _safe_softmax"))
def softmax(call: Call) -> Tracked:
    return call.algebra.normalised(call.first, [call["dim"]])


@operation(*words("layer_norm native_layer_norm rms_norm _fused_rms_norm"))
def layer_norm(call: Call) -> Any:
    x = call.algebra.normalised(call.first, range(-len(call["normalized_shape"]), 0))
    found = call.algebra.elementwise([x, *_given(call, "weight", "bias")], call.shape)
    return found if len(call.shapes) == 1 else (found, *(Unread(found) for _ in call.shapes[1:]))


@operation("group_norm", "native_group_norm")
def group_norm(call: Call) -> Any:
    x = call.algebra.exposed(call.first)
    groups = call.get("num_groups", call.get("group"))
    split_up = reshaped(x, [x.shape[0], groups, x.shape[1] // groups, *x.shape[2:]])
    call.algebra.normalised(split_up, range(2, split_up.ndim))
    found = call.algebra.elementwise([x, *(channels(t, x.ndim) for t in _given(call, "weight", "bias"))], call.shape)
    return found if len(call.shapes) == 1 else (found, *(Unread(found) for _ in call.shapes[1:]))


@operation("instance_norm")
def instance_norm(call: Call) -> Tracked:
    x = call.algebra.normalised(call.first, range(2, call.first.ndim))
    vectors = _given(call, "weight", "bias", "running_mean", "running_var")
    return call.algebra.elementwise([x, *(channels(replace(t, fixed=False), x.ndim) for t in vectors)], call.shape)


@operation(*words("batch_norm native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_functional "
                  "_native_batch_norm_legit_no_training _batch_norm_with_update _batch_norm_with_update_functional"))  # fmt: skip
def batch_norm(call: Call) -> Any:
    algebra, x = call.algebra, call.algebra.exposed(call.first)
    over = [d for d in range(x.ndim) if d != 1]
    training = call.get("training", call.get("train", call.name.startswith("_batch_norm_with")))
    if training:
        x = algebra.normalised(algebra.only(x, {1}), over)
    vectors = [replace(t, fixed=False) for t in _given(call, "weight", "bias", "running_mean", "running_var")]
    found = algebra.elementwise([x, *(channels(t, x.ndim) for t in vectors)], call.shape)
    if len(call.shapes) == 1:
        return found
    moved = algebra.reduced(found, over, (x.shape[1],), keepdim=False)
    return found, *(moved if s == moved.shape else Unread(found) for s in call.shapes[1:])


def _given(call: Call, *names: str) -> list[Tracked]:
    return [call[n] for n in names if isinstance(call.given.get(n), Tracked)]


# ---- weighted sums -------------------------------------------------------------------------------------------------


@operation("linear")
def linear(call: Call) -> Tracked:
    x, w = call["input"], call["weight"]
    some = list(ascii_letters[: x.ndim])
    found = call.algebra.contracted(x, w, some, ["Z", some[-1]], [*some[:-1], "Z"])
    return _plus(call, found, "bias")


@operation(*words("addmm addmv baddbmm addbmm"))
def addmm(call: Call) -> Tracked:
    names = [k for k in call.given if k != "self"][:2]
    if call.name == "addbmm":
        raise NotUnderstoodError
    return _plus(call, _matmul(call.algebra, call[names[0]], call[names[1]]), "self")


def _plus(call: Call, found: Tracked, *names: str) -> Tracked:
    return call.algebra.elementwise([found, *_given(call, *names)], call.shape)


@operation(*words("matmul mm bmm mv dot vdot inner"))
def matmul(call: Call) -> Tracked:
    a, b = call.tracked[:2]
    if call.name == "inner":
        raise NotUnderstoodError
    return _matmul(call.algebra, a, b)


def _matmul(algebra: Algebra, a: Tracked, b: Tracked) -> Tracked:
    batch = list(ascii_letters[: max(a.ndim, b.ndim) - 2]) if max(a.ndim, b.ndim) > 2 else []
    la = [*(batch[len(batch) - (a.ndim - 2) :] if a.ndim > 2 else []), *(["I"] if a.ndim > 1 else []), "K"]
    lb = [*(batch[len(batch) - (b.ndim - 2) :] if b.ndim > 2 else []), "K", *(["J"] if b.ndim > 1 else [])]
    out = [*batch, *(["I"] if a.ndim > 1 else []), *(["J"] if b.ndim > 1 else [])]
    return algebra.contracted(a, b, la, lb, out)


@operation("einsum")
def einsum(call: Call) -> Tracked:
    equation, operands = call["equation"].replace(" ", ""), call["tensors"]
    left, arrow, right = equation.partition("->")
    sides = [_subscripts(s, t.ndim) for s, t in zip(left.split(","), operands, strict=True)]
    dots = max((s for s in sides), key=lambda s: sum(a.isdigit() for a in s))
    dots = [a for a in dots if a.isdigit()]
    every = [a for s in sides for a in s if not a.isdigit()]
    out = [b for a in right.replace("...", ".") for b in (dots if a == "." else [a])]
    if not arrow:
        out = [*dots, *sorted(a for a in set(every) if every.count(a) == 1)]
    if any(len(set(s)) < len(s) for s in sides):
        raise NotUnderstoodError
    if len(operands) == 1:
        x = operands[0]
        gone = [d for d, a in enumerate(sides[0]) if a not in out]
        kept = [a for a in sides[0] if a in out]
        if gone:
            x = call.algebra.reduced(x, gone, [x.shape[sides[0].index(a)] for a in kept], keepdim=False)
        return permuted(x, [kept.index(a) for a in out])
    if len(operands) != 2:
        raise NotUnderstoodError
    reduced = []
    for x, letters, other in zip(operands, sides, reversed(sides), strict=True):
        gone = [d for d, a in enumerate(letters) if a not in out and a not in other]
        kept = [a for a in letters if a in out or a in other]
        if gone:
            x = call.algebra.reduced(x, gone, [x.shape[letters.index(a)] for a in kept], keepdim=False)
        reduced.append((x, kept))
    (a, la), (b, lb) = reduced
    return call.algebra.contracted(a, b, la, lb, out)


def _subscripts(text: str, ndim: int) -> list[str]:
    """A letter a dimension; those behind the dots are numbered from the right."""
    plain = text.replace("...", ".")
    hidden = ndim - (len(plain) - 1)
    return [b for a in plain for b in ([str(n) for n in range(hidden - 1, -1, -1)] if a == "." else [a])]


CONVOLUTIONS = {"conv1d": 1, "conv2d": 2, "conv3d": 3, "conv_transpose1d": 1, "conv_transpose2d": 2,
                "conv_transpose3d": 3, "convolution": 0, "_convolution": 0}  # fmt: skip


@operation(*CONVOLUTIONS)
def convolution(call: Call) -> Tracked:
    algebra, x, w = call.algebra, call["input"], call["weight"]
    if w.owner is None:  # a kernel that is computed: its positions are not alike
        w = algebra.forget(w, dims=range(2, w.ndim))
    spatial = w.ndim - 2
    batched = x.ndim == spatial + 2
    x = algebra.exposed(x if batched else unsqueezed(x, 0))
    x = algebra.forget(algebra.only(x, {1}), dims=range(2, x.ndim))
    labels = tuple(a.each(lambda y: y.reshape(y.shape[:2])) for a in x.labels)
    flat = Tracked(x.shape[:2], labels, x.level & {0, 1}, random=x.random)
    groups = call.get("groups", 1)
    turned = "transpose" in call.name or bool(call.get("transposed", False))
    taps = [f"k{n}" for n in range(spatial)]
    inner = ["c", "o"] if turned else ["o", "c"]
    if groups == 1:
        found = algebra.contracted(flat, w, ["b", "c"], [*inner, *taps], ["b", "o"], taps)
    else:
        flat = reshaped(flat, [flat.shape[0], groups, flat.shape[1] // groups])
        w = reshaped(w, [groups, w.shape[0] // groups, *w.shape[1:]])
        found = algebra.contracted(flat, w, ["b", "g", "c"], ["g", *inner, *taps], ["b", "g", "o"], taps)
        found = reshaped(found, [found.shape[0], found.shape[1] * found.shape[2]])
    labels = tuple(a.each(lambda y: y.reshape([*y.shape, *[1] * spatial])) for a in found.labels)
    full = call.shape if batched else (1, *call.shape)
    y = Tracked(full, labels, random=found.random)
    y = algebra.elementwise([y, *(channels(t, y.ndim) for t in _given(call, "bias"))], full)
    return y if batched else squeezed(y, [0])


@operation(*words("scaled_dot_product_attention _scaled_dot_product_flash_attention_for_cpu "
                  "_scaled_dot_product_attention_math _scaled_dot_product_efficient_attention"))  # fmt: skip
def attention(call: Call) -> Any:
    algebra = call.algebra
    q, k, v = (algebra.exposed(call[n]) for n in ("query", "key", "value"))
    if call.get("dropout_p", 0.0):
        algebra.breakers["dropout"] = None
    if call.get("enable_gqa", False) and q.shape[-3] != k.shape[-3]:
        k, v = (_repeated(t, q.shape[-3] // t.shape[-3]) for t in (k, v))
    batch = list(ascii_letters[: max(t.ndim for t in (q, k, v)) - 2])
    mine: Callable[[Tracked], list[str]] = lambda t: batch[len(batch) - (t.ndim - 2) :]
    scores = algebra.contracted(q, k, [*mine(q), "L", "E"], [*mine(k), "S", "E"], [*batch, "L", "S"])
    mask = call.given.get("attn_mask")
    if isinstance(mask, Tracked):
        shape = torch.broadcast_shapes(scores.shape, mask.shape)
        scores = algebra.elementwise([scores, mask], tuple(shape))
    scores = algebra.normalised(scores, [-1])
    found = algebra.contracted(scores, v, [*batch, "L", "S"], [*mine(v), "S", "V"], [*batch, "L", "V"])
    return found if len(call.shapes) == 1 else (found, *(Unread(found) for _ in call.shapes[1:]))


def _repeated(t: Tracked, times: int) -> Tracked:
    """Every head `times` times in a row."""
    dim = t.ndim - 3
    x = unsqueezed(t, dim + 1)
    x = expanded(x, [times if d == dim + 1 else n for d, n in enumerate(x.shape)])
    return reshaped(x, [n * times if d == dim else n for d, n in enumerate(t.shape)])


# ---- recurrent layers ----------------------------------------------------------------------------------------------

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


@operation(*GATES)
def recurrent(call: Call) -> Any:
    """Layers whose gates are taps of one hidden unit, read by all weights alike."""
    algebra, gates = call.algebra, GATES[call.name]
    if "batch_sizes" in call.given or "params" not in call.given:
        raise NotUnderstoodError
    x, params, each = algebra.exposed(call["input"]), call["params"], 4 if call["has_biases"] else 2
    states = call["hx"] if isinstance(call["hx"], list | tuple) else [call["hx"]]
    ways = 2 if call["bidirectional"] else 1
    if len(params) != each * call["num_layers"] * ways or call["dropout"] and call["train"] and call["num_layers"] > 1:
        if len(params) != each * call["num_layers"] * ways:
            raise NotUnderstoodError  # projections
        algebra.breakers["dropout"] = None
    x = algebra.forget(algebra.only(x, {x.ndim - 1}), dims=range(x.ndim - 1))
    last: list[Tracked] = []
    for layer in range(call["num_layers"]):
        outs = []
        for way in range(ways):
            n = layer * ways + way
            mine = params[each * n : each * (n + 1)]
            start = [squeezed(chosen(algebra, s, 0, [n]), [0]) for s in states]
            outs.append(_cell(algebra, x, mine, gates, start))
        last += outs
        shape = (*x.shape[:-1], sum(t.shape[-1] for t in outs))
        x = joined(algebra, outs, x.ndim - 1, shape)
    kept = Kept(last)
    return x, *(kept for _ in call.shapes[1:])


@dataclass(frozen=True)
class Unread:
    """A second result that only a backward pass reads; whoever else does gets it told apart."""

    like: Tracked


@dataclass(frozen=True)
class Kept:
    """Final states, stacked only where somebody reads them: stacking makes the layers one space."""

    parts: Sequence[Tracked]

    def stacked(self, algebra: Algebra, shape: Shape) -> Tracked:
        rows = [Tracked((1, *shape[1:]), tuple(_last_axis(a, len(shape)) for a in t.labels)) for t in self.parts]
        return joined(algebra, rows, 0, shape)


def _last_axis(label: Label, ndim: int) -> Label:
    if label.dims - {label.ids.ndim - 1}:
        raise NotUnderstoodError
    return label.each(lambda x: x.reshape([1] * (ndim - 1) + [-1]))


def _cell(algebra: Algebra, x: Tracked, params: Sequence[Tracked], gates: int, start: Sequence[Tracked]) -> Tracked:
    w_ih, w_hh, *biases = params
    if any(p.owner is None for p in params):
        raise NotUnderstoodError
    n = w_hh.shape[-1]
    units = algebra.ledger.fresh(algebra.where, n)
    algebra.ledger.use(units)
    hidden = Tracked((1, n), (Label(units[None, :], np.zeros((1, n), np.int64)),))
    for s in start:
        hidden = algebra.elementwise(
            [hidden, s if s.ndim == 2 else unsqueezed(s, 0)], (max(1, s.shape[0]) if s.ndim == 2 else 1, n)
        )
    hidden = replace(hidden, shape=(1, n))
    for p in (w_ih, w_hh, *biases):  # [gates x units, ...]
        axis = next((a for a in p.labels if 0 in a.dims), None)
        if axis is None or not algebra.ledger.is_axis(axis.ids.reshape(-1)):
            raise NotUnderstoodError
        algebra.ledger.stand_for(axis.ids.reshape(-1), np.tile(units, gates), np.repeat(np.arange(gates), n))
    for b in biases:
        algebra.expose(str(b.owner))
    letters = list(ascii_letters[: x.ndim])
    algebra.contracted(x, w_ih, letters, ["Z", letters[-1]], [*letters[:-1], "Z"])
    algebra.contracted(hidden, w_hh, ["a", "b"], ["Z", "b"], ["a", "Z"])
    at = units.reshape([1] * (x.ndim - 1) + [-1])
    return Tracked((*x.shape[:-1], n), (Label(at, np.zeros_like(at)),) if n > 1 else ())
