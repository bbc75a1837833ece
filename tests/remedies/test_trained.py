"""What looks trained is changed only when asked; a fresh draw of a usual law hardly ever looks trained."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import symbreak as sb
from symbreak.remedies.trained import looks_trained
from symbreak.schemes import CATALOGUE

SHAPES = [(64, 64), (128, 48), (512, 64), (32, 16, 3, 3), (10, 200)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["normal", "kaiming_normal", "kaiming_uniform", "torch_default", "xavier_uniform"])
def test_fresh_draws(name: str, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(1)
    said = [looks_trained(CATALOGUE[name]().draw(shape, generator=generator)) for _ in range(8)]
    assert sum(reason is not None for reason in said) <= 1  # each law fails once in a thousand


@pytest.mark.parametrize("fill", [nn.init.orthogonal_, nn.init.eye_, nn.init.zeros_, nn.init.ones_])
def test_patterns(fill: object) -> None:
    assert looks_trained(fill(torch.empty(40, 40))) is None  # type: ignore[operator]


def test_copies_and_constants_do_not_count() -> None:
    weight = torch.randn(32, 40, generator=torch.Generator().manual_seed(0))
    assert looks_trained(weight.repeat(2, 1)) is None
    assert looks_trained(torch.cat([weight, 0.5 * weight], 1)) is None
    assert looks_trained(torch.cat([weight, torch.full((8, 40), 3.0)])) is None
    assert looks_trained(torch.cat([weight, torch.full((8, 40), float("nan"))])) is None


@cache
def digits() -> tuple[Tensor, Tensor]:
    X, y = load_digits(return_X_y=True)
    return torch.tensor(X / 16).float(), torch.tensor(y)


@cache
def trained(epochs: int) -> nn.Sequential:
    X, y = digits()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 10))
        steps = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(epochs):
            for i in range(0, len(X), 64):
                steps.zero_grad()
                nn.functional.cross_entropy(model(X[i : i + 64]), y[i : i + 64]).backward()
                steps.step()
    return model


def test_real_training_is_seen() -> None:
    model = trained(20)
    assert looks_trained(model[0].weight) is not None
    assert looks_trained(model[2].weight) is not None


def wider(model: nn.Sequential) -> nn.Sequential:
    """Every unit of the first hidden layer twice, read at half the weight: Net2Wider."""
    wide = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
    with torch.no_grad():
        wide[0].weight.copy_(model[0].weight.repeat(2, 1))
        wide[0].bias.copy_(model[0].bias.repeat(2))
        wide[2].weight.copy_(model[2].weight.repeat(1, 2) / 2)
        for i in (2, 4):
            wide[i].bias.copy_(model[i].bias)
        wide[4].weight.copy_(model[4].weight)
    return wide


def test_a_trained_tensor_is_changed_only_when_asked() -> None:
    X, y = digits()
    model = wider(trained(20))
    batch = X[:64], y[:64]
    report = sb.check(model, batch, nn.functional.cross_entropy)
    assert report.verdict == "redundant"
    careful = sb.fix(model, report)
    assert careful.changes == ()
    assert "looks trained" in careful.refusals["2.weight"]
    assert "unsafe=True" in careful.left[0].reason
    asked = sb.fix(model, report, unsafe=True)
    assert [(c.tensor, c.actions) for c in asked.changes] == [("2.weight", ("redistribute",))]
    assert asked.function_change is not None
    assert asked.function_change < 1e-6
    before = model(X).argmax(1)
    asked.apply()
    assert torch.equal(model(X).argmax(1), before)
