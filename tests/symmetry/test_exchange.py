"""Whole networks that may be exchanged: proved where the objective is symmetric in them, and training bears it out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import symbreak as sb
from symbreak.cli import main
from symbreak.report import Report
from symbreak.symmetry import Certificate, SymmetryError, graph, networks_of, unit_graph, verify_on

X = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
Y = torch.randn(16, 1, generator=torch.Generator().manual_seed(1))
Objective = Callable[["Members", Tensor], Tensor]


class Members(nn.Module):
    """Equal networks on one input."""

    def __init__(self, n: int = 2, *, norm: bool = False, dropout: float = 0.0) -> None:
        super().__init__()

        def member() -> nn.Sequential:
            middle = [nn.BatchNorm1d(8)] if norm else []
            return nn.Sequential(nn.Linear(4, 8), *middle, nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 1))

        torch.manual_seed(2)
        self.q = nn.ModuleList(member() for _ in range(n))
        for other in self.q[1:]:
            other.load_state_dict(self.q[0].state_dict())

    def answers(self, x: Tensor) -> list[Tensor]:
        return [q(x) for q in self.q]


class Mean(Members):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack(self.answers(x)).mean(0)


class Both(Members):
    def forward(self, x: Tensor) -> list[Tensor]:
        return self.answers(x)


def target(x: Tensor) -> Tensor:
    return Y.to(x)


def without_gradient(m: Members, x: Tensor) -> Tensor:
    with torch.no_grad():
        other: Tensor = m.q[1](x)
    return ((m.q[0](x) - target(x)) * (other - target(x))).mean() + (m.q[1](x) - target(x)).square().mean()


class Rarely(torch.autograd.Function):
    """The identity; far from the batch that was looked at, its backward is another one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float, far: Tensor) -> Tensor:
        ctx.factor = factor
        ctx.save_for_backward(far)
        return x * 1.0

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return torch.where(ctx.saved_tensors[0], ctx.factor * gradients[0], gradients[0]), None, None


def far(x: Tensor) -> Tensor:
    return x.sum(1, keepdim=True) > 1e3


def by_hand(m: Members, x: Tensor) -> Tensor:
    first, second = m.answers(x)
    made: Tensor = Rarely.apply(first, 0.5, far(x)) + Rarely.apply(second, 0.6, far(x))  # type: ignore[no-untyped-call]
    return made.square().mean()


def in_attention(m: Members, x: Tensor) -> Tensor:
    first, second = m.answers(x)
    mixed = torch.where(far(x), first, (first + second) / 2)[None]
    return nn.functional.scaled_dot_product_attention(mixed, mixed, mixed).square().mean()


RARELY_UNEQUAL: dict[str, Objective] = {
    "a backward of its own": by_hand,
    "inside attention": in_attention,
    "before dropout": lambda m, x: nn.functional.dropout(
        torch.where(far(x), m.q[0](x), (m.q[0](x) + m.q[1](x)) / 2), 0.1
    ).mean(),
}
SYMMETRIC: dict[str, Objective] = {
    "both errors": lambda m, x: sum((q - target(x)).square().mean() for q in m.answers(x)),  # type: ignore[arg-type, return-value]
    "the lower one": lambda m, x: torch.minimum(*m.answers(x)[:2]).mean(),
    "the mean": lambda m, x: (torch.stack(m.answers(x)).mean(0) - target(x)).square().mean(),
    "the mean of columns": lambda m, x: torch.cat(m.answers(x), 1).mean(1).square().mean(),
    "the least of all": lambda m, x: torch.stack(m.answers(x)).amin(0).mean(),
}
ONE_SIDED: dict[str, Objective] = {
    "unequal shares": lambda m, x: (0.5 * m.q[0](x) + 0.6 * m.q[1](x) - target(x)).square().mean(),
    "a difference": lambda m, x: (m.q[0](x) - m.q[1](x) - target(x)).square().mean(),
    "one is detached": lambda m, x: (m.q[0](x) * m.q[1](x).detach()).mean(),
    "columns that count differently": lambda m, x: (torch.cat(m.answers(x), 1) @ torch.tensor([1.0, 2.0]).to(x)).mean(),
    "without gradient": without_gradient,
}


