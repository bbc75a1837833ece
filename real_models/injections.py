"""Faults to put into a model, each with what should come of it and who decides that: the oracle, by training.

`truth` is asked on a float64 copy and answers "fatal", "harmless", or "unclear" (then the case is put aside).
A fatal injection is caught by a new finding with one of `codes`; a harmless one must bring no new error, and no new
warning with one of `codes`. `table` is what the reasoning says of it (docs/real-models.md): it never decides a case,
but where training says otherwise the run says so. A warning with one of `states` names what was put in: a harmless
wrong fan is a wrong fan.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from real_models import zoo
from real_models.chains import Chain, find_chains
from real_models.couplings import Coupling, find_couplings, gradient_of, is_dense, is_transposed
from real_models.last_layers import LastLayers, find_last_layers, own
from real_models.oracle import (
    all_gradients,
    fresh,
    gap,
    in_float64,
    largest_gradients,
    moves,
    outputs_alike,
)
from real_models.routers import Router, choose_every_expert, find_routers
from real_models.scales import KEPT, LOST, factors, is_layer

Truth = Literal["fatal", "harmless", "unclear"]
TIES = frozenset({"SB001", "SB002", "SB003", "SB004", "SB005", "SB006"})
SILENCE = frozenset({"SB101", "SB102"})
SCALE = frozenset({"SB201", "SB202", "SB203", "SB204"})
WRONG_FAN = frozenset({"SB407"})
ALIVE = 1e-9  # of the model's largest gradient
EQUAL, ALIKE = 1e-5, 1e-6  # weights, over their size (they are float32); moves, over theirs
DIFFERENT = 1e-2  # moves that differ by less leave copies near each other for long, which is another fault
NEAR, APART = 1e-3, 1e-2  # distance over size: copies 1e-6 apart stay within 2e-4 for 4000 steps, 1e-2 apart reach 0.5
NEAR_STEPS, ROUTER_STEPS = 24, 12


class Place(Protocol):
    """Where a fault is put: its `str` is printed, `layers` are the names of the modules it is made of."""

    @property
    def layers(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class Whole:
    """The whole model."""

    def __str__(self) -> str:
        return "the whole model"

    @property
    def layers(self) -> tuple[str, ...]:
        return ("",)


def find_whole(_case: zoo.Case, _wanted: int, _seed: int) -> list[Whole]:
    return [Whole()]


@dataclass(frozen=True)
class Injection:
    name: str
    find: Callable[[zoo.Case, int, int], list[Any]]  # the places of its kind in a model
    inject: Callable[[nn.Module, Any], bool]  # False: this place has no room for it
    truth: Callable[[zoo.Case, Any], Truth]
    codes: frozenset[str]
    table: Truth | None = None  # None: it depends on what lies behind the layer
    recast: Callable[[zoo.Case], zoo.Case] = lambda case: case  # another loss
    states: frozenset[str] = frozenset()  # codes of warnings that only state what was put in


# ---- what is put into a coupling -----------------------------------------------------------------------------------


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
def constant_everywhere(model: nn.Module, _place: Coupling) -> bool:
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


# ---- what is put into other places ----------------------------------------------------------------------------------


@torch.no_grad()
def joint_swap(model: nn.Module, chain: Chain) -> bool:
    """Swapping units 0 and 1 of both layers at once changes no weight, though no two rows of the second are equal.

    The second layer's 2 x 2 block between them becomes [[a, b], [b, a]]; the rest of its two rows and columns is equal.
    """
    tie_incoming(model, chain.first)
    tie_incoming(model, chain.second)
    middle = chain.middle(model)  # [unit of A, entry, unit of B, ...]
    kept = middle[:2, :, 0].clone()
    middle[1, :, 2:] = middle[0, :, 2:]
    middle[0, :, :2] = torch.stack([kept[0], kept[1]], dim=1)
    middle[1, :, :2] = torch.stack([kept[1], kept[0]], dim=1)
    return tie_outgoing(model, chain.second)


@torch.no_grad()
def broken_joint_swap(model: nn.Module, chain: Chain) -> bool:
    """The same, but for one entry."""
    joint_swap(model, chain)
    middle = chain.middle(model)
    middle[1, :, 0] += 0.3 * middle.square().mean().sqrt()
    return True


@torch.no_grad()
def zero_last(model: nn.Module, last: LastLayers) -> bool:
    """No room for it where the layers start at zero by themselves, as a vision transformer's head does."""
    parameters = [p for name in last.names for p in own(model, name).values()]
    changed = any(bool(p.any()) for p in parameters)
    for p in parameters:
        p.zero_()
    return changed


