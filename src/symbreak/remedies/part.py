"""One step of a repair: which tensors it changes, how, and why."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

from torch import Tensor

Action = Literal["redistribute", "jitter", "draw", "shift", "rescale", "set"]
Edit = Callable[[Tensor], Tensor]  # float64 values -> float64 values of the same shape


@dataclass(frozen=True, eq=False)
class Part:
    """Edits that belong together. They compose: a tensor may be edited by several parts, in order.

    Attributes:
        why: a sentence; `each` has one for single tensors where they differ.
    """

    action: Action
    why: str
    edits: tuple[tuple[str, Edit], ...]
    each: Mapping[str, str] = field(default_factory=dict)

    @property
    def tensors(self) -> tuple[str, ...]:
        """The parameters it changes."""
        return tuple(dict.fromkeys(name for name, _ in self.edits))


def adding(change: Tensor | float) -> Edit:
    """value -> value + change."""
    return partial(_added, change)


def scaling(factor: Tensor | float) -> Edit:
    """value -> value x factor, one number or one that broadcasts."""
    return partial(_scaled, factor)


def replacing(new: Tensor) -> Edit:
    """value -> new."""
    return partial(_replaced, new)


def forgets(edit: Edit) -> bool:
    """Whether the value that comes out does not depend on the one that goes in."""
    return isinstance(edit, partial) and edit.func is _replaced


def without(part: Part, names: Collection[str]) -> Part:
    """The part without what it does to these tensors."""
    return replace(part, edits=tuple((name, edit) for name, edit in part.edits if name not in names))


def _added(change: Tensor | float, value: Tensor) -> Tensor:
    return value + change


def _scaled(factor: Tensor | float, value: Tensor) -> Tensor:
    return value * factor


def _replaced(new: Tensor, value: Tensor) -> Tensor:
    return new.to(value.device)