def findings(report: Report) -> list[tuple[str, str]]:
    return [(f.code, f.standing) for f in report.findings if f.code == "SB005"]


def parted(model: Members, objective: Objective, optimizer: torch.optim.Optimizer) -> float:
    """How far apart the members are after training, in float64."""
    for step in range(30):
        x = torch.randn(16, 4, generator=torch.Generator().manual_seed(10 + step), dtype=torch.float64)
        optimizer.zero_grad()
        objective(model, x).backward()
        optimizer.step()
    first, *others = (nn.utils.parameters_to_vector(q.parameters()) for q in model.q)
    return max(float((first - other).abs().max().detach()) for other in others)


@pytest.mark.parametrize("name", SYMMETRIC)
@pytest.mark.parametrize("norm", [False, True])
def test_members_of_a_symmetric_objective_are_one_for_ever(name: str, norm: bool) -> None:
    model = Members(2 if name == "the lower one" else 3, norm=norm)
    assert findings(sb.check(model, X, objective=SYMMETRIC[name])) == [("SB005", "proved")]
    model.double()
    for kind in (torch.optim.SGD, torch.optim.AdamW):
        assert parted(model, SYMMETRIC[name], kind(model.parameters(), lr=1e-2)) < 1e-9


@pytest.mark.parametrize("name", ONE_SIDED)
def test_members_that_are_used_unequally_are_not_proved(name: str) -> None:
    model = Members()
    assert ("SB005", "proved") not in findings(sb.check(model, X, objective=ONE_SIDED[name]))
    model.double()
    assert parted(model, ONE_SIDED[name], torch.optim.SGD(model.parameters(), lr=1e-2)) > 1e-6


@pytest.mark.parametrize("name", RARELY_UNEQUAL)
def test_members_that_another_batch_would_part_are_not_proved(name: str) -> None:
    model = Members()
    assert ("SB005", "proved") not in findings(sb.check(model, X, objective=RARELY_UNEQUAL[name]))
    RARELY_UNEQUAL[name](model, X + 1e3).backward()  # type: ignore[no-untyped-call]
    first, second = (torch.cat([g.flatten() for p in q.parameters() if (g := p.grad) is not None]) for q in model.q)
    assert first.shape != second.shape or not torch.equal(first, second)


def test_dropout_at_the_end_of_each_member_is_not_proved() -> None:
    model = Members()
    for q in model.q:
        q.append(nn.Dropout(0.5))  # type: ignore[operator]
    assert ("SB005", "proved") not in findings(sb.check(model, X, objective=SYMMETRIC["both errors"]))


def test_one_output_proves_it_for_every_loss_and_two_outputs_do_not() -> None:
    assert findings(sb.check(Mean(3), X)) == [("SB005", "proved")]
    assert findings(sb.check(Both(), X)) == [("SB005", "measured")]


def test_what_parts_equal_networks_is_not_proved() -> None:
    both = SYMMETRIC["both errors"]
    assert ("SB005", "proved") not in findings(sb.check(Members(dropout=0.5), X, objective=both))
    changed = Members()
    with torch.no_grad():
        changed.q[1][0].weight[0, 0] += 1e-3
    assert findings(sb.check(changed, X, objective=both)) == []
    model = Members()
    rates = torch.optim.SGD([{"params": q.parameters(), "lr": r} for q, r in zip(model.q, (0.1, 0.2), strict=True)])
    assert ("SB005", "proved") not in findings(sb.check(model, X, objective=both, optimizer=rates))
    frozen = Members()
    frozen.q[1].requires_grad_(False)
    assert ("SB005", "proved") not in findings(sb.check(frozen, X, objective=both))


def test_a_random_operation_hides_no_unequal_use() -> None:
    unequal = lambda m, x: nn.functional.dropout(m.q[0](x) + torch.relu(m.q[1](x) - 5) ** 3, 0.5).mean()
    assert ("SB005", "proved") not in findings(sb.check(Members(), X, objective=unequal))
    model = Members()
    only = torch.optim.SGD(model.q[0].parameters(), lr=0.1)
    both = SYMMETRIC["both errors"]
    assert ("SB005", "proved") not in findings(sb.check(model, X, objective=both, optimizer=only))


