"""Weighted sums: linear layers, convolutions, products of matrices, and attention."""

from __future__ import annotations

from string import ascii_letters
from typing import Any

from .algebra import Algebra
from .operations import (
    Call,
    NotUnderstoodError,
    Unread,
    channels,
    given_tensors,
    operation,
    words,
)
from .tracked import Tracked, aligned, expanded, permuted, reshaped, squeezed, unsqueezed


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
    return call.algebra.elementwise([found, *given_tensors(call, *names)], call.shape)


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
    sides = [subscripts(s, t.ndim) for s, t in zip(left.split(","), operands, strict=True)]
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
            x = call.algebra.reduced(x, gone, keepdim=False)
        return permuted(x, [kept.index(a) for a in out])
    if len(operands) != 2:
        raise NotUnderstoodError
    reduced = []
    for x, letters, other in zip(operands, sides, reversed(sides), strict=True):
        gone = [d for d, a in enumerate(letters) if a not in out and a not in other]
        kept = [a for a in letters if a in out or a in other]
        if gone:
            x = call.algebra.reduced(x, gone, keepdim=False)
        reduced.append((x, kept))
    (a, la), (b, lb) = reduced
    return call.algebra.contracted(a, b, la, lb, out)


def subscripts(text: str, ndim: int) -> list[str]:
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
        algebra.reads(w, flat)
        flat = reshaped(flat, [flat.shape[0], groups, flat.shape[1] // groups])
        w = reshaped(w, [groups, w.shape[0] // groups, *w.shape[1:]])
        found = algebra.contracted(flat, w, ["b", "g", "c"], ["g", *inner, *taps], ["b", "g", "o"], taps)
        found = reshaped(found, [found.shape[0], found.shape[1] * found.shape[2]])
    labels = tuple(a.each(lambda y: y.reshape([*y.shape, *[1] * spatial])) for a in found.labels)
    full = call.shape if batched else (1, *call.shape)
    y = Tracked(full, labels, random=found.random)
    y = algebra.elementwise([y, *(channels(t, y.ndim) for t in given_tensors(call, "bias"))], full)
    return y if batched else squeezed(y, [0])


@operation(*words("scaled_dot_product_attention _scaled_dot_product_flash_attention_for_cpu "
                  "_scaled_dot_product_attention_math _scaled_dot_product_efficient_attention"))  # fmt: skip
def attention(call: Call) -> Any:
    algebra = call.algebra
    q, k, v = (algebra.exposed(call[n]) for n in ("query", "key", "value"))
    if call.get("enable_gqa", False) and q.shape[-3] != k.shape[-3]:
        k, v = (_repeated(t, q.shape[-3] // t.shape[-3]) for t in (k, v))
    batch = list(ascii_letters[: max(t.ndim for t in (q, k, v)) - 2])

    def mine(t: Tracked) -> list[str]:
        return batch[len(batch) - (t.ndim - 2) :]

    scores = algebra.contracted(q, k, [*mine(q), "L", "E"], [*mine(k), "S", "E"], [*batch, "L", "S"])
    mask = call.given.get("attn_mask")
    if isinstance(mask, Tracked):
        shape = tuple(max(a, b) for a, b in zip(scores.shape, aligned(mask, scores.ndim).shape, strict=True))
        scores = algebra.elementwise([scores, mask], shape)
    scores = algebra.normalised(scores, [-1])
    if call.get("dropout_p", 0.0):
        algebra.drop_out(scores)
    found = algebra.contracted(scores, v, [*batch, "L", "S"], [*mine(v), "S", "V"], [*batch, "L", "V"])
    return found if len(call.shapes) == 1 else (found, *(Unread(found) for _ in call.shapes[1:]))


def _repeated(t: Tracked, times: int) -> Tracked:
    """Every head `times` times in a row."""
    dim = t.ndim - 3
    x = unsqueezed(t, dim + 1)
    x = expanded(x, [times if d == dim + 1 else n for d, n in enumerate(x.shape)])
    return reshaped(x, [n * times if d == dim else n for d, n in enumerate(t.shape)])
