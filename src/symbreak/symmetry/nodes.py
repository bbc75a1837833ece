"""What the rewriting, the exchange and its rules ask of a node of a captured graph."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .operations import NotUnderstoodError
from .sums import subscripts

SAME = frozenset({"clone", "alias", "contiguous"})
RESHAPES = frozenset({"view", "_unsafe_view", "reshape", "unsqueeze", "squeeze", "flatten", "unflatten"})


def name_of(node: Any) -> str:
    """The operation's name without its namespace; "" for what is none."""
    schema = getattr(getattr(node, "target", None), "_schema", None)
    return schema.name.removeprefix("aten::") if schema is not None else ""


def shape_of(node: Any) -> tuple[int, ...]:
    """The sizes of its value.

    Raises:
        NotUnderstoodError: it is no tensor, or a size depends on the data.
    """
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or not all(type(n) is int for n in value.shape):
        raise NotUnderstoodError
    return tuple(value.shape)


def letters(node: Any) -> tuple[list[Any], list[list[str]], list[str]]:
    """Operands of a sum of products (einsum, linear, matmul), letters of their dimensions, and those of the result.

    Raises:
        NotUnderstoodError: an einsum without "->", a product with a vector, or as `shape_of`.
    """
    operands, equation = list(node.args[:2]), "...i,oi->...o" if name_of(node) == "linear" else "...ik,...kj->...ij"
    if name_of(node) == "einsum":
        equation, operands = node.args[0].replace(" ", ""), list(node.args[1])
    elif min(len(shape_of(x)) for x in operands) < 2 and name_of(node) != "linear":
        raise NotUnderstoodError
    left, arrow, right = equation.partition("->")
    if not arrow:
        raise NotUnderstoodError
    sides = [subscripts(s, len(shape_of(x))) for s, x in zip(left.split(","), operands, strict=True)]
    return operands, sides, subscripts(right, len(shape_of(node)))
