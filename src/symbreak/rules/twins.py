"""The smallest model where each rule fires, and the same model repaired, where it is silent.

Each function returns what `check` takes: (model, batch, loss). The rules' pages print their source and the tests run
them. torch is imported inside them, so that importing the rules does not.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    Start = tuple[nn.Module, Any, Callable[..., Any] | None]
    Twin = Callable[[], Start]


def seeded(build: Twin) -> Twin:
    """Build from seed 0 and leave the caller's random numbers as they were."""

    @functools.wraps(build)
    def twin() -> Start:
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return build()

    return twin


# ---- copies ----------------------------------------------------------------------------------------------------


@seeded
def tied_units_fires() -> Start:
    """Four hidden units with equal weights in and equal weights out."""
    import torch
    from torch import nn

    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    for p in net.parameters():
        nn.init.constant_(p, 0.5)
    return net, torch.randn(16, 3), None


@seeded
def tied_units_silent() -> Start:
    """The same network, its weight matrices drawn at random; the biases may stay equal."""
    import torch
    from torch import nn

    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    for p in net.parameters():
        nn.init.xavier_normal_(p) if p.dim() == 2 else nn.init.constant_(p, 0.5)
    return net, torch.randn(16, 3), None


@seeded
def tied_heads_fires() -> Start:
    """Two attention heads with equal queries, keys and values, and equal slices of the output projection."""
    import torch
    from torch import nn

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.num_heads = 2
            self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = (f(x).unflatten(-1, (2, 4)).transpose(1, 2) for f in (self.q, self.k, self.v))
            heads = nn.functional.scaled_dot_product_attention(q, k, v)
            out: torch.Tensor = self.o(heads.transpose(1, 2).flatten(2))
            return out

    net = Attention()
    with torch.no_grad():
        for f in (net.q, net.k, net.v):
            f.weight[4:], f.bias[4:] = f.weight[:4].clone(), f.bias[:4].clone()
        net.o.weight[:, 4:] = net.o.weight[:, :4].clone()
    return net, torch.randn(4, 5, 8), None


@seeded
def tied_heads_silent() -> Start:
    """The same attention with an output projection that tells the heads apart."""
    import torch
    from torch import nn

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.num_heads = 2
            self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = (f(x).unflatten(-1, (2, 4)).transpose(1, 2) for f in (self.q, self.k, self.v))
            heads = nn.functional.scaled_dot_product_attention(q, k, v)
            out: torch.Tensor = self.o(heads.transpose(1, 2).flatten(2))
            return out

    net = Attention()
    with torch.no_grad():
        for f in (net.q, net.k, net.v):
            f.weight[4:], f.bias[4:] = f.weight[:4].clone(), f.bias[:4].clone()
    return net, torch.randn(4, 5, 8), None


