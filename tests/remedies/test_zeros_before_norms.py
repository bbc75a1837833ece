"""Of two zeros in series one may stay, unless norms follow: each makes its back-signal 1 / sqrt(eps) times as large."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import symbreak as sb

X = torch.randn(6, 3, 5, 5, generator=torch.Generator().manual_seed(0))
DEPTH = 8  # blocks behind the first


class Block(nn.Module):
    """Convolution, normalisation or none, SiLU; around it a skip or none."""

    def __init__(self, i: int, o: int, *, norm: bool, skip: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(i, o, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(o) if norm else nn.Identity()
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.silu(self.norm(self.conv(x)))
        return x + y if self.skip else y


def net(*, norm: bool, skip: bool = False) -> nn.Sequential:
    """Two neighbours of the trunk are zero."""
    torch.manual_seed(0)
    blocks = [Block(8, 8, norm=norm, skip=skip) for _ in range(DEPTH)]
    model = nn.Sequential(
        Block(3, 8, norm=norm, skip=False), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    )
    for zero in (model[1], model[2]):
        nn.init.zeros_(zero.conv.weight)
    return model


def growth(model: nn.Sequential) -> float:
    """How many times larger the gradient is behind the third block than in front of the head, by torch alone."""
    outputs: list[Tensor] = []
    h = X
    for part in model[:-1]:
        h = part(h)
        outputs.append(h)
    wanted = torch.randn(len(X), 3, generator=torch.Generator().manual_seed(1))  # a sample each its own back-signal
    early, late = torch.autograd.grad((model[-1](h) * wanted).sum(), (outputs[2], outputs[-1]))
    return float(early.norm() / late.norm())


def test_a_zero_that_norms_follow_is_drawn_as_well() -> None:
    model = net(norm=True)
    plan = sb.fix(model, sb.check(model, X))
    assert (plan.before.verdict, plan.after.verdict, plan.left) == ("stuck", "healthy", ())
    assert [c.tensor for c in plan.changes] == ["1.conv.weight", "2.conv.weight"]
    assert growth(model) > 1e6
    plan.apply()
    assert growth(model) < 1e2


@pytest.mark.parametrize("drawn", [1, 2])
def test_either_zero_alone_leaves_the_signal_wild(drawn: int) -> None:
    """The reason for drawing both: this is what one of them does, by torch and by the check."""
    model = net(norm=True)
    nn.init.kaiming_normal_(model[drawn].conv.weight)
    assert growth(model) > 1e6
    assert "SB203" in {f.code for f in sb.check(model, X).findings}


@pytest.mark.parametrize(("norm", "skip"), [(False, False), (True, True)])
def test_elsewhere_one_is_enough(norm: bool, skip: bool) -> None:
    """Without norms nothing grows; with a skip around it the zero is harmless, and so is its neighbour."""
    model = net(norm=norm, skip=skip)
    plan = sb.fix(model, sb.check(model, X))
    assert len({c.tensor for c in plan.changes} & {"1.conv.weight", "2.conv.weight"}) == (0 if skip else 1)