@torch.no_grad()
def zero_last_and_feeder(model: nn.Module, last: LastLayers) -> bool:
    """Two factors of one product: where no skip leads around it, the layer that feeds the last one is zero as well."""
    zero_last(model, last)
    for name in last.feeders:
        for p in own(model, name).values():
            p.zero_()
    return bool(last.feeders)


@torch.no_grad()
def wrong_fan(model: nn.Module, _place: Whole) -> bool:
    """Every weight drawn anew by fan_out, as torch counts it: all output channels, whatever the groups."""
    return redraw(model, "fan_out")


def wrong_fan_without_norms(model: nn.Module, place: Whole) -> bool:
    return take_norms_out(model) and wrong_fan(model, place)


def right_fan_without_norms(model: nn.Module, _place: Whole) -> bool:
    return take_norms_out(model) and redraw(model, "fan_in")


def redraw(model: nn.Module, mode: Literal["fan_in", "fan_out"]) -> bool:
    generator = torch.Generator().manual_seed(0)
    layers = [module for module in model.modules() if is_layer(module)]
    for module in layers:
        nn.init.kaiming_normal_(module.weight, mode=mode, generator=generator)
    return len(layers) >= 3


def take_norms_out(model: nn.Module) -> bool:
    """Leave what they hold beside the norm: some of timm's have the activation inside."""
    norms = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if "Norm" in type(child).__name__ and all(p.dim() == 1 for p in child.parameters())
    ]
    for parent, name, child in norms:
        setattr(parent, name, getattr(child, "act", None) or nn.Identity())
    return bool(norms)


@torch.no_grad()
def zero_router(model: nn.Module, router: Router) -> bool:
    for tensor in router.rows(model):
        tensor.zero_()
    return True


def zero_router_soft(model: nn.Module, router: Router) -> bool:
    return choose_every_expert(model, router) and zero_router(model, router)


@torch.no_grad()
def equal_experts(model: nn.Module, router: Router) -> bool:
    """As in sparse upcycling: every expert a copy of the first, the router as it was."""
    for number in range(1, router.count):
        for target, source in zip(router.expert(model, number), router.expert(model, 0), strict=True):
            target.copy_(source)
    return True


def equal_experts_zero_router(model: nn.Module, router: Router) -> bool:
    return equal_experts(model, router) and zero_router(model, router)


def equal_experts_zero_router_soft(model: nn.Module, router: Router) -> bool:
    return choose_every_expert(model, router) and equal_experts_zero_router(model, router)


# ---- what is true --------------------------------------------------------------------------------------------------


def units_stay_tied(case: zoo.Case, coupling: Coupling) -> Truth:
    """Fatal where the rows of units 0 and 1 are equal in a layer and move alike, or where no layer of theirs moves.

    One such layer is enough: queries and keys stay copies of one another whatever reads the values. Rows that are
    equal and get equal gradients from a random loss are so by symmetry, not by luck.
    """

    def weights() -> list[Tensor]:
        return [*coupling.weights(case.model), coupling.readers(case.model)]

    equal = [gap(weight[0], weight[1]) <= EQUAL for weight in weights()]
    went = moves(case, weights)
    if not all(bool(move.isfinite().all()) for move in went):
        return "unclear"
    moved = [bool(move[0].any() and move[1].any()) for move in went]
    apart = [gap(move[0], move[1]) for move in went]
    makers = range(len(went) - 1)
    if any(equal[k] and moved[k] and apart[k] <= ALIKE for k in makers):
        return "fatal"
    if not any(bool(went[k].any()) for k in makers):
        return "fatal"
    return "harmless" if all(moved) and min(apart) > DIFFERENT else "unclear"


def units_stay_near(case: zoo.Case, coupling: Coupling) -> Truth:
    """Near copies: by the distance between the two rows after training, over their size."""

    def weights() -> list[Tensor]:
        return coupling.weights(case.model)

    went = moves(case, weights, NEAR_STEPS)
    if not all(bool(move[0].any() and move[1].any() and move.isfinite().all()) for move in went):
        return "unclear"
    distances = [gap(weight[0], weight[1]) for weight in weights()]
    return "fatal" if max(distances) <= NEAR else "harmless" if min(distances) >= APART else "unclear"


