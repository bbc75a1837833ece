"""What an experiment found: tables of numbers, and the criteria that settle the claim or do not."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from symbreak.explanations.picture import Picture

Cell = str | int | float | bool | None
Relation = Literal["<=", ">=", "<", ">", "=="]
_COMPARES: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
    "==": operator.eq,
}


@dataclass(frozen=True)
class Table:
    """A small table: a caption, the names of its columns, and rows of words and numbers.

    Example:
        >>> Table("Steps.", ("start", "steps"), (("zero", 12),)).rows[0][1]
        12
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Criterion:
    """A number that was measured, and the bound it has to keep.

    Example:
        >>> Criterion("all ends are one", 1e-12, "<=", 1e-6).met
        True
        >>> Criterion("all ends are one", float("nan"), "<=", 1e-6).met
        False
    """

    states: str
    value: float
    relation: Relation
    bound: float

    @property
    def met(self) -> bool:
        return bool(_COMPARES[self.relation](self.value, self.bound))


@dataclass(frozen=True)
class Experiment:
    """What was done with the data, what came out, and whether that settles the claim.

    `settled` is computed from the numbers; an experiment without a criterion settles nothing.

    Example:
        >>> Experiment("Nothing was done.", (), ()).settled
        False
    """

    how: str
    tables: tuple[Table, ...]
    criteria: tuple[Criterion, ...]
    picture: Picture = field(default=Picture(""), repr=False)

    @property
    def settled(self) -> bool:
        return bool(self.criteria) and all(one.met for one in self.criteria)


@dataclass(frozen=True)
class Caveat:
    """A condition under which the claim fails, or under which a popular reason for it does.

    Args:
        when: the condition, and what happens then.
        often_said: the popular sentence that is wrong, or lacks this condition; empty where there is none.
        criteria: of the counterexample that was run; all of them met: it was seen to fail. None: not run.
        tables: the counterexample's numbers.
    Example:
        >>> Caveat("The learning rate is too large.").shown is None
        True
    """

    when: str
    often_said: str = ""
    criteria: tuple[Criterion, ...] = ()
    tables: tuple[Table, ...] = ()

    @property
    def shown(self) -> bool | None:
        """Whether the counterexample that was run failed as it should; None where none was run."""
        return all(one.met for one in self.criteria) if self.criteria else None
