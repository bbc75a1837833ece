"""Quotients of convolutions, norms, residual streams, tied tables and recurrent layers, with hand-made unit graphs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from symbreak.symmetry.graph import Axis, UnitGraph
from symbreak.symmetry.quotient import Quotient, QuotientError, quotient_of
from symbreak.symmetry.units import Block, Network

from .hand_made import values

Loss = Callable[[Tensor, Tensor], Tensor]
NOT_UNITS = Axis(())


def classes(n: int, copies: int) -> Tensor:
    """[n] which of n / copies units each one is a copy of, shuffled."""
    return torch.arange(n // copies).repeat(copies)[torch.randperm(n)]


def tie(tensor: Tensor, *axes: Tensor | None) -> None:
    """Equal entries along these axes, as their classes say."""
    with torch.no_grad():
        for axis, at in enumerate(axes):
            if at is not None:
                tensor.copy_(tensor.index_select(axis, at.argsort()[at * (len(at) // (int(at.max()) + 1))]))


def check_training(model: nn.Module, q: Quotient, x: Tensor, y: Tensor, steps: int = 40) -> None:
    """Both sides trained with AdamW: equal losses, equal weights and buffers afterwards."""
    sides = []
    for side in (q.model, model):
        optimizer = torch.optim.AdamW(side.parameters(), 3e-3, weight_decay=0.1)
        losses = []
        for _ in range(steps):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(side(x).flatten(0, -2), y.flatten())
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        sides.append(torch.stack(losses))
    assert (sides[0] - sides[1]).abs().max() < 1e-10
    assert sides[1][-1] < sides[1][0] - 0.1
    back = q.expand()
    for name, tensor in model.state_dict().items():
        assert (tensor - back[name]).abs().max() < 1e-7, name
    model.load_state_dict(back)


class ConvNet(nn.Module):
    """Two convolutions, one of them depthwise, batch norms, and a flattened head."""

    def __init__(self, *, fixed: bool = False) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv2d(2, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.own = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.up = nn.ConvTranspose2d(12, 8, 2, stride=2)
        self.head, self.fixed = nn.Linear(8 * 64, 5), fixed

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(torch.relu(self.own(torch.relu(self.norm(self.one(x))))))
        x = torch.tanh(x)
        return self.head(x.reshape(len(x), 512) if self.fixed else x.flatten(1))

    def tied(self) -> ConvNet:
        a, b = classes(12, 3), classes(8, 2)
        for tensor in (
            self.one.weight,
            self.one.bias,
            self.norm.weight,
            self.norm.bias,
            self.own.weight,
            self.own.bias,
        ):
            nn.init.normal_(tensor)
            tie(tensor, a)
        tie(self.up.weight, a, b)
        tie(self.up.bias, b)
        with torch.no_grad():
            split = self.head.weight.unflatten(1, (8, 64))
            tie(split, None, b)
        return self

    def graph(self) -> UnitGraph:
        sizes = {"x": 2, "a": 12, "b": 8, "y": 5}
        taps = lambda w: values(w).reshape(*w.shape[:2], -1)
        blocks = (
            Block("x", "a", taps(self.one.weight)),
            Block("a", "b", taps(self.up.weight).transpose(1, 0, 2)),
            Block("b", "y", values(self.head.weight).reshape(5, 8, 64)),
        )
        of_a = [self.one.bias, self.norm.weight, self.norm.bias, self.own.bias]
        attributes = {
            "a": np.column_stack([*map(values, of_a), values(self.own.weight).reshape(12, -1)]),
            "b": values(self.up.bias)[:, None],
        }
        a, b, k = Axis(("a",)), Axis(("b",)), (NOT_UNITS, NOT_UNITS)
        axes = {
            "one.weight": (a, Axis(("x",)), *k), "one.bias": (a,), "norm.weight": (a,), "norm.bias": (a,),
            "norm.running_mean": (a,), "norm.running_var": (a,), "own.weight": (a, NOT_UNITS, *k), "own.bias": (a,),
            "up.weight": (a, b, *k), "up.bias": (b,), "head.weight": (Axis(("y",)), Axis(("b",), 64)),
            "head.bias": (Axis(("y",)),),
        }  # fmt: skip
        return UnitGraph(Network(sizes, blocks, attributes, frozenset("xy")), axes)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_convolutions() -> None:
    net = ConvNet().double().tied()
    x, y = torch.randn(6, 2, 4, 4, dtype=torch.float64), torch.randint(0, 5, (6,))
    q = quotient_of(net, net.graph(), batch=x)
    assert q.widths == {"one": (4, 12), "own": (4, 12), "up": (4, 8), "head": (5, 5)}
    assert q.model.own.groups == 4
    assert not q.kept
    check_training(net, q, x, y)


def test_a_width_that_the_forward_holds_is_kept() -> None:
    net = ConvNet(fixed=True).double().tied()
    x, y = torch.randn(6, 2, 4, 4, dtype=torch.float64), torch.randint(0, 5, (6,))
    q = quotient_of(net, net.graph(), batch=x)
    assert q.widths == {"one": (4, 12), "own": (4, 12), "up": (8, 8), "head": (5, 5)}
    assert list(q.kept) == ["b"]
    assert "RuntimeError: shape '[6, 512]' is invalid" in q.kept["b"]
    assert "kept whole: b" in str(q)
    check_training(net, q, x, y)


class Stream(nn.Module):
    """Token and position tables, two residual blocks with norms, a head that is the token table again."""

    def __init__(self, norm: Callable[[int], nn.Module], *, scale: bool = False) -> None:
        super().__init__()
        self.table, self.place = nn.Embedding(7, 12), nn.Parameter(torch.randn(5, 12))
        self.norm, self.up, self.down = norm(12), nn.Linear(12, 10), nn.Linear(10, 12)
        self.gamma, self.mix = nn.Parameter(torch.randn(12)), nn.Parameter(torch.randn(12, 12) / 4)
        self.last, self.head = norm(12), nn.Linear(12, 7, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.table(x) + self.place
        h = h + self.gamma * self.down(nn.functional.gelu(self.up(self.norm(h))))
        h = h + torch.tanh(h @ self.mix)
        return self.head(self.last(h))

    def tied(self) -> Stream:
        e, f = classes(12, 3), classes(10, 2)
        for m in (self.norm, self.last):
            for p in m.parameters():
                nn.init.normal_(p)
                tie(p, e)
        for p, *axes in ((self.table.weight, None, e), (self.place, None, e), (self.up.weight, f, e), (self.up.bias, f),
                         (self.down.weight, e, f), (self.down.bias, e), (self.gamma, e), (self.mix, e, e)):  # fmt: skip
            tie(p, *axes)
        return self

    def graph(self) -> UnitGraph:
        sizes = {"t": 7, "p": 5, "e": 12, "f": 10, "y": 7}
        blocks = (
            Block("t", "e", values(self.table.weight).T), Block("p", "e", values(self.place).T),
            Block("e", "f", values(self.up.weight)), Block("f", "e", values(self.down.weight)),
            Block("e", "e", values(self.mix).T), Block("e", "y", values(self.table.weight)),
        )  # fmt: skip
        norms = [p for m in (self.norm, self.last) for p in m.parameters()]
        attributes = {"e": np.column_stack([values(p) for p in (*norms, self.down.bias, self.gamma)]),
                      "f": values(self.up.bias)[:, None]}  # fmt: skip
        e, f = Axis(("e",)), Axis(("f",))
        axes = {
            "table.weight": (Axis(("t",)), e), "place": (Axis(("p",)), e), "up.weight": (f, e), "up.bias": (f,),
            "down.weight": (e, f), "down.bias": (e,), "gamma": (e,), "mix": (e, e),
        } | {n: (e,) for n, p in self.named_parameters() if n.startswith(("norm.", "last."))}  # fmt: skip
        return UnitGraph(Network(sizes, blocks, attributes, frozenset("tpy")), axes)


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_a_residual_stream_with_norms_and_a_tied_head(norm: Callable[[int], nn.Module]) -> None:
    net = Stream(norm).double().tied()
    x = torch.randint(0, 7, (16, 5))
    q = quotient_of(net, net.graph(), batch=x)
    assert q.widths == {"table": (4, 12), "up": (5, 10), "down": (4, 12), "head": (7, 7)}
    assert not q.kept
    assert q.model.head.weight.shape == (7, 4)
    assert sum(p.numel() for p in q.parameters()) == q.size[0] < q.size[1] == sum(p.numel() for p in net.parameters())
    check_training(net, q, x, (x + 1) % 7)


class OwnNorm(nn.LayerNorm):
    """A norm with a forward of its own: mean of all units, which is not the mean of the classes."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) * self.weight + self.bias