@seeded
def tied_experts_fires() -> Start:
    """Three copied experts under a soft router that starts at zero."""
    import copy

    import torch
    from torch import nn

    class Mixture(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.router = nn.Linear(4, 3, bias=False)
            expert = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
            self.experts = nn.ModuleList(copy.deepcopy(expert) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            gates = self.router(x).softmax(-1)
            return torch.einsum("be,ebo->bo", gates, torch.stack([f(x) for f in self.experts]))

    net = Mixture()
    nn.init.zeros_(net.router.weight)
    return net, torch.randn(16, 4), None


@seeded
def tied_experts_silent() -> Start:
    """The same experts, still copies, under a random router: they separate at the first step."""
    import copy

    import torch
    from torch import nn

    class Mixture(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.router = nn.Linear(4, 3, bias=False)
            expert = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
            self.experts = nn.ModuleList(copy.deepcopy(expert) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            gates = self.router(x).softmax(-1)
            return torch.einsum("be,ebo->bo", gates, torch.stack([f(x) for f in self.experts]))

    net = Mixture()
    nn.init.normal_(net.router.weight)
    return net, torch.randn(16, 4), None


@seeded
def tied_tokens_fires() -> Start:
    """Four register tokens, all zero, in front of a sequence that attention mixes."""
    import torch
    from torch import nn

    class Registers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.registers = nn.Parameter(torch.zeros(1, 4, 8))
            self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            tokens = torch.cat([self.registers.expand(len(x), -1, -1), x], 1)
            out: torch.Tensor = self.head(self.attention(tokens, tokens, tokens)[0].mean(1))
            return out

    return Registers(), torch.randn(8, 5, 8), None


@seeded
def tied_tokens_silent() -> Start:
    """The same tokens, drawn at random."""
    import torch
    from torch import nn

    class Registers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.registers = nn.Parameter(torch.randn(1, 4, 8))
            self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            tokens = torch.cat([self.registers.expand(len(x), -1, -1), x], 1)
            out: torch.Tensor = self.head(self.attention(tokens, tokens, tokens)[0].mean(1))
            return out

    return Registers(), torch.randn(8, 5, 8), None


@seeded
def tied_networks_fires() -> Start:
    """Twin critics, each made from the same seed, trained towards the same target."""
    import torch
    from torch import nn

    class Twins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.first = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
            torch.manual_seed(1)
            self.second = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([self.first(x), self.second(x)], 1)

    return Twins(), (torch.randn(16, 3), torch.randn(16, 1).expand(16, 2)), nn.functional.mse_loss


@seeded
def tied_networks_silent() -> Start:
    """The same critics, drawn one after the other from one generator."""
    import torch
    from torch import nn

    class Twins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.first = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
            self.second = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([self.first(x), self.second(x)], 1)

    return Twins(), (torch.randn(16, 3), torch.randn(16, 1).expand(16, 2)), nn.functional.mse_loss


@seeded
def nearly_tied_fires() -> Start:
    """Units 0 and 1 a millionth of their size apart, weights in and weights out."""
    import torch
    from torch import nn

    distance = 1e-6
    hidden, head = nn.Linear(3, 6, bias=False), nn.Linear(6, 2)
    net = nn.Sequential(hidden, nn.Tanh(), head)
    with torch.no_grad():
        hidden.weight[1] = hidden.weight[0] * (1 + distance)
        head.weight[:, 1] = head.weight[:, 0] * (1 + distance)
    return net, torch.randn(16, 3), None


@seeded
def nearly_tied_silent() -> Start:
    """The same units half their size apart."""
    import torch
    from torch import nn

    distance = 0.5
    hidden, head = nn.Linear(3, 6, bias=False), nn.Linear(6, 2)
    net = nn.Sequential(hidden, nn.Tanh(), head)
    with torch.no_grad():
        hidden.weight[1] = hidden.weight[0] * (1 + distance)
        head.weight[:, 1] = head.weight[:, 0] * (1 + distance)
    return net, torch.randn(16, 3), None


@seeded
def separating_copies_fires() -> Start:
    """Equal weights in, random weights out."""
    import torch
    from torch import nn

    hidden = nn.Linear(3, 4)
    net = nn.Sequential(hidden, nn.Tanh(), nn.Linear(4, 2))
    nn.init.constant_(hidden.weight, 0.5)
    nn.init.zeros_(hidden.bias)
    return net, torch.randn(16, 3), None


@seeded
def separating_copies_silent() -> Start:
    """Random weights in, too."""
    import torch
    from torch import nn

    hidden = nn.Linear(3, 4)
    net = nn.Sequential(hidden, nn.Tanh(), nn.Linear(4, 2))
    nn.init.xavier_normal_(hidden.weight)
    nn.init.zeros_(hidden.bias)
    return net, torch.randn(16, 3), None


# ---- wake-up ---------------------------------------------------------------------------------------------------


@seeded
def never_wakes_fires() -> Start:
    """Two factors of one product, both zero."""
    import torch
    from torch import nn

    first, second = nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False)
    nn.init.zeros_(first.weight)
    nn.init.zeros_(second.weight)
    return nn.Sequential(first, second), torch.randn(16, 3), None


@seeded
def never_wakes_silent() -> Start:
    """One of the two is zero, as in LoRA: it learns at the first step, the other at the second."""
    import torch
    from torch import nn

    first, second = nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False)
    nn.init.zeros_(second.weight)
    return nn.Sequential(first, second), torch.randn(16, 3), None


@seeded
def dead_units_fires() -> Start:
    """A ReLU layer whose bias holds every unit below zero."""
    import torch
    from torch import nn

    hidden = nn.Linear(3, 8)
    net = nn.Sequential(hidden, nn.ReLU(), nn.Linear(8, 2))
    nn.init.constant_(hidden.bias, -100.0)
    return net, torch.randn(64, 3), None


@seeded
def dead_units_silent() -> Start:
    """The same layer with the bias at zero."""
    import torch
    from torch import nn

    hidden = nn.Linear(3, 8)
    net = nn.Sequential(hidden, nn.ReLU(), nn.Linear(8, 2))
    nn.init.zeros_(hidden.bias)
    return net, torch.randn(64, 3), None


@seeded
def late_waker_fires() -> Start:
    """A zero head: nothing comes back through it until it has moved."""
    import torch
    from torch import nn

    head = nn.Linear(4, 2)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), head)
    nn.init.zeros_(head.weight)
    return net, torch.randn(16, 3), None


