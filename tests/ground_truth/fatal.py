"""Starts that never recover: stuck, redundant or so badly scaled that training suffers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ground_truth.benign import GatedResidual, Residual, embedded
from ground_truth.blocks import Attention, ConvNet, LoRALinear, Mixture, ResidualBlock, SwiGLU, linears, mlp
from ground_truth.case import (
    DEGRADED,
    REDUNDANT,
    STUCK,
    TRAINS,
    Case,
    Loss,
    codes,
    fill_,
    images,
    mse,
    regression,
    sequences,
    zero_,
)

# ---------------------------------------------------------------- stuck


def zero_mlp(activation: Callable[[], nn.Module]) -> nn.Module:
    model = mlp(6, 8, 8, 2, activation=activation)
    zero_(model)
    return model


class LoRAWithHead(nn.Module):
    """Both factors zero; a head that learns beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.adapter = LoRALinear(6, 8)
        self.head = nn.Linear(8, 2)
        zero_(self.adapter.A, self.adapter.B)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.adapter(x).tanh())


def two_zero_layers() -> nn.Module:
    model = mlp(6, 8, 8, 2)
    zero_(model[2], model[4])
    return model


def rezero_with_zero_last() -> nn.Module:
    branch = mlp(8, 8, 8)
    zero_(branch[-1])
    return nn.Sequential(nn.Linear(6, 8), GatedResidual(branch), nn.Linear(8, 2))


def swiglu_without(*matrices: str) -> nn.Module:
    block = SwiGLU(8, 12)
    zero_(*(getattr(block, name) for name in matrices))
    return nn.Sequential(nn.Linear(6, 8), Residual(block), nn.Linear(8, 2))


def attention_without(*projections: str) -> nn.Module:
    attention = Attention(8)
    zero_(*(getattr(attention, name) for name in projections))
    return embedded(Residual(attention))


def zero_gamma_on_both_paths() -> nn.Module:
    model = ConvNet(ResidualBlock(6, downsample=True), 6, 2)
    zero_(model.get_parameter("block.bn2.weight"), model.get_parameter("block.downsample.1.weight"))
    return model


def zero_relu_layer() -> nn.Module:
    model = mlp(6, 8, 8, 2, activation=nn.ReLU)
    zero_(model[2])
    return model


def negative_bias(units: int) -> nn.Module:
    model = mlp(6, 8, 8, 2, activation=nn.ReLU)
    fill_(-100.0, linears(model)[1].bias[:units])
    return model


ONLY_LAST_BIAS: dict[str, int | None] = {"4.bias": 1, "*": None}

STUCK_CASES = (
    *(
        Case(
            f"all-zero MLP, {activation.__name__}",
            lambda a=activation: zero_mlp(a),
            regression(6),
            mse,
            ONLY_LAST_BIAS,
            STUCK,
            codes("SB101"),
        )
        for activation in (nn.Tanh, nn.ReLU, nn.GELU, nn.LeakyReLU)
    ),
    Case(
        "LoRA with A = B = 0",
        LoRAWithHead,
        regression(6),
        mse,
        {"head.*": 1, "*": None},
        STUCK,
        codes("SB101"),
        codes("SB104"),
    ),
    Case("two zero layers in series", two_zero_layers, regression(6), mse, ONLY_LAST_BIAS, STUCK, codes("SB101")),
    Case(
        # alpha's gradient is the branch's output, zero; the gradient of all in the branch is alpha times something.
        "ReZero alpha and last layer both zero",
        rezero_with_zero_last,
        regression(6),
        mse,
        {"1.*": None, "*": 1},
        STUCK,
        codes("SB101"),
    ),
    *(
        Case(
            f"SwiGLU with {' and '.join(pair)} zero",
            partial(swiglu_without, *pair),
            regression(6),
            mse,
            {"1.branch.*": None, "*": 1},
            STUCK,
            codes("SB101"),
        )
        for pair in (("g", "u"), ("u", "d"), ("g", "d"))
    ),
    Case(
        "attention with Q = K = 0",
        lambda: attention_without("q", "k"),
        sequences(4, 2),
        mse,
        {"*.q.weight": None, "*.k.weight": None, "*": 1},
        STUCK,
        codes("SB101"),
    ),
    Case(
        "attention with V = O = 0",
        lambda: attention_without("v", "o"),
        sequences(4, 2),
        mse,
        {"*.branch.*": None, "*": 1},
        STUCK,
        codes("SB101"),
    ),
    Case(
        "norm gamma zero on the branch and on the short path",
        zero_gamma_on_both_paths,
        images(2),
        mse,
        {"head.bias": 1, "*": None},
        STUCK,
        codes("SB101"),
    ),
    Case("zero ReLU layer", zero_relu_layer, regression(6), mse, ONLY_LAST_BIAS, STUCK, codes("SB101")),
    Case(
        "large negative bias on a whole ReLU layer",
        lambda: negative_bias(8),
        regression(6),
        mse,
        ONLY_LAST_BIAS,
        STUCK,
        codes("SB101|SB102"),
    ),
    Case(
        "large negative bias on half a ReLU layer",
        lambda: negative_bias(4),
        regression(6),
        mse,
        {"*": 1},
        DEGRADED,
        codes("SB102"),
        codes("SB101", "SB001"),
    ),
)

