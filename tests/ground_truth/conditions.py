"""One change, harmless here and fatal there: each pair differs in the one thing that decides."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from ground_truth.benign import Residual
from ground_truth.blocks import Mixture, linears, mlp
from ground_truth.case import (
    DEGRADED,
    REDUNDANT,
    STUCK,
    TRAINS,
    Case,
    codes,
    fill_,
    mse,
    regression,
    zero_,
)

# ---------------------------------------------------------------- zero a hidden layer, zero the last layer


def zero_hidden(activation: Callable[[], nn.Module], bias: float | None = 0.0) -> nn.Module:
    """The middle layer's weights at zero; its biases at one value, or as torch drew them (bias=None)."""
    model = mlp(6, 8, 8, 2, activation=activation)
    zero_(linears(model)[1].weight)
    if bias is not None:
        fill_(bias, linears(model)[1].bias)
    return model


def zero_hidden_of_branch() -> nn.Module:
    branch = mlp(8, 8, 8, activation=nn.ReLU)
    zero_(branch[0])
    return nn.Sequential(nn.Linear(6, 8), Residual(branch), nn.Linear(8, 2))


def zero_last() -> nn.Module:
    model = mlp(6, 8, 2)
    zero_(model[-1])
    return model


class MeanOfOutputs(nn.Module):
    """A zero last layer whose outputs the loss sees only as their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(6, 8, 4)
        zero_(self.net[-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).tanh().mean(dim=1, keepdim=True)


ZEROS = (
    Case(
        "zero hidden layer, ReLU behind a skip: only the block",
        zero_hidden_of_branch,
        regression(6),
        mse,
        {"1.branch.2.bias": 1, "1.branch.*": None, "*": 1},
        STUCK,
        codes("SB101"),
    ),
    Case(
        "zero hidden layer, tanh",
        lambda: zero_hidden(nn.Tanh),
        regression(6),
        mse,
        {"2.*": 1, "4.bias": 1, "*": 2},
        codes=codes("SB103"),
        absent=codes("SB001"),
        widths={"2": (8, 8)},
    ),
    Case(
        "zero hidden layer, GELU",
        lambda: zero_hidden(nn.GELU),
        regression(6),
        mse,
        {"2.*": 1, "4.bias": 1, "*": 2},
        codes=codes("SB103"),
        absent=codes("SB001"),
        widths={"2": (8, 8)},
    ),
    Case(
        "zero hidden weights, random biases, ReLU",
        lambda: zero_hidden(nn.ReLU, bias=None),
        regression(6),
        mse,
        {"0.*": 2, "*": 1},
        TRAINS,  # units that drew a negative bias are dead
        absent=codes("SB001", "SB101"),
    ),
    Case(
        "zero last layer",
        zero_last,
        regression(6),
        mse,
        {"2.*": 1, "0.*": 2},
        codes=codes("SB103"),
        absent=codes("SB001"),
        widths={"0": (8, 8)},
    ),
    Case(
        "zero last layer with exchangeable outputs",
        MeanOfOutputs,
        regression(6, 1),
        mse,
        {"net.2.*": 1, "net.0.*": 2},
        REDUNDANT,
        codes("SB001"),
        widths={"net.2": (1, 4)},
    ),
)

# ---------------------------------------------------------------- ties


def paired(
    edit: Callable[[Tensor, Tensor, Tensor], None], activation: Callable[[], nn.Module] = nn.Tanh, units: int = 8
) -> nn.Sequential:
    """One hidden layer; `edit` gets W [o, i], b [o] and V [targets, o] and writes the second half from the first."""
    model = mlp(6, units, 2, activation=activation)
    first, last = linears(model)
    with torch.no_grad():
        edit(first.weight, first.bias, last.weight)
    return model


def tie_incoming(W: Tensor, b: Tensor, V: Tensor) -> None:
    W[4:], b[4:] = W[:4], b[:4]


def tie_outgoing(W: Tensor, b: Tensor, V: Tensor) -> None:
    V[:, 4:] = V[:, :4]


def tie(W: Tensor, b: Tensor, V: Tensor) -> None:
    tie_incoming(W, b, V)
    tie_outgoing(W, b, V)


def mirror(W: Tensor, b: Tensor, V: Tensor) -> None:
    W[4:], b[4:], V[:, 4:] = -W[:4], -b[:4], -V[:, :4]


def rescale(W: Tensor, b: Tensor, V: Tensor) -> None:
    W[4:], b[4:], V[:, 4:] = 2 * W[:4], 2 * b[:4], V[:, :4] / 2


def near(distance: float) -> Callable[[Tensor, Tensor, Tensor], None]:
    def edit(W: Tensor, b: Tensor, V: Tensor) -> None:
        tie(W, b, V)
        for tensor in (W, b, V):
            tensor += distance * torch.randn(tensor.shape)

    return edit


def joint_swap(*, broken: bool) -> nn.Module:
    """Swapping the halves of both hidden layers changes nothing, yet no two rows of the second layer are equal."""
    model = mlp(6, 8, 8, 2)
    first, second, last = linears(model)
    with torch.no_grad():
        tie_incoming(first.weight, first.bias, second.weight)
        second.weight[4:, 4:], second.weight[4:, :4] = second.weight[:4, :4], second.weight[:4, 4:].clone()
        second.bias[4:] = second.bias[:4]
        last.weight[:, 4:] = last.weight[:, :4]
        if broken:
            second.weight[5, 2] += 0.3
    return model


SEPARATES = codes("SB001", "SB006")

TIES = (
    Case(
        "tie incoming weights only",
        lambda: paired(tie_incoming),
        regression(6),
        mse,
        {"*": 1},
        codes=codes("SB007"),
        absent=SEPARATES,
        widths={"0": (8, 8)},
    ),
    Case(
        "tie outgoing weights only",
        lambda: paired(tie_outgoing),
        regression(6),
        mse,
        {"*": 1},
        absent=SEPARATES,
        widths={"0": (8, 8)},
    ),
    Case(
        "tie both", lambda: paired(tie), regression(6), mse, {"*": 1}, REDUNDANT, codes("SB001"), widths={"0": (4, 8)}
    ),
    Case(
        "joint swap over two layers",
        lambda: joint_swap(broken=False),
        regression(6),
        mse,
        {"*": 1},
        REDUNDANT,
        codes("SB001"),
        widths={"0": (4, 8), "2": (4, 8)},
    ),
    Case(
        "joint swap with one entry changed",
        lambda: joint_swap(broken=True),
        regression(6),
        mse,
        {"*": 1},
        absent=codes("SB001"),
        widths={"0": (8, 8), "2": (8, 8)},
    ),
    Case("sign mirror, tanh", lambda: paired(mirror), regression(6), mse, {"*": 1}, REDUNDANT, codes("SB001")),
    *(
        Case(
            f"sign mirror, {activation.__name__}",
            partial(paired, mirror, activation),
            regression(6),
            mse,
            {"*": 1},
            absent=SEPARATES,
            widths={"0": (8, 8)},
        )
        for activation in (nn.Sigmoid, nn.Softplus, nn.GELU, nn.ReLU)
    ),
    Case(
        "ReLU rescaled copies",
        lambda: paired(rescale, nn.ReLU),
        regression(6),
        mse,
        {"*": 1},
        absent=codes("SB001"),
        widths={"0": (8, 8)},
    ),
    Case(
        "near copies, 1e-6 apart",
        lambda: paired(near(1e-6)),
        regression(6),
        mse,
        {"*": 1},
        DEGRADED,
        codes("SB006"),
        codes("SB001"),
        widths={"0": (8, 8)},
    ),
    Case(
        "near copies, 1e-2 apart",
        lambda: paired(near(1e-2)),
        regression(6),
        mse,
        {"*": 1},
        absent=SEPARATES,
        widths={"0": (8, 8)},
    ),
)

# ---------------------------------------------------------------- fans


def fan_out_mlp(*sizes: int) -> nn.Module:
    model = mlp(*sizes, activation=nn.ReLU)
    for layer in linears(model):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out")
        nn.init.zeros_(layer.bias)
    return model


class Branches(nn.Module):
    """Four layers from 32 to 8 side by side, as in Inception: each fan is skewed, that of their concatenation is not.

    In a plain chain the skews cancel to sqrt(inputs / outputs) of the whole net, so no depth makes them grow.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(32, 8) for _ in range(4))
        for layer in linears(self):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([layer(x) for layer in self.layers], dim=-1)


