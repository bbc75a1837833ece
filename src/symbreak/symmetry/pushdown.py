"""Sums and selections moved in front of what is linear: what is only read through a sum is written as that sum.

sum_t (h_t + c_t) and sum_t h_t + sum_t c_t are one function of every tensor, with one gradient. Where c is trained, the
first form tells the terms h_t apart by their c_t, although no gradient ever does; in the second they are alike. So a
graph is rewritten before it is read, but only where an addition of a parameter disappears by it.
"""

from __future__ import annotations

import contextlib
import copy
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import fx

from .capture import Captured
from .nodes import RESHAPES, SAME, letters, name_of, shape_of
from .operations import NotUnderstoodError

aten = torch.ops.aten
Shape = tuple[int, ...]
_LONGEST = 200  # operations that a sum is moved in front of
_ROOTS = frozenset({"sum", "mean", "select", "slice"})


def pushed_down(captured: Captured) -> Captured:
    """The same function, its sums and selections in front of the additions of parameters that only they read.

    Example:
        >>> from torch import nn
        >>> from symbreak.symmetry import coarsest, unit_graph  # which exports the model and reads it by this
        >>> class Streams(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.w, self.c = nn.Parameter(torch.zeros(3, 4)), nn.Parameter(torch.arange(4.0))
        ...     def forward(self, x):
        ...         return (torch.tanh(x @ self.w) + self.c).sum(-1)
        >>> graph = unit_graph(Streams(), torch.ones(2, 3))
        >>> coarsest(graph.network)["w[1]"].tolist()
        [0, 0, 0, 0]

    Source: linearity of the sum.
    """
    owned = {n for n, (kind, _) in captured.sources.items() if kind == "parameter"}
    if not any(_trained(n, owned) for n in captured.module.graph.nodes):
        return captured
    graph = copy.deepcopy(captured.module.graph)
    additions = {n: trained for n in graph.nodes if (trained := _trained(n, owned))}
    for node in [n for n in graph.nodes if name_of(n) in _ROOTS]:
        pusher = _Pusher(graph, node, additions)
        found = pusher.moved()
        if found is not None and pusher.passed:
            node.replace_all_uses_with(found)
    graph.eliminate_dead_code()
    if additions.keys() <= set(graph.nodes):
        return captured
    return replace(captured, module=fx.GraphModule(captured.module, graph))


@dataclass(frozen=True)
class _Asked:
    """Of a value, seen in a finer shape without ones: the sum from start to stop along some dimensions."""

    shape: Shape
    over: Mapping[int, tuple[int, int]]

    @property
    def key(self) -> tuple[Any, ...]:
        return self.shape, tuple(sorted(self.over.items()))

    @property
    def left(self) -> Shape:
        """The shape of what is asked for: ones where it was summed."""
        return tuple(1 if d in self.over else n for d, n in enumerate(self.shape))

    def on(self, dims: Sequence[int]) -> _Asked:
        """The same along some of the dimensions, in this order."""
        over = {k: self.over[d] for k, d in enumerate(dims) if d in self.over}
        return _Asked(tuple(self.shape[d] for d in dims), over)


