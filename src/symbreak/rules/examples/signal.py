"""Signal: SB201 exploding-forward to SB208 input-collapse."""

from __future__ import annotations

from .example import Pair, Start, seeded


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


EXAMPLES: dict[str, Pair] = {
    "SB201": (exploding_forward_fires, exploding_forward_silent),
    "SB202": (vanishing_forward_fires, vanishing_forward_silent),
    "SB203": (exploding_forward_fires, exploding_forward_silent),
    "SB204": (vanishing_gradient_fires, vanishing_gradient_silent),
    "SB205": (saturated_units_fires, saturated_units_silent),
    "SB206": (purely_linear_fires, purely_linear_silent),
    "SB207": (update_ratio_fires, update_ratio_silent),
    "SB208": (input_collapse_fires, input_collapse_silent),
}
