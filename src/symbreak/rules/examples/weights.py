"""The values: SB404 non-finite to SB407 wrong-fan, and SB901 not-checked."""

from __future__ import annotations

from .example import Pair, Start, seeded


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


EXAMPLES: dict[str, Pair] = {
    "SB404": (non_finite_fires, non_finite_silent),
    "SB405": (identical_draws_fires, identical_draws_silent),
    "SB406": (depth_copies_fires, depth_copies_silent),
    "SB407": (wrong_fan_fires, wrong_fan_silent),
    "SB901": (not_checked_fires, not_checked_silent),
}
