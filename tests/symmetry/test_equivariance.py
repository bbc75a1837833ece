"""What an operation makes of exchanged operands, against the operation itself; and experts that it proves one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

import symbreak as sb
from symbreak.symmetry.equivariance import MANY, carried
from symbreak.symmetry.operations import NotUnderstoodError

N = 4  # entries along the axis, of which two change places
ORDER = [0, 3, 2, 1]
Operation = Callable[..., Any]

CARRIED: dict[str, tuple[Operation, tuple[tuple[int, ...], ...], dict[int, int]]] = {
    "softmax along it": (lambda a: a.softmax(-1), ((3, N),), {0: 1}),
    "softmax across it": (lambda a: a.softmax(0), ((3, N),), {0: 1}),
    "gelu": (F.gelu, ((N, 3),), {0: 0}),
    "a sum of both": (lambda a, b: a + b, ((2, N, 3), (N, 1)), {0: 1, 1: 0}),
    "a product with one number for all": (lambda a, b: a * b, ((2, N, 3), (2, 1, 3)), {0: 1}),
    "where": (lambda a, b: torch.where(a > 0, a, b), ((3, N), (3, N)), {0: 1, 1: 1}),
    "a sum over it": (lambda a: a.sum(1), ((3, N, 2),), {0: 1}),
    "a sum over all": (lambda a: a.sum(), ((3, N, 2),), {0: 1}),
    "a sum beside it": (lambda a: a.sum(0), ((3, N, 2),), {0: 1}),
    "a sum beside it that keeps the dimension": (lambda a: a.sum(0, keepdim=True), ((3, N, 2),), {0: 1}),
    "a mean over two": (lambda a: a.mean((0, 2)), ((3, N, 2),), {0: 1}),
    "the largest": (lambda a: a.amax(1), ((3, N),), {0: 1}),
    "variance": (lambda a: a.var(0), ((3, N),), {0: 1}),
    "logsumexp": (lambda a: a.logsumexp(1), ((3, N),), {0: 1}),
    "unsqueeze": (lambda a: a.unsqueeze(1), ((3, N),), {0: 1}),
    "squeeze": (lambda a: a.squeeze(0), ((1, N, 3),), {0: 1}),
    "a view in front": (lambda a: a.reshape(6, N, 2), ((2, 3, N, 2),), {0: 2}),
    "a view behind": (lambda a: a.reshape(3, N, 6), ((3, N, 2, 3),), {0: 1}),
    "permute": (lambda a: a.permute(2, 0, 1), ((3, N, 2),), {0: 1}),
    "transpose": (lambda a: a.transpose(0, 1), ((3, N, 2),), {0: 1}),
    "transpose of others": (lambda a: a.transpose(0, 2), ((3, N, 2),), {0: 1}),
    "expand": (lambda a: a.expand(5, 3, N, 2), ((3, N, 1),), {0: 1}),
    "another entry": (lambda a: a[1], ((3, N, 2),), {0: 1}),
    "another slice": (lambda a: a[1:], ((3, N, 2),), {0: 1}),
    "rows of a layer": (F.linear, ((3, 5), (N, 5)), {1: 0}),
    "rows and biases": (F.linear, ((3, 5), (N, 5), (N,)), {1: 0, 2: 0}),
    "inputs and columns": (F.linear, ((3, N), (2, N)), {0: 1, 1: 1}),
    "positions of a layer": (F.linear, ((3, N, 5), (2, 5), (2,)), {0: 1}),
    "a sum of products": (lambda a, b: torch.einsum("be,bed->bd", a, b), ((3, N), (3, N, 2)), {0: 1, 1: 1}),
    "products": (lambda a, b: torch.einsum("be,bd->bde", a, b), ((3, N), (3, 2)), {0: 1}),
    "a product of matrices": (lambda a, b: a @ b, ((3, 1, N), (3, N, 2)), {0: 2, 1: 1}),
    "rows of a product": (lambda a, b: a @ b, ((3, N, 5), (5, 2)), {0: 1}),
    "unbind": (lambda a: a.unbind(1), ((3, N),), {0: 1}),
}
REFUSED: dict[str, tuple[Operation, tuple[tuple[int, ...], ...], dict[int, int]]] = {
    "a sum with what is not exchanged": (lambda a, b: a + b, ((3, N), (3, N)), {0: 1}),
    "along two axes": (lambda a, b: a * b, ((N, N), (N, N)), {0: 0, 1: 1}),
    "biases that stay": (F.linear, ((3, 5), (N, 5), (N,)), {1: 0}),
    "biases alone": (F.linear, ((3, 5), (N, 5), (N,)), {2: 0}),
    "inputs alone": (F.linear, ((3, N), (2, N)), {0: 1}),
    "merged": (lambda a: a.reshape(3, N * 2), ((3, N, 2),), {0: 1}),
    "split": (lambda a: a.reshape(3, 2, 2), ((3, N),), {0: 1}),
    "an entry along it": (lambda a: a[:, 1], ((3, N),), {0: 1}),
    "a slice along it": (lambda a: a[:, 1:], ((3, N),), {0: 1}),
    "cumsum": (lambda a: a.cumsum(1), ((3, N),), {0: 1}),
    "flip": (lambda a: a.flip(1), ((3, N),), {0: 1}),
    "topk": (lambda a: a.topk(2, 1)[0], ((3, N),), {0: 1}),
    "argmax": (lambda a: a.argmax(1), ((3, N),), {0: 1}),
    "unbind across": (lambda a: a.unbind(0), ((3, N),), {0: 1}),
    "a product of one side": (lambda a, b: a @ b, ((3, 1, N), (3, N, 2)), {0: 2}),
}


def asked(operation: Operation, shapes: tuple[tuple[int, ...], ...], axes: dict[int, int]) -> tuple[Any, int | None]:
    """The tensors, and the axis that `carried` tells of the operation's node."""
    given = [torch.randn(s, generator=torch.Generator().manual_seed(n)) for n, s in enumerate(shapes)]
    graph = make_fx(operation, tracing_mode="fake", pre_dispatch=True)(*given).graph
    places = [n for n in graph.nodes if n.op == "placeholder"]
    (node, *_) = (n for n in graph.nodes if n.op == "call_function" and set(n.all_input_nodes) & set(places))
    return given, carried(node, {places[k]: axis for k, axis in axes.items()})