@dataclass
class _Pusher:
    """One root: new operations are put in front of it, and stay unused where nothing comes of it."""

    graph: fx.Graph
    root: Any
    additions: Mapping[fx.Node, Sequence[Any]]  # with the parameters that they add
    passed: bool = False
    _known: dict[Any, fx.Node] = field(default_factory=dict)

    def moved(self) -> fx.Node | None:
        """The root's value, its sum or selection as far in front as it goes; None where it is of another kind."""
        with self.graph.inserting_before(self.root), contextlib.suppress(NotUnderstoodError):
            asked = self._asked_by_root()
            if asked is None:
                return None
            found = self._reduced(self.root.args[0], asked, 0)
            if name_of(self.root) == "mean":
                found = self._call(aten.div.Tensor, found, math.prod(asked.shape[d] for d in asked.over))
            return self._view(found, shape_of(self.root))
        return None

    def _asked_by_root(self) -> _Asked | None:
        shape = shape_of(self.root.args[0])
        if name_of(self.root) in ("sum", "mean"):
            if self.root.kwargs:
                return None
            dims = (self.root.args[1] if len(self.root.args) > 1 else None) or range(len(shape))
            over = {d % len(shape): (0, shape[d]) for d in dims}
        else:
            found = _selected(self.root)
            if found is None or found[2] != 1:
                return None
            dim, start, _ = found
            over = {dim: (start, start + 1)}
        return _without_ones(shape, over)

    def _reduced(self, node: Any, asked: _Asked, depth: int) -> fx.Node:
        """What is asked of a value, as a value of the shape `asked.left`."""
        key = (node, asked.key)
        if key not in self._known:
            rule = _RULES.get(name_of(node)) if depth < _LONGEST and asked.over else None
            found = rule(self, node, asked, depth + 1) if rule is not None else None
            self._known[key] = self._taken(node, asked) if found is None else found
        return self._known[key]

    def _taken(self, node: Any, asked: _Asked) -> fx.Node:
        """No further: slice and sum here."""
        found = self._view(node, asked.shape)
        for d, (start, stop) in asked.over.items():
            if (start, stop) != (0, asked.shape[d]):
                found = self._call(aten.slice.Tensor, found, d, start, stop)
        dims = [d for d, (start, stop) in asked.over.items() if stop - start > 1]
        return self._call(aten.sum.dim_IntList, found, dims, True) if dims else found

    # ---- one rule an operation: None where it does not fit -----------------------------------------------------------

    def same(self, node: Any, asked: _Asked, depth: int) -> fx.Node:
        return self._reduced(node.args[0], asked, depth)

    def shaped(self, node: Any, asked: _Asked, depth: int) -> fx.Node | None:
        """Row-major order in another shape: both are seen in the finest shape that refines them."""
        fine = _refined(asked.shape, shape_of(node.args[0]))
        if fine is None:
            return None
        over: dict[int, tuple[int, int]] = {}
        for d, group in enumerate(_groups(asked.shape, fine)):
            if d in asked.over:
                if len(group) > 1 and asked.over[d] != (0, asked.shape[d]):
                    return None
                over |= {k: asked.over[d] if len(group) == 1 else (0, fine[k]) for k in group}
        return self._view(self._reduced(node.args[0], _Asked(fine, over), depth), asked.left)

    def permuted(self, node: Any, asked: _Asked, depth: int) -> fx.Node:
        ndim = len(shape_of(node))
        if name_of(node) == "permute":
            order = [d % ndim for d in node.args[1]]
        else:
            order, (a, b) = list(range(ndim)), (d % ndim for d in node.args[1:3])
            order[a], order[b] = b, a
        groups = _groups(shape_of(node), asked.shape)
        before = [k for d in range(ndim) for k in groups[order.index(d)]]
        found = self._reduced(node.args[0], asked.on(before), depth)
        return self._call(aten.permute.default, found, [before.index(k) for k in range(len(before))])

    def selected(self, node: Any, asked: _Asked, depth: int) -> fx.Node | None:
        found = _selected(node)
        if found is None:
            return None
        dim, start, length = found
        full = shape_of(node.args[0])
        groups = _groups([length if d == dim else n for d, n in enumerate(full)], asked.shape)
        if len(groups[dim]) > 1:
            return None
        at = groups[dim][0] if groups[dim] else sum(len(g) for g in groups[:dim])
        shape, over = list(asked.shape), dict(asked.over)
        if length == 1:
            shape.insert(at, full[dim])
            over = {d + (d >= at): r for d, r in over.items()} | {at: (start, start + 1)}
        else:
            shape[at] = full[dim]
            if at in over:
                over[at] = (over[at][0] + start, over[at][1] + start)
        value = self._reduced(node.args[0], _Asked(tuple(shape), over), depth)
        if length > 1 and at not in over:
            value = self._call(aten.slice.Tensor, value, at, start, start + length)
        return self._view(value, asked.left)

    def added(self, node: Any, asked: _Asked, depth: int) -> fx.Node | None:
        if node.kwargs or not all(isinstance(a, fx.Node) for a in node.args):
            return None
        parts = [self._part(node, a, asked, depth) for a in node.args]
        self.passed |= any(_covers(node, a, asked) for a in self.additions.get(node, ()))
        return self._call(node.target, *parts)

    def _part(self, node: fx.Node, operand: Any, asked: _Asked, depth: int) -> fx.Node:
        """An operand of an operation entry by entry; along dimensions that it lacks, it was added so many times."""
        mine = _covered(node, operand, asked.shape)
        times = math.prod(stop - start for d, (start, stop) in asked.over.items() if d not in mine)
        found = self._reduced(operand, asked.on(mine), depth)
        found = self._view(found, tuple(n if d in mine else 1 for d, n in enumerate(asked.left)))
        return self._call(aten.mul.Tensor, found, times) if times > 1 else found

    def scaled(self, node: Any, asked: _Asked, depth: int) -> fx.Node | None:
        """A product with a number, or with what is the same along all that is summed."""
        x, factor = node.args[:2]
        if node.kwargs or not isinstance(x, fx.Node):
            return None
        if not isinstance(factor, fx.Node):
            return self._call(node.target, self._reduced(x, asked, depth), factor)
        if name_of(node) == "mul" and _covers(node, factor, asked):
            x, factor = factor, x
        if _covers(node, factor, asked) or len(_covered(node, x, asked.shape)) < len(asked.shape):
            return None
        mine = _covered(node, factor, asked.shape)
        even = self._view(factor, tuple(n if d in mine else 1 for d, n in enumerate(asked.shape)))
        return self._call(node.target, self._reduced(x, asked, depth), even)

    def contracted(self, node: Any, asked: _Asked, depth: int) -> fx.Node | None:
        """An einsum of two, summed along letters that only one of them has."""
        try:
            operands, sides, out = letters(node)
        except NotUnderstoodError:
            return None
        if len(operands) != 2 or min(map(len, sides)) < 2:
            return None
        groups = _groups(shape_of(node), asked.shape)
        if any(len(g) > 1 for g in groups):
            return None
        for letter, group in zip(out, groups, strict=True):
            if not group or group[0] not in asked.over:
                continue
            having = [k for k, side in enumerate(sides) if letter in side]
            if len(having) != 1:
                return None
            (k,) = having
            shape, dim = shape_of(operands[k]), sides[k].index(letter)
            found = self._reduced(operands[k], _without_ones(shape, {dim: asked.over[group[0]]}), depth)
            operands[k] = self._view(found, tuple(1 if d == dim else n for d, n in enumerate(shape)))
        args = (node.args[0], operands) if name_of(node) == "einsum" else operands
        return self._view(self._call(node.target, *args), asked.left)

    # ---- new operations ----------------------------------------------------------------------------------------------

    def _view(self, node: fx.Node, shape: Sequence[int]) -> fx.Node:
        return node if shape_of(node) == tuple(shape) else self._call(aten.reshape.default, node, list(shape))

    def _call(self, target: Any, *args: Any) -> fx.Node:
        node = self.graph.call_function(target, args)
        node.meta = {**self.root.meta, "val": target(*fx.node.map_arg(args, lambda n: n.meta["val"]))}
        return node


