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
from torch import fx

from .nodes import RESHAPES, SAME, letters, name_of, shape_of
from .operations import ENTRYWISE, NotUnderstoodError

Axis = int | None  # None: nothing is exchanged
Axes = Mapping[Any, int]  # of the operands that are exchanged along an axis
MANY: Final = -1


def carried(node: fx.Node, axes: Axes) -> Axis:
    """The axis of the result of an operation along which it is exchanged, as its operands are.

    Args:
        axes: operand -> its axis, not negative; at least one.

    Raises:
        NotUnderstoodError: it is none, or not understood.
    """
    name = name_of(node)
    rule = _RULES.get(name)
    if rule is None and (torch.Tag.pointwise in getattr(node.target, "tags", ()) or name in ENTRYWISE):
        rule = _entrywise
    if rule is None:
        raise NotUnderstoodError
    return rule(node, axes)


def _only(node: Any, axes: Axes) -> int:
    """The axis of the first operand, where no other one is exchanged."""
    if set(axes) != {node.args[0]}:
        raise NotUnderstoodError
    return axes[node.args[0]]


def _entrywise(node: Any, axes: Axes) -> Axis:
    ndim = len(shape_of(node))
    found = {axis + ndim - len(shape_of(operand)) for operand, axis in axes.items()}
    if len(found) != 1:
        raise NotUnderstoodError
    (axis,) = found
    for operand in node.all_input_nodes:
        own = (1,) * (ndim - len(shape_of(operand))) + shape_of(operand)
        if operand not in axes and own[axis] != 1:
            raise NotUnderstoodError
    return axis


def _same(node: Any, axes: Axes) -> Axis:
    return _only(node, axes)


def _reduced(node: Any, axes: Axes) -> Axis:
    axis, ndim = _only(node, axes), len(shape_of(node.args[0]))
    dims = node.args[1] if len(node.args) > 1 else None
    gone = {d % ndim for d in ([dims] if isinstance(dims, int) else dims or range(ndim))}
    if axis in gone:
        return None
    kept = len(shape_of(node)) == ndim
    return axis if kept else axis - sum(d < axis for d in gone)


def _reshaped(node: Any, axes: Axes) -> Axis:
    """The axis as it is, what stands before it with the same number of entries."""
    axis, old, new = _only(node, axes), shape_of(node.args[0]), shape_of(node)
    before = math.prod(old[:axis])
    starts = [1, *accumulate(new, mul)]
    for d, n in enumerate(new):
        if starts[d] == before and n == old[axis]:
            return d
    raise NotUnderstoodError


def _permuted(node: Any, axes: Axes) -> Axis:
    axis, ndim = _only(node, axes), len(shape_of(node))
    order = [int(d) % ndim for d in node.args[1]]
    return order.index(axis)


def _transposed(node: Any, axes: Axes) -> Axis:
    axis, ndim = _only(node, axes), len(shape_of(node))
    a, b = (int(d) % ndim for d in (node.args[1:3] if len(node.args) > 1 else (0, ndim - 1)))
    return b if axis == a else a if axis == b else axis


def _expanded(node: Any, axes: Axes) -> Axis:
    axis, old, new = _only(node, axes), shape_of(node.args[0]), shape_of(node)
    return axis + len(new) - len(old)


def _selected(node: Any, axes: Axes) -> Axis:
    """One entry of another axis is left."""
    axis, dim = _only(node, axes), node.args[1] % len(shape_of(node.args[0]))
    if dim == axis:
        raise NotUnderstoodError
    return axis - int(dim < axis)


def _sliced(node: Any, axes: Axes) -> Axis:
    axis = _only(node, axes)
    dim = (node.args[1] if len(node.args) > 1 else 0) % len(shape_of(node))
    if dim == axis and shape_of(node) != shape_of(node.args[0]):
        raise NotUnderstoodError
    return axis


def _unbound(node: Any, axes: Axes) -> Axis:
    axis, dim = _only(node, axes), (node.args[1] if len(node.args) > 1 else 0) % len(shape_of(node.args[0]))
    if dim != axis:
        raise NotUnderstoodError
    return MANY


def _linear(node: Any, axes: Axes) -> Axis:
    x, w, *bias = node.args
    found = _contracted(node, {n: a for n, a in axes.items() if n in (x, w)})
    last = len(shape_of(node)) - 1
    if bias and bias[0] is not None and (bias[0] in axes) != (found == last):
        raise NotUnderstoodError
    return found


def _contracted(node: Any, axes: Axes) -> Axis:
    """Sums of products: along one letter, in every operand that has it."""
    operands, sides, out = letters(node)
    found = {side[axes[x]] for side, x in zip(sides, operands, strict=True) if x in axes}
    if len(found) != 1:
        raise NotUnderstoodError
    (letter,) = found
    for side, x in zip(sides, operands, strict=True):
        if letter in side and x not in axes and shape_of(x)[side.index(letter)] != 1:
            raise NotUnderstoodError
    return out.index(letter) if letter in out else None


Rule = Callable[[Any, Axes], Axis]
_RULES: dict[str, Rule] = {
    **dict.fromkeys((*SAME, "_to_copy", "detach", "softmax", "log_softmax", "_softmax"), _same),
    **dict.fromkeys(("sum", "mean", "amax", "amin", "logsumexp", "var", "std"), _reduced),
    **dict.fromkeys(RESHAPES, _reshaped),
    "permute": _permuted,
    "transpose": _transposed,
    "t": _transposed,
    "expand": _expanded,
    "select": _selected,
    "slice": _sliced,
    "unbind": _unbound,
    "linear": _linear,
    **dict.fromkeys(("einsum", "matmul", "bmm", "mm"), _contracted),
}