def test_a_norm_of_unknown_make_keeps_its_space() -> None:
    net = Stream(OwnNorm).double().tied()
    x = torch.randint(0, 7, (16, 5))
    a = classes(12, 3)
    tie(net.table.weight, None, a)
    q = quotient_of(net, net.graph(), batch=x)
    assert list(q.kept) == ["e"]
    assert q.kept["e"] == "with fewer units it computes something else"
    check_training(net, q, x, (x + 1) % 7)


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.cells, self.head = kind(3, 9, batch_first=True), nn.Linear(9, 4)
        self.gates = len(self.cells.weight_ih_l0) // 9

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(x)[0])

    def tied(self) -> Recurrent:
        h = classes(9, 3)
        c = self.cells
        with torch.no_grad():
            for p, *axes in ((c.weight_ih_l0, None), (c.weight_hh_l0, h), (c.bias_ih_l0,), (c.bias_hh_l0,)):
                nn.init.normal_(p, std=0.4)
                tie(p.view(self.gates, 9, *p.shape[1:]), None, h, *axes)
        tie(self.head.weight, None, h)
        return self

    def graph(self) -> UnitGraph:
        c, g = self.cells, self.gates
        taps = lambda w: values(w).reshape(g, 9, -1).transpose(1, 2, 0)
        blocks = (Block("x", "h", taps(c.weight_ih_l0)), Block("h", "h", taps(c.weight_hh_l0)),
                  Block("h", "y", values(self.head.weight)))  # fmt: skip
        biases = [values(b).reshape(g, 9).T for b in (c.bias_ih_l0, c.bias_hh_l0)]
        gates, h, x, y = Axis(("h",) * g), Axis(("h",)), Axis(("x",)), Axis(("y",))
        axes = {"cells.weight_ih_l0": (gates, x), "cells.weight_hh_l0": (gates, h), "cells.bias_ih_l0": (gates,),
                "cells.bias_hh_l0": (gates,), "head.weight": (y, h), "head.bias": (y,)}  # fmt: skip
        network = Network({"x": 3, "h": 9, "y": 4}, blocks, {"h": np.column_stack(biases)}, frozenset("xy"))
        return UnitGraph(network, axes)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_cells(kind: type[nn.RNNBase]) -> None:
    net = Recurrent(kind).double().tied()
    x = torch.randn(8, 6, 3, dtype=torch.float64)
    q = quotient_of(net, net.graph(), batch=x)
    assert q.widths == {"cells": (3, 9), "head": (4, 4)}
    assert not q.kept
    check_training(net, q, x, torch.randint(0, 4, (8, 6)))