Rule = Callable[[_Pusher, Any, _Asked, int], fx.Node | None]
_RULES: dict[str, Rule] = {
    **dict.fromkeys(SAME, _Pusher.same),
    **dict.fromkeys(RESHAPES, _Pusher.shaped),
    "permute": _Pusher.permuted,
    "transpose": _Pusher.permuted,
    "slice": _Pusher.selected,
    "select": _Pusher.selected,
    "add": _Pusher.added,
    "sub": _Pusher.added,
    "mul": _Pusher.scaled,
    "div": _Pusher.scaled,
    "einsum": _Pusher.contracted,
    "matmul": _Pusher.contracted,
    "bmm": _Pusher.contracted,
    "mm": _Pusher.contracted,
}


def _trained(node: fx.Node, owned: set[str]) -> list[Any]:
    """The parameters that an addition adds."""
    return [a for a in node.args if _is_owned(a, owned)] if name_of(node) == "add" else []


def _is_owned(node: Any, owned: set[str]) -> bool:
    """Whether this is a parameter, perhaps in another shape."""
    while isinstance(node, fx.Node) and name_of(node) in RESHAPES | {"permute", "transpose"}:
        node = node.args[0]
    return isinstance(node, fx.Node) and node.name in owned


def _selected(node: Any) -> tuple[int, int, int] | None:
    """Dimension, start and length of a plain selection or slice."""
    full = shape_of(node.args[0])
    if any(isinstance(a, fx.Node) for a in node.args[1:]):
        return None
    dim, start, stop, step = (*node.args[1:], None, None, None, None)[:4]
    dim = int(dim or 0) % len(full)
    size = full[dim]
    if name_of(node) == "select":
        return dim, int(start) % size, 1
    if step not in (None, 1):
        return None
    low, high, _ = slice(start, stop).indices(size)
    return dim, low, high - low


def _without_ones(shape: Sequence[int], over: Mapping[int, tuple[int, int]]) -> _Asked:
    kept = [d for d, n in enumerate(shape) if n > 1]
    return _Asked(tuple(shape[d] for d in kept), {k: over[d] for k, d in enumerate(kept) if d in over})


def _refined(a: Sequence[int], b: Sequence[int]) -> Shape | None:
    """The coarsest shape without ones that refines both, in row-major order; None where there is none."""
    ends = sorted({1, *accumulate(a, operator.mul), *accumulate(b, operator.mul)})
    if any(high % low for low, high in pairwise(ends)):
        return None
    return tuple(high // low for low, high in pairwise(ends))


def _groups(coarse: Sequence[int], fine: Sequence[int]) -> list[list[int]]:
    """For each dimension the finer ones that it is made of; none where it is 1."""
    found, at = [], 0
    for n in coarse:
        group: list[int] = []
        while n > 1:
            n //= fine[at]
            group.append(at)
            at += 1
        found.append(group)
    return found


def _covered(node: Any, operand: Any, shape: Shape) -> list[int]:
    """Dimensions, of the finer shape of a node, that an operand of an operation entry by entry has."""
    full, own = shape_of(node), shape_of(operand)
    own = (1,) * (len(full) - len(own)) + own
    return [k for n, group in zip(own, _groups(full, shape), strict=True) if n > 1 for k in group]


def _covers(node: Any, operand: Any, asked: _Asked) -> bool:
    return not asked.over.keys().isdisjoint(_covered(node, operand, asked.shape))
