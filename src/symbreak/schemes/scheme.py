"""A scheme is a value: a name, its arguments, and the law its weights are drawn from once the fans are known."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol

from symbreak.schemes.fans import Fans, fans_of_shape

if TYPE_CHECKING:
    import torch

P = ParamSpec("P")


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation of one weight."""

    mean: float
    std: float


class Law(Protocol):
    """A distribution with every number filled in."""

    def moments(self) -> Moments: ...

    def fill_(self, weight: torch.Tensor, generator: torch.Generator) -> object: ...


LawOf = Callable[[Fans | None], Law]


@dataclass(frozen=True)
class Scheme:
    """One way to start a weight. Equal when name and arguments are; `parse(repr(scheme)) == scheme`.

    Example:
        >>> from symbreak.schemes import kaiming_normal, parse
        >>> kaiming_normal(gain=1.0)
        kaiming_normal(gain=1.0)
        >>> parse("kaiming_normal(gain=1.0)") == kaiming_normal(gain=1.0)
        True

    Source: the notation is Python's own call syntax.
    """

    name: str
    arguments: tuple[tuple[str, Any], ...] = ()  # only those that differ from their defaults, in order
    bare: frozenset[str] = field(default=frozenset(), compare=False)  # arguments shown without their name
    law: LawOf = field(kw_only=True, compare=False)

    def __repr__(self) -> str:
        shown = [repr(given) if name in self.bare else f"{name}={given!r}" for name, given in self.arguments]
        return f"{self.name}({', '.join(shown)})" if shown else self.name

    def moments(self, *, fan_in: int | None = None, fan_out: int | None = None) -> Moments:
        """Mean and standard deviation that the formula promises for these fans.

        Example:
            >>> from symbreak.schemes import lecun_normal
            >>> lecun_normal().moments(fan_in=100).std
            0.1

        Source: each scheme's own page, `symbreak schemes NAME`.
        """
        known = fan_in is not None or fan_out is not None
        return self.law(Fans(fan_in or 0, fan_out or 0) if known else None).moments()

    def draw(
        self,
        shape: Sequence[int],
        *,
        generator: torch.Generator,
        fans: Fans | None = None,
        dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        """A new tensor drawn from the scheme; the global random state is neither read nor moved.

        Args:
            shape: of the tensor.
            generator: where the randomness comes from; same state, same values.
            fans: of the layer, where the shape alone does not say (biases, grouped and transposed convolutions).
            dtype: of the result; drawn in float64 for float64, else in float32 and then cast.
        Example:
            >>> import torch
            >>> from symbreak.schemes import zeros
            >>> zeros().draw((2, 2), generator=torch.Generator())
            tensor([[0., 0.],
                    [0., 0.]])

        Source: each scheme's own page, `symbreak schemes NAME`.
        """
        import torch

        if fans is None and len(shape) >= 2:
            fans = fans_of_shape(shape)
        dtype = dtype or torch.float32
        weight = torch.empty(tuple(shape), dtype=torch.float64 if dtype == torch.float64 else torch.float32)
        self.law(fans).fill_(weight, generator)
        return weight.to(dtype)


def scheme(recipe: Callable[P, LawOf]) -> Callable[P, Scheme]:
    """Turn a recipe, arguments -> law, into a function that returns the named Scheme value.

    Example:
        >>> from symbreak.schemes.laws import Constant
        >>> @scheme
        ... def minus_one():
        ...     return lambda fans: Constant(-1.0)
        >>> minus_one()
        minus_one

    Source: the name and the defaults are read from the recipe, so that they are written once.
    """
    signature = inspect.signature(recipe)
    bare = frozenset(name for name, slot in signature.parameters.items() if slot.default is slot.empty)

    @functools.wraps(recipe)
    def named(*args: P.args, **kwargs: P.kwargs) -> Scheme:
        law = recipe(*args, **kwargs)
        given = signature.bind(*args, **kwargs).arguments
        changed = {name: v for name, v in given.items() if v != signature.parameters[name].default}
        return Scheme(recipe.__name__, tuple(changed.items()), bare, law=law)

    named.__annotations__ = {**recipe.__annotations__, "return": "Scheme"}
    return named
