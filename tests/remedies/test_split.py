"""Splitting copies keeps the function and parts the copies, whatever the architecture: laws over drawn networks."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import symbreak as sb
from symbreak.remedies.part import adding, replacing, scaling

ACTIVATIONS: list[Callable[[], nn.Module]] = [nn.Tanh, nn.ReLU, nn.GELU, nn.Sigmoid, nn.Softplus]


@st.composite
def wide_nets(draw: st.DrawFn) -> tuple[nn.Sequential, Tensor, list[int]]:
    """A narrow net with each hidden unit copied a drawn number of times, read in equal shares: Net2Wider."""
    copies = draw(st.lists(st.integers(1, 4), min_size=2, max_size=5).filter(lambda c: max(c) > 1))
    activation = draw(st.sampled_from(ACTIVATIONS))
    seed = draw(st.integers(0, 10_000))
    generator = torch.Generator().manual_seed(seed)
    narrow, wide, outputs = len(copies), sum(copies), draw(st.integers(2, 4))
    W, b = torch.randn(narrow, 5, generator=generator), torch.randn(narrow, generator=generator)
    V = torch.randn(outputs, narrow, generator=generator)
    model = nn.Sequential(nn.Linear(5, wide), activation(), nn.Linear(wide, outputs))
    times = torch.tensor(copies)
    with torch.no_grad():
        model[0].weight.copy_(W.repeat_interleave(times, 0))
        model[0].bias.copy_(b.repeat_interleave(times))
        model[2].weight.copy_((V / times).repeat_interleave(times, 1))
    return model, torch.randn(40, 5, generator=generator), copies


@given(wide_nets())
@settings(max_examples=25, deadline=None)
def test_copies_part_and_the_function_stays(case: tuple[nn.Sequential, Tensor, list[int]]) -> None:
    model, x, copies = case
    report = sb.check(model, x, select=["SB00"])  # weights as large as these saturate, too
    if report.verdict != "redundant" or bool((model[:2](x) == 0).all(0).any()):
        return  # ReLU units that are off on every sample: these stay alike whatever reads them
    before = model(x).detach()
    plan = sb.fix(model, report)
    plan.apply()
    after = model(x).detach()
    assert float((after - before).abs().max()) <= 2e-5 * float(before.square().mean().sqrt())
    assert plan.after.width["0"] == (sum(copies), sum(copies))
    assert [c.actions[-1] for c in plan.changes if c.tensor == "2.weight"] == ["redistribute"]


def trained(model: nn.Module, x: Tensor, steps: int = 30) -> None:
    """A plain loop in float64: what the repaired copies do when somebody trains them."""
    model.double()
    y = torch.randn(len(x), 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    descent = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(steps):
        descent.zero_grad()
        nn.functional.mse_loss(model(x.double()), y).backward()
        descent.step()


def test_parted_copies_go_their_own_ways_in_training() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = model[0].weight[0], model[0].bias[0]
        model[2].weight[:, 1] = model[2].weight[:, 0]
    x = torch.randn(32, 5)
    twin = copy.deepcopy(model)
    sb.fix(model, sb.check(model, x)).apply()
    for one in (model, twin):
        trained(one, x)
    assert torch.equal(twin[0].weight[0], twin[0].weight[1])
    weight = model[0].weight.detach()
    gap = (weight[0] - weight[1]).norm() / weight[0].norm()
    assert float(gap) > 1e-2


class Heads(nn.Module):
    """torch's own attention: one matrix for queries, keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.out = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 2)
        w, b = self.attention.in_proj_weight, self.attention.in_proj_bias
        with torch.no_grad():
            for block in range(3):
                w[8 * block + 4 : 8 * block + 8] = w[8 * block : 8 * block + 4].clone()
            b.zero_()
            self.attention.out_proj.weight[:, 4:] = self.attention.out_proj.weight[:, :4].clone()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x + self.attention(x, x, x)[0])


class Convolutions(nn.Module):
    """Copied channels, a norm between them and their reader, and a flattened map behind."""

    def __init__(self, *, flat: bool) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.flat = flat
        self.b = nn.Linear(6 * 16, 2) if flat else nn.Conv2d(6, 2, 3)
        with torch.no_grad():
            self.a.weight[3:], self.a.bias[3:] = self.a.weight[:3].clone(), self.a.bias[:3].clone()
            readers = self.b.weight.unflatten(1, (6, 16)) if flat else self.b.weight
            readers[:, 3:] = readers[:, :3].clone()

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.a(x)).relu()
        return self.b(h.flatten(1) if self.flat else h)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.out = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 2)
        with torch.no_grad():
            for name, p in self.rnn.named_parameters():
                rows = p.unflatten(0, (4, 6))
                rows[:, 3:] = rows[:, :3].clone()
                if name == "weight_hh_l0":
                    p[:, 3:] = p[:, :3].clone()
            self.out.weight[:, 3:] = self.out.weight[:, :3].clone()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(x)[0][:, -1])


