"""Models that cannot be exported whole: what lies elsewhere is proved, what touches them is not."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode

import symbreak as sb
from symbreak.probe import fingerprint
from symbreak.symmetry import coarsest, unit_graph

BY_WAY = "a batch that goes another way through the forward is not understood"


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x * 3


class Number(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * float(x.detach().numpy().max())


class Table(nn.Module):
    """A number a unit that numpy made of this batch: one of many that the call does not show."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.from_numpy(np.sign(x.detach().numpy().max(0)) ** 2)


class Scaled(torch.autograd.Function):
    """A backward that is not that of the forward: every unit's gradient times a number of its own."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient * torch.arange(1, gradient.shape[-1] + 1)


class ByHand(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = Scaled.apply(x)  # type: ignore[no-untyped-call]
        return out


class Squares(torch.autograd.Function):
    """Numbers that leave torch, and a backward by hand."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.from_numpy(x.detach().numpy() ** 2)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return 2 * x * gradient


class InNumpy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = Squares.apply(x)  # type: ignore[no-untyped-call]
        return out


class Several(nn.Module):
    """A part that yields its results one by one, and one that returns a list."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

    def _each(self, x: Tensor) -> Iterator[Tensor]:
        yield self.a(x)
        yield self.b(x)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([y.tanh() for y in self._each(x)]).sum(0)


class Deeper(nn.Module):
    """Calls itself until what it makes is small."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x: Tensor, depth: int = 0) -> Tensor:
        y = torch.tanh(self.inner(x))
        return self.forward(y, depth + 1) if depth < 4 and float(y.abs().mean()) > 1e-9 else y


class Kernel(nn.Module):
    """Neither exported nor traced."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        if get_proxy_mode() is not None or type(x) is not Tensor:
            raise TypeError("this kernel takes a plain tensor")
        out: Tensor = self.inner(x)
        return out


class Repeated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel = Kernel()

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.kernel(x * k) for k in range(1, 4)]).sum(0)


class Reader(Kernel):
    """A kernel that takes what another layer left lying, not as an input."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.seen[0]


class SideDoor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.reader = nn.Linear(6, 6), Reader()

    def forward(self, x: Tensor) -> Tensor:
        self.reader.seen[:] = [self.left(x)]
        out: Tensor = self.reader(x)
        return out


class Slope(nn.Module):
    """A gradient inside the forward, which the operations of one call do not show."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        (out,) = torch.autograd.grad(torch.tanh(self.inner(x)).sum(), x, create_graph=True)
        return out


def around(part: nn.Module, *, random: bool = True) -> nn.Sequential:
    """Layers 0 and 4 are one unit each; the part lies between them, behind and in front of a layer of its own."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 6), part, nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    with torch.no_grad():
        for layer in (net[0], net[4], net[6]):
            layer.weight.fill_(0.1)
            layer.bias.fill_(0.1)
        net[2].weight.copy_(torch.linspace(-1, 1, 6)[:, None].expand(6, 6) if random else torch.full((6, 6), 0.1))
        if not random:
            net[2].bias.fill_(0.1)
    return net


X = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("part", "unread"),
    [
        (Branch, (BY_WAY,)),
        (Number, (BY_WAY,)),
        (Table, (BY_WAY,)),
        (ByHand, ("Scaled is not understood",)),
        (InNumpy, (BY_WAY, "Squares is not understood")),
        (Several, ()),
        (Deeper, (BY_WAY,)),
        (Kernel, (BY_WAY, "3 is not understood")),
        (Repeated, (BY_WAY, "3.kernel is not understood")),
        (SideDoor, (BY_WAY, "3.reader is not understood")),
    ],
)
def test_what_lies_elsewhere_is_proved_and_the_rest_is_named(part: type[nn.Module], unread: tuple[str, ...]) -> None:
    report = sb.check(around(part()), X)
    tied = [f for f in report.findings if f.code == "SB001"]
    assert [(f.where, f.standing) for f in tied] == [("0", "proved"), ("4", "proved")]
    assert all(s.unread == unread for s in report.trace.slices if s.proved)
    if unread:
        assert f"in part: {'; '.join(unread)}" in tied[0].because
        assert "in part" in str(tied[0].evidence["assumes"])


@pytest.mark.parametrize("part", [Table, ByHand, InNumpy, Kernel, Repeated, SideDoor])
def test_units_that_enter_or_leave_what_is_not_understood_are_told_apart(part: type[nn.Module]) -> None:
    """Layer 2 and what reads the part are constants, too: nothing of them may be claimed."""
    net = around(part(), random=False)
    classes = coarsest(unit_graph(net, X).network)
    assert len(set(classes["2"].tolist())) == 6
    (reads,) = unit_graph(net, X).axes["4.weight"][1].spaces
    assert len(set(classes[reads].tolist())) == 6
    assert len(set(classes["0"].tolist())) == len(set(classes["4"].tolist())) == 1


def test_what_enters_by_a_side_door_is_told_apart() -> None:
    net = around(SideDoor(), random=False)
    nn.init.constant_(net[3].left.weight, 0.1)
    nn.init.constant_(net[3].left.bias, 0.1)
    assert len(set(coarsest(unit_graph(net, X).network)["3.left"].tolist())) == 6


def test_a_gradient_that_the_call_does_not_show_leaves_it_measured() -> None:
    report = sb.check(around(Slope()), X)
    assert {f.where: f.standing for f in report.findings if f.code == "SB001"} == {"0": "measured", "4": "proved"}


def test_a_hook_that_changes_gradients_leaves_nothing_to_prove() -> None:
    def uneven(module: nn.Module, gave: tuple[Tensor, ...], got: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(g * torch.arange(1, g.shape[-1] + 1) for g in gave)

    net = around(nn.Tanh(), random=False)
    assert len(set(coarsest(unit_graph(net, X).network)["2"].tolist())) == 1
    net[3].register_full_backward_hook(uneven)
    assert len(set(coarsest(unit_graph(net, X).network)["2"].tolist())) == 6
    net = around(nn.Tanh(), random=False)
    net[2].weight.register_hook(lambda g: g * torch.arange(1, 7)[:, None])
    graph = unit_graph(net, X)
    assert len(set(coarsest(graph.network)["2"].tolist())) == 6
    assert graph.cut["2"] == "how 2.weight gets its gradient is not understood"


@pytest.mark.parametrize("part", [Branch, InNumpy, Repeated, SideDoor])
def test_the_model_comes_back_as_it_was(part: type[nn.Module]) -> None:
    net = around(part())
    before, apply = fingerprint(net), torch.autograd.Function.__dict__["apply"]
    unit_graph(net, X)
    assert fingerprint(net) == before
    assert torch.autograd.Function.__dict__["apply"] is apply
    assert not any("forward" in m.__dict__ or m._forward_hooks for m in net.modules())
    net(X).sum().backward()


def test_a_model_that_stumbles_itself_proves_nothing() -> None:
    graph = unit_graph(Kernel(), X[:, :6])
    assert not graph.network.sizes
    assert "this kernel takes a plain tensor" in graph.cut["model"]
