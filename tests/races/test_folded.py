"""A start of any module with equal units, raced as its quotient: the curves of the race without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import symbreak as sb
from symbreak.races import tied
from symbreak.races.result import RaceResult


class Wide(nn.Module):
    """A net in float64: what is left between two runs is then not the rounding that Adam makes large."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.net = nn.Sequential(*layers).double()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.net(x.to(next(self.parameters()).dtype))
        return found


def mlp() -> nn.Module:
    return Wide(nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3))


@torch.no_grad()
def normed() -> nn.Module:
    """Norms over units of two kinds, as under a norm over equal ones nothing is left."""
    layers = nn.Linear(4, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 12), nn.GroupNorm(3, 12), nn.Tanh()
    wide = Wide(*layers, nn.Linear(12, 3))
    kind = torch.tensor([0, 1, 1, 0] * 3)
    for n in (0, 3):
        wide.net[n].weight.copy_(wide.net[n].weight[kind])
    for n in (3, 6):
        wide.net[n].weight.copy_(wide.net[n].weight[:, kind])
    wide.net[0].bias.copy_(wide.net[0].bias[kind])
    wide.net[3].bias.copy_(wide.net[3].bias[kind])
    return wide


def dropped() -> nn.Module:
    """Dropout of the inputs alone, so that what is behind it folds."""
    return Wide(nn.Dropout(0.3), nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3))


class Tokens(nn.Module):
    """Features as tokens of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.write = nn.Linear(1, 8), nn.Linear(8, 3)
        self.mix = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.read(x[..., None]))
        found: Tensor = self.write(h + self.mix(h, h, h, need_weights=False)[0]).mean(1)
        return found


def attention() -> nn.Module:
    return Wide(Tokens())


def with_objective() -> tuple[nn.Module, None, Callable[[nn.Module, Any], Tensor]]:
    return mlp(), None, lambda net, batch: nn.functional.cross_entropy(net(batch[0]), batch[1])


NETS: dict[str, Callable[[], Any]] = {
    "mlp": mlp, "norms": normed, "dropout": dropped, "attention": attention, "objective": with_objective,
}  # fmt: skip


def raced(target: Any, monkeypatch: pytest.MonkeyPatch | None = None, **knobs: Any) -> RaceResult:
    """The race; with a patch, without quotients."""
    given: dict[str, Any] = {"schemes": ["constant(0.1)"], "seeds": 1, "steps": 40, "points": 4, "batch_size": 16}
    if monkeypatch is None:
        return sb.race(target, "iris", **given | knobs)
    with monkeypatch.context() as patched:
        patched.setattr(tied, "shows_copies", lambda state: False)
        return sb.race(target, "iris", **given | knobs)


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [*(("mlp", one) for one in ("sgd", "momentum", "adam", "adamw")), ("norms", "adamw"), ("norms", "momentum"),
     ("dropout", "adam"), ("attention", "adamw"), ("objective", "sgd")],
)  # fmt: skip
def test_the_curves_of_the_full_net(name: str, optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    knobs: dict[str, Any] = {"optimizer": optimizer, "etas": [0.003, 0.01], "look": name == "mlp"}
    knobs["schemes"] = ["as_built" if name == "norms" else "constant(0.1)"]
    small, full = raced(NETS[name], **knobs), raced(NETS[name], monkeypatch, **knobs)
    assert {run.engine for run in small.runs} == {"quotient"}
    assert "quotient" not in {run.engine for run in full.runs}
    assert len(small.runs) == 2
    for one, other in zip(small.runs, full.runs, strict=True):
        assert one.cell == other.cell
        for field in ("loss", "held_loss", "metric", "held_metric"):
            np.testing.assert_allclose(getattr(one, field), getattr(other, field), rtol=1e-9, atol=1e-9, err_msg=field)
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-9)
        assert (one.wakeup, one.width) == (other.wakeup, other.width)
    assert "trained as its quotient" in small.runs[0].note


def test_in_a_chunk_with_others_each_keeps_its_place() -> None:
    knobs: dict[str, Any] = {"etas": [0.1, 0.2], "seeds": 2, "steps": 20}
    mixed = raced(mlp, schemes=["he", "constant(0.2)", "zeros", "torch_default"], **knobs)
    engines = {(run.cell.scheme, run.engine) for run in mixed.runs}
    assert engines == {("kaiming_normal", "batched"), ("constant(0.2)", "quotient"), ("zeros", "quotient"),
                       ("torch_default", "batched")}  # fmt: skip
    for scheme in ("he", "constant(0.2)", "zeros"):
        alone = raced(mlp, schemes=[scheme], **knobs)
        same = [run.loss for run in mixed.runs if run.cell.scheme == alone.runs[0].cell.scheme]
        np.testing.assert_allclose(same, [run.loss for run in alone.runs], rtol=1e-12)


def test_what_a_proof_would_not_pay_for_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a start without copies was given to the quotient")

    def zero_head() -> nn.Module:
        net = mlp()
        nn.init.zeros_(net.net[4].weight)
        return net

    with monkeypatch.context() as patched:
        patched.setattr(tied, "_quotient", never)
        assert {run.engine for run in raced(zero_head, schemes=["as_built", "he"], seeds=2).runs} == {"batched"}
        with pytest.raises(AssertionError, match="a start without copies"):
            raced(mlp)


def test_copies_that_are_no_classes_run_whole() -> None:
    """Equal rows, and outgoing weights that tell them apart."""

    def only_rows() -> nn.Module:
        net = Wide(nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, 3))
        for p in net.net[0].parameters():
            nn.init.constant_(p, 0.1)
        return net

    assert tied.shows_copies(dict(only_rows().state_dict()))
    assert {run.engine for run in raced(only_rows, schemes=["as_built"]).runs} == {"batched"}


def test_a_module_of_the_users_stays_as_it_is() -> None:
    net = mlp().eval()
    before = {name: one.clone() for name, one in net.state_dict().items()}
    assert raced(net).runs[0].engine == "quotient"
    assert all(torch.equal(one, before[name]) for name, one in net.state_dict().items())
    assert not net.training
    assert not any(one.training for one in net.modules())


def test_one_by_one_where_the_full_runs_go_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Branching(Wide):
        def forward(self, x: Tensor) -> Tensor:
            found = super().forward(x)
            return found * 2 if bool(found.sum() > 1e9) else found

    def branching() -> nn.Module:
        return Branching(nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, 3))

    small, full = raced(branching, etas=[0.1, 0.2]), raced(branching, monkeypatch, etas=[0.1, 0.2])
    assert {run.engine for run in small.runs} == {"quotient"}
    assert {run.engine for run in full.runs} == {"one by one"}
    np.testing.assert_allclose([r.loss for r in small.runs], [r.loss for r in full.runs], rtol=1e-9)
