"""A start whose hidden layers are each one unit, many times: trained as the one-unit net it is, in float64.

T is one entry of each constant block of the full weights. Forward, a unit hears D copies of the one below, so it adds
D T h; backward, the signal of one unit is the sum over the C copies above, C T delta; the gradient delta h is then that
of one entry of the full matrix. Every rule that moves entries alike (sgd, momentum, adam, adamw) does to T what it
does to each copy, at the same learning rate, eps and decay: the curves are those of the full net, and a step costs
what one unit a layer costs, however wide the layers are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from symbreak.nets import Spec
from symbreak.races.chains import Chains, stack
from symbreak.races.subjects import State


def is_tied(spec: Spec, state: State) -> bool:
    """Whether in every hidden layer all units have equal weights in, equal biases and equal weights out.

    Example:
        >>> from symbreak.nets import build, parse_spec
        >>> from symbreak.schemes import constant, normal
        >>> spec = parse_spec("mlp:4-3:tanh")
        >>> [is_tied(spec, dict(build(spec, 2, 1, one).state_dict())) for one in (constant(0.1), normal(1.0))]
        [True, False]

    Source: block-constant weights, the innermost of the three invariant families.
    """
    n_layers = len(spec.hidden) + 1
    if max(spec.hidden, default=1) == 1:
        return False
    for k in range(1, n_layers + 1):
        W, b = state[f"fc{k}.weight"], state[f"fc{k}.bias"]
        if k < n_layers and not (torch.equal(W, W[:1].expand_as(W)) and torch.equal(b, b[:1].expand_as(b))):
            return False
        if k > 1 and not torch.equal(W, W[:, :1].expand_as(W)):
            return False
    return True


def quotient(spec: Spec, states: Sequence[State], loss: str) -> Chains:
    """The one-unit nets of tied starts.

    Args:
        spec: of the full net.
        states: its tensors, tied.
        loss: ce, mse or bce.
    Example:
        >>> from symbreak.nets import build, parse_spec
        >>> from symbreak.schemes import constant
        >>> spec = parse_spec("mlp:4-3:tanh")
        >>> one = quotient(spec, [dict(build(spec, 2, 1, constant(0.1)).state_dict())], "mse")
        >>> [tuple(W.shape) for W in one.weights], one.copies
        ([(1, 1, 2), (1, 1, 1), (1, 1, 1)], (4, 3))

    Source: the exact quotient of an equitable partition, T = R / |D|; gradient of R times 1 / (|C| |D|).
    """
    small = [_one_unit_each(state, len(spec.hidden) + 1) for state in states]
    one = stack(Spec(spec.kind, (1,) * len(spec.hidden), spec.activation), small, loss)
    return Chains(one.weights, one.biases, one.activation, loss, copies=spec.hidden)


def _one_unit_each(state: State, n_layers: int) -> State:
    found: State = {}
    for k in range(1, n_layers + 1):
        W, b = state[f"fc{k}.weight"].double(), state[f"fc{k}.bias"].double()
        W, b = (W[:1], b[:1]) if k < n_layers else (W, b)
        found[f"fc{k}.weight"], found[f"fc{k}.bias"] = (W[:, :1] if k > 1 else W), b
    return found