@seeded
def late_waker_silent() -> Start:
    """A small random head: everything learns at the first step."""
    import torch
    from torch import nn

    head = nn.Linear(4, 2)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), head)
    nn.init.normal_(head.weight, std=0.1)
    return net, torch.randn(16, 3), None


@seeded
def unused_parameter_fires() -> Start:
    """An auxiliary head that forward does not call."""
    import torch
    from torch import nn

    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head, self.auxiliary = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = self.body(x).tanh()
            out: torch.Tensor = self.head(hidden)
            return out

    return TwoHeads(), torch.randn(16, 3), None


@seeded
def unused_parameter_silent() -> Start:
    """The same two heads, both returned."""
    import torch
    from torch import nn

    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head, self.auxiliary = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 1)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            hidden = self.body(x).tanh()
            return self.head(hidden), self.auxiliary(hidden)

    return TwoHeads(), torch.randn(16, 3), None


@seeded
def shadowed_bias_fires() -> Start:
    """A bias in front of a batch normalisation, which subtracts it again."""
    import torch
    from torch import nn

    net = nn.Sequential(nn.Linear(3, 4, bias=True), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2))
    return net, torch.randn(16, 3), None


@seeded
def shadowed_bias_silent() -> Start:
    """The bias left out."""
    import torch
    from torch import nn

    net = nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2))
    return net, torch.randn(16, 3), None


@seeded
def unseen_rows_fires() -> Start:
    """A vocabulary of ten and a batch that holds five of its tokens."""
    import torch
    from torch import nn

    net = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(12, 2))
    return net, torch.arange(5).repeat(6).reshape(10, 3), None


@seeded
def unseen_rows_silent() -> Start:
    """A batch that holds all ten."""
    import torch
    from torch import nn

    net = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(12, 2))
    return net, torch.arange(10).repeat(3).reshape(10, 3), None


# ---- signal ----------------------------------------------------------------------------------------------------


@seeded
def exploding_forward_fires() -> Start:
    """Six ReLU layers with weights ten times too large."""
    import torch
    from torch import nn

    net = nn.Sequential(*(m for _ in range(6) for m in (nn.Linear(16, 16, bias=False), nn.ReLU())), nn.Linear(16, 2))
    for p in net[:-1].parameters():
        nn.init.normal_(p, std=10 * (2 / 16) ** 0.5)
    return net, torch.randn(32, 16), None


@seeded
def exploding_forward_silent() -> Start:
    """The same layers with He's standard deviation, sqrt(2 / fan_in)."""
    import torch
    from torch import nn

    net = nn.Sequential(*(m for _ in range(6) for m in (nn.Linear(16, 16, bias=False), nn.ReLU())), nn.Linear(16, 2))
    for p in net[:-1].parameters():
        nn.init.normal_(p, std=(2 / 16) ** 0.5)
    return net, torch.randn(32, 16), None


@seeded
def vanishing_forward_fires() -> Start:
    """Six ReLU layers with weights ten times too small."""
    import torch
    from torch import nn

    net = nn.Sequential(*(m for _ in range(6) for m in (nn.Linear(16, 16, bias=False), nn.ReLU())), nn.Linear(16, 2))
    for p in net[:-1].parameters():
        nn.init.normal_(p, std=0.1 * (2 / 16) ** 0.5)
    return net, torch.randn(32, 16), None


