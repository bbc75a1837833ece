"""Published starts that hide units which stay copies for ever: found, proved, and counted."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import nn

import symbreak as sb
from symbreak.symmetry import coarsest, unit_graph


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers with ReLU between them and zero biases."""
    layers = [part for i, o in pairwise(widths) for part in (nn.Linear(i, o), nn.ReLU())][:-1]
    for layer in layers[::2]:
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return nn.Sequential(*layers)


def started(scheme: str, head: str) -> nn.Sequential:
    net = mlp(4, 16, 16, 3)
    sb.init_(net, sb.schemes.parse(scheme))
    if head == "zero":
        nn.init.zeros_(net[4].weight)  # type: ignore[arg-type]
    elif head == "identity":
        nn.init.eye_(net[4].weight)  # type: ignore[arg-type]
    return net


@pytest.mark.parametrize(
    ("scheme", "head", "classes"),
    [
        ("identity", "as drawn", 5),  # the padded units are one zero unit
        ("zero_hadamard", "identity", 7),
        ("zero_hadamard", "as drawn", 4),  # ZerO starts the last layer at zero
        ("idinit(noise=0.0)", "as drawn", 12),
        ("idinit(noise=0.0)", "zero", 4),
        ("idinit", "as drawn", 16),
    ],
)
def test_classes_of_a_small_mlp(scheme: str, head: str, classes: int) -> None:
    """The counts of Zhao et al.'s and Pan et al.'s starts in 4-16-16-3, as the table of initializers has them."""
    partition = coarsest(unit_graph(started(scheme, head), torch.randn(8, 4)).network)
    assert [int(partition[space].max()) + 1 for space in ("0", "2")] == [classes, classes]


@pytest.mark.parametrize("scheme", ["zero_hadamard", "idinit(noise=0.0)"])
def test_check_proves_the_copies(scheme: str) -> None:
    torch.manual_seed(0)
    report = sb.check(started(scheme, "as drawn"), torch.randn(32, 4))
    tied = [(f.code, f.where, f.standing) for f in report.findings if f.code == "SB001"]
    assert tied == [("SB001", "0", "proved"), ("SB001", "2", "proved")]


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.GELU])
def test_an_identity_start_is_as_wide_as_its_classes(activation: type[nn.Module]) -> None:
    """No gradient reaches the padded units, so that only the proof sees that those of the second layer are one."""
    net, x = started("identity", "as drawn"), torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    net[1], net[3] = activation(), activation()
    report = sb.check(net, x)
    assert report.width == {"0": (5, 16), "2": (5, 16), "4": (3, 3)}
    told = {(f.code, f.where, f.units, f.standing) for f in report.findings if f.severity == "error"}
    padded = tuple(range(4, 16))
    assert told == {("SB001", "2", padded, "proved"), ("SB101", "0", padded, "proved")}
    assert report.certificate is not None
    plan = sb.fix(net, report)
    assert (plan.before.verdict, plan.after.verdict) == ("stuck", "healthy")


def zero_head(net: nn.Sequential) -> None:
    nn.init.zeros_(net.get_parameter("4.weight"))


def half_dead(net: nn.Sequential) -> None:
    net.get_parameter("2.bias").data[:8] = -100.0


def equal_rows_that_separate(net: nn.Sequential) -> None:
    net.get_parameter("2.weight").data[1] = net.get_parameter("2.weight").data[0]


@pytest.mark.parametrize("change", [lambda net: None, zero_head, half_dead, equal_rows_that_separate])
def test_no_graph_is_read_where_the_probe_has_no_doubt(
    change: Callable[[nn.Sequential], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes longer than the probe of a small model: copies, and equal rows without a gradient, are its use."""
    net = mlp(4, 16, 16, 3)
    change(net)
    monkeypatch.setattr("symbreak.symmetry.unit_graph", lambda *_, **__: pytest.fail("the graph was read"))
    assert sb.check(net, torch.randn(32, 4)).width["2"] == (16, 16)


def test_rows_of_zero_repeat_with_the_next_power_of_two() -> None:
    weight = sb.schemes.parse("zero_hadamard").draw((2048, 784), generator=torch.Generator())
    assert len(torch.unique(weight, dim=0)) == 1024
