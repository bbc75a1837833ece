"""Purely linear (SB206) is a claim about the network: superposition decides, not its activations alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import symbreak as sb
from symbreak.report import Report


def small(net: nn.Module, std: float = 0.01) -> nn.Module:
    for m in net.modules():
        if isinstance(m, nn.Linear):
            nn.init.normal_(m.weight, std=std)
            nn.init.zeros_(m.bias)
    return net


class Around(nn.Module):
    """What stands between two layers, given as a function of the first one's output."""

    def __init__(self, middle: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.gate, self.last = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 3)
        self.middle = middle

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.middle(torch.tanh(self.first(x))) + self.gate(x))
        return out


class Gated(nn.Module):
    """A highway layer: the only activation is the gate, which starts nearly shut."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.gate, self.body, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        nn.init.constant_(self.gate.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        share = torch.sigmoid(self.gate(x))
        out: Tensor = self.last(share * self.body(x) + (1 - share) * x)
        return out


def codes(report: Report) -> set[str]:
    return {finding.code for finding in report.findings}


def test_a_square_behind_the_units_is_not_linear() -> None:
    """A square behind the units bends the map, though every tanh is in its linear region."""
    torch.manual_seed(0)
    assert "SB206" in codes(sb.check(small(Around(lambda h: h)), torch.randn(64, 8)))
    bent = small(Around(lambda h: 100 * h.square()))
    assert "SB206" not in codes(sb.check(bent, torch.randn(64, 8)))


@pytest.mark.parametrize(
    "middle", [nn.LayerNorm(16), lambda h: (50 * h).softmax(1), lambda h: h / h.norm(dim=1, keepdim=True)]
)
def test_a_normalisation_in_between_is_not_linear(middle: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    assert "SB206" not in codes(sb.check(small(Around(middle)), torch.randn(64, 8)))


def test_an_objective_is_asked_too() -> None:
    torch.manual_seed(0)
    net, x = small(Around(lambda h: h)), torch.randn(64, 8)
    assert "SB206" in codes(sb.check(net, x, objective=lambda m, x: m(x).square().mean()))


@pytest.mark.parametrize("bias", [0.0, -6.0, 6.0])
def test_a_gate_may_start_half_open_shut_or_open(bias: float) -> None:
    torch.manual_seed(0)
    report = sb.check(Gated(bias), torch.randn(64, 8))
    assert not codes(report) & {"SB205", "SB206"}
    assert report.verdict == "healthy"


def test_a_layer_that_is_zero_on_purpose_is_no_linear_network() -> None:
    """A hypernetwork that starts at zero: tanh sees nothing but zeros, and wakes at step 2."""

    class Hyper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seed, self.make, self.last = nn.Parameter(torch.randn(5)), nn.Linear(5, 32), nn.Linear(4, 2)
            nn.init.zeros_(self.make.weight)
            nn.init.zeros_(self.make.bias)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.last(torch.tanh(x @ self.make(self.seed).view(8, 4)))
            return out

    torch.manual_seed(0)
    report = sb.check(Hyper(), torch.randn(64, 8))
    assert (report.verdict, report.wakeup["seed"]) == ("healthy", 2)


def test_a_branch_that_starts_at_zero_is_no_linear_network() -> None:
    """x + tanh(W x) with W = 0 starts as the identity on purpose; with a small W its tanh is used, and does nothing."""

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branch, self.last = nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.last(x + torch.tanh(self.branch(x)))
            return out

    torch.manual_seed(0)
    zero, little, x = Residual(), small(Residual()), torch.randn(64, 8)
    nn.init.zeros_(zero.branch.weight)
    nn.init.zeros_(zero.branch.bias)
    assert sb.check(zero, x).verdict == "healthy"
    assert "SB206" in codes(sb.check(little, x))
