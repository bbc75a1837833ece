"""A model's tensors one by one: the scheme each seems to have, the one that suits it, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from symbreak.errors import ModelError
from symbreak.schemes.activations import Activation
from symbreak.schemes.place import Place
from symbreak.schemes.places import Following, following, places_of
from symbreak.schemes.plain import zeros
from symbreak.schemes.recognise import Recognition, recognise
from symbreak.schemes.suits import Suit, expected_rms, suits

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Row:
    """One tensor: where it stands, what it has, what suits it, and how its size compares."""

    name: str
    place: Place
    has: Recognition
    suit: Suit
    size: float | None  # its root mean square over the one the suit would give; None where there is nothing to compare

    @property
    def differs(self) -> bool:
        """Whether its size is further from the suit's than the spread of a draw explains."""
        few = 4 / math.sqrt(2 * max(math.prod(self.place.shape), 1))
        return self.size is not None and abs(math.log(max(self.size, 1e-300))) > 0.01 + few

    def as_json(self) -> dict[str, Any]:
        """The row as plain values; schemes in their own notation, which `parse` reads."""
        return {
            "tensor": self.name,
            "shape": list(self.place.shape),
            "role": self.place.role,
            "now": self.has.text,
            "scheme": repr(self.has.scheme) if self.has.scheme is not None else None,
            "log_odds": self.has.odds,
            "suits": repr(self.suit.scheme) if self.suit.scheme is not None else None,
            "because": self.suit.because,
            "size": self.size,
        }


def survey(model: nn.Module, seen: Mapping[str, Activation | None] | None = None) -> tuple[Row, ...]:
    """Look at every parameter; nothing is run or changed.

    Args:
        model: any module whose parameters have values.
        seen: layer -> the activation after it, where running the model has shown it; what Sequentials tell comes first.
    Example:
        >>> from torch import nn
        >>> rows = survey(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)))
        >>> rows[0].name, rows[0].has.text, rows[0].suit.scheme
        ('0.weight', "uniform(±1/sqrt(fan_in)), torch's default", kaiming_normal)

    Raises:
        ModelError: a parameter is lazy, and has no shape yet.
    Source: `recognise` and `suits`.
    """
    _refuse_lazy(model)
    follows = {**{layer: Following(phi) for layer, phi in (seen or {}).items()}, **following(model)}
    places, parameters, shared = places_of(model), dict(model.named_parameters()), _shared(model)
    depth = sum(place.fans is not None and not place.is_bias for place in places.values())
    return tuple(
        _row(name, replace(place, depth=depth), parameters[name], follows, shared) for name, place in places.items()
    )


def _row(
    name: str, place: Place, weight: nn.Parameter, follows: Mapping[str, Following], shared: frozenset[int]
) -> Row:
    layer = name.rpartition(".")[0]
    tied = place.role == "embedding" and id(weight) in shared
    next_ = follows.get(layer, Following(None))
    has = recognise(weight, place=place)
    if place.role == "gain" and has.scheme == zeros():  # nobody zeroes a norm by accident
        place = replace(place, branch_end=True)
    suit = suits(place, next_.phi, known=layer in follows, normalised=next_.normalised, tied=tied)
    wanted = expected_rms(suit.scheme, place) if suit.scheme is not None else None
    if weight.is_meta or not weight.is_floating_point() or weight.is_sparse or weight.numel() == 0 or not wanted:
        return Row(name, place, has, suit, None)
    size = math.sqrt(float(weight.detach().double().square().mean()))
    return Row(name, place, has, suit, size / wanted)


def _refuse_lazy(model: nn.Module) -> None:
    from torch.nn.parameter import UninitializedParameter

    for name, parameter in model.named_parameters():
        if isinstance(parameter, UninitializedParameter):
            raise ModelError(
                f"{name!r} of {type(model).__name__} is lazy and has no shape yet. "
                "Run one batch through the model first."
            )


def _shared(model: nn.Module) -> frozenset[int]:
    """Parameters that have more than one name."""
    seen: set[int] = set()
    twice: set[int] = set()
    for _, parameter in model.named_parameters(remove_duplicate=False):
        (twice if id(parameter) in seen else seen).add(id(parameter))
    return frozenset(twice)
