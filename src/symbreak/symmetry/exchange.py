"""Whole networks that may be exchanged: twin critics, members of an ensemble, branches that are averaged.

The graph of a model, its objective included where there is one, is a term over its parameters. Where the term is the
same with the parameters of two modules exchanged, up to the order of sums, products and means, it is a symmetric
function of them; at equal values its gradients with respect to the two are then equal, for every batch, and stay so.
Members of a list change places together with the entries of what has one for each of them (a router's rows).

No search: the modules are given, and the two terms are compared node by node.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from .borders import BORDER
from .capture import Captured
from .equivariance import MANY, Axis, carried
from .nodes import name_of
from .operations import NotUnderstoodError

_SUM, _EITHER = "add", frozenset({"add", "mul", "maximum", "minimum"})
_GATHERS = frozenset({"cat", "stack"})
_OVER_ALL = frozenset({"sum", "mean", "amax", "amin"})  # the order of what they go over does not matter
Term = int  # terms are numbered as they are met: equal numbers, equal terms
Results = dict[Any, tuple[Term | None, Axis]]
Beside = dict[str, int]  # tensor -> axis along which two of its entries change places


@dataclass(frozen=True)
class _Exchange:
    """What changes places.

    Attributes:
        names: module -> module.
        places: of a member in its list -> of the other one.
    """

    names: Mapping[str, str]
    places: Mapping[int, int] = field(default_factory=dict)
    beside: Beside = field(default_factory=dict)


def may_be_exchanged(captured: Captured, model: nn.Module, modules: Sequence[str]) -> tuple[Beside, ...] | None:
    """What has to change places beside these modules, equal in every tensor, for the graph to stay; None: nothing does.

    Members of a list may change places together with entries of other tensors that are as many and equal: the rows of
    a router, weights of an average.

    Args:
        captured: by export; a call that was merely followed proves nothing of the next one.
        model: whose tensors the graph's sources name.
        modules: at least two, by their names in the graph's sources.

    Returns:
        For the first module and each other one, tensor -> axis of the entries at their two places.

    Example:
        >>> from symbreak.symmetry import unit_graph  # which exports the model and asks this
        >>> class Mean(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.a, self.b = nn.Linear(2, 1), nn.Linear(2, 1)
        ...         self.b.load_state_dict(self.a.state_dict())
        ...     def forward(self, x):
        ...         return (self.a(x) + self.b(x)) / 2
        >>> unit_graph(Mean(), torch.ones(3, 2), networks=[("a", "b")]).exchangeable
        (True,)

    Source: a symmetric function has equal partial derivatives where its arguments are equal.
    """
    if captured.leaks or captured.cut or captured.hidden or captured.switches:
        return None
    first, *others = modules
    if not all(_equal(model.get_submodule(first), model.get_submodule(other)) for other in others):
        return None
    terms: dict[Any, Term] = {}
    plain = _results(captured, terms, _Exchange({}))
    if plain is None:
        return None
    found = []
    for other in others:
        i, j = _places(first, other) or (0, 0)
        names, places = {first: other, other: first}, {i: j, j: i}
        tried = (_Exchange(names, places, beside) for beside in (_beside(model, first, other), {}))
        done = next((t for t in tried if _results(captured, terms, t) == plain), None)
        if done is None:
            return None
        found.append(done.beside)
    return tuple(found)


def _places(first: str, other: str) -> tuple[int, int] | None:
    """Where two members of one list stand in it."""
    (parent, _, i), (parent_too, _, j) = first.rpartition("."), other.rpartition(".")
    return (int(i), int(j)) if parent == parent_too and i.isdecimal() and j.isdecimal() else None


def _beside(model: nn.Module, first: str, other: str) -> Beside:
    """Tensors outside of a list with an entry for each of its members, equal for these two."""
    places, parent = _places(first, other), first.rpartition(".")[0]
    if places is None or not parent:  # of a model that is the list, nothing stands outside
        return {}
    members, found = len(list(model.get_submodule(parent).children())), {}
    for name, t in (*model.named_parameters(), *model.named_buffers()):
        axes = [d for d, n in enumerate(t.shape) if n == members]
        even = [d for d in axes if torch.equal(*(t.select(d, at) for at in places))]
        if even and not name.startswith(f"{parent}."):
            found[name] = even[0]
    return found


def _equal(one: nn.Module, other: nn.Module) -> bool:
    """In every tensor, by name, and in whether it is trained; nothing of one is the other's own."""
    left, right = (dict((*m.named_parameters(), *m.named_buffers())) for m in (one, other))
    return left.keys() == right.keys() and all(
        t is not right[n] and t.requires_grad == right[n].requires_grad and torch.equal(t, right[n])
        for n, t in left.items()
    )


def _results(captured: Captured, terms: dict[Any, Term], exchange: _Exchange) -> Results | None:
    """What the graph returns, and writes into buffers, as terms after an exchange; None: not understood."""
    reader = _Terms(captured, terms, exchange)
    for node in captured.module.graph.nodes:
        if node.op == "output":
            found = [(reader.of.get(n), reader.axes.get(n)) for n in node.args[0]]
            return {
                (kind, reader.renamed(name) if kind == "mutation" else at): value
                for at, ((kind, name), value) in enumerate(zip(captured.results, found, strict=True))
            }
        try:
            if not reader.read(node):
                return None
        except NotUnderstoodError:
            return None
    return None


class _Terms:
    """Numbers for the values of one graph; sums are flat, and what commutes is sorted.

    After an exchange a value is its term, or its term with two entries exchanged along one of its `axes`.
    """

    def __init__(self, captured: Captured, terms: dict[Any, Term], exchange: _Exchange) -> None:
        self.captured, self.terms, self.exchange = captured, terms, exchange
        self.of: dict[fx.Node, Term] = {}
        self.axes: dict[fx.Node, int] = {}
        self.summands: dict[fx.Node, tuple[Term, ...]] = {}

    def renamed(self, name: str) -> str:
        """A tensor's name with the modules exchanged."""
        for before, after in self.exchange.names.items():
            if name.startswith(f"{before}."):
                return after + name.removeprefix(before)
        return name

    def read(self, node: fx.Node) -> bool:
        """Give a value its number; False for what is not a plain operation."""
        if node.op == "placeholder":
            kind, name = self.captured.sources.get(node.name, ("input", node.name))
            owned = kind in ("parameter", "buffer")
            self.of[node] = self._number((kind, self.renamed(name) if owned else node.name))
            if owned and name in self.exchange.beside:
                self.axes[node] = self.exchange.beside[name]
        elif name_of(node) == f"symbreak::{BORDER}":
            return False  # a backward of its own
        elif node.op == "call_function" and (
            node.target is operator.getitem or isinstance(node.target, torch._ops.OpOverload)
        ):
            self._apply(node)
        else:
            return False
        return True

    def _apply(self, node: fx.Node) -> None:
        axes = {n: self.axes[n] for n in node.all_input_nodes if n in self.axes}
        if axes and torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            raise NotUnderstoodError
        if not axes:
            self.of[node] = self._number(self._form(node))
            self._gather_anew(node)
        elif (taken := self._taken(node, axes)) is not None:
            self.of[node] = self._number(taken)
        else:
            axis = carried(node, axes)
            self.of[node] = self._number(self._form(node))
            if axis is not None:
                self.axes[node] = axis

    def _taken(self, node: Any, axes: Mapping[fx.Node, int]) -> Any:
        """The form of one entry taken along the axis: that of the entry at the other place."""
        source, places = node.args[0], self.exchange.places
        if node.target is operator.getitem and axes.get(source) == MANY:
            return self._with(node, 1, places.get(node.args[1], node.args[1]))
        if source not in axes or name_of(node) not in ("select", "slice") or len(node.args) < 3:
            return None
        size = source.meta["val"].ndim
        if node.args[1] % size != axes[source]:
            return None
        at = node.args[2]
        if type(at) is not int or at < 0:
            return None
        there = places.get(at, at)
        if name_of(node) == "select":
            return self._with(node, 2, there)
        return self._with(node, 2, there, there + 1) if node.args[3:4] == (at + 1,) else None

    def _with(self, node: Any, at: int, *values: int) -> Any:
        """The form of a node with other numbers among its arguments."""
        return self._form_of(node, (*node.args[:at], *values, *node.args[at + len(values) :]))

    def _gather_anew(self, node: Any) -> None:
        """Members that are laid side by side and change places: a term that is known, exchanged along that axis."""
        places, parts = self.exchange.places, _parts(node)
        if name_of(node) not in _GATHERS or not places or len(parts) <= max(places) or len(parts) != len(node.args[0]):
            return
        value, dim = node.meta.get("val"), node.args[1] if len(node.args) > 1 else 0
        if not isinstance(value, Tensor) or value.shape[dim] != len(parts):  # one entry each
            return
        before = self._form_of(node, ([parts[places.get(k, k)] for k in range(len(parts))], *node.args[1:]))
        known = self.terms.get(before, self.of[node])
        if known != self.of[node]:
            self.of[node], self.axes[node] = known, dim % value.ndim

    def _number(self, form: Any) -> Term:
        return self.terms.setdefault(form, len(self.terms))

    def _form(self, node: fx.Node) -> Any:
        target, name = node.target, name_of(node)
        if isinstance(target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in target.tags:
            return "random", node.name, self._plain(node.args), self._plain(tuple(sorted(node.kwargs.items())))
        if name in _EITHER and len(node.args) == 2 and not node.kwargs:
            if name == _SUM:
                self.summands[node] = tuple(sorted(t for a in node.args for t in self._summands(a)))
                return name, self.summands[node]
            return name, tuple(sorted(self._operand(a) for a in node.args))
        if name in _GATHERS and _gathered(node):
            return name, self._plain(node.args[1:]), tuple(sorted(self.of[a] for a in _parts(node)))
        return self._form_of(node, node.args)

    def _form_of(self, node: fx.Node, args: Any) -> Any:
        return str(node.target), self._plain(args), self._plain(tuple(sorted(node.kwargs.items())))

    def _summands(self, thing: Any) -> tuple[Term, ...]:
        return self.summands.get(thing, ()) or (self._operand(thing),)

    def _operand(self, thing: Any) -> Term:
        return self.of[thing] if isinstance(thing, fx.Node) else self._number(self._plain(thing))

    def _plain(self, thing: Any) -> Any:
        if isinstance(thing, fx.Node):
            return "term", self.of[thing]
        if isinstance(thing, list | tuple):
            return tuple(self._plain(part) for part in thing)
        return type(thing).__name__, str(thing)


def _parts(node: fx.Node) -> list[fx.Node]:
    return [a for a in node.args[0] if isinstance(a, fx.Node)] if isinstance(node.args[0], list | tuple) else []


def _gathered(node: fx.Node) -> bool:
    """A concatenation of equal pieces that is only ever reduced over the axis along which they lie."""
    sizes = {tuple(value.shape) for a in _parts(node) if isinstance(value := a.meta.get("val"), Tensor)}
    value = node.meta.get("val")
    if len(sizes) != 1 or not isinstance(value, Tensor):
        return False
    axis = node.args[1] if len(node.args) > 1 else 0
    return bool(node.users) and all(_goes_over(user, node, axis, value.ndim) for user in node.users)


def _goes_over(user: fx.Node, node: fx.Node, axis: Any, ndim: int) -> bool:
    if name_of(user) not in _OVER_ALL or user.args[0] is not node:
        return False
    axes: Any = user.args[1] if len(user.args) > 1 else None
    over: Iterable[int] = range(ndim) if axes in (None, []) else [axes] if isinstance(axes, int) else axes
    return axis % ndim in {a % ndim for a in over}
