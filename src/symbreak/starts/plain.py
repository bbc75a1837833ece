"""One scheme for many tensors: who takes it, and what the others get.

A scheme is meant for weights between units. Biases get what the scheme says of biases, else zero; embeddings take only
schemes that make sense of a table; norms, gates and bare parameters stay. A scheme that is about another part (the gain
of a norm, an adapter) goes to that part alone.
"""

from __future__ import annotations

from collections.abc import Collection

from symbreak.errors import SchemeError
from symbreak.schemes import Scheme, zeros
from symbreak.schemes.place import BIASES, Role

from .desk import Desk

MATRICES: frozenset[Role] = frozenset(
    ("weight", "recurrent", "query_key", "value", "query_key_value", "attention_out", "feed_forward", "router")
)
FOR_TABLES = frozenset(
    ["zeros", "ones", "constant", "uniform", "normal", "truncated_normal", "embedding_normal", "word2vec", "t_fixup",
     "gpt2_residual", "mup"]
)  # fmt: skip
"""Schemes that say something of a table that is looked up."""

FOR_BIASES = frozenset(
    ["torch_default", "edge_of_chaos", "siren", "nguyen_widrow", "irnn", "rnn_default", "zero_hadamard", "idinit",
     "fixup", "gpt2_residual", "ds_init", "t_fixup", "deepnorm", "mup", "ntk", "mean_field", "spectral",
     "unit_scaling"]
)  # fmt: skip
"""Schemes that say something of biases; with the others they are zero."""

_BIASES: tuple[Role, ...] = ("bias", "recurrent_bias")
ONLY: dict[str, tuple[Role, ...]] = {
    "zero_gamma": ("gain",),
    "rezero": ("gate",),
    "layer_scale": ("gate",),
    "lora": ("adapter_in", "adapter_out"),
    "embedding_normal": ("embedding",),
    "word2vec": ("embedding",),
    "lstm_forget_bias": _BIASES,
    "chrono": _BIASES,
    "prior_bias": ("bias",),
}
"""Schemes that are about one part of a model."""

STAYS = {
    "gain": "a norm's gain: norms are left as they are",
    "gate": "a gate: left as it is",
    "slope": "PReLU's slope: left as it is",
    "unknown": "a bare parameter, whose part only the model's code knows: name it in a mapping to start it",
    "embedding": "a table that is looked up, where fans mean nothing: left as it is",
    "adapter_in": "an adapter's factor: left as it is",
    "adapter_out": "an adapter's factor: left as it is",
}


_PARTS = {
    "embedding": "a table that is looked up",
    "router": "a router",
    "recurrent": "units to units, again and again",
}


def draw_all(desk: Desk, names: Collection[str], scheme: Scheme, *, literally: bool = False) -> None:
    """Give a scheme to those of the named tensors that it is for.

    Args:
        literally: to every one of them, whatever its part.

    Raises:
        SchemeError: none of them takes it, or one cannot.
    """
    taken = 0
    choices = {name: (scheme, "named") if literally else _choice(desk, name, scheme) for name in names}
    desk.soon([name for name, (chosen, _) in choices.items() if chosen is not None])
    for name, (chosen, because) in choices.items():
        if chosen is None:
            desk.keep(name, because)
        else:
            desk.draw(name, chosen, because)
            taken += 1
    if not taken and not any(desk.tensors[name].left for name in names):
        wanted = " or ".join(ONLY.get(scheme.name, ("weight between units",)))
        raise SchemeError(
            f"{scheme!r} is for a {wanted}, and no tensor of {type(desk.model).__name__} is known to be one. Say which "
            f'are meant with a mapping: {{"pattern": "{scheme.name}"}}.'
        )


def _choice(desk: Desk, name: str, scheme: Scheme) -> tuple[Scheme | None, str]:
    place = desk.places[name]
    if scheme.name in ONLY:
        if place.role not in ONLY[scheme.name] or (scheme.name == "prior_bias" and place.position != "last"):
            return None, f"{scheme.name} is not for a {place.role}"
        if scheme.name in ("lstm_forget_bias", "chrono") and place.layout.parts == 1:
            return None, "not a recurrent layer's"
        return scheme, "what the scheme is for"
    if place.role in BIASES:
        if place.fans is None:
            return None, "a norm's shift: norms are left as they are"
        weight = _weight_beside(desk, name)
        if weight is not None and (weight in desk.held_back or desk.tensors[weight].left is not None):
            return None, f"{weight} is kept, so its bias is"
        if scheme.name in FOR_BIASES:
            return scheme, "as the scheme has it for biases"
        return zeros(), "the scheme says nothing of biases: zero"
    if place.role in MATRICES or (place.role == "embedding" and scheme.name in FOR_TABLES):
        return scheme, _PARTS.get(place.role, "a weight between units")
    return None, STAYS[place.role]


def _weight_beside(desk: Desk, bias: str) -> str | None:
    head, _, own = bias.rpartition(".")
    prefix = f"{head}." if head else ""
    name = prefix + own.replace("bias", "weight")
    return next((t.name for t in desk.tensors.values() if name in t.names), None) if "bias" in own else None
