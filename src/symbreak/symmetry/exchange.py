"""Whole networks that may be exchanged: twin critics, members of an ensemble, branches that are averaged.

The graph of a model, its objective included where there is one, is a term over its parameters. Where the term is the
same with the parameters of two modules exchanged, up to the order of sums, products and means, it is a symmetric
function of them; at equal values its gradients with respect to the two are then equal, for every batch, and stay so.

No search: the modules are given, and the two terms are compared node by node.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from .borders import BORDER
from .capture import Captured

_SUM, _EITHER = "add", frozenset({"add", "mul", "maximum", "minimum"})
_GATHERS = frozenset({"cat", "stack"})
_OVER_ALL = frozenset({"sum", "mean", "amax", "amin"})  # the order of what they go over does not matter
Term = int  # terms are numbered as they are met: equal numbers, equal terms
Results = dict[Any, Term | None]


def may_be_exchanged(captured: Captured, model: nn.Module, modules: Sequence[str]) -> bool:
    """Whether these modules, equal in every tensor, may be exchanged in this graph at will.

    Args:
        captured: by export; a call that was merely followed proves nothing of the next one.
        model: whose tensors the graph's sources name.
        modules: at least two, by their names in the graph's sources.

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
        return False
    first, *others = modules
    if not all(_equal(model.get_submodule(first), model.get_submodule(other)) for other in others):
        return False
    terms: dict[Any, Term] = {}
    plain = _results(captured, terms, {})
    return plain is not None and all(
        _results(captured, terms, {first: other, other: first}) == plain for other in others
    )


def _equal(one: nn.Module, other: nn.Module) -> bool:
    """In every tensor, by name, and in whether it is trained; nothing of one is the other's own."""
    left, right = (dict((*m.named_parameters(), *m.named_buffers())) for m in (one, other))
    return left.keys() == right.keys() and all(
        t is not right[n] and t.requires_grad == right[n].requires_grad and torch.equal(t, right[n])
        for n, t in left.items()
    )


def _results(captured: Captured, terms: dict[Any, Term], names: Mapping[str, str]) -> Results | None:
    """What the graph returns, and what it writes into buffers, as terms with modules renamed; None: not understood."""
    reader = _Terms(captured, terms, names)
    for node in captured.module.graph.nodes:
        if node.op == "output":
            found = [reader.of.get(n) for n in node.args[0]]
            return {
                (kind, reader.renamed(name) if kind == "mutation" else at): term
                for at, ((kind, name), term) in enumerate(zip(captured.results, found, strict=True))
            }
        if not reader.read(node):
            return None
    return None


class _Terms:
    """Numbers for the values of one graph; sums are flat, and what commutes is sorted."""

    def __init__(self, captured: Captured, terms: dict[Any, Term], names: Mapping[str, str]) -> None:
        self.captured, self.terms, self.names = captured, terms, names
        self.of: dict[fx.Node, Term] = {}
        self.summands: dict[fx.Node, tuple[Term, ...]] = {}

    def renamed(self, name: str) -> str:
        """A tensor's name with the modules exchanged."""
        for before, after in self.names.items():
            if name.startswith(f"{before}."):
                return after + name.removeprefix(before)
        return name

    def read(self, node: fx.Node) -> bool:
        """Give a value its number; False for what is not a plain operation."""
        if node.op == "placeholder":
            kind, name = self.captured.sources.get(node.name, ("input", node.name))
            owned = kind in ("parameter", "buffer")
            self.of[node] = self._number((kind, self.renamed(name) if owned else node.name))
        elif _name(node) == f"symbreak::{BORDER}":
            return False  # a backward of its own
        elif node.op == "call_function" and (
            node.target is operator.getitem or isinstance(node.target, torch._ops.OpOverload)
        ):
            self.of[node] = self._number(self._form(node))
        else:
            return False
        return True

    def _number(self, form: Any) -> Term:
        return self.terms.setdefault(form, len(self.terms))

    def _form(self, node: fx.Node) -> Any:
        target, name = node.target, _name(node)
        if isinstance(target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in target.tags:
            return "random", node.name, self._plain(node.args), self._plain(tuple(sorted(node.kwargs.items())))
        if name in _EITHER and len(node.args) == 2 and not node.kwargs:
            if name == _SUM:
                self.summands[node] = tuple(sorted(t for a in node.args for t in self._summands(a)))
                return name, self.summands[node]
            return name, tuple(sorted(self._operand(a) for a in node.args))
        if name in _GATHERS and _gathered(node):
            return name, self._plain(node.args[1:]), tuple(sorted(self.of[a] for a in _parts(node)))
        return str(target), self._plain(node.args), self._plain(tuple(sorted(node.kwargs.items())))

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


def _name(node: fx.Node) -> str:
    schema = getattr(node.target, "_schema", None)
    return schema.name.removeprefix("aten::") if schema is not None else str(node.target)


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
    if _name(user) not in _OVER_ALL or user.args[0] is not node:
        return False
    axes: Any = user.args[1] if len(user.args) > 1 else None
    over: Iterable[int] = range(ndim) if axes in (None, []) else [axes] if isinstance(axes, int) else axes
    return axis % ndim in {a % ndim for a in over}
