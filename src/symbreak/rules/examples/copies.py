"""Copies: SB001 tied-units to SB007 separating-copies."""

from __future__ import annotations

from .example import Pair, Start, seeded


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


EXAMPLES: dict[str, Pair] = {
    "SB001": (tied_units_fires, tied_units_silent),
    "SB002": (tied_heads_fires, tied_heads_silent),
    "SB003": (tied_experts_fires, tied_experts_silent),
    "SB004": (tied_tokens_fires, tied_tokens_silent),
    "SB005": (tied_networks_fires, tied_networks_silent),
    "SB006": (nearly_tied_fires, nearly_tied_silent),
    "SB007": (separating_copies_fires, separating_copies_silent),
}
