"""A scheme is a value: a name, its arguments, and the law its weights are drawn from once the place is known."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ParamSpec

from symbreak.errors import SchemeError
from symbreak.schemes.fans import Fans
from symbreak.schemes.laws import Companions, Law, Moments
from symbreak.schemes.place import Place

if TYPE_CHECKING:
    import torch

P = ParamSpec("P")
LawOf = Callable[[Place], Law]


@dataclass(frozen=True)
class Scheme:
    """One way to start a weight. Equal when name and arguments are; `parse(repr(scheme)) == scheme`.

    Most read the fans alone. Those that also need to know where a tensor stands (SIREN the first layer, Fixup the end
    of a branch) read a `Place`, and say which fact they miss.

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

    def law_at(self, place: Place) -> Law:
        """The law at a place; an error names the scheme."""
        try:
            return self.law(place)
        except SchemeError as err:
            raise SchemeError(f"{self!r}: {err}") from err

    def moments(self, *, fan_in: int | None = None, fan_out: int | None = None, place: Place | None = None) -> Moments:
        """Mean and standard deviation of one weight that the formula promises.

        Args:
            fan_in: terms that meet in one output.
            fan_out: outputs that one input feeds.
            place: of the tensor, for schemes that read more than the fans.
        Example:
            >>> from symbreak.schemes import lecun_normal
            >>> lecun_normal().moments(fan_in=100).std
            0.1

        Source: each scheme's own page, `symbreak schemes NAME`.
        """
        place = place or Place()
        if fan_in is not None or fan_out is not None:
            place = place.having(place.shape, Fans(fan_in or 0, fan_out or 0))
        return self.law_at(place).moments()

    def companions(self, place: Place) -> Companions:
        """What the forward pass and the optimizer must do beside these weights: multiplier, learning rate, skip path.

        Example:
            >>> from symbreak.schemes import ntk
            >>> ntk().companions(Place(fans=Fans(100, 10))).multiplier
            0.1

        Source: each scheme's own page, `symbreak schemes NAME`.
        """
        return self.law_at(place).companions

    def draw(
        self,
        shape: Sequence[int],
        *,
        generator: torch.Generator,
        fans: Fans | None = None,
        place: Place | None = None,
        dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        """A new tensor drawn from the scheme, on the generator's device; the global random state stays where it is.

        Same scheme, place and generator state: same weights in every dtype, because they are drawn in float32 and then
        cast. A CPU generator gives the same weights for every device.

        Args:
            shape: of the tensor.
            generator: where the randomness comes from.
            fans: of the layer, where the shape alone does not say (biases, grouped and transposed convolutions).
            place: where it stands, for schemes that read more than the fans.
            dtype: of the result, float32 by default.
        Example:
            >>> import torch
            >>> from symbreak.schemes import zeros
            >>> zeros().draw((2, 2), generator=torch.Generator())
            tensor([[0., 0.],
                    [0., 0.]])

        Source: each scheme's own page, `symbreak schemes NAME`.
        """
        import torch

        sizes = tuple(shape)
        if not all(isinstance(size, int) and size >= 0 for size in sizes):
            raise SchemeError(f"shape={shape!r}: expected sizes that are whole numbers, 0 or more.")
        weight = torch.empty(sizes, dtype=torch.float32, device=generator.device)
        self._fill(weight, generator, (place or Place()).having(sizes, fans))
        return weight if dtype is None else weight.to(_float(self, dtype))

    def fill_(
        self,
        weight: torch.Tensor,
        *,
        generator: torch.Generator,
        fans: Fans | None = None,
        place: Place | None = None,
    ) -> torch.Tensor:
        """Fill a tensor in place with what `draw` gives for its shape, and return it.

        Raises:
            SchemeError: the tensor has no memory (meta), is not floating point, shares memory with itself (expanded),
                or has a shape the scheme cannot take.
        Example:
            >>> import torch
            >>> from symbreak.schemes import identity
            >>> identity().fill_(torch.empty(2, 2), generator=torch.Generator())
            tensor([[1., 0.],
                    [0., 1.]])

        Source: each scheme's own page, `symbreak schemes NAME`.
        """
        import torch

        _writable(self, weight)
        with torch.no_grad():
            direct = weight.dtype == torch.float32 and weight.is_contiguous() and weight.device == generator.device
            if direct:
                self._fill(weight, generator, (place or Place()).having(weight.shape, fans))
            else:
                weight.copy_(self.draw(weight.shape, generator=generator, fans=fans, place=place))
        return weight

    def _fill(self, weight: torch.Tensor, generator: torch.Generator, place: Place) -> None:
        if weight.numel() == 0:
            return
        try:
            self.law(place).fill_(weight, generator)
        except SchemeError as err:
            raise SchemeError(f"{self!r}: {err}") from err
        if place.padding is not None:
            weight[place.padding].zero_()


def _float(scheme: Scheme, dtype: torch.dtype) -> torch.dtype:
    if not dtype.is_floating_point:
        raise SchemeError(f"{scheme!r} draws real numbers, not {dtype}: pass a floating point dtype.")
    return dtype


def _writable(scheme: Scheme, weight: torch.Tensor) -> None:
    import torch

    shape = tuple(weight.shape)
    if weight.is_meta:
        raise SchemeError(
            f"{scheme!r}: a tensor of shape {shape} on the meta device has no memory; use to_empty() first."
        )
    if weight.layout != torch.strided or weight.is_quantized:
        raise SchemeError(f"{scheme!r} fills dense tensors; this one is {weight.layout}, {weight.dtype}.")
    _float(scheme, weight.dtype)
    shared = any(stride == 0 and size > 1 for size, stride in zip(weight.shape, weight.stride(), strict=True))
    if shared and math.prod(shape) > 0:
        raise SchemeError(f"{scheme!r}: rows of this tensor share memory (it was expanded); fill the original.")


def _plain(value: Any) -> Any:
    """NumPy's float64 is a float, but does not print like one."""
    if isinstance(value, float):
        return float(value)
    return tuple(_plain(part) for part in value) if isinstance(value, list | tuple) else value


def scheme(recipe: Callable[P, LawOf]) -> Callable[P, Scheme]:
    """Turn a recipe, arguments -> law of a place, into a function that returns the named Scheme value.

    Example:
        >>> from symbreak.schemes.laws import Constant
        >>> @scheme
        ... def minus_one():
        ...     return lambda place: Constant(-1.0)
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
        changed = {name: _plain(v) for name, v in given.items() if v != signature.parameters[name].default}
        return Scheme(recipe.__name__, tuple(changed.items()), bare, law=law)

    named.__annotations__ = {**recipe.__annotations__, "return": "Scheme"}
    return named
