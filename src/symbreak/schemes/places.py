"""The place of every parameter of a model, as far as its modules tell without being run.

What only running shows (residual branches, written-out activations, the order of execution) is left at its default;
whoever has traced the model passes it on with `dataclasses.replace`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from symbreak.schemes.activations import ACTIVATIONS, Activation
from symbreak.schemes.fans import Layout, fans_of, layout_of, weight_of
from symbreak.schemes.place import Place, Position, Role

if TYPE_CHECKING:
    from torch import nn

GATES = ("gamma", "gamma_1", "gamma_2", "layer_scale", "lambda_1", "lambda_2", "resweight")
"""Names of bare vectors and scalars that multiply a residual branch, in LayerScale, ConvNeXt, BEiT and ReZero."""

BY_NAME: tuple[tuple[Role, tuple[str, ...]], ...] = (
    ("adapter_in", ("lora_A",)),  # first: peft puts them inside the layer they adapt, so the name says q_proj, too
    ("adapter_out", ("lora_B",)),
    ("query_key_value", ("in_proj_weight", "qkv", "c_attn", "query_key_value")),
    ("query_key", ("q_proj", "k_proj", "query", "key", "to_q", "to_k", "wq", "wk")),
    ("value", ("v_proj", "value", "to_v", "wv")),
    ("attention_out", ("out_proj", "o_proj", "to_out", "wo")),
    ("router", ("router",)),
)
"""Words that stand alone between the dots of a linear layer's name, and the role they mean. What is called an output
projection is attention's only beside queries, keys or values: Mamba has an `out_proj`, T5's feed-forward block a `wo`.
"""


def places_of(model: nn.Module) -> dict[str, Place]:
    """Parameter name -> where it stands. A shared parameter appears once, under its first name.

    Example:
        >>> from torch import nn
        >>> places = places_of(nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2)))
        >>> [(name, place.role, place.position) for name, place in places.items() if name.endswith("weight")]
        [('0.weight', 'weight', 'first'), ('1.weight', 'gain', 'hidden'), ('2.weight', 'weight', 'last')]

    Source: the classes of torch.nn; transformers' Conv1D and peft's adapters by what they have.
    """
    names = {id(parameter): name for name, parameter in reversed(list(model.named_parameters(remove_duplicate=False)))}
    places: dict[str, Place] = {}
    with at_rest(model):
        for prefix, module in model.named_modules():
            for own, parameter in module.named_parameters(recurse=False):
                full = f"{prefix}.{own}" if prefix else own
                if names[id(parameter)] == full:
                    places[full] = _place(module, own, full, model)
    weights = [name for name, place in places.items() if place.role in ("weight", "query_key_value") and place.fans]
    if len(weights) > 1:
        ends: tuple[tuple[str, Position], ...] = ((weights[0], "first"), (weights[-1], "last"))
        for name, end in ends:
            places[name] = replace(places[name], position=end)
            bias = name.removesuffix("weight") + "bias"
            if name.endswith("weight") and bias in places:
                places[bias] = replace(places[bias], position=end)
    return places


@contextlib.contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """Reading a parametrised weight computes it, and spectral norm in training mode moves its buffers and draws random
    numbers: in here it does not, and what does is undone.

    Example:
        >>> from torch import nn
        >>> layer = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3))
        >>> before = layer.parametrizations.weight[0]._u.clone()
        >>> with at_rest(layer):
        ...     _ = layer.weight
        >>> bool((before == layer.parametrizations.weight[0]._u).all())
        True

    Source: torch.nn.utils.parametrize, which calls the parametrisation at every access.
    """
    import torch
    from torch.nn.utils.parametrize import ParametrizationList

    inside = [m for one in model.modules() if isinstance(one, ParametrizationList) for m in one.modules()]
    if not inside:
        yield
        return
    modes = [(m, m.training) for m in inside]
    buffers = [(b, b.clone()) for m in inside for b in m.buffers(recurse=False)]
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    try:
        for m in inside:
            m.training = False
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            yield
    finally:
        for m, mode in modes:
            m.training = mode
        for buffer, before in buffers:
            if not torch.equal(buffer, before):
                buffer.copy_(before)


def _place(module: nn.Module, own: str, full: str, model: nn.Module) -> Place:
    shape = tuple(getattr(module, own).shape)
    layout, fans = layout_of(module, weight_of(own)) or Layout(), fans_of(module, own)
    if _feeds_a_scan(full, model) and layout == Layout() and fans is not None:
        layout = Layout(parts=2)
        fans = layout.fans(tuple(getattr(module, weight_of(own)).shape))
    place = Place(shape=shape, layout=layout, fans=fans, role=_role(module, own, full, model))
    if place.role == "embedding":
        return replace(place, padding=getattr(module, "padding_idx", None), fans=None)
    return place


def _feeds_a_scan(full: str, model: nn.Module) -> bool:
    """Mamba's in_proj: the scan's input and its gate in one weight, two parts of the width that out_proj reads.

    Mamba-2 fuses five parts of unequal widths, which no layout here describes: its in_proj stays one part, whose
    fan_in is right.
    """
    holder, found, own = full.rpartition("in_proj.")
    if not found or own not in ("weight", "bias"):
        return False
    mixer = model.get_submodule(holder.removesuffix("."))
    made, read = (getattr(getattr(mixer, name, None), "weight", None) for name in ("in_proj", "out_proj"))
    return hasattr(mixer, "A_log") and made is not None and read is not None and len(made) == 2 * read.shape[1]


def _beside_queries(word: str, full: str, model: nn.Module) -> bool:
    """Whether the module that holds a part of this name also holds queries, keys and values."""
    path = full.split(".")
    holder = model.get_submodule(".".join(path[: path.index(word)] if word in path else path[:-1]))
    beside = {name for name, _ in holder.named_children()}
    beside |= {_word(name) for name, _ in holder.named_parameters(recurse=False)}
    return any(beside & set(words) for role, words in BY_NAME if role in ("query_key_value", "query_key", "value"))


def _word(own: str) -> str:
    """A parameter's name as BY_NAME has it: q_proj_weight of torch's attention -> q_proj."""
    return own.removesuffix("_weight") if own != "in_proj_weight" else own


def _role(module: nn.Module, own: str, full: str, model: nn.Module) -> Role:
    from torch import nn

    bias = "bias" in own and len(getattr(module, own).shape) == 1
    if "Norm" in type(module).__name__:
        return "bias" if bias else "gain"
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return "embedding"
    if isinstance(module, nn.PReLU):
        return "slope"
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        recurrent = "_hh" in own
        if bias:
            return "recurrent_bias" if recurrent else "bias"
        return "recurrent" if recurrent else "weight"
    if fans_of(module, own) is None:
        return (
            "gate"
            if own in GATES and max(getattr(module, own).shape, default=1) == getattr(module, own).numel()
            else "unknown"
        )
    if bias:
        return "bias"
    words = {*full.split("."), _word(own)}
    found = (
        role
        for role, known in BY_NAME
        for word in known
        if word in words and (role != "attention_out" or _beside_queries(word, full, model))
    )
    return next(found, "weight") if layout_of(module, own) is not None else "unknown"


@dataclass(frozen=True)
class Following:
    """What stands between a layer and the next: the activation, if any, and whether a normalisation comes before it."""

    phi: Activation | None
    normalised: bool = False


def following(model: nn.Module) -> dict[str, Following]:
    """Layer name -> what follows it, where a Sequential or torch's own transformer layer tells.

    A layer that is absent: not known without running the model. Dropout, pooling and reshaping change nothing.

    Example:
        >>> from torch import nn
        >>> following(nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.GELU("tanh"), nn.Linear(8, 2)))["0"]
        Following(phi=gelu('tanh'), normalised=True)

    Source: the order of a Sequential is its order of execution.
    """
    with at_rest(model):
        return _followed(model)


def _followed(model: nn.Module) -> dict[str, Following]:
    from torch import nn

    found: dict[str, Following] = {}
    for prefix, module in model.named_modules():
        if isinstance(module, nn.Sequential):
            found.update(_chain(module, prefix))
        elif isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
            phi = ACTIVATIONS.get(getattr(module.activation, "__name__", "")) or activation_of(module.activation)
            start = f"{prefix}." if prefix else ""
            found[f"{start}linear1"], found[f"{start}linear2"] = Following(phi), Following(None)
    return found


def _chain(sequence: nn.Sequential, prefix: str) -> Iterator[tuple[str, Following]]:
    waiting, normalised = "", False
    for name, module in sequence.named_children():
        phi = activation_of(module)
        if phi is not None or layout_of(module) is not None:
            if waiting:
                yield waiting, Following(phi, normalised)
            waiting, normalised = "", False
        if layout_of(module) is not None:
            waiting = f"{prefix}.{name}" if prefix else name
        elif "Norm" in type(module).__name__:
            normalised = True
        elif phi is None and not _passes_on(module):
            waiting = ""  # a block of its own: what it begins with is not known
    if waiting and not prefix:
        yield waiting, Following(None)


def _passes_on(module: nn.Module) -> bool:
    name = type(module).__name__
    return any(word in name for word in ("Dropout", "Pool", "Flatten", "Unflatten", "Identity", "DropPath"))


def activation_of(module: object) -> Activation | None:
    """The row of the catalogue that a torch module computes, options included.

    Example:
        >>> from torch import nn
        >>> activation_of(nn.LeakyReLU(0.2)), activation_of(nn.Linear(2, 2))
        (leaky_relu(0.2), None)

    Source: the class, and the attributes its options are kept in.
    """
    from symbreak.schemes.elementwise import Elementwise

    if isinstance(module, Elementwise):
        return module.phi
    row = next((row for row in ACTIVATIONS.values() if row.cls == type(module).__name__ != "Identity"), None)
    if row is None:
        return None
    if row.name == "prelu":
        return row
    return row.having(**{key: getattr(module, key) for key, _ in row.options})
