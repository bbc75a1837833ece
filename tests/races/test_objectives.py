"""Factories that bring a batch and an objective, and starts that look at data, against plain loops and `init_`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import symbreak as sb
from symbreak.errors import DataError, ForwardError, TargetError
from symbreak.races import Cell, RaceError, batched
from symbreak.races.plan import prepared


def pair() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(5)
    x = torch.randn(80, 3, generator=draw)
    return x, x[:, 0] * x[:, 1]


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 1))


def ridge(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Squares of the output, and of the weights by name and of all: more than a loss of the output can say."""
    x, y = batch
    return (
        (model(x)[:, 0] - y).square().mean()
        + 0.01 * model[0].weight.square().sum()
        + 0.001 * sum(p.square().sum() for p in model.parameters())
    )


def with_all() -> tuple[nn.Module, Any, Any]:
    return net(), pair(), ridge


def alone(state: dict[str, Tensor], batches: Any, objective: Any, eta: float, measure: Any) -> list[float]:
    model = net()
    model.load_state_dict(state)
    optimizer, found = torch.optim.SGD(model.parameters(), lr=eta), [float(objective(model, measure).detach())]
    for batch in batches:
        optimizer.zero_grad()
        objective(model, batch).backward()
        optimizer.step()
        found.append(float(objective(model, measure).detach()))
    return found


@pytest.mark.parametrize("plain", [None, "to compare"])
def test_an_objective_is_minimised_on_mini_batches_as_a_plain_loop_does(plain: str | None) -> None:
    work = prepared(with_all, None, steps=12, points=12, batch_size=16)
    chosen = [Cell("as_built", 0, 0.1), Cell("he", 1, 0.05)]
    assert batched.why_plain(work, chosen[0]) is None
    for run, cell in zip(batched.run(work, chosen, plain=plain), chosen, strict=True):
        seen = work.split.seen()
        expected = alone(work.subject.state(cell), work.split.batches(12), ridge, cell.eta, seen)
        np.testing.assert_allclose(run.loss, expected, rtol=1e-4)
        assert np.isfinite(run.held_loss).all()
    assert work.setup.loss == "objective ridge"


def test_data_that_is_given_stands_in_for_the_batch_and_a_metric_can_be_asked_for() -> None:
    x, y = pair()
    done = sb.race(
        with_all, (2 * x, y), schemes=["as_built"], seeds=2, etas=[0.05], steps=5, metric=lambda z, y: float(z.mean())
    )
    assert done.setup.data == "(X, y)"
    assert np.isfinite(done.runs[0].metric).all()
    own = sb.race(with_all, None, schemes=["as_built"], seeds=2, etas=[0.05], steps=5)
    assert own.setup.data == "the batch of with_all"
    assert own.runs[0].loss[0] != done.runs[0].loss[0]
    assert np.isnan(own.runs[0].metric).all()
    assert own.setup.goal is None
    assert "         - " in str(own)  # nothing to have converged to