@seeded
def vanishing_forward_silent() -> Start:
    """The same layers with He's standard deviation, sqrt(2 / fan_in)."""
    import torch
    from torch import nn

    net = nn.Sequential(*(m for _ in range(6) for m in (nn.Linear(16, 16, bias=False), nn.ReLU())), nn.Linear(16, 2))
    for p in net[:-1].parameters():
        nn.init.normal_(p, std=(2 / 16) ** 0.5)
    return net, torch.randn(32, 16), None


@seeded
def vanishing_gradient_fires() -> Start:
    """Eight sigmoid layers: each passes on a quarter of the back-signal, or less."""
    import torch
    from torch import nn

    net = nn.Sequential(*(m for _ in range(8) for m in (nn.Linear(16, 16), nn.Sigmoid())), nn.Linear(16, 2))
    for p in net.parameters():
        nn.init.xavier_normal_(p) if p.dim() == 2 else nn.init.zeros_(p)
    return net, torch.randn(32, 16), None


@seeded
def vanishing_gradient_silent() -> Start:
    """The same weights, four times as large, which is the sigmoid's gain."""
    import torch
    from torch import nn

    net = nn.Sequential(*(m for _ in range(8) for m in (nn.Linear(16, 16), nn.Sigmoid())), nn.Linear(16, 2))
    for p in net.parameters():
        nn.init.xavier_normal_(p, gain=4) if p.dim() == 2 else nn.init.zeros_(p)
    return net, torch.randn(32, 16), None


@seeded
def saturated_units_fires() -> Start:
    """Tanh units with a bias of 20."""
    import torch
    from torch import nn

    hidden = nn.Linear(3, 8)
    net = nn.Sequential(hidden, nn.Tanh(), nn.Linear(8, 2))
    nn.init.constant_(hidden.bias, 20.0)
    return net, torch.randn(64, 3), None


@seeded
def saturated_units_silent() -> Start:
    """The same units with their bias at zero."""
    import torch
    from torch import nn

    hidden = nn.Linear(3, 8)
    net = nn.Sequential(hidden, nn.Tanh(), nn.Linear(8, 2))
    nn.init.zeros_(hidden.bias)
    return net, torch.randn(64, 3), None


@seeded
def purely_linear_fires() -> Start:
    """Tanh units that see inputs of about a hundredth, where tanh is the identity."""
    import torch
    from torch import nn

    net = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 2))
    for p in net.parameters():
        nn.init.normal_(p, std=0.0025) if p.dim() == 2 else nn.init.zeros_(p)
    return net, torch.randn(64, 16), None


@seeded
def purely_linear_silent() -> Start:
    """The same units with weights that keep the input's scale."""
    import torch
    from torch import nn

    net = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 2))
    for p in net.parameters():
        nn.init.normal_(p, std=0.25) if p.dim() == 2 else nn.init.zeros_(p)
    return net, torch.randn(64, 16), None


@seeded
def update_ratio_fires() -> Start:
    """Weights of a ten-thousandth under a gradient of about one."""
    import torch
    from torch import nn

    net = nn.Linear(8, 1)
    nn.init.normal_(net.weight, std=1e-4)
    x = torch.randn(64, 8)
    return net, (x, 2 * x.sum(1, keepdim=True)), nn.functional.mse_loss


@seeded
def update_ratio_silent() -> Start:
    """Weights of the usual size, 1 / sqrt(fan_in)."""
    import torch
    from torch import nn

    net = nn.Linear(8, 1)
    nn.init.normal_(net.weight, std=8**-0.5)
    x = torch.randn(64, 8)
    return net, (x, 2 * x.sum(1, keepdim=True)), nn.functional.mse_loss


@seeded
def input_collapse_fires() -> Start:
    """Small weights and large biases: after six layers the output is the bias, whatever the input."""
    import torch
    from torch import nn

    net = nn.Sequential(*(m for _ in range(6) for m in (nn.Linear(16, 16), nn.Tanh())), nn.Linear(16, 2))
    for p in net.parameters():
        nn.init.normal_(p, std=0.05 if p.dim() == 2 else 0.5)
    return net, torch.randn(64, 16), None