def test_a_graph_that_is_wrong_is_not_believed() -> None:
    """The graph calls channels equal whose depthwise kernels differ: the comparison finds it."""
    net = ConvNet().double().tied()
    graph = net.graph()
    nn.init.normal_(net.own.weight)
    q = quotient_of(net, graph, batch=torch.randn(6, 2, 4, 4, dtype=torch.float64))
    assert list(q.kept) == ["a"]
    assert q.widths["up"] == (4, 8)


def test_zeros_hide_nothing() -> None:
    """All weights zero: every network computes the same there, so the comparison must look elsewhere too."""
    net = ConvNet().double()
    for p in net.parameters():
        nn.init.zeros_(p)
    graph = net.graph()
    axes = dict(graph.axes) | {"up.weight": (Axis(("b",)), Axis(("a",)), NOT_UNITS, NOT_UNITS)}
    axes["up.weight"] = (NOT_UNITS, Axis(("b",)), NOT_UNITS, NOT_UNITS)  # as if its inputs were no units
    wrong = UnitGraph(graph.network, axes)
    q = quotient_of(net, wrong, batch=torch.randn(6, 2, 4, 4, dtype=torch.float64))
    assert "a" in q.kept


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.calls = nn.Linear(3, 2), [0]

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append(0)
        return self.one(x) * (1.0 + OUTSIDE.pop())


OUTSIDE = list(range(100))


def test_a_model_that_is_not_the_same_twice_is_refused() -> None:
    net = Noisy()
    axes = {"one.weight": (Axis(("y",)), Axis(("x",))), "one.bias": (Axis(("y",)),)}
    network = Network({"x": 3, "y": 2}, (Block("x", "y", values(net.one.weight)),), {}, frozenset("xy"))
    with pytest.raises(QuotientError, match="plain copy of Noisy does not compute what the model computes"):
        quotient_of(net, UnitGraph(network, axes), batch=torch.randn(4, 3))
    assert net.calls == [0]
