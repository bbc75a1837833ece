"""Wake-up: SB101 never-wakes to SB106 unseen-rows."""

from __future__ import annotations

from .example import Pair, Start, seeded


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


EXAMPLES: dict[str, Pair] = {
    "SB101": (never_wakes_fires, never_wakes_silent),
    "SB102": (dead_units_fires, dead_units_silent),
    "SB103": (late_waker_fires, late_waker_silent),
    "SB104": (unused_parameter_fires, unused_parameter_silent),
    "SB105": (shadowed_bias_fires, shadowed_bias_silent),
    "SB106": (unseen_rows_fires, unseen_rows_silent),
}