@seeded
def input_collapse_silent() -> Start:
    """The same layers with weights of 1 / sqrt(fan_in) and small biases."""
    import torch
    from torch import nn

    net = nn.Sequential(*(m for _ in range(6) for m in (nn.Linear(16, 16), nn.Tanh())), nn.Linear(16, 2))
    for p in net.parameters():
        nn.init.normal_(p, std=0.25 if p.dim() == 2 else 0.05)
    return net, torch.randn(64, 16), None


# ---- the batch -------------------------------------------------------------------------------------------------


@seeded
def unnormalised_input_fires() -> Start:
    """Pixels from 0 to 255."""
    import torch
    from torch import nn

    net = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
    x = torch.rand(64, 16) * 255
    return net, x, None


@seeded
def unnormalised_input_silent() -> Start:
    """The same pixels, standardised."""
    import torch
    from torch import nn

    net = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
    x = torch.rand(64, 16) * 255
    return net, (x - x.mean(0)) / x.std(0), None


@seeded
def constant_feature_fires() -> Start:
    """A column that is 1 in every row."""
    import torch
    from torch import nn

    x = torch.randn(32, 4)
    x[:, 2] = 1.0
    return nn.Linear(4, 2), x, None


@seeded
def constant_feature_silent() -> Start:
    """The same column, measured."""
    import torch
    from torch import nn

    x = torch.randn(32, 4)
    return nn.Linear(4, 2), x, None


@seeded
def output_bias_off_prior_fires() -> Start:
    """A classifier that is sure of class 0 while the labels are even."""
    import torch
    from torch import nn

    net = nn.Linear(4, 3)
    with torch.no_grad():
        net.bias.copy_(torch.tensor([10.0, 0.0, 0.0]))
    return net, (torch.randn(60, 4), torch.arange(60) % 3), nn.functional.cross_entropy


@seeded
def output_bias_off_prior_silent() -> Start:
    """The same classifier, its bias the log of the class frequencies."""
    import torch
    from torch import nn

    net = nn.Linear(4, 3)
    with torch.no_grad():
        net.bias.copy_(torch.tensor([1 / 3, 1 / 3, 1 / 3]).log())
    return net, (torch.randn(60, 4), torch.arange(60) % 3), nn.functional.cross_entropy


@seeded
def target_out_of_range_fires() -> Start:
    """A sigmoid output and targets up to 5."""
    import torch
    from torch import nn

    net = nn.Sequential(nn.Linear(4, 1), nn.Sigmoid())
    return net, (torch.randn(32, 4), 5 * torch.rand(32, 1)), nn.functional.mse_loss


@seeded
def target_out_of_range_silent() -> Start:
    """The same output, the targets rescaled into its range."""
    import torch
    from torch import nn

    net = nn.Sequential(nn.Linear(4, 1), nn.Sigmoid())
    return net, (torch.randn(32, 4), 5 * torch.rand(32, 1) / 5), nn.functional.mse_loss


# ---- the values ------------------------------------------------------------------------------------------------


@seeded
def non_finite_fires() -> Start:
    """One weight that is not a number."""
    import torch
    from torch import nn

    net = nn.Linear(4, 2)
    with torch.no_grad():
        net.weight[0, 0] = float("nan")
    return net, torch.randn(16, 4), None


@seeded
def non_finite_silent() -> Start:
    """The same weight, written."""
    import torch
    from torch import nn

    net = nn.Linear(4, 2)
    with torch.no_grad():
        net.weight[0, 0] = 0.1
    return net, torch.randn(16, 4), None


@seeded
def identical_draws_fires() -> Start:
    """Two layers, each drawn right after the same seed was set."""
    import torch
    from torch import nn

    first, second = nn.Linear(8, 8), nn.Linear(8, 8)
    net = nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), nn.Linear(8, 2))
    for layer in (first, second):
        torch.manual_seed(42)
        nn.init.xavier_normal_(layer.weight)
    return net, torch.randn(16, 8), None


@seeded
def identical_draws_silent() -> Start:
    """The same layers, drawn one after the other."""
    import torch
    from torch import nn

    first, second = nn.Linear(8, 8), nn.Linear(8, 8)
    net = nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), nn.Linear(8, 2))
    torch.manual_seed(42)
    for layer in (first, second):
        nn.init.xavier_normal_(layer.weight)
    return net, torch.randn(16, 8), None


