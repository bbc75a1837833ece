"""Where the entries along an axis are exchanged: along which axis of its result an operation exchanges them too.

A router's rows change places with its experts: so do the columns of its logits, and of their softmax, and the experts
that they weigh; a sum over the experts does not see it. An axis is given by its place; `MANY` stands for a list whose
members change places.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import accumulate
from operator import mul
from typing import Any, Final

import torch
from torch import Tensor, fx

from .operations import ENTRYWISE
from .sums import subscripts

Axis = int | None  # None: nothing is exchanged
Axes = Mapping[Any, int]  # of the operands that are exchanged along an axis
MANY: Final = -1


class NotCarriedError(Exception):
    """The operation does not treat the entries alike."""


def carried(node: fx.Node, name: str, axes: Axes) -> Axis:
    """The axis of the result of an operation along which it is exchanged, as its operands are.

    Args:
        name: of the operation, without its namespace.
        axes: operand -> its axis, not negative; at least one.

    Raises:
        NotCarriedError: it is none, or not understood.
    """
    rule = _RULES.get(name)
    if rule is None and (torch.Tag.pointwise in getattr(node.target, "tags", ()) or name in ENTRYWISE):
        rule = _entrywise
    if rule is None:
        raise NotCarriedError
    return rule(node, axes)


def _only(node: Any, axes: Axes) -> int:
    """The axis of the first operand, where no other one is exchanged."""
    if set(axes) != {node.args[0]}:
        raise NotCarriedError
    return axes[node.args[0]]


def _shape(node: Any) -> tuple[int, ...]:
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or not all(type(n) is int for n in value.shape):
        raise NotCarriedError
    return tuple(value.shape)


def _entrywise(node: Any, axes: Axes) -> Axis:
    ndim = len(_shape(node))
    found = {axis + ndim - len(_shape(operand)) for operand, axis in axes.items()}
    if len(found) != 1:
        raise NotCarriedError
    (axis,) = found
    for operand in node.all_input_nodes:
        own = (1,) * (ndim - len(_shape(operand))) + _shape(operand)
        if operand not in axes and own[axis] != 1:
            raise NotCarriedError
    return axis


def _same(node: Any, axes: Axes) -> Axis:
    return _only(node, axes)


def _reduced(node: Any, axes: Axes) -> Axis:
    axis, ndim = _only(node, axes), len(_shape(node.args[0]))
    dims = node.args[1] if len(node.args) > 1 else None
    gone = {d % ndim for d in ([dims] if isinstance(dims, int) else dims or range(ndim))}
    if axis in gone:
        return None
    kept = len(_shape(node)) == ndim
    return axis if kept else axis - sum(d < axis for d in gone)


def _reshaped(node: Any, axes: Axes) -> Axis:
    """The axis as it is, what stands before it with the same number of entries."""
    axis, old, new = _only(node, axes), _shape(node.args[0]), _shape(node)
    before = math.prod(old[:axis])
    starts = [1, *accumulate(new, mul)]
    for d, n in enumerate(new):
        if starts[d] == before and n == old[axis]:
            return d
    raise NotCarriedError


def _permuted(node: Any, axes: Axes) -> Axis:
    axis, ndim = _only(node, axes), len(_shape(node))
    order = [int(d) % ndim for d in node.args[1]]
    return order.index(axis)


def _transposed(node: Any, axes: Axes) -> Axis:
    axis, ndim = _only(node, axes), len(_shape(node))
    a, b = (int(d) % ndim for d in (node.args[1:3] if len(node.args) > 1 else (0, ndim - 1)))
    return b if axis == a else a if axis == b else axis


def _expanded(node: Any, axes: Axes) -> Axis:
    axis, old, new = _only(node, axes), _shape(node.args[0]), _shape(node)
    return axis + len(new) - len(old)


def _selected(node: Any, axes: Axes) -> Axis:
    """One entry of another axis is left."""
    axis, dim = _only(node, axes), node.args[1] % len(_shape(node.args[0]))
    if dim == axis:
        raise NotCarriedError
    return axis - int(dim < axis)


def _sliced(node: Any, axes: Axes) -> Axis:
    axis = _only(node, axes)
    dim = (node.args[1] if len(node.args) > 1 else 0) % len(_shape(node))
    if dim == axis and _shape(node) != _shape(node.args[0]):
        raise NotCarriedError
    return axis


def _unbound(node: Any, axes: Axes) -> Axis:
    axis, dim = _only(node, axes), (node.args[1] if len(node.args) > 1 else 0) % len(_shape(node.args[0]))
    if dim != axis:
        raise NotCarriedError
    return MANY


def _linear(node: Any, axes: Axes) -> Axis:
    x, w, *bias = node.args
    last = len(_shape(node)) - 1
    found = _contracted(node, {n: a for n, a in axes.items() if n in (x, w)}, "...i,oi->...o") if axes else None
    if bias and bias[0] is not None and (bias[0] in axes) != (found == last):
        raise NotCarriedError
    return found


def _einsum(node: Any, axes: Axes) -> Axis:
    return _contracted(node, axes, node.args[0].replace(" ", ""), node.args[1])


def _matmul(node: Any, axes: Axes) -> Axis:
    if min(len(_shape(x)) for x in node.args[:2]) < 2:
        raise NotCarriedError
    return _contracted(node, axes, "...ik,...kj->...ij")


def _contracted(node: Any, axes: Axes, equation: str, operands: Any = None) -> Axis:
    """Sums of products: along one letter, in every operand that has it."""
    operands = node.args[:2] if operands is None else operands
    left, arrow, right = equation.partition("->")
    sides = [subscripts(s, len(_shape(x))) for s, x in zip(left.split(","), operands, strict=True)]
    letters = {side[axes[x]] for side, x in zip(sides, operands, strict=True) if x in axes}
    if len(letters) != 1 or not arrow:
        raise NotCarriedError
    (letter,) = letters
    for side, x in zip(sides, operands, strict=True):
        if letter in side and x not in axes and _shape(x)[side.index(letter)] != 1:
            raise NotCarriedError
    out = subscripts(right, len(_shape(node)))
    return out.index(letter) if letter in out else None


Rule = Callable[[Any, Axes], Axis]
_RULES: dict[str, Rule] = {
    **dict.fromkeys(
        ("clone", "alias", "contiguous", "_to_copy", "detach", "softmax", "log_softmax", "_softmax"), _same
    ),
    **dict.fromkeys(("sum", "mean", "amax", "amin", "logsumexp", "var", "std"), _reduced),
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "unsqueeze", "squeeze", "flatten", "unflatten"), _reshaped),
    "permute": _permuted,
    "transpose": _transposed,
    "t": _transposed,
    "expand": _expanded,
    "select": _selected,
    "slice": _sliced,
    "unbind": _unbound,
    "linear": _linear,
    "einsum": _einsum,
    "matmul": _matmul,
    "bmm": _matmul,
    "mm": _matmul,
}