# ---- the second look, and the certificate --------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*SYMMETRIC, *ONE_SIDED])
def test_the_second_look_alone_tells_symmetric_use_from_one_sided(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objective = {**SYMMETRIC, **ONE_SIDED}[name]
    monkeypatch.setattr(graph, "may_be_exchanged", lambda *_: ({},))
    (found,) = unit_graph(Members(), X, objective=objective, networks=[("q.0", "q.1")]).exchangeable
    assert found is (name in SYMMETRIC)


def test_rows_of_the_members_themselves_do_not_change_places_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exchanged with its rows, each member is used alike here; without, it is not, and their gradients differ."""

    class Crossed(nn.ModuleList):
        def forward(self, x: Tensor) -> Tensor:
            one, two = (member(x) for member in self)
            return one[:, 0] + 2 * one[:, 1] + 2 * two[:, 0] + two[:, 1]

    model = Crossed(nn.Linear(4, 2, bias=False) for _ in range(2))
    for p in model.parameters():
        nn.init.ones_(p)
    monkeypatch.setattr(graph, "same_when_exchanged", lambda *_: True)  # the second look refuses it, too
    assert unit_graph(model, X, networks=[("0", "1")]).exchangeable == (False,)


def certified(model: Members, objective: Objective) -> Certificate:
    found = sb.check(model, X, objective=objective).certificate
    assert found is not None
    return found


def proved_again(text: str, model: Members, objective: Objective) -> Certificate:
    return verify_on(text, unit_graph(model, X, objective=objective, networks=networks_of(text)))


def test_a_certificate_holds_the_networks_and_is_proved_again() -> None:
    both = SYMMETRIC["both errors"]
    proof = certified(Members(), both)
    assert proof.networks == (("q.0", "q.1"),)
    assert "q.0, q.1 are one network" in proof.in_words()
    assert proved_again(proof.to_json(), Members(), both) == proof


def test_a_certificate_of_networks_is_refused_where_they_part() -> None:
    both, text = SYMMETRIC["both errors"], certified(Members(), SYMMETRIC["both errors"]).to_json()
    with pytest.raises(SymmetryError, match=r"q\.0, q\.1 may not be exchanged"):
        proved_again(text, Members(), ONE_SIDED["unequal shares"])
    changed = Members()
    with torch.no_grad():
        changed.q[1][0].weight[0, 0] += 1e-3
    with pytest.raises(SymmetryError, match="may not be exchanged"):
        proved_again(text, changed, both)
    with pytest.raises(SymmetryError, match="was not asked"):
        verify_on(text, unit_graph(Members(), X, objective=both))
    other = Members()
    with torch.no_grad():
        for q in other.q:
            q[0].weight[0, 0] += 1e-3
    with pytest.raises(SymmetryError, match="other weights"):
        proved_again(text, other, both)


@pytest.mark.parametrize("networks", [("q.0",), ("q.0", "q.0"), ("q.0", "nobody")])
def test_a_forged_certificate_of_networks_proves_nothing(networks: tuple[str, ...]) -> None:
    both = SYMMETRIC["both errors"]
    proof = certified(Members(), both)
    with pytest.raises(SymmetryError):
        proved_again(Certificate(proof.level, proof.classes, proof.fingerprint, (networks,)).to_json(), Members(), both)


def test_on_the_command_line(tmp_path: Path) -> None:
    path, target = str(tmp_path / "proof.json"), f"{__name__}:critics"
    run = CliRunner()
    assert run.invoke(main, ["check", target, "--certificate", path]).exit_code == 1
    again = run.invoke(main, ["check", target, "--verify", path])
    assert (again.exit_code, "q.0, q.1 are one network" in again.output) == (0, True)
    other = run.invoke(main, ["check", f"{__name__}:one_sided", "--verify", path])
    assert (other.exit_code, "may not be exchanged" in other.output) == (2, True)


def critics() -> tuple[Members, Tensor, Objective]:
    return Members(), X, SYMMETRIC["both errors"]


def one_sided() -> tuple[Members, Tensor, Objective]:
    return Members(), X, ONE_SIDED["unequal shares"]
