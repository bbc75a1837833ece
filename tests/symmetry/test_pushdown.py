"""Sums in front of what is linear: the same function with the same gradients, and copies that only this form shows."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import symbreak as sb
from symbreak.symmetry import unit_graph
from symbreak.symmetry.capture import Captured, exported
from symbreak.symmetry.pushdown import pushed_down

Program = Callable[["Streams", Tensor], Tensor]


class Streams(nn.Module):
    """Columns of `w` that start as zeros, and what is trained beside them: c, whose entries differ."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.w = nn.Parameter(torch.zeros(3, 4))
        self.c = nn.Parameter(torch.randn(4, generator=generator))
        self.r = nn.Parameter(torch.randn(5, 6, generator=generator))
        self.scale = nn.Parameter(torch.tensor(0.7))
        self.program = program

    def forward(self, x: Tensor) -> Tensor:
        return self.program(self, x)

    def units(self, x: Tensor) -> Tensor:
        """[batch, 5, 4]: each position reads the columns of w."""
        return torch.tanh(x @ self.w)


def mixed(m: Streams, x: Tensor) -> Tensor:
    """[batch, 4, 6] streams, each a weighted sum over the positions."""
    return torch.einsum("bst,sd->btd", m.units(x) + m.c, m.r)


def merged(m: Streams, x: Tensor) -> Tensor:
    """Streams in the batch dimension, a residual beside them, and apart again (hyper-connections)."""
    beside = torch.einsum("bd,t->btd", torch.tanh(x[:, 0] @ m.r[:3]), 1 + 0 * m.c.detach())
    both = (mixed(m, x) * m.scale).reshape(-1, 6) + beside.reshape(-1, 6)
    return both.reshape(len(x), 4, 6).permute(0, 2, 1).sum(-1)


SUMMED: dict[str, Program] = {
    "a sum": lambda m, x: (m.units(x) + m.c).sum(-1),
    "the parameter first": lambda m, x: (m.c + m.units(x)).sum(-1, keepdim=True).flatten(1),
    "a mean": lambda m, x: (m.units(x) + m.c).mean((1, 2))[:, None],
    "a sum of all": lambda m, x: (m.units(x) + m.c).sum().expand(len(x), 1),
    "a mean of all": lambda m, x: (m.units(x) + m.c).mean().expand(len(x), 1),
    "scaled": lambda m, x: ((m.units(x) * m.scale + m.c.view(1, 1, 4)) / m.scale.exp()).sum(2),
    "scaled by position": lambda m, x: ((m.units(x) + m.c) * m.r[None, :, :1]).sum(-1),
    "a difference": lambda m, x: (m.r[:, :4] - (m.units(x) + m.c)).sum(-1),
    "repeated": lambda m, x: ((m.units(x) + m.c)[..., None] + m.r[:, None, :]).sum((2, 3)),
    "a product of matrices": lambda m, x: ((m.units(x) + m.c).transpose(1, 2) @ m.r).sum(1),
    "an einsum": lambda m, x: mixed(m, x).sum(1),
    "slices": lambda m, x: torch.tanh((m.units(x) + m.c)[..., 0]) + (m.units(x) + m.c)[..., 1:].sum(-1),
    "a slice of a slice": lambda m, x: (m.units(x) + m.c)[:, 1:, 1:][:, :3, :2].sum(-1),
    "merged with the batch": merged,
}
TELLING: dict[str, Program] = {
    "not linear": lambda m, x: torch.tanh(m.units(x) + m.c).sum(-1),
    "squared": lambda m, x: ((m.units(x) + m.c) * (m.units(x) + m.c)).sum(-1),
    "unequal shares": lambda m, x: ((m.units(x) + m.c) * torch.arange(4.0).to(x)).sum(-1),
    "over the positions": lambda m, x: (m.units(x) + m.c).sum(1),
    "read a second time": lambda m, x: (y := m.units(x) + m.c).sum(-1) + y.square().sum(-1),
}
X = torch.randn(8, 5, 3, generator=torch.Generator().manual_seed(1))


def graphs(program: Program) -> tuple[Streams, Captured, Captured]:
    model = Streams(program).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = exported(model, (X.double(),), {})
    return model, before, pushed_down(before)


def run(captured: Captured, model: Streams) -> list[Tensor]:
    """The graph's output and its gradients at weights that are all different."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype))
    tensors, places = dict(model.named_parameters()), (n for n in captured.module.graph.nodes if n.op == "placeholder")
    sources = (captured.sources[n.name] for n in places)
    given = [tensors[name] if kind == "parameter" else X.double() for kind, name in sources]
    (made,) = captured.module(*given)
    loss = (made * torch.randn(made.shape, generator=generator, dtype=made.dtype)).sum()
    return [made, *(g for g in torch.autograd.grad(loss, list(tensors.values()), allow_unused=True) if g is not None)]


@pytest.mark.parametrize("name", [*SUMMED, *TELLING])
def test_the_function_and_its_gradients_stay(name: str) -> None:
    model, before, after = graphs({**SUMMED, **TELLING}[name])
    for a, b in zip(run(before, model), run(after, model), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", SUMMED)
def test_what_is_only_summed_is_proved_one(name: str) -> None:
    model, before, after = graphs(SUMMED[name])
    assert before.module is not after.module
    report = sb.check(model, X.double())
    tied = [s for s in report.trace.slices if s.parameter == "w" and s.axis == 1 and s.tied]
    assert [s.proved for s in tied] == [True]
    columns = trained(model)[0].T
    for first, *others in tied[0].tied:
        assert all(torch.equal(columns[first], columns[other]) for other in others)


@pytest.mark.parametrize("name", TELLING)
def test_what_tells_the_terms_apart_is_left_as_it_is(name: str) -> None:
    model, before, after = graphs(TELLING[name])
    assert before.module is after.module
    assert not any(s.proved for s in sb.check(model, X.double()).trace.slices if s.parameter == "w" and s.axis == 1)


def trained(model: nn.Module) -> tuple[Tensor, Tensor]:
    """w after some steps of Adam, its columns rounded to what float64 keeps, and the losses on the way."""
    losses, optimizer = [], torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(30):
        x = torch.randn(8, 5, 3, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        optimizer.zero_grad()
        loss = (model(x) - x.sum((1, 2), keepdim=True).flatten(1)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return dict(model.named_parameters())["w"].detach().round(decimals=9), torch.stack(losses)


@pytest.mark.parametrize("name", SUMMED)
def test_the_quotient_trains_alike(name: str) -> None:
    model = Streams(SUMMED[name]).double()
    small = sb.quotient(model, batch=X.double())
    assert small.merged or "forward raises" in small.kept["w[1]"]
    torch.testing.assert_close(trained(small.model)[1], trained(model)[1], rtol=1e-12, atol=1e-12)


def test_sizes_that_depend_on_the_data_are_left_alone() -> None:
    class Chosen(Streams):
        def forward(self, x: Tensor) -> Tensor:
            return (self.units(x)[x[..., 0] > 0] + self.c).sum(-1)

    graph = unit_graph(Chosen(SUMMED["a sum"]), X)
    assert "w[1]" in graph.network.sizes
