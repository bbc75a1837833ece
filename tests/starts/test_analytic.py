"""Propagated moments against measured ones, over many draws: means over seeds, because one draw is one network."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import symbreak as sb
from symbreak.schemes import gains, places_of
from symbreak.starts.analytic import propagate
from symbreak.starts.facts import facts_of, refined
from symbreak.starts.flow import record
from symbreak.starts.session import within


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mlp(phi: Callable[[], nn.Module], depth: int = 12, width: int = 128) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(20, width)]
    for _ in range(depth - 2):
        layers += [phi(), nn.Linear(width, width)]
    return nn.Sequential(*layers, phi(), nn.Linear(width, 10))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(20, 128), nn.Linear(128, 10)
        self.a = nn.ModuleList(nn.Linear(128, 128) for _ in range(6))
        self.b = nn.ModuleList(nn.Linear(128, 128) for _ in range(6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for a, b in zip(self.a, self.b, strict=True):
            x = x + b(F.gelu(a(x)))
        out: Tensor = self.head(x)
        return out


class Dense(nn.Module):
    """Concatenation of sigmoids."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(20 + 100 * i, 100) for i in range(6))
        self.head = nn.Linear(620, 10)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, torch.sigmoid(layer(x))], -1)
        out: Tensor = self.head(x)
        return out


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(20 if i == 0 else 128, 256) for i in range(6))
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            value, gate = layer(x).chunk(2, -1)
            x = value * torch.sigmoid(gate)
        out: Tensor = self.head(x)
        return out


class Normed(nn.Module):
    """Attention, a norm, a mean over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix = nn.Linear(20, 64), nn.MultiheadAttention(64, 4, batch_first=True)
        self.norm, self.up, self.down = nn.LayerNorm(64), nn.Linear(64, 256), nn.Linear(256, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.norm(x + self.mix(x, x, x, need_weights=False)[0])
        x = x + self.down(F.silu(self.up(x)))
        out: Tensor = self.head(torch.relu(x).mean(1))
        return out


def convolutional(pool: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 48, 3, padding=1), nn.ReLU(), pool,
        nn.Conv2d(48, 96, 3, padding=1, groups=2), nn.Hardswish(), pool,
        nn.Conv2d(96, 96, 3, padding=1), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 64), nn.ReLU(),
        nn.Linear(64, 10),
    )  # fmt: skip


ROWS, SEQUENCES, IMAGES = (torch.randn(*s, generator=generator()) for s in ((64, 20), (16, 12, 20), (16, 3, 24, 24)))
CASES: dict[str, tuple[Callable[[], nn.Module], Tensor, float]] = {
    **{
        name: (lambda phi=phi: mlp(phi), ROWS, 0.25)  # type: ignore[misc]
        for name, phi in {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "softplus": nn.Softplus,
                          "elu": nn.ELU, "leaky": lambda: nn.LeakyReLU(0.3)}.items()
    },
    "residual": (Residual, ROWS, 0.2),
    "concatenation": (Dense, ROWS, 0.2),
    "gated": (Gated, ROWS, 0.25),
    "attention and norm": (Normed, SEQUENCES, 0.25),
    "convolutions, max pool": (lambda: convolutional(nn.MaxPool2d(2)), IMAGES, 0.35),
    "convolutions, mean pool": (lambda: convolutional(nn.AvgPool2d(2)), IMAGES, 0.35),
}  # fmt: skip


def second_moments(model: nn.Module, x: Tensor) -> dict[str, float]:
    """Layer -> mean square of its output, by hooks."""
    found: dict[str, float] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, out: Any) -> None:
            found[name] = float((out[0] if isinstance(out, tuple) else out).square().mean())

        return hook

    kinds = (nn.Linear, nn.Conv2d, nn.MultiheadAttention)
    hooks = [m.register_forward_hook(keep(n)) for n, m in model.named_modules() if type(m) in kinds]
    with torch.no_grad():
        model(x)
    for handle in hooks:
        handle.remove()
    return found


@pytest.mark.parametrize("name", CASES)
def test_every_layers_output_has_second_moment_one(name: str) -> None:
    build, x, tolerance = CASES[name]
    seeds = 10
    total: dict[str, float] = {}
    for seed in range(seeds):
        model = build()
        sb.init_(model, "analytic", x, generator=generator(seed))
        for layer, size in second_moments(model, x).items():
            total[layer] = total.get(layer, 0.0) + size / seeds
    assert max(abs(math.log(size)) for size in total.values()) < tolerance + 0.05, total


def test_torchs_default_is_far_from_it() -> None:
    """The control: what the test above would see without the scheme."""
    torch.manual_seed(0)
    assert min(second_moments(mlp(nn.ReLU), ROWS).values()) < 0.05


def test_another_variance_may_be_asked_for() -> None:
    model = mlp(nn.Tanh, depth=4, width=512)
    sb.init_(model, "analytic(variance=0.25)", ROWS, generator=generator())
    sizes = second_moments(model, ROWS)
    assert all(size == pytest.approx(0.25, rel=0.3) for size in sizes.values()), sizes


def test_behind_an_activation_the_gain_is_the_quadratures() -> None:
    for name, phi in (("relu", nn.ReLU), ("gelu", nn.GELU), ("softplus", nn.Softplus), ("mish", nn.Mish)):
        model = mlp(phi, depth=4, width=8)
        start = sb.init_(model, "analytic", ROWS, generator=generator())
        told = float(repr(start["2.weight"].scheme).partition("gain=")[2].rstrip(")"))
        assert told == pytest.approx(gains(name).forward, rel=1e-3)


def test_the_largest_of_several_is_integrated_not_guessed() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv1d(1, 4, 1, bias=False), nn.Conv1d(4, 2, 1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.b(F.max_pool1d(torch.relu(self.a(x)), 4))
            return out

    model, x = Net(), torch.randn(64, 1, 400, generator=generator())
    flow = within(model, x, None, record)
    places = refined(places_of(model), facts_of(flow))
    found = propagate(flow, places, dict(model.named_parameters()), ["a.weight", "b.weight"])
    z = torch.randn(400_000, 4, generator=generator(1), dtype=torch.float64)
    wanted = float(z.relu().amax(1).square().mean())
    assert found.sizes["b.weight"].second == pytest.approx(wanted, rel=0.02)


def test_padding_is_counted() -> None:
    model = nn.Sequential(nn.Conv2d(64, 200, 3, padding=1), nn.Flatten(), nn.Linear(800, 3))
    x = torch.randn(64, 64, 2, 2, generator=generator())
    sb.init_(model, "analytic", x, generator=generator())
    assert second_moments(model, x)["0"] == pytest.approx(1, rel=0.05)
    sb.init_(model, "lecun_normal", generator=generator())
    assert second_moments(model, x)["0"] < 0.6  # five of nine taps fall on zeros


def test_kept_and_frozen_weights_count_as_they_are() -> None:
    model = mlp(nn.ReLU, depth=3, width=256)
    with torch.no_grad():
        model[0].weight.mul_(10)
    model[0].requires_grad_(False)
    sb.init_(model, "analytic", ROWS, generator=generator())
    sizes = second_moments(model, ROWS)
    assert sizes["0"] > 20
    assert sizes["2"] == pytest.approx(1, rel=0.3)


def test_a_model_that_cannot_be_run_without_a_batch() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            out: Tensor = self.a(x + y)
            return out

    with pytest.raises(sb.SymbreakError, match="needs the model's graph, and no batch could be made up"):
        sb.init_(Two(), "analytic")
    sb.init_(Two(), "analytic", ((torch.randn(3, 4), torch.randn(3, 4)), None))
