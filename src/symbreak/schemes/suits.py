"""Which scheme suits a tensor, and why: plain facts in, a scheme and a sentence out.

The analytic part: nothing is run and no data is seen. A tracer that knows more says so in the place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from symbreak.schemes.activations import Activation, activation
from symbreak.schemes.ends import embedding_normal, lora
from symbreak.schemes.gain import critical, gains
from symbreak.schemes.patterns import orthogonal
from symbreak.schemes.place import Place
from symbreak.schemes.plain import constant, normal, ones, zeros
from symbreak.schemes.recurrent import LSTM, lstm_forget_bias
from symbreak.schemes.residual import layer_scale, rezero, zero_gamma
from symbreak.schemes.scaled import (
    edge_of_chaos,
    kaiming_normal,
    lecun_normal,
    siren,
    torch_default,
    xavier_normal,
    xavier_uniform,
)
from symbreak.schemes.scheme import Scheme

DRIFT = 10.0
"""Factor over the depth by which the back-signal may grow or shrink before a critical start is worth its biases."""


@dataclass(frozen=True)
class Suit:
    """The scheme that suits a tensor, or None where its part in the model is not known; and the reason."""

    scheme: Scheme | None
    because: str


def suits(
    place: Place,
    phi: str | Activation | None = None,
    *,
    known: bool = True,
    normalised: bool = False,
    tied: bool = False,
) -> Suit:
    """The scheme for a tensor at this place.

    Args:
        place: role, fans, position, and depth and branches where they are known.
        phi: the activation that follows the layer; None where none does.
        known: whether that is known; if not, phi is None and the sentence says so.
        normalised: whether a normalisation follows before the activation, so that the scale cannot matter.
        tied: whether an embedding is also the output layer.
    Example:
        >>> found = suits(Place(shape=(64, 32)), "relu")
        >>> found.scheme, found.because
        (kaiming_normal, 'relu follows and keeps 0.5 of a second moment: gain 1.414 makes up for it')

    Source: each scheme's own page; the gains are computed for the very activation.
    """
    follows = activation(phi) if isinstance(phi, str) else phi
    by_role = _by_role(place, follows, tied)
    if by_role is not None:
        return by_role
    if place.branch_end and place.branches is not None and not normalised:
        gain = float(f"{1 / math.sqrt(place.branches):.4g}")
        return Suit(kaiming_normal(gain=gain), f"ends one of {place.branches} residual branches that add up")
    if normalised:
        return Suit(lecun_normal(), "a normalisation follows and undoes any scale: only that units differ matters")
    if follows is None or follows.name == "identity":
        if not known:
            return Suit(lecun_normal(), "what follows is not known: gain 1, as for a linear layer")
        last = "the output" if place.position == "last" else "no activation before the next layer"
        return Suit(lecun_normal(), f"{last}: gain 1 keeps the size")
    return _by_activation(place, follows)


def _by_role(place: Place, phi: Activation | None, tied: bool) -> Suit | None:
    """What the role alone decides."""
    if place.role == "recurrent_bias":
        return Suit(zeros(), "the second of two biases that are added")
    if place.role == "bias":
        if place.layout.parts == LSTM and place.fans is not None and len(place.shape) == 1:
            return Suit(lstm_forget_bias(), "an LSTM that starts by remembering")
        if phi is not None and phi.name == "sin":
            return Suit(torch_default(), "sine units are told apart by their phase")
        return Suit(zeros(), "weights tell the units apart; a bias has nothing to add yet")
    simple = {
        "gain": Suit(ones(), "the normalisation has already set the scale"),
        "slope": Suit(constant(0.25), "the slope PReLU starts with"),
        "recurrent": Suit(orthogonal(), "applied again and again: only lengths that are kept neither die nor explode"),
        "adapter_in": Suit(lora(), "one factor drawn, the other zero: the function does not change"),
        "adapter_out": Suit(lora(), "zero, so that the adapter starts as nothing; it learns from the first step"),
        "router": Suit(normal(0.02), "nearly equal shares at first, no two experts the same"),
        "query_key_value": Suit(xavier_uniform(), "three square maps, each with its own fans: logits of size about 1"),
        "query_key": Suit(xavier_uniform(), "logits of size about 1 after division by the root of the head's width"),
        "value": Suit(xavier_uniform(), "a linear map: gain 1"),
    }
    if place.role == "embedding":
        if tied:
            return Suit(embedding_normal(), "tied to the output: rows of length 1 keep its logits at size 1")
        return Suit(normal(), "looked up, not summed: entries of size 1 are what the next layer's formula assumes")
    if place.role == "gain" and place.branch_end:
        return Suit(zero_gamma(), "the last norm of a residual branch: the block starts as the identity")
    if place.role == "gate" and math.prod(place.shape) == 1:
        return Suit(rezero(), "a scalar on a residual branch: closed at first, it learns from the first step")
    if place.role == "gate":
        return Suit(layer_scale(1e-5), "a vector on a residual branch: almost closed at first")
    if place.role == "unknown":
        return Suit(None, "its part in the model is not known: it stays as it is")
    if place.role == "weight" and place.layout.parts > 1:
        return Suit(xavier_uniform(), "feeds gates that bend both ways; each gate has its own fans")
    return simple.get(place.role)


def _by_activation(place: Place, phi: Activation) -> Suit:
    if phi.name == "sin":
        frequency = float(dict(phi.options)["frequency"])
        return Suit(siren(frequency=frequency), f"{phi!r} follows: pre-activations then are about standard normal")
    if phi.name == "selu":
        return Suit(lecun_normal(), "selu follows, made to keep mean 0 and variance 1 with gain 1")
    found = gains(phi)
    if phi.kind == "sigmoidal" and found.mean > 0.1:  # sigmoid, hardsigmoid: the mean is most of the second moment
        if place.position == "first":
            return Suit(lecun_normal(), f"{phi!r} follows, and data of size 1 would fill it with a larger gain")
        gain = float(f"{1 / found.slope_mean:.3g}") if phi.name != "sigmoid" else 4.0
        return Suit(
            xavier_normal(gain=gain), f"{phi!r} follows, whose slope at zero is 1/{gain:g}: the gain makes up for it"
        )
    drift = found.chi ** (place.depth / 2) if place.depth else 1.0
    if max(drift, 1 / drift) > DRIFT and critical(phi).feasible:
        return Suit(
            edge_of_chaos(repr(phi)),
            f"{phi!r} follows in each of {place.depth} layers: the forward gain alone would change gradients "
            f"{drift:.3g}-fold; this start keeps both",
        )
    gain = found.forward
    kept = f"{phi!r} follows and keeps {found.second_moment:.3g} of a second moment: gain {gain:.4g} makes up for it"
    if found.chi < 0.5:
        kept += f"; but squared gradients shrink to {found.chi:.2g} of themselves a layer, so not for a deep net"
    if phi.name == "relu":
        return Suit(kaiming_normal(), kept)
    return Suit(kaiming_normal(gain=float(f"{gain:.4g}")), kept)


def expected_rms(scheme: Scheme, place: Place) -> float | None:
    """Root mean square that the scheme would give the tensor; None where it cannot take the place.

    Example:
        >>> from symbreak.schemes import Fans
        >>> round(expected_rms(lecun_normal(), Place(fans=Fans(100, 10))), 3)
        0.1

    Source: `Scheme.moments`.
    """
    from symbreak.errors import SchemeError

    try:
        moments = scheme.moments(place=place)
    except SchemeError:
        return None
    return math.hypot(moments.mean, moments.std)