def mirrored_units_stay_mirrored(case: zoo.Case, coupling: Coupling) -> Truth:
    """Fatal where unit 1 moves by minus what unit 0 moves by, weights in and out."""
    went = moves(case, lambda: [*coupling.weights(case.model), coupling.readers(case.model)])
    if not all(bool(move[0].any() and move[1].any() and move.isfinite().all()) for move in went):
        return "unclear"
    apart = [gap(move[0], -move[1]) for move in went]
    return "fatal" if max(apart) <= ALIKE else "harmless" if min(apart) > DIFFERENT else "unclear"


def joint_swap_stays(case: zoo.Case, chain: Chain) -> Truth:
    """Fatal where the joint swap of the moves gives the moves again, in all three layers."""

    def parts() -> list[Tensor]:
        return [chain.first.weight(case.model), chain.middle(case.model), chain.second.readers(case.model)]

    def compare(tensors: list[Tensor]) -> list[float]:
        first, middle, last = tensors
        swapped = middle.clone()
        swapped[[0, 1]] = swapped[[1, 0]]
        swapped[:, :, [0, 1]] = swapped[:, :, [1, 0]]
        rows = gap(middle[:2], swapped[:2]), gap(middle[:, :, :2], swapped[:, :, :2])
        return [gap(first[0], first[1]), max(rows), gap(last[0], last[1])]

    symmetric = max(compare(parts())) <= EQUAL
    went = moves(case, parts)
    seen = [went[0][0], went[0][1], went[1][:2, :, :2], went[2][0], went[2][1]]
    if not all(bool(move.any() and move.isfinite().all()) for move in seen):
        return "unclear"
    apart = compare(went)
    if symmetric and max(apart) <= ALIKE:
        return "fatal"
    return "harmless" if min(apart) > DIFFERENT else "unclear"


def no_tensor_sleeps(case: zoo.Case, _place: Place) -> Truth:
    """Fatal where a tensor that trains in the untouched model has a gradient of exactly zero at every step."""
    seen = all_gradients(case)
    return by_size([seen[name] for name in living(case.name) if name in seen])  # a norm taken out has none


@functools.lru_cache(maxsize=4)
def living(name: str) -> frozenset[str]:
    """The tensors of the untouched model that train: not biases that a norm takes out, not what the loss misses."""
    case = fresh(name)
    in_float64(case)
    return frozenset(tensor for tensor, size in all_gradients(case).items() if size > ALIVE)


def unit_never_wakes(case: zoo.Case, coupling: Coupling) -> Truth:
    producer = case.model.get_submodule(coupling.producer)
    return by_size([largest_gradients(case, lambda: {"unit": gradient_of(producer)[1]})["unit"]])


def by_size(seen: list[float]) -> Truth:
    if min(seen) == 0.0:
        return "fatal"
    return "harmless" if min(seen) > ALIVE else "unclear"


def output_rows_stay_tied(case: zoo.Case, last: LastLayers) -> Truth:
    """Fatal where two outputs of a last layer that start equal move alike."""
    name = last.names[-1]

    def rows() -> list[Tensor]:
        module = case.model.get_submodule(name)
        weight = module.weight.detach()
        return [weight.transpose(0, 1) if weight.dim() > 1 and is_transposed(module) else weight]

    if len(rows()[0]) < 2:
        return "unclear"
    (went,) = moves(case, rows)
    if not bool(went[0].any() and went[1].any() and went.isfinite().all()):
        return "unclear"
    return "fatal" if gap(went[0], went[1]) <= ALIKE else "harmless"


def experts_stay_tied(case: zoo.Case, router: Router) -> Truth:
    """Fatal where two experts that start equal both move and stay equal; harmless where all have moved and differ."""

    def weights() -> list[Tensor]:
        return [
            torch.cat([tensor.flatten() for tensor in router.expert(case.model, number)])
            for number in range(router.count)
        ]

    rows = [row.clone() for row in router.rows(case.model)]
    equal = {
        pair: gap(weights()[pair[0]], weights()[pair[1]]) <= EQUAL for pair in combinations(range(router.count), 2)
    }
    went = moves(case, weights, ROUTER_STEPS)
    if not all(bool(move.isfinite().all()) for move in went):
        return "unclear"
    moved = [bool(move.any()) for move in went]
    alike = [gap(went[i], went[j]) <= ALIKE and moved[i] for (i, j), tied in equal.items() if tied]
    if any(alike):
        return "fatal"
    routed = any(gap(row, before) > 0 for row, before in zip(router.rows(case.model), rows, strict=True))
    return "harmless" if routed and all(moved) else "unclear"


