"""The batch: SB301 unnormalised-input to SB304 target-out-of-range."""

from __future__ import annotations

from .example import Pair, Start, seeded


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


EXAMPLES: dict[str, Pair] = {
    "SB301": (unnormalised_input_fires, unnormalised_input_silent),
    "SB302": (constant_feature_fires, constant_feature_silent),
    "SB303": (output_bias_off_prior_fires, output_bias_off_prior_silent),
    "SB304": (target_out_of_range_fires, target_out_of_range_silent),
}
