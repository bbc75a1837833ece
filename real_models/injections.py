"""Faults to put into a model, each with what should come of it and who decides that: the oracle, by training.

`truth` is asked on a float64 copy and answers "fatal", "harmless", or "unclear" (then the case is put aside).
A fatal injection is caught by a new finding with one of `codes`; a harmless one must bring no new error.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from real_models import zoo
from real_models.couplings import Coupling, is_dense, is_transposed
from real_models.oracle import largest_gradients, parted, train

Truth = Literal["fatal", "harmless", "unclear"]
TIES = frozenset({"SB001", "SB002", "SB003", "SB004", "SB005"})
SILENCE = frozenset({"SB101", "SB102"})
ALIVE = 1e-9


@dataclass(frozen=True)
class Injection:
    name: str
    inject: Callable[[nn.Module, Coupling], bool]  # False: this coupling has no place for it
    truth: Callable[[zoo.Case, Coupling], Truth]
    codes: frozenset[str]
    expected: Truth | None = None  # None: either, by the activation behind the layer; the oracle says which


# ---- what is put in ------------------------------------------------------------------------------------------------


@torch.no_grad()
def duplicate(model: nn.Module, coupling: Coupling) -> bool:
    """Unit 1 becomes unit 0: weights in, everything in between, weights out."""
    return tie_incoming(model, coupling) and tie_outgoing(model, coupling)


@torch.no_grad()
def tie_incoming(model: nn.Module, coupling: Coupling) -> bool:
    for tensor in coupling.makers(model):
        tensor[1] = tensor[0]
    return True


@torch.no_grad()
def tie_outgoing(model: nn.Module, coupling: Coupling) -> bool:
    readers = coupling.readers(model)
    readers[1] = readers[0]
    return True


@torch.no_grad()
def nearly_duplicate(model: nn.Module, coupling: Coupling) -> bool:
    return duplicate(model, coupling) and shift(model, coupling, 1e-6)


@torch.no_grad()
def roughly_duplicate(model: nn.Module, coupling: Coupling) -> bool:
    return duplicate(model, coupling) and shift(model, coupling, 0.3)


@torch.no_grad()
def shift(model: nn.Module, coupling: Coupling, distance: float) -> bool:
    for weight in coupling.weights(model):
        noise = torch.randn(weight[1].shape, generator=torch.Generator().manual_seed(0)).to(weight.dtype)
        weight[1] += distance * weight.square().mean().sqrt() * noise
    return True


@torch.no_grad()
def mirror(model: nn.Module, coupling: Coupling) -> bool:
    """Unit 1 becomes minus unit 0 on both sides."""
    if coupling.between:
        return False
    duplicate(model, coupling)
    for tensor in coupling.makers(model):
        tensor[1].neg_()
    coupling.readers(model)[1].neg_()
    return True


@torch.no_grad()
def rescale(model: nn.Module, coupling: Coupling) -> bool:
    """Unit 1 becomes unit 0 at twice the size, and is read at half of it."""
    if coupling.between:
        return False
    duplicate(model, coupling)
    for tensor in coupling.makers(model):
        tensor[1].mul_(2.0)
    coupling.readers(model)[1].mul_(0.5)
    return True


@torch.no_grad()
def constant_everywhere(model: nn.Module, _: Coupling) -> bool:
    for module in model.modules():
        if is_dense(module):
            module.weight.fill_(0.02)
            if getattr(module, "bias", None) is not None:
                module.bias.zero_()
    return True


@torch.no_grad()
def constant_layer(model: nn.Module, coupling: Coupling) -> bool:
    coupling.weight(model).fill_(0.02)
    return True


@torch.no_grad()
def zero_layer(model: nn.Module, coupling: Coupling) -> bool:
    module = model.get_submodule(coupling.producer)
    for parameter in module.parameters(recurse=False):
        parameter.zero_()
    return True


@torch.no_grad()
def zero_both_layers(model: nn.Module, coupling: Coupling) -> bool:
    """Two factors of one product: the layer and the one that reads it."""
    zero_layer(model, coupling)
    model.get_submodule(coupling.consumer).weight.zero_()
    return True


@torch.no_grad()
def zero_readers(model: nn.Module, coupling: Coupling) -> bool:
    coupling.readers(model).zero_()
    return True


@torch.no_grad()
def silence_layer(model: nn.Module, coupling: Coupling) -> bool:
    bias = last_bias(model, coupling)
    if bias is None:
        return False
    bias.fill_(-100.0)
    return True


@torch.no_grad()
def silence_unit(model: nn.Module, coupling: Coupling) -> bool:
    bias = last_bias(model, coupling)
    if bias is None:
        return False
    bias[1] = -100.0
    return True


def last_bias(model: nn.Module, coupling: Coupling) -> Tensor | None:
    """The bias nearest to the activation: of the last norm in between, or of the layer."""
    for name in (*reversed(coupling.between), coupling.producer):
        bias = getattr(model.get_submodule(name), "bias", None)
        if isinstance(bias, Tensor):
            return bias.detach()
    return None


# ---- what is true --------------------------------------------------------------------------------------------------


def units_stay_tied(case: zoo.Case, coupling: Coupling, tolerance: float = 1e-6) -> Truth:
    """Fatal where units 0 and 1 are read alike and all their weights move alike; harmless where all part."""
    readers = coupling.readers(case.model)
    read_alike = float((readers[0] - readers[1]).abs().max()) <= 1e-5 * float(readers[0].abs().max())
    shares = parted(case, lambda: [*coupling.weights(case.model), coupling.readers(case.model)])
    if not shares or not all(map(math.isfinite, shares)):
        return "unclear"
    if read_alike and max(shares) <= tolerance:
        return "fatal"
    return "harmless" if min(shares) > tolerance else "unclear"


def mirrored_units_stay_mirrored(case: zoo.Case, coupling: Coupling) -> Truth:
    train(case, lambda: None)
    weight = coupling.weight(case.model)
    sum_left = float((weight[0] + weight[1]).abs().max()) / float(weight[0].abs().max())
    return "fatal" if sum_left <= 1e-9 else "harmless" if sum_left >= 1e-6 else "unclear"


def layer_never_wakes(case: zoo.Case, coupling: Coupling) -> Truth:
    return by_size(largest_gradients(case, lambda: producer_gradient(case, coupling)))


def unit_never_wakes(case: zoo.Case, coupling: Coupling) -> Truth:
    return by_size(largest_gradients(case, lambda: producer_gradient(case, coupling)[1]))


def by_size(seen: list[float]) -> Truth:
    if max(seen) == 0.0:
        return "fatal"
    return "harmless" if max(seen) > ALIVE else "unclear"


def producer_gradient(case: zoo.Case, coupling: Coupling) -> Tensor:
    """The gradient of the producer's weight, units first; zero where it has none."""
    module = case.model.get_submodule(coupling.producer)
    if module.weight.grad is None:
        return torch.zeros_like(coupling.weight(case.model))
    return module.weight.grad.transpose(0, 1) if is_transposed(module) else module.weight.grad


