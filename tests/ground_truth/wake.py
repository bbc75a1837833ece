"""When each tensor first gets a gradient: ladders of small architectures, and the rule for an MLP of zero weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ground_truth.blocks import LoRALinear, SwiGLU, linears, mlp
from ground_truth.case import (
    REDUNDANT,
    STUCK,
    TRAINS,
    Case,
    Loss,
    classification,
    codes,
    cross_entropy,
    fill_,
    mse,
    normal,
    regression,
    sequences,
    zero_,
)

# ---------------------------------------------------------------- MLP of zero weights

ACTIVATIONS: dict[str, tuple[Callable[[], nn.Module], bool]] = {  # name -> (module, is phi(0) zero)
    "tanh": (nn.Tanh, True),
    "relu": (nn.ReLU, True),
    "gelu": (nn.GELU, True),
    "silu": (nn.SiLU, True),
    "elu": (nn.ELU, True),
    "leaky_relu": (nn.LeakyReLU, True),
    "softsign": (nn.Softsign, True),
    "sigmoid": (nn.Sigmoid, False),
    "hardsigmoid": (nn.Hardsigmoid, False),
    "softplus": (nn.Softplus, False),
}
RECTIFIERS = ("relu", "leaky_relu")
"""Under SGD units with biases of one sign stay multiples of one another: training leaves two directions a layer."""


def zero_weights(activation: str, depth: int, random_biases: bool, outputs: int) -> nn.Module:
    model = mlp(4, *[8] * (depth - 1), outputs, activation=ACTIVATIONS[activation][0])
    for layer in linears(model):
        zero_(layer.weight)
        if random_biases:
            nn.init.normal_(layer.bias, std=0.5)
        else:
            zero_(layer.bias)
    return model


def mlp_case(activation: str, depth: int, random_biases: bool, loss: Loss) -> Case:
    """Layers wake one a step from the output back; where phi(0) = 0 and no bias helps, only the last bias does."""
    passes_nothing = ACTIVATIONS[activation][1] and not random_biases
    last = 2 * (depth - 1)
    if depth == 1:
        ladder, verdict = {"*": 1}, TRAINS
    elif passes_nothing:
        ladder, verdict = {f"{last}.bias": 1, "*": None}, STUCK
    else:
        ladder = {f"{2 * layer}.*": depth - layer for layer in range(depth)}
        verdict = TRAINS if random_biases and activation not in RECTIFIERS else REDUNDANT
    return Case(
        f"zero weights, {activation}, {depth} layers, {'random' if random_biases else 'zero'} biases, {loss.__name__}",
        partial(zero_weights, activation, depth, random_biases, 3),
        classification(4) if loss is cross_entropy else regression(4, 3),
        loss,
        ladder,
        verdict,
        codes("SB101") if verdict == STUCK else codes("SB001") if verdict == REDUNDANT else codes(),
        codes() if verdict == STUCK else codes("SB101"),
        {f"{2 * layer}": (1, 8) for layer in range(depth - 1)} if verdict == REDUNDANT and not random_biases else {},
    )


MLPS = tuple(
    mlp_case(activation, depth, random_biases, loss)
    for activation in ACTIVATIONS
    for depth in (1, 2, 3, 4)
    for random_biases in (False, True)
    for loss in (mse, cross_entropy)
)

# ---------------------------------------------------------------- residual networks


class ResidualMLP(nn.Module):
    """i, three branches f (each behind a scalar al, where there is one), o."""

    def __init__(self, start: str) -> None:
        super().__init__()
        self.i = nn.Linear(6, 8)
        self.f = nn.ModuleList(mlp(8, 8, 8) for _ in range(3))
        self.o = nn.Linear(8, 2)
        self.al = nn.ParameterList(torch.zeros(()) for _ in range(3)) if start == "rezero" else None
        if start in ("zero_last_in_branch", "fixup"):
            zero_(*(branch[-1] for branch in self.f))
        if start in ("zero_head", "fixup"):
            zero_(self.o)

    def forward(self, x: Tensor) -> Tensor:
        x = self.i(x)
        for place, branch in enumerate(self.f):
            x = x + branch(x) * (1.0 if self.al is None else self.al[place])
        return self.o(x)


RESIDUAL_LADDERS: dict[str, dict[str, int | None]] = {
    "rezero": {"al.*": 1, "f.*": 2, "*": 1},
    "zero_last_in_branch": {"f.*.0.*": 2, "*": 1},
    "fixup": {"o.*": 1, "i.*": 2, "f.*.2.*": 2, "*": 3},
    "zero_head": {"o.*": 1, "*": 2},
}

RESIDUAL = tuple(
    Case(f"residual/{start}", partial(ResidualMLP, start), regression(6), mse, ladder, codes=codes("SB103"))
    for start, ladder in RESIDUAL_LADDERS.items()
)

# ---------------------------------------------------------------- products of factors


def lora(zero: str) -> nn.Module:
    layer = LoRALinear(6, 2)
    for name in ("A", "B"):
        if name in zero:
            zero_(layer.get_parameter(name))
        else:
            nn.init.normal_(layer.get_parameter(name))
    return layer


LORA = (
    Case(
        "LoRA, A random, B zero",
        partial(lora, "B"),
        regression(6),
        mse,
        {"base.*": None, "B": 1, "A": 2},
        codes=codes("SB103"),
    ),
    Case(
        "LoRA, A zero, B random",
        partial(lora, "A"),
        regression(6),
        mse,
        {"base.*": None, "A": 1, "B": 2},
        codes=codes("SB103"),
    ),
    Case(
        "LoRA, A and B zero and nothing else",
        partial(lora, "AB"),
        regression(6),
        mse,
        {"*": None},
        STUCK,
        codes("SB101"),
    ),
)


class AttentionNet(nn.Module):
    """e, one attention with a skip, h."""

    def __init__(self, zero: str) -> None:
        super().__init__()
        self.e, self.h = nn.Linear(4, 8), nn.Linear(8, 2)
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8, bias=False) for _ in range(4))
        zero_(*(getattr(self, name) for name in zero))

    def forward(self, x: Tensor) -> Tensor:
        x = self.e(x)
        q, k, v = (layer(x).unflatten(-1, (2, 4)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.h((x + self.o(mixed.transpose(1, 2).flatten(-2))).mean(dim=1))


ATTENTION_LADDERS: dict[str, dict[str, int | None]] = {
    "q": {"k.*": 2, "*": 1},
    "qk": {"[qk].*": None, "*": 1},
    "v": {"[qko].*": 2, "*": 1},
    "o": {"[qkv].*": 2, "*": 1},
    "vo": {"[qkvo].*": None, "*": 1},
    "qkvo": {"[qkvo].*": None, "*": 1},
    "qo": {"k.*": 3, "[qv].*": 2, "*": 1},
}


def wakes(ladder: dict[str, int | None]) -> bool:
    return None not in ladder.values()


ATTENTION = tuple(
    Case(
        f"attention with zero {' and '.join(zero)}",
        partial(AttentionNet, zero),
        sequences(4, 2),
        mse,
        ladder,
        frozenset({"healthy"}) if wakes(ladder) else STUCK,
        codes("SB103") if wakes(ladder) else codes("SB101"),
    )
    for zero, ladder in ATTENTION_LADDERS.items()
)


def swiglu(zero: str) -> nn.Module:
    block = SwiGLU(6, 8)
    zero_(*(getattr(block, name) for name in zero))
    return block


SWIGLU_LADDERS: dict[str, dict[str, int | None]] = {
    "g": {"g.*": 1, "*": 2},
    "u": {"u.*": 1, "*": 2},
    "d": {"d.*": 1, "*": 2},
    "gu": {"*": None},
    "ud": {"*": None},
    "gd": {"*": None},
}

SWIGLU = tuple(
    Case(
        f"SwiGLU alone with zero {' and '.join(zero)}",
        partial(swiglu, zero),
        regression(6, 6),
        mse,
        ladder,
        TRAINS if wakes(ladder) else STUCK,
        codes("SB103") if wakes(ladder) else codes("SB101"),
    )
    for zero, ladder in SWIGLU_LADDERS.items()
)

# ---------------------------------------------------------------- norms on nothing


def normed(norm: Callable[[int], nn.Module], start: str, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Module:
    """Linear, norm, activation, twice, and a head; biases as torch draws them.

    Weights zero (W), gammas zero (g), or weights constant (c).
    """
    model = nn.Sequential(
        nn.Linear(4, 8), norm(8), activation(), nn.Linear(8, 8), norm(8), activation(), nn.Linear(8, 3)
    )
    if start == "g":
        zero_(*(layer.weight for layer in model if isinstance(layer, nn.BatchNorm1d | nn.LayerNorm)))
    else:
        fill_({"W": 0.0, "c": 0.3}[start], *(layer.weight for layer in linears(model)))
    return model


ONLY_HEAD_BIAS: dict[str, int | None] = {"6.bias": 1, "*": None}
ONE_AFTER_ANOTHER: dict[str, int | None] = {"6.*": 1, "[34].*": 2, "*": 3}

NORMS = (
    Case(
        "BatchNorm on constants",
        partial(normed, nn.BatchNorm1d, "W"),
        classification(4),
        cross_entropy,
        ONLY_HEAD_BIAS,
        STUCK,
        codes("SB101"),
    ),
    Case(
        "BatchNorm with zero gamma",
        partial(normed, nn.BatchNorm1d, "g"),
        classification(4),
        cross_entropy,
        ONLY_HEAD_BIAS,
        STUCK,
        codes("SB101"),
    ),
    Case(
        "BatchNorm behind constant weights",
        partial(normed, nn.BatchNorm1d, "c"),
        classification(4),
        cross_entropy,
        {"6.*": 1, "[03].bias": None, "*": 2},
        REDUNDANT,
        codes("SB001", "SB105"),
        codes("SB101"),
        tied={"0.weight": 8, "3.weight": 8},
    ),
    Case(
        # tanh, unlike ReLU, has a slope at zero: the betas learn, then everything in front of them.
        "LayerNorm with zero gamma and tanh",
        partial(normed, nn.LayerNorm, "g", nn.Tanh),
        classification(4),
        cross_entropy,
        {"4.*": 1, "6.bias": 1, "6.weight": 2, "3.bias": 2, "1.*": 2, "*": 3},
        TRAINS,
        codes("SB103"),
        codes("SB101"),
    ),
    Case(
        # The second norm sees a constant, which it erases: only what stands behind it learns.
        "BatchNorm with zero gamma and tanh",
        partial(normed, nn.BatchNorm1d, "g", nn.Tanh),
        classification(4),
        cross_entropy,
        {"4.bias": 1, "6.bias": 1, "6.weight": 2, "*": None},
        STUCK,
        codes("SB101"),
    ),
    Case(
        "LayerNorm on constants",
        partial(normed, nn.LayerNorm, "W"),
        classification(4),
        cross_entropy,
        ONE_AFTER_ANOTHER,
        TRAINS,
        codes("SB103"),
    ),
    Case(
        "LayerNorm with zero gamma",
        partial(normed, nn.LayerNorm, "g"),
        classification(4),
        cross_entropy,
        ONLY_HEAD_BIAS,
        STUCK,
        codes("SB101"),
    ),
    Case(
        "LayerNorm behind constant weights",
        partial(normed, nn.LayerNorm, "c"),
        classification(4),
        cross_entropy,
        ONE_AFTER_ANOTHER,
        TRAINS,
        codes("SB103"),
    ),
)

# ---------------------------------------------------------------- recurrence, gaps, chance


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.r = kind(4, 6, batch_first=True)
        self.o = nn.Linear(6, 2)
        zero_(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.r(x)[0][:, -1])


class Gap(nn.Module):
    """(a0 - a1) T with a0 = a1 = T = 0: one quiet step is no proof of 'never'.

    The entries of `a` make the same first step and part in the second, so T wakes in the third.
    """

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros(2))
        self.T = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return (self.a.sum() + self.a[0] ** 2 + (self.a[0] - self.a[1]) * self.T) * x


def dropped() -> nn.Module:
    layers = mlp(4, 8, 8, 3, activation=nn.Sigmoid)
    zero_(layers)
    return nn.Sequential(layers[0], layers[1], nn.Dropout(0.5), layers[2], layers[3], nn.Dropout(0.5), layers[4])


def balanced() -> tuple[Tensor, Tensor]:
    return normal(30, 4, seed=1), torch.arange(3).repeat(10)


def zero_tanh() -> nn.Module:
    model = mlp(4, 8, 3)
    zero_(model)
    return model


OTHERS = (
    Case(
        "LSTM all zero",
        partial(Recurrent, nn.LSTM),
        sequences(4, 2),
        mse,
        {"o.bias": 1, "*": None},
        STUCK,
        codes("SB101"),
    ),
    Case(
        "GRU all zero",
        partial(Recurrent, nn.GRU),
        sequences(4, 2),
        mse,
        {"o.bias": 1, "*": None},
        STUCK,
        codes("SB101"),
    ),
    Case("gap in the ladder", Gap, regression(1, 1), mse, {"a": 1, "T": 3}, TRAINS, codes("SB103")),
    Case(
        "zero tanh MLP on balanced classes",
        zero_tanh,
        balanced(),
        cross_entropy,
        {"2.bias": 1, "*": None},
        STUCK,
        codes("SB101"),
    ),
    Case(
        "zero sigmoid MLP with dropout",
        dropped,
        classification(4),
        cross_entropy,
        {"6.*": 1, "3.*": 2, "0.*": 3},
        TRAINS | REDUNDANT,  # dropout treats units differently, so it parts them
        codes("SB103"),
        codes("SB101"),
    ),
)

ARCHITECTURES = (*RESIDUAL, *LORA, *ATTENTION, *SWIGLU, *NORMS, *OTHERS)
CASES = (*ARCHITECTURES, *MLPS)