# ---------------------------------------------------------------- redundant


def constant_mlp() -> nn.Module:
    model = mlp(6, 8, 8, 2)
    fill_(0.1, model)
    return model


def constant_but_for_the_head() -> nn.Module:
    model = mlp(6, 8, 8, 8, 2)
    fill_(0.1, *linears(model)[:-1])
    return model


def net2wider() -> nn.Module:
    """Each hidden unit twice; its outgoing weights halved."""
    small, wide = mlp(6, 4, 2), mlp(6, 8, 2)
    with torch.no_grad():
        wide.get_parameter("0.weight").copy_(small.get_parameter("0.weight").repeat(2, 1))
        wide.get_parameter("0.bias").copy_(small.get_parameter("0.bias").repeat(2))
        wide.get_parameter("2.weight").copy_(small.get_parameter("2.weight").repeat(1, 2) / 2)
    return wide


def copied_experts(*, router_row: float) -> nn.Module:
    """Equal experts behind a router whose rows are zero, or equal to one another."""
    model = Mixture(6, 2).upcycle_()
    with torch.no_grad():
        model.router.weight.copy_(router_row * model.router.weight[:1].expand_as(model.router.weight))
    return model


def equal_heads(*, equal_outputs: bool) -> nn.Module:
    attention = Attention(8)
    with torch.no_grad():
        for layer in (attention.q, attention.k, attention.v):
            layer.weight[4:] = layer.weight[:4]
        if equal_outputs:
            attention.o.weight[:, 4:] = attention.o.weight[:, :4]
    return embedded(Residual(attention))


class TwinCritics(nn.Module):
    """Two Q networks that were meant to disagree."""

    def __init__(self) -> None:
        super().__init__()
        self.q1, self.q2 = mlp(6, 8, 1), mlp(6, 8, 1)
        self.q2.load_state_dict(self.q1.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.q1(x), self.q2(x)], dim=1)


both_against_one_target: Loss = lambda output, target: F.mse_loss(output, target.expand_as(output))