INJECTIONS = [
    Injection("duplicate a unit, in and out", duplicate, units_stay_tied, TIES, "fatal"),
    Injection("tie the weights in only", tie_incoming, units_stay_tied, TIES, "harmless"),
    Injection("tie the weights out only", tie_outgoing, units_stay_tied, TIES, "harmless"),
    Injection(
        "near copies, distance 1e-6",
        nearly_duplicate,
        partial(units_stay_tied, tolerance=1e-2),
        TIES | {"SB006"},
        "fatal",
    ),
    Injection("near copies, distance 0.3", roughly_duplicate, units_stay_tied, TIES, "harmless"),
    Injection("mirror a unit", mirror, mirrored_units_stay_mirrored, TIES),
    Injection("rescale a copy, 2 and 1/2", rescale, units_stay_tied, TIES, "harmless"),
    Injection("every layer constant", constant_everywhere, units_stay_tied, TIES | SILENCE, "fatal"),
    Injection("one layer constant", constant_layer, units_stay_tied, TIES, "harmless"),
    Injection("zero a layer", zero_layer, layer_never_wakes, SILENCE),
    Injection("zero a layer and its reader", zero_both_layers, layer_never_wakes, SILENCE),
    Injection("zero the reader only", zero_readers, layer_never_wakes, SILENCE),
    Injection("bias -100 on a layer", silence_layer, layer_never_wakes, SILENCE),
    Injection("bias -100 on a unit", silence_unit, unit_never_wakes, SILENCE),
]
