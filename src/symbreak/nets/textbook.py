"""Torch modules of the textbook, from a spec such as "mlp:64-64:tanh"."""

from __future__ import annotations

import itertools
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import nn
from torch.nn.utils import skip_init

from symbreak.errors import TargetError, nearest
from symbreak.schemes import Fans, Scheme, zeros
from symbreak.schemes import activations as catalogue

Kind = Literal["linear", "logistic", "perceptron", "mlp"]
KINDS: tuple[Kind, ...] = ("linear", "logistic", "perceptron", "mlp")

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {name: row.module for name, row in catalogue.ACTIVATIONS.items()}


@dataclass(frozen=True)
class Spec:
    """What to build: the kind, and for an MLP its hidden widths and their activation.

    Example:
        >>> parse_spec("mlp:64-64:tanh")
        Spec(kind='mlp', hidden=(64, 64), activation='tanh')

    Source: the TARGET grammar, `symbreak check --help`.
    """

    kind: Kind
    hidden: tuple[int, ...] = ()
    activation: str = "relu"


def parse_spec(text: str) -> Spec:
    """Read linear, logistic, perceptron, mlp:H1-H2 or mlp:H1-H2:activation.

    Example:
        >>> parse_spec("mlp:32").activation
        'relu'

    Source: the TARGET grammar, `symbreak check --help`.
    """
    kind, _, rest = text.partition(":")
    if kind not in KINDS:
        raise TargetError(f"no built-in model is called {kind!r}. {nearest(kind, KINDS)}")
    if kind != "mlp":
        if rest:
            raise TargetError(f"{text!r}: {kind} takes nothing after its name; write {kind!r}.")
        return Spec(cast(Kind, kind))
    widths, _, activation = rest.partition(":")
    if not re.fullmatch(r"[1-9]\d*(-[1-9]\d*)*", widths):
        raise TargetError(f"{text!r}: hidden widths are positive whole numbers joined by '-', such as mlp:64-64:tanh.")
    if activation and activation not in ACTIVATIONS:
        raise TargetError(f"{text!r}: no activation is called {activation!r}. {nearest(activation, ACTIVATIONS)}")
    return Spec("mlp", tuple(int(width) for width in widths.split("-")), activation or "relu")


def build(spec: Spec | str, n_features: int, n_outputs: int, scheme: Scheme, seed: int = 0) -> nn.Sequential:
    """The model, started by the scheme: same seed, same weights, and the global random state stays where it was.

    Layers are called fc1, act1, fc2, ... Biases are zero, except under "torch", which draws them too.

    Args:
        spec: a Spec or its text.
        n_features: width of the input.
        n_outputs: width of the output.
        scheme: of every weight.
        seed: of the weights.
    Example:
        >>> from symbreak.schemes import kaiming_normal
        >>> [name for name, _ in build("mlp:8-8:tanh", 2, 1, kaiming_normal()).named_children()]
        ['fc1', 'act1', 'fc2', 'act2', 'fc3']

    Source: any textbook; the wiring is that of `chain`.
    """
    spec = parse_spec(spec) if isinstance(spec, str) else spec
    generator = torch.Generator().manual_seed(seed)
    net = chain((n_features, *spec.hidden, n_outputs), ACTIVATIONS[spec.activation])
    for layer in net:
        if isinstance(layer, nn.Linear):
            _start(layer, scheme, generator)
    return net


def chain(
    widths: Sequence[int], activation: Callable[[], nn.Module], *, dtype: torch.dtype = torch.float32
) -> nn.Sequential:
    """fc1, act1, fc2, ...: nn.Linear and the activation in turn, weights and biases not yet written.

    Args:
        widths: of the input, the hidden layers and the output.
        activation: makes the module behind each hidden layer.
        dtype: of all parameters.
    Example:
        >>> [name for name, _ in chain([3, 8, 2], nn.Tanh).named_children()]
        ['fc1', 'act1', 'fc2']

    Source: any textbook.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (n_in, n_out) in enumerate(itertools.pairwise(widths), start=1):
        # skip_init, because nn.Linear's own start would draw from the global random state.
        layers[f"fc{number}"] = skip_init(nn.Linear, n_in, n_out, dtype=dtype)  # type: ignore[no-untyped-call]
        if number < len(widths) - 1:
            layers[f"act{number}"] = activation().to(dtype)
    return nn.Sequential(layers)


def _start(layer: nn.Linear, scheme: Scheme, generator: torch.Generator) -> None:
    fans = Fans(layer.in_features, layer.out_features)
    bias = scheme if scheme.name == "torch_default" else zeros()
    with torch.no_grad():
        layer.weight.copy_(scheme.draw(tuple(layer.weight.shape), fans=fans, generator=generator))
        layer.bias.copy_(bias.draw(tuple(layer.bias.shape), fans=fans, generator=generator))