@seeded
def depth_copies_fires() -> Start:
    """Three blocks, deep-copied from one."""
    import copy

    import torch
    from torch import nn

    block = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
    net = nn.Sequential(*(copy.deepcopy(block) for _ in range(3)), nn.Linear(8, 2))
    return net, torch.randn(16, 8), None


@seeded
def depth_copies_silent() -> Start:
    """Three blocks, each with a draw of its own."""
    import torch
    from torch import nn

    net = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(3)), nn.Linear(8, 2))
    return net, torch.randn(16, 8), None


@seeded
def wrong_fan_fires() -> Start:
    """Depthwise convolutions, each filter reading one channel, scaled as if it fed all 32 of them."""
    import torch
    from torch import nn

    layers = [nn.Conv2d(32, 32, 3, padding=1, groups=32) for _ in range(4)]
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, mode="fan_out")
    net = nn.Sequential(*(m for layer in layers for m in (layer, nn.ReLU())))
    return net, torch.randn(8, 32, 6, 6), None


@seeded
def wrong_fan_silent() -> Start:
    """The same convolutions, scaled by the nine numbers that each filter reads."""
    import torch
    from torch import nn

    layers = [nn.Conv2d(32, 32, 3, padding=1, groups=32) for _ in range(4)]
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, mode="fan_in")
    net = nn.Sequential(*(m for layer in layers for m in (layer, nn.ReLU())))
    return net, torch.randn(8, 32, 6, 6), None


@seeded
def not_checked_fires() -> Start:
    """A forward that takes float32 only, as hand-written kernels do."""
    import torch
    from torch import nn

    class Kernel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.dtype != torch.float32:
                raise TypeError(f"this kernel takes float32, not {x.dtype}")
            out: torch.Tensor = self.layer(x)
            return out

    return Kernel(), torch.randn(16, 4), None


@seeded
def not_checked_silent() -> Start:
    """The same forward, which takes the precision it is given."""
    import torch
    from torch import nn

    class Kernel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.layer(x)
            return out

    return Kernel(), torch.randn(16, 4), None


TWINS: dict[str, tuple[Twin, Twin]] = {
    "SB001": (tied_units_fires, tied_units_silent),
    "SB002": (tied_heads_fires, tied_heads_silent),
    "SB003": (tied_experts_fires, tied_experts_silent),
    "SB004": (tied_tokens_fires, tied_tokens_silent),
    "SB005": (tied_networks_fires, tied_networks_silent),
    "SB006": (nearly_tied_fires, nearly_tied_silent),
    "SB007": (separating_copies_fires, separating_copies_silent),
    "SB101": (never_wakes_fires, never_wakes_silent),
    "SB102": (dead_units_fires, dead_units_silent),
    "SB103": (late_waker_fires, late_waker_silent),
    "SB104": (unused_parameter_fires, unused_parameter_silent),
    "SB105": (shadowed_bias_fires, shadowed_bias_silent),
    "SB106": (unseen_rows_fires, unseen_rows_silent),
    "SB201": (exploding_forward_fires, exploding_forward_silent),
    "SB202": (vanishing_forward_fires, vanishing_forward_silent),
    "SB203": (exploding_forward_fires, exploding_forward_silent),
    "SB204": (vanishing_gradient_fires, vanishing_gradient_silent),
    "SB205": (saturated_units_fires, saturated_units_silent),
    "SB206": (purely_linear_fires, purely_linear_silent),
    "SB207": (update_ratio_fires, update_ratio_silent),
    "SB208": (input_collapse_fires, input_collapse_silent),
    "SB301": (unnormalised_input_fires, unnormalised_input_silent),
    "SB302": (constant_feature_fires, constant_feature_silent),
    "SB303": (output_bias_off_prior_fires, output_bias_off_prior_silent),
    "SB304": (target_out_of_range_fires, target_out_of_range_silent),
    "SB404": (non_finite_fires, non_finite_silent),
    "SB405": (identical_draws_fires, identical_draws_silent),
    "SB406": (depth_copies_fires, depth_copies_silent),
    "SB407": (wrong_fan_fires, wrong_fan_silent),
    "SB901": (not_checked_fires, not_checked_silent),
}
"""Rule code -> (where it fires, the same repaired)."""