def exchanged(tensor: Tensor, axis: int) -> Tensor:
    return tensor.index_select(axis, torch.tensor(ORDER))


@pytest.mark.parametrize("name", CARRIED)
def test_the_result_is_exchanged_where_it_is_said_to_be(name: str) -> None:
    operation, shapes, axes = CARRIED[name]
    given, axis = asked(operation, shapes, axes)
    before = operation(*given)
    after = operation(*(exchanged(t, axes[k]) if k in axes else t for k, t in enumerate(given)))
    if axis == MANY:
        for k, at in enumerate(ORDER):
            torch.testing.assert_close(after[k], before[at])
    else:
        torch.testing.assert_close(after, before if axis is None else exchanged(before, axis))


@pytest.mark.parametrize("name", REFUSED)
def test_what_tells_the_entries_apart_is_refused(name: str) -> None:
    with pytest.raises(NotUnderstoodError):
        asked(*REFUSED[name])


# ---- experts behind a router ---------------------------------------------------------------------------------------


class Mixture(nn.Module):
    """Equal experts, and a router of zeros."""

    def __init__(self, weigh: Callable[[Mixture, Tensor, list[Tensor]], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.router, self.weights = nn.Linear(6, N), nn.Parameter(torch.zeros(N))
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3)) for _ in range(N))
        self.weigh = weigh
        for expert in self.experts[1:]:
            expert.load_state_dict(self.experts[0].state_dict())
        for p in self.router.parameters():
            nn.init.zeros_(p)

    def forward(self, x: Tensor) -> Tensor:
        return self.weigh(self, self.router(x).softmax(-1), [expert(x) for expert in self.experts])