class Bank(nn.Module):
    """Experts in one tensor, all equal, under a router that starts at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(6, 4, bias=False)
        self.experts = nn.Parameter(torch.randn(1, 6, 3).repeat(4, 1, 1))
        nn.init.zeros_(self.router.weight)

    def forward(self, x: Tensor) -> Tensor:
        each = torch.einsum("bi,eio->beo", x, self.experts).tanh()
        return torch.einsum("be,beo->bo", self.router(x).softmax(-1), each)


KEPT: dict[str, tuple[Callable[[], nn.Module], Tensor, str]] = {
    "attention heads": (Heads, torch.randn(6, 5, 8), "attention.out_proj.weight"),
    "channels behind a norm": (lambda: Convolutions(flat=False), torch.randn(8, 3, 4, 4), "b.weight"),
    "channels of a flattened map": (lambda: Convolutions(flat=True), torch.randn(8, 3, 4, 4), "b.weight"),
    "recurrent units": (Recurrent, torch.randn(8, 5, 4), ""),
    "a bank of experts": (Bank, torch.randn(16, 6), "router.weight"),
}


@pytest.mark.parametrize("name", KEPT)
def test_other_architectures_keep_their_function(name: str) -> None:
    build, x, reader = KEPT[name]
    torch.manual_seed(0)
    model = build()
    report = sb.check(model, x)
    assert report.verdict == "redundant", str(report)
    plan = sb.fix(model, report)
    assert plan.after.verdict == "healthy", str(plan)
    assert plan.function_change is not None
    assert plan.function_change < 1e-5
    assert len(plan.changes) == 1
    assert plan.changes[0].tensor == reader or not reader


def test_tokens_are_drawn_apart() -> None:
    from symbreak.rules.examples import EXAMPLES

    model, x, loss = EXAMPLES["SB004"][0]()
    plan = sb.fix(model, sb.check(model, x, loss))
    assert [(c.tensor, c.actions) for c in plan.changes] == [("registers", ("draw",))]
    assert plan.after.verdict == "healthy"


def test_edits() -> None:
    value = torch.arange(4.0, dtype=torch.float64)
    assert adding(1.0)(value).tolist() == [1, 2, 3, 4]
    assert scaling(torch.tensor([2.0, 0, 1, 1]))(value).tolist() == [0, 0, 2, 3]
    assert replacing(torch.ones(4))(value).tolist() == [1, 1, 1, 1]
    assert value.tolist() == [0, 1, 2, 3]


# ---- layers of one number --------------------------------------------------------------------------------------------


def test_constant_layers_behind_relu_part_by_unequal_shares_alone() -> None:
    """Shares of one layer leave near copies behind (SB006); those of two part all units, and no output moves."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5))
    for p in model.parameters():
        nn.init.constant_(p, 0.02 if p.dim() > 1 else 0.0)
    x = torch.randn(32, 16)
    plan = sb.fix(model, sb.check(model, x))
    assert plan.after.verdict == "healthy"
    assert [(c.tensor, c.actions) for c in plan.changes] == [
        ("2.weight", ("redistribute",)),
        ("4.weight", ("redistribute",)),
    ]
    assert plan.function_change is not None
    assert plan.function_change < 1e-6


def test_constant_layers_around_norms_are_drawn_as_few_as_it_takes() -> None:
    """A norm leaves nothing of the one direction that a constant matrix passes on: some have to be drawn, not all."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 8, dropout=0.0, batch_first=True), nn.Linear(8, 3))
    matrices = {n for n, p in model.named_parameters() if p.dim() > 1}
    for name in matrices:
        nn.init.constant_(model.get_parameter(name), 0.02)
    plan = sb.fix(model, sb.check(model, torch.randn(8, 5, 8)))
    assert plan.after.verdict == "healthy"
    drawn = {c.tensor for c in plan.changes if "draw" in c.actions}
    assert drawn
    assert drawn < matrices


def test_deep_copies_are_split_alike() -> None:
    """Layers that are deep copies stay so: different shares would leave them partly equal, which is told (SB405)."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    with torch.no_grad():
        projections, out = (
            layer.self_attn.in_proj_weight.view(3, 2, 4, 8),
            layer.self_attn.out_proj.weight.view(8, 2, 4),
        )
        projections.copy_(projections[:, :1].expand(-1, 2, -1, -1).clone())
        out.copy_(out[:, :1].expand(-1, 2, -1).clone())
    model, x = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), torch.randn(8, 5, 8)
    plan = sb.fix(model, sb.check(model, x))
    assert [c.tensor for c in plan.changes] == [f"layers.{n}.self_attn.out_proj.weight" for n in (0, 1)]
    assert plan.function_change is not None
    assert plan.function_change < 1e-5
    assert (plan.after.verdict, [f.code for f in plan.after.findings if f.severity != "info"]) == ("healthy", [])
