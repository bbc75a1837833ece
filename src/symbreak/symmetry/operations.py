"""ATen operations by name, and what those are that do the same to every entry.

views.py holds what moves entries, positions.py what mixes positions, totals.py what is computed of many entries,
sums.py weighted sums and attention, recurrent.py recurrent layers: one row an operation, one short function a kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from .algebra import Algebra
from .tracked import Tracked, expanded, reshaped, unsqueezed

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


@dataclass(frozen=True)
class Unread:
    """A second result that only a backward pass reads; whoever else does gets it told apart."""

    like: Tracked


def constant(value: Tensor) -> Tracked:
    """Numbers that depend on nothing, with the dimensions along which they are all equal."""
    level = frozenset(
        d for d, n in enumerate(value.shape) if n > 1 and value.numel() and bool((value == value.narrow(d, 0, 1)).all())
    )
    return Tracked(tuple(value.shape), level=level, value=value, fixed=True)


def given_tensors(call: Call, *names: str) -> list[Tracked]:
    return [call[n] for n in names if isinstance(call.given.get(n), Tracked)]


def elementwise(call: Call) -> Tracked:
    return call.algebra.elementwise(call.tracked, call.shape)


ENTRYWISE = frozenset(
    words(
        "hardtanh hardswish hardsigmoid silu relu6 leaky_relu softplus elu selu celu mish log_sigmoid gelu relu "
        "sigmoid tanh type_as addcmul addcdiv lerp where masked_fill clamp clamp_min clamp_max pow rsqrt float_power "
        "softshrink hardshrink tanhshrink threshold _conj conj real imag nan_to_num rsub logical_not "
        "special_expm1 expm1 square complex polar"
    )
)


@operation("copy")
def copied(call: Call) -> Tracked:
    return expanded(call["src"], call.shape)


@operation(*words("clone alias detach contiguous _to_copy lift_fresh_copy lift_fresh to view_of positive "
                  "resolve_conj resolve_neg detach_copy alias_copy"))  # fmt: skip
def same(call: Call) -> Tracked:
    return call.first


@operation(*words("dropout native_dropout feature_dropout alpha_dropout feature_alpha_dropout"))
def dropped_out(call: Call) -> Any:
    p, train = call["p"], call["train"]
    if train and p:
        call.algebra.drop_out(call.first)
    if len(call.shapes) == 1:
        return call.first
    return call.first, Tracked(call.first.shape, random=True)


@operation("prelu")
def prelu(call: Call) -> Tracked:
    x, w = call["self"], call["weight"]
    return call.algebra.elementwise([x, channels(w, x.ndim)] if x.ndim > 1 else [x, w], call.shape)


def channels(t: Tracked, ndim: int) -> Tracked:
    """A vector laid along dimension 1."""
    return reshaped(t, [1, t.shape[0], *[1] * (ndim - 2)]) if t.ndim == 1 else t


@operation("one_hot", "isfinite", "isnan", "isinf")
def of_entries(call: Call) -> Tracked:
    x = call.algebra.exposed(call.first)
    if len(call.shape) == x.ndim:
        return call.algebra.elementwise([x], call.shape)
    return replace(unsqueezed(x, x.ndim), shape=call.shape, value=None, fixed=False)