def best(_: Mixture, gates: Tensor, made: list[Tensor]) -> Tensor:
    chosen, which = gates.topk(2, -1)
    return (torch.stack(made, 1).gather(1, which[..., None].expand(-1, -1, 3)) * chosen[..., None]).sum(1)


SOFT: dict[str, Callable[[Mixture, Tensor, list[Tensor]], Tensor]] = {
    "stacked": lambda m, g, made: (torch.stack(made, 1) * g.unsqueeze(-1)).sum(1),
    "stacked last": lambda m, g, made: (torch.stack(made, -1) * g[:, None, :]).sum(-1),
    "concatenated": lambda m, g, made: (torch.cat([y[:, None] for y in made], 1) * g[..., None]).sum(1),
    "einsum": lambda m, g, made: torch.einsum("be,bed->bd", g, torch.stack(made, 1)),
    "matmul": lambda m, g, made: (g[:, None] @ torch.stack(made, 1)).squeeze(1),
    "one by one": lambda m, g, made: sum(g[:, k : k + 1] * y for k, y in enumerate(made)),  # type: ignore[return-value, misc]
    "entry by entry": lambda m, g, made: sum(g[:, k][:, None] * y for k, y in enumerate(made)),  # type: ignore[return-value, misc]
    "unbound": lambda m, g, made: sum(w[:, None] * y for w, y in zip(g.unbind(-1), made, strict=True)),  # type: ignore[return-value, misc]
    "a weight each": lambda m, g, made: sum(w * y for w, y in zip(m.weights.softmax(0), made, strict=True)),  # type: ignore[return-value, misc]
}
UNEVEN: dict[str, Callable[[Mixture, Tensor, list[Tensor]], Tensor]] = {
    "the best two": best,
    "shares": lambda m, g, made: sum((1 + 0.1 * k) * g[:, k : k + 1] * y for k, y in enumerate(made)),  # type: ignore[return-value, misc]
    "noise": lambda m, g, made: (torch.stack(made, 1) * (g + 0.01 * torch.randn_like(g))[..., None]).sum(1),
    "the gates of others": lambda m, g, made: (torch.stack(made, 1) * g.flip(-1)[..., None]).sum(1) + made[0],
    "the last one twice": lambda m, g, made: (torch.stack(made, 1) * g[..., None]).sum(1) + g[:, -1:] * made[-1],
}
X = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", SOFT)
def test_experts_that_are_weighed_alike_are_proved_one(name: str) -> None:
    model = Mixture(SOFT[name])
    report = sb.check(model, X)
    assert [f.standing for f in report.findings if f.code == "SB003"] == ["proved"]
    assert report.certificate is not None
    assert report.certificate.networks == (tuple(f"experts.{k}" for k in range(N)),)
    model.double()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(20):
        x = torch.randn(16, 6, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        optimizer.zero_grad()
        (model(x) - x[:, :3]).square().mean().backward()
        optimizer.step()
    first, *others = (nn.utils.parameters_to_vector(e.parameters()) for e in model.experts)
    assert all(torch.allclose(first, other, rtol=0, atol=1e-9) for other in others)


@pytest.mark.parametrize("name", UNEVEN)
def test_experts_that_are_weighed_unevenly_are_not_proved_one(name: str) -> None:
    assert not any(f.standing == "proved" for f in sb.check(Mixture(UNEVEN[name]), X).findings if f.code == "SB003")


def test_a_router_that_tells_experts_apart_proves_nothing() -> None:
    model = Mixture(SOFT["stacked"])
    nn.init.normal_(model.router.weight)
    assert not any(f.code == "SB003" for f in sb.check(model, X).findings)
