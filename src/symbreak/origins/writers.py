"""Who wrote values: what kind of writing it was, the function that did it, and the line that asked for it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

Kind = Literal["loaded", "drawn", "constant", "given", "copied", "never-written", "unknown"]
"""loaded: read from a checkpoint; drawn: random numbers; constant: computed from no data and no chance; given: handed
over from Python or NumPy; copied: from another tensor of the model or of another one; never-written: memory as it was
found; unknown: written before the block, or where the recorder does not see."""

_RANK: tuple[Kind, ...] = ("never-written", "loaded", "unknown", "given", "copied", "drawn", "constant")
"""Of values computed from several: what they are called after, first to last."""

_MOST = 4  # later changes that are told


@dataclass(frozen=True)
class Place:
    """A line of code, and the library function below it that was at work ("Linear.reset_parameters")."""

    file: str
    line: int
    through: str = ""

    def __str__(self) -> str:
        """Relative to the working directory where the file lies below it."""
        here = os.getcwd() + os.sep
        return f"{self.file.removeprefix(here)}:{self.line}"


@dataclass(frozen=True)
class Writer:
    """Who wrote some values last.

    Attributes:
        by: the function: "kaiming_uniform_", "load_state_dict", "torch.load"; "" where nobody is known.
        place: the line of the user's code that led there; None where there is none on the stack.
        then: operations that changed the values afterwards, without replacing them ("mul_").
        of: what was copied.
    """

    kind: Kind
    by: str = ""
    place: Place | None = None
    then: tuple[str, ...] = ()
    of: Writer | None = None

    def changed(self, by: str) -> Writer:
        """The same after an operation that reads the values and writes new ones."""
        return self if by in self.then or len(self.then) >= _MOST else replace(self, then=(*self.then, by))

    @property
    def source(self) -> Writer:
        """The first writer of the values."""
        return self.of.source if self.of is not None else self

    def __str__(self) -> str:
        """A clause, such as "drawn by kaiming_uniform_ in Linear.reset_parameters (model.py:12)"."""
        text = _VERBS[self.kind] + (f" by {self.by}" if self.by else "")
        if self.place is not None:
            text += f" in {self.place.through}" if self.place.through else ""
            text += f" ({self.place})"
        if self.of is not None:
            first = self.source
            text += f", what {first.by or 'memory not seen before'} {_MADE[first.kind]}"
            text += f" ({first.place})" if first.place is not None and first.place != self.place else ""
            text += f", then {', '.join(first.then)}" if first.then else ""
        return text + (f", then {', '.join(self.then)}" if self.then else "")

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        place = self.place
        return {
            "kind": self.kind,
            "by": self.by,
            "file": place.file if place else None,
            "line": place.line if place else None,
            "through": place.through if place else "",
            "then": list(self.then),
            "of": self.of.as_json() if self.of else None,
        }


_VERBS: dict[Kind, str] = {
    "loaded": "loaded",
    "drawn": "drawn",
    "constant": "set to a constant",
    "given": "given as Python or NumPy values",
    "copied": "copied",
    "never-written": "never written: memory as it was found, allocated",
    "unknown": "not known",
}
_MADE: dict[Kind, str] = {
    "loaded": "read", "drawn": "drew", "constant": "set", "given": "was given", "copied": "copied",
    "never-written": "never wrote", "unknown": "held",
}  # fmt: skip

BEFORE = Writer("unknown")
"""Of memory that was there before the block, or was made and filled where the recorder does not see."""


def computed(sources: Iterable[Writer], by: str | None) -> Writer:
    """Of values made from others: after the one that weighs most; `by` is what changed them, None if nothing did."""
    writer = min(sources, key=lambda w: _RANK.index(w.kind), default=BEFORE)
    return writer if by is None else writer.changed(by)