def skewed_stack(*, norm: bool) -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(8):
        layers += [Branches(), *([nn.LayerNorm(32)] if norm else []), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(32, 2))


FANS = (
    Case(
        "wrong fan, skewed and deep",
        lambda: skewed_stack(norm=False),
        regression(32),
        mse,
        {"*": 1},
        DEGRADED,
        codes("SB201|SB203|SB207"),
        codes("SB101"),
    ),
    Case(
        "wrong fan, square layers",
        lambda: fan_out_mlp(16, 16, 16, 16, 16),
        regression(16, 16),
        mse,
        {"*": 1},
        absent=codes("SB407"),
    ),
    Case(
        "wrong fan, norms behind",
        lambda: skewed_stack(norm=True),
        regression(32),
        mse,
        {"*": 1},
        TRAINS,
        absent=codes("SB101", "SB201", "SB203"),
    ),
)

# ---------------------------------------------------------------- zero router


def zero_router(*, top: int | None, equal: bool) -> nn.Module:
    model = Mixture(6, 2, top=top)
    if equal:
        model.upcycle_()
    zero_(model.router)
    return model


ROUTERS = (
    Case(
        "zero router, distinct experts",
        lambda: zero_router(top=None, equal=False),
        regression(6),
        mse,
        {"*": 1},
        absent=codes("SB003", "SB103"),
    ),
    Case(
        "zero router, top-1 ties broken by index",
        lambda: zero_router(top=1, equal=True),
        regression(6),
        mse,
        {},  # which expert the tie favours is torch's choice
        TRAINS,
        absent=codes("SB003"),
        tied={"experts.*.0.weight": 0},
    ),
    Case(
        # The tie always picks two experts of four together, and leaves the other two together: two pairs of copies.
        "zero router, top-2 of four: ties broken pair by pair",
        lambda: zero_router(top=2, equal=True),
        regression(6),
        mse,
        {},
        REDUNDANT,
        codes("SB003"),
        tied={"experts.*.0.weight": 4},
    ),
)

CASES = (*ZEROS, *TIES, *FANS, *ROUTERS)