class Ensemble(nn.Module):
    """The mean of members that all drew their weights from one seed."""

    def __init__(self, members: int = 3) -> None:
        super().__init__()
        self.members = nn.ModuleList()
        for _ in range(members):
            torch.manual_seed(1)
            self.members.append(mlp(6, 8, 2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([member(x) for member in self.members]).mean(dim=0)


HEADS = sequences(4, 2)

REDUNDANT_CASES = (
    *(
        Case(
            f"all-zero MLP, {activation.__name__}",
            partial(zero_mlp, activation),
            regression(6),
            mse,
            {"4.*": 1, "2.*": 2, "0.*": 3},
            REDUNDANT,
            codes("SB001"),
            codes("SB101"),
            widths={"0": (1, 8), "2": (1, 8)},
        )
        for activation in (nn.Sigmoid, nn.Softplus)
    ),
    Case(
        "all weights and biases constant",
        constant_mlp,
        regression(6),
        mse,
        {"*": 1},
        REDUNDANT,
        codes("SB001"),
        widths={"0": (1, 8), "2": (1, 8)},
    ),
    Case(
        "constant hidden layers, random head",
        constant_but_for_the_head,
        regression(6),
        mse,
        {"*": 1},
        REDUNDANT,
        codes("SB001"),
        widths={"0": (1, 8), "2": (1, 8), "4": (8, 8)},
    ),
    Case(
        "Net2Wider, equal split",
        net2wider,
        regression(6),
        mse,
        {"*": 1},
        REDUNDANT,
        codes("SB001"),
        widths={"0": (4, 8)},
    ),
    Case(
        # Equal outputs under weights that sum to one leave the router without a gradient: the tie explains it.
        "copied experts, zero router",
        lambda: copied_experts(router_row=0.0),
        regression(6),
        mse,
        {"router.*": None, "*": 1},
        REDUNDANT,
        codes("SB003"),
        tied={"experts.*.0.weight": 4},
    ),
    Case(
        "copied experts, equal router rows",
        lambda: copied_experts(router_row=1.0),
        regression(6),
        mse,
        {"router.*": None, "*": 1},
        REDUNDANT,
        codes("SB003"),
        tied={"experts.*.0.weight": 4},
    ),
    Case(
        "heads equal in Q, K, V and O",
        lambda: equal_heads(equal_outputs=True),
        HEADS,
        mse,
        {"*": 1},
        REDUNDANT,
        codes("SB002"),
        tied={"*.q.weight": 8},
    ),
    Case(
        "heads equal in Q, K and V, outputs random",
        lambda: equal_heads(equal_outputs=False),
        HEADS,
        mse,
        {"*": 1},
        codes=codes("SB007"),
        absent=codes("SB002", "SB001"),
        tied={"*.v.weight": 0},
    ),
    Case(
        "twin critics from one seed",
        TwinCritics,
        regression(6, 1),
        both_against_one_target,
        {"*": 1},
        REDUNDANT,
        codes("SB005"),
        tied={"q?.0.weight": 2},
    ),
    Case(
        "ensemble from one seed",
        Ensemble,
        regression(6),
        mse,
        {"*": 1},
        REDUNDANT,
        codes("SB005"),
        tied={"*.0.weight": 3},
    ),
)

# ---------------------------------------------------------------- degraded, or worse


def never_written(value: float) -> nn.Module:
    model = mlp(6, 8, 8, 2)
    fill_(value, model.get_parameter("2.weight")[::2])
    return model


def scaled(factor: float, depth: int, activation: Callable[[], nn.Module]) -> nn.Module:
    model = mlp(6, *[16] * depth, 2, activation=activation)
    for layer in linears(model):
        nn.init.kaiming_normal_(layer.weight)
        nn.init.zeros_(layer.bias)
        with torch.no_grad():
            layer.weight.mul_(factor)
    return model


def far_bias(activation: Callable[[], nn.Module]) -> nn.Module:
    model = mlp(6, 8, 2, activation=activation)
    fill_(20.0, linears(model)[0].bias)
    return model


def depthwise(*, norm: bool, channels: int = 16, depth: int = 6) -> nn.Module:
    """kaiming fan_out computed from all output channels, though each filter feeds one."""
    layers: list[nn.Module] = [nn.Conv2d(3, channels, 1)]
    for _ in range(depth):
        conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        nn.init.normal_(conv.weight, std=(2 / (9 * channels)) ** 0.5)
        layers += [conv, *([nn.BatchNorm2d(channels)] if norm else []), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 2))


DEGRADED_CASES = (
    Case(
        "memory never written: NaN",
        lambda: never_written(float("nan")),
        regression(6),
        mse,
        {},
        STUCK | {"unknown"},
        codes("SB404"),
    ),
    Case(
        "memory never written: garbage",
        lambda: never_written(1e30),
        regression(6),
        mse,
        {},
        DEGRADED | STUCK,
        codes("SB201|SB203|SB205|SB207|SB102"),
    ),
    Case(
        "std x 100 without norm",
        lambda: scaled(100.0, 5, nn.ReLU),
        regression(6),
        mse,
        {"*": 1},
        DEGRADED,
        codes("SB201|SB203"),
    ),
    Case(
        "std x 0.01, ten layers deep",
        lambda: scaled(0.01, 9, nn.ReLU),
        regression(6),
        mse,
        {"*": 1},
        DEGRADED,
        codes("SB202|SB204"),
        codes("SB101"),
        floor=1e-40,
    ),
    Case("bias +20 on sigmoid", lambda: far_bias(nn.Sigmoid), regression(6), mse, {"*": 1}, DEGRADED, codes("SB205")),
    Case(
        # 1 - tanh(20)^2 is 2e-17: a gradient on paper, and one that rounds to zero in float64 for most samples.
        "bias +20 on tanh",
        lambda: far_bias(nn.Tanh),
        regression(6),
        mse,
        {},
        DEGRADED | STUCK,
        codes("SB205|SB102|SB101"),
    ),
    Case(
        "depthwise fan_out not divided by groups",
        lambda: depthwise(norm=False),
        images(2),
        mse,
        {"*": 1},
        DEGRADED,
        codes("SB202|SB204"),
        codes("SB101"),
    ),
    Case(
        "depthwise fan_out not divided by groups, norms behind",
        lambda: depthwise(norm=True, depth=3),
        images(2),
        mse,
        {"*": 1},
        TRAINS,
        absent=codes("SB101", "SB202"),
    ),
    Case(
        # Each norm erases its channel's scale but for eps / variance: the first gammas' gradients drown in rounding.
        "depthwise, so many norms behind that they erase the first gammas",
        lambda: depthwise(norm=True),
        images(2),
        mse,
        {},
        TRAINS,
        absent=codes("SB101", "SB202"),
    ),
)

CASES = (*STUCK_CASES, *REDUNDANT_CASES, *DEGRADED_CASES)