def whole(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return (model(batch["x"])[:, 0] - batch["y"]).square().mean()


def with_a_dict() -> tuple[nn.Module, Any, Any]:
    x, y = pair()
    return net(), {"x": x, "y": y}, whole


def test_a_batch_of_another_form_is_given_whole_at_every_step() -> None:
    work = prepared(with_a_dict, None, steps=8, points=8)
    (run,) = batched.run(work, [Cell("as_built", 3, 0.1)])
    batch = with_a_dict()[1]
    expected = alone(work.subject.state(run.cell), [batch] * 8, whole, 0.1, batch)
    np.testing.assert_allclose(run.loss, expected, rtol=1e-4)
    with pytest.raises(RaceError, match=r"needs targets, and the batch of with_a_dict has none"):
        sb.race(with_a_dict, None, metric="r2")


def draws() -> tuple[nn.Module, Any, Any]:
    return net(), None, lambda model, batch: (model(torch.randn(16, 3)) - 1).square().mean()


def test_an_objective_that_draws_its_data_draws_the_same_for_every_run() -> None:
    work = prepared(draws, None, steps=10, points=5)
    chosen = [Cell("as_built", 0, 0.05), Cell("as_built", 0, 0.05), Cell("as_built", 1, 0.05)]
    together, apart = batched.run(work, chosen), batched.run(work, chosen, plain="to compare")
    np.testing.assert_allclose([run.loss for run in together], [run.loss for run in apart], rtol=1e-4)
    assert together[0].loss == pytest.approx(together[1].loss, rel=1e-6)
    assert together[0].loss != together[2].loss


def by_name(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    return (model(x)[:, 0] - y).square().mean() + 0.01 * model.get_parameter("0.weight").square().sum()


def with_a_frozen_one() -> tuple[nn.Module, Any, Any]:
    model = net()
    model.get_parameter("0.weight").requires_grad_(False)
    return model, pair(), by_name


def test_an_objective_that_insists_on_parameters_runs_one_by_one_and_says_so() -> None:
    knobs: dict[str, Any] = {"schemes": ["as_built"], "seeds": 2, "etas": [0.1], "steps": 10, "points": 10}
    done = sb.race(lambda: (net(), pair(), by_name), None, **knobs)
    assert {run.engine for run in done.runs} == {"one by one"}
    assert "one by one: vmap refuses it (AttributeError: `weight` is not an nn.Parameter)" in done.notes[0]
    work = prepared(lambda: (net(), pair(), by_name), None, steps=10, points=10)
    seen, state = work.split.seen(), work.subject.state(done.runs[1].cell)
    np.testing.assert_allclose(done.runs[1].loss, alone(state, work.split.batches(10), by_name, 0.1, seen), rtol=1e-4)
    assert sb.race(with_a_frozen_one, None, **knobs).finished


def test_factories_on_the_command_line_and_in_workers(tmp_path: Path) -> None:
    (tmp_path / "brought.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def make():\n"
        "    x = torch.randn(40, 3)\n"
        "    return nn.Linear(3, 1), (x, x[:, 0]), lambda m, b: (m(b[0])[:, 0] - b[1]).square().mean()\n"
    )
    from concurrent.futures import ThreadPoolExecutor

    knobs: dict[str, Any] = {"schemes": ["as_built", "he"], "seeds": 3, "etas": [0.1], "steps": 20}
    one = sb.race(f"{tmp_path}/brought.py:make", None, **knobs)
    with ThreadPoolExecutor(2) as pool:
        other = sb.race(f"{tmp_path}/brought.py:make", None, workers=pool, **knobs)
    np.testing.assert_allclose([run.loss for run in one.runs], [run.loss for run in other.runs], rtol=1e-5)
    import pickle

    pickle.loads(pickle.dumps(prepared(f"{tmp_path}/brought.py:make", None)))


def no_scalar() -> Any:
    return net(), pair(), lambda model, batch: model(batch[0])


def no_objective() -> Any:
    return net(), pair(), 3


def four() -> Any:
    return net(), 1, 2, 3


def only_a_model() -> Any:
    return net(), {"x": 1}


def fails() -> Any:
    return net(), pair(), lambda model, batch: model(batch["x"])


@pytest.mark.parametrize(
    ("target", "knobs", "error", "match"),
    [
        (with_all, {"loss": "mse"}, RaceError, "with_all brings its own objective, so loss='mse' has no place"),
        (no_scalar, {}, ForwardError, r"returned a tensor of shape \(32, 1\); expected one number"),
        (no_objective, {}, TargetError, "no_objective returned int as objective"),
        (four, {}, TargetError, "four returned a tuple of 4"),
        (only_a_model, {}, DataError, r"only_a_model brings no batch \(x, y\)"),
        (net, {}, DataError, r"net brings no batch \(x, y\) of tensors.* Pass data"),
        ("mlp:8", {}, DataError, "data is NoneType"),
        (fails, {}, ForwardError, "Sequential or its loss raised TypeError"),
    ],
)
def test_mistakes(target: Any, knobs: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        sb.race(target, None, schemes=["he"], seeds=2, steps=2, **knobs)


# ---- starts that look at data ----------------------------------------------------------------------------------------


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.norm(self.first(x))))


@pytest.mark.parametrize("scheme", ["lsuv", "auto", "krahenbuhl", "analytic"])
@pytest.mark.parametrize("target", [Normed, "mlp:8-8:tanh"])
def test_a_start_that_looks_at_data_is_what_init_gives(target: Any, scheme: str) -> None:
    work = prepared(target, "iris")
    state = work.subject.state(Cell(scheme, 5, 0.1))
    model = work.subject.build(5)
    sb.init_(model, scheme, work.split.seen(), generator=torch.Generator().manual_seed(5), loss=F.cross_entropy)
    assert all(torch.equal(one, state[name]) for name, one in model.state_dict().items())
    plain = work.subject.state(Cell("orthogonal", 5, 0.1))
    assert any(not torch.equal(one, state[name]) for name, one in plain.items())


def test_lsuv_gives_every_layer_variance_one_and_leaves_a_passed_module_alone() -> None:
    model = Normed()
    before = {name: one.clone() for name, one in model.state_dict().items()}
    work = prepared(model, "iris")
    state = work.subject.state(Cell("lsuv", 0, 0.1))
    x, _ = work.split.seen()
    h = F.linear(x, state["first.weight"], state["first.bias"])
    assert float(h.var(correction=0)) == pytest.approx(1.0, abs=0.03)
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    done = sb.race(model, "iris", schemes=["lsuv", "auto", "he"], seeds=2, etas=[0.05], steps=5)
    assert done.finished
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