def signal_is_lost(case: zoo.Case, place: Whole) -> Truth:
    """By the scales at the start: a badly scaled model trains, only slowly. Then by training, like the rest.

    Put aside: a factor between a hundred and ten thousand, and a model whose own start has one above a hundred.
    """
    untouched = fresh(case.name)
    in_float64(untouched)
    if factors(untouched).worst > KEPT:
        return "unclear"
    worst = factors(case).worst
    if worst >= LOST:
        return "fatal"
    return no_tensor_sleeps(case, place) if worst <= KEPT else "unclear"


INJECTIONS = [
    Injection("duplicate a unit, in and out", find_couplings, duplicate, units_stay_tied, TIES, "fatal"),
    Injection("tie the weights in only", find_couplings, tie_incoming, units_stay_tied, TIES, "harmless"),
    Injection("tie the weights out only", find_couplings, tie_outgoing, units_stay_tied, TIES, "harmless"),
    Injection("near copies, distance 1e-6", find_couplings, nearly_duplicate, units_stay_near, TIES, "fatal"),
    Injection("near copies, distance 0.3", find_couplings, roughly_duplicate, units_stay_near, TIES, "harmless"),
    Injection("mirror a unit", find_couplings, mirror, mirrored_units_stay_mirrored, TIES),
    Injection("rescale a copy, 2 and 1/2", find_couplings, rescale, units_stay_tied, TIES, "harmless"),
    Injection("joint swap over two layers", find_chains, joint_swap, joint_swap_stays, TIES, "fatal"),
    Injection("joint swap, one entry changed", find_chains, broken_joint_swap, joint_swap_stays, TIES, "harmless"),
    Injection("every layer constant", find_couplings, constant_everywhere, units_stay_tied, TIES | SILENCE, "fatal"),
    Injection("one layer constant", find_couplings, constant_layer, units_stay_tied, TIES | SILENCE, "harmless"),
    Injection("zero a layer", find_couplings, zero_layer, no_tensor_sleeps, SILENCE),
    Injection("zero a layer and its reader", find_couplings, zero_both_layers, no_tensor_sleeps, SILENCE),
    Injection("zero the reader only", find_couplings, zero_readers, no_tensor_sleeps, SILENCE),
    Injection("zero the last layer", find_last_layers, zero_last, no_tensor_sleeps, SILENCE, "harmless"),
    Injection(
        "zero the last layer and its feeder", find_last_layers, zero_last_and_feeder, no_tensor_sleeps, SILENCE, "fatal"
    ),
    Injection(
        "zero the last layer, outputs alike",
        find_last_layers,
        zero_last,
        output_rows_stay_tied,
        TIES,
        recast=outputs_alike,
    ),
    Injection("bias -100 on a layer", find_couplings, silence_layer, no_tensor_sleeps, SILENCE),
    Injection("bias -100 on a unit", find_couplings, silence_unit, unit_never_wakes, SILENCE),
    Injection("wrong fan", find_whole, wrong_fan, signal_is_lost, SCALE | SILENCE, states=WRONG_FAN),
    Injection(
        "wrong fan, norms taken out",
        find_whole,
        wrong_fan_without_norms,
        signal_is_lost,
        SCALE | SILENCE,
        states=WRONG_FAN,
    ),
    Injection("right fan, norms taken out", find_whole, right_fan_without_norms, signal_is_lost, SCALE | SILENCE),
    Injection("zero router", find_routers, zero_router, experts_stay_tied, TIES | SILENCE, "harmless"),
    Injection("zero router, soft gates", find_routers, zero_router_soft, experts_stay_tied, TIES | SILENCE, "harmless"),
    Injection("equal experts, router as it was", find_routers, equal_experts, experts_stay_tied, TIES, "harmless"),
    Injection("equal experts, zero router", find_routers, equal_experts_zero_router, experts_stay_tied, TIES),
    Injection(
        "the same with soft gates", find_routers, equal_experts_zero_router_soft, experts_stay_tied, TIES, "fatal"
    ),
]
