"""Why a parameter gets no gradient: boolean zero-propagation over autograd's own graph.

The graph that backward walks is complete (raw parameters, fused attention, functional code), so it names the factor
that stands in the way: going up from a parameter to the loss, each path ends at a product whose other factor is zero,
or at an activation without slope. It explains what was measured; the verdict itself never rests on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from torch import nn

# node -> (positions of the factors, positions of the added terms)
_PRODUCTS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "Mm": ((0, 1), ()),
    "Bmm": ((0, 1), ()),
    "Mv": ((0, 1), ()),
    "Dot": ((0, 1), ()),
    "Mul": ((0, 1), ()),
    "Linear": ((0, 1), (2,)),
    "Addmm": ((1, 2), (0,)),
    "Baddbmm": ((1, 2), (0,)),
    "Convolution": ((0, 1), (2,)),
    "MkldnnConvolution": ((0, 1), (2,)),
    "NativeBatchNorm": ((0, 1), (2,)),
    "CudnnBatchNorm": ((0, 1), (2,)),
    "NativeLayerNorm": ((0, 1), (2,)),
    "NativeGroupNorm": ((0, 1), (2,)),
    "FusedRmsNorm": ((0, 1), ()),
}
_MIXING = frozenset({"Mm", "Bmm", "Mv", "Linear", "Addmm", "Baddbmm", "Convolution", "MkldnnConvolution"})
_REDUCES = frozenset({"Sum", "Mean", "Norm", "LinalgVectorNorm", "Dot", "Trace"})
_LOOKS_UP = frozenset({"Embedding", "Index", "IndexSelect", "Gather"})
_SUMS = frozenset({"Add", "Sub", "Cat", "Stack"})
_KEEPS_ZERO = frozenset(
    [
        "T",
        "Transpose",
        "Permute",
        "View",
        "UnsafeView",
        "Reshape",
        "ReshapeAlias",
        "Expand",
        "Unsqueeze",
        "Squeeze",
        "Select",
        "Slice",
        "Split",
        "SplitWithSizes",
        "Unbind",
        "Clone",
        "ToCopy",
        "Neg",
        "Alias",
        "AsStrided",
        "Relu",
        "Tanh",
        "Gelu",
        "Silu",
        "Elu",
        "LeakyRelu",
        "Sin",
        "Mish",
        "Hardtanh",
        "Sum",
        "Mean",
        "Div",
        "Index",
        "AvgPool2D",
        "AdaptiveAvgPool2D",
        "MaxPool2DWithIndices",
        "ConstantPadNd",
        "Upsample",
        "Contiguous",
        "Chunk",
        "Movedim",
        "Abs",
        "Square",
    ]
)
_FLAT_AT_ZERO = frozenset({"Relu", "Threshold", "Square", "Abs"})


@dataclass(frozen=True)
class Blocked:
    """What keeps the gradient of one parameter at zero: the zero factors, and on which side they stand."""

    input_zero: tuple[str, ...] = ()
    back_zero: tuple[str, ...] = ()
    dead: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.input_zero, *self.back_zero, *self.dead)))


@dataclass
class _Node:
    kind: str
    children: list[int | None]
    parents: list[tuple[int, int]] = field(default_factory=list)
    parameter: str | None = None
    zero: frozenset[str] | None = None  # the zero parameters that make this value zero; None where it is not zero
    only_parameters: bool = False


class Graph:
    """One recorded backward graph.

    Args:
        roots: the grad_fn of every tensor that backward starts from.
        params: name -> parameter.
        zero: the names whose values are all exactly zero.
        flat: grad_fn of an activation without slope on every unit and sample -> what to call it.
        off: those among them whose output is zero.
    """

    def __init__(
        self,
        roots: Iterable[Any],
        params: Mapping[str, nn.Parameter],
        zero: frozenset[str],
        flat: Mapping[Any, str] = MappingProxyType({}),
        off: frozenset[Any] = frozenset(),
    ) -> None:
        names = {id(p): name for name, p in params.items()}
        self._nodes: list[_Node] = []  # children before parents
        self._index: dict[Any, int] = {}  # keeps every grad_fn, so that identities stay valid
        self._leaf: dict[str, int] = {}
        roots = [r for r in roots if r is not None]
        for fn in nodes_below(roots):
            self._add(fn, names)
        self._roots = {self._index[r] for r in roots}
        self._dead = {self._index[n]: label for n, label in flat.items() if n in self._index}
        silent = {self._index[n] for n in off if n in self._index}
        self._labels = frozenset(self._dead.values())
        for i, node in enumerate(self._nodes):
            self._propagate(node, zero)
            if i in silent:
                node.zero = frozenset({self._dead[i]})

    def _add(self, fn: Any, names: Mapping[int, str]) -> None:
        here, node = len(self._nodes), _Node(kind(fn), [])
        self._index[fn] = here
        self._nodes.append(node)
        variable = getattr(fn, "variable", None)
        if variable is not None and id(variable) in names:
            node.parameter = names[id(variable)]
            self._leaf[node.parameter] = here
        for position, (child, _) in enumerate(fn.next_functions):
            node.children.append(self._index[child] if child is not None else None)
            if child is not None:
                self._nodes[self._index[child]].parents.append((here, position))

    def _propagate(self, node: _Node, zero: frozenset[str]) -> None:
        if node.parameter is not None:
            node.only_parameters = True
            node.zero = frozenset({node.parameter}) if node.parameter in zero else None
            return
        below = [self._nodes[c] if c is not None else None for c in node.children]
        present = [n for n in below if n is not None]
        node.only_parameters = bool(present) and len(present) == len(below) and all(n.only_parameters for n in present)
        if node.kind in _PRODUCTS:
            factors, added = _PRODUCTS[node.kind]
            causes = [n.zero for i in factors if i < len(below) and (n := below[i]) is not None and n.zero is not None]
            quiet = all(n is None or n.zero is not None for i in added if i < len(below) for n in (below[i],))
            node.zero = min(causes, key=len) if causes and quiet else None
        elif node.kind in _SUMS:
            if below and all(n is not None and n.zero is not None for n in below):
                node.zero = frozenset().union(*(n.zero or () for n in present))
        elif node.kind in _KEEPS_ZERO and below and below[0] is not None:
            node.zero = below[0].zero

    def blocked(self, parameter: str) -> Blocked | None:
        """The zero factors between `parameter` and the loss; None where some path is open."""
        if parameter not in self._leaf:
            return None
        found: dict[str, list[str]] = {"input": [], "back": [], "dead": []}
        stack, visited, own = [self._leaf[parameter]], set(), True
        while stack:
            here = stack.pop()
            if here in visited:
                continue
            visited.add(here)
            if here in self._roots:
                return None
            for above, position in self._nodes[here].parents:
                causes = self._stop(above, position)
                if causes is None:
                    stack.append(above)
                elif above in self._dead:
                    found["dead"].append(self._dead[above])
                else:
                    own = self._nodes[here].only_parameters
                    found["input" if own else "back"].extend(sorted(causes))
        zeros = [
            tuple(dict.fromkeys(n for n in found[side] if n != parameter and n not in self._labels))
            for side in ("input", "back")
        ]
        dead = (*found["dead"], *(n for side in ("input", "back") for n in found[side] if n in self._labels))
        return Blocked(zeros[0], zeros[1], tuple(dict.fromkeys(dead)))

    def _stop(self, above: int, position: int) -> frozenset[str] | None:
        """The zeros that keep a gradient from passing through `above` to its input `position`; None where it passes."""
        if above in self._dead:
            return frozenset()
        node = self._nodes[above]
        below = [self._nodes[c] if c is not None else None for c in node.children]
        if node.kind in _PRODUCTS:
            factors, _ = _PRODUCTS[node.kind]
            if position in factors:
                for i in factors:
                    other = below[i] if i < len(below) and i != position else None
                    if other is not None and other.zero is not None:
                        return other.zero
        elif node.kind in _FLAT_AT_ZERO and below and below[0] is not None and below[0].zero is not None:
            return below[0].zero
        return None

    def ends(self, parameter: str) -> bool:
        """True where the units of `parameter` reach the loss through no other weight: they are outputs, not hidden.

        A penalty (the sum of the squares of a weight) reaches the loss as well, and says nothing of units.
        """
        return parameter in self._leaf and self._reaches_loss(self._leaf[parameter])

    def ends_at(self, fn: Any) -> bool:
        """True where the value with this grad_fn reaches the loss through no weight."""
        return fn in self._index and self._reaches_loss(self._index[fn])

    def _reaches_loss(self, start: int) -> bool:
        stack, visited = [start], set()
        while stack:
            here = stack.pop()
            if here in visited:
                continue
            visited.add(here)
            if here in self._roots:
                return True
            stack.extend(
                above
                for above, position in self._nodes[here].parents
                if not self._mixes(above, position) and not self._is_penalty(above)
            )
        return False

    def _is_penalty(self, at: int) -> bool:
        """True for a parameter that is reduced by itself; what data looked up in it (a mean of tokens) is none."""
        if self._nodes[at].kind not in _REDUCES or not self._nodes[at].only_parameters:
            return False
        below = [at]
        for here in below:
            if self._nodes[here].kind in _LOOKS_UP:
                return False
            below += [c for c in self._nodes[here].children if c is not None and c not in below]
        return True

    def _mixes(self, above: int, position: int) -> bool:
        node = self._nodes[above]
        if node.kind not in _MIXING:
            return False
        others = [self._nodes[c] for i, c in enumerate(node.children) if c is not None and i != position]
        here = node.children[position]
        own = here is not None and self._nodes[here].only_parameters
        return not own and any(n.only_parameters for n in others)


def nodes_below(roots: Iterable[Any], until: Iterable[Any] = ()) -> Iterator[Any]:
    """Every node of autograd's graph below the roots, once, children before parents; `until` are not entered."""
    stack: list[tuple[Any, bool]] = [(r, False) for r in roots if r is not None]
    seen = set(until)
    while stack:
        node, expanded = stack.pop()
        if expanded:
            yield node
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack.extend((child, False) for child, _ in node.next_functions if child is not None)


def kind(fn: Any) -> str:
    """The operation of a node of autograd: "Mm", "Relu", "Index"."""
    name: str = fn.name() if hasattr(fn, "name") else type(fn).__name__
    return name.rpartition("::")[2].partition("Backward")[0]
