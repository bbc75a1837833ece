"""A tied start as its one-unit net, against the full net trained alone by torch.optim in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import symbreak as sb
from races.singly import OPTIMIZERS
from symbreak import nets
from symbreak.races import Run
from symbreak.races.plan import prepared
from symbreak.races.tied import is_tied
from symbreak.races.work import Work

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "iris": F.cross_entropy,
    "diabetes": lambda z, y: F.mse_loss(z[:, 0], y.double()),
    "xor": F.cross_entropy,
    "breast_cancer": F.cross_entropy,
}


def full(work: Work, run: Run, loss: Callable[[Tensor, Tensor], Tensor]) -> tuple[list[float], float]:
    """Losses at the points, and the norm of the first gradient."""
    spec = work.subject.spec
    assert spec is not None
    model = nets.build(spec, work.subject.n_features, work.subject.n_outputs, sb.schemes.zeros()).double()
    model.load_state_dict(work.subject.state(run.cell))
    optimizer = OPTIMIZERS[work.setup.optimizer](model.parameters(), run.cell.eta)
    x, y = work.table.seen()
    found, norm = [float(loss(model(x.double()), y).detach())], 0.0
    for step, (x_b, y_b) in enumerate(work.split.batches(work.setup.steps)):
        for group in optimizer.param_groups:
            group["lr"] = run.cell.eta * work.schedule(step / work.setup.steps)
        optimizer.zero_grad()
        loss(model(x_b.double()), y_b).backward()
        if not step:
            norm = float(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm())
        optimizer.step()
        if step + 1 in work.setup.points:
            found.append(float(loss(model(x.double()), y).detach()))
    return found, norm


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    ("target", "data"),
    [
        ("mlp:5-7:tanh", "iris"),
        ("mlp:9:relu", "diabetes"),
        ("mlp:4-6-3:sigmoid", "iris"),
        ("mlp:6-1:gelu", "xor"),
        ("mlp:7-7:softplus", "breast_cancer"),
    ],
)
def test_the_curves_of_the_full_net(target: str, data: str, optimizer: str) -> None:
    etas = {"sgd": [0.05, 0.01], "momentum": [0.01, 0.003]}.get(optimizer, [0.01, 0.003])
    if data == "diabetes":
        etas = [eta / 1e5 for eta in etas] if optimizer in ("sgd", "momentum") else etas
    knobs: dict[str, Any] = {"steps": 60, "points": 6, "batch_size": 16, "optimizer": optimizer, "schedule": "cosine"}
    done = sb.race(target, data, schemes=["constant(0.1)", "constant(-0.3)", "zeros"], seeds=1, etas=etas, **knobs)
    work = prepared(target, data, **knobs)
    assert {run.engine for run in done.runs} == {"quotient"}
    assert len(done.runs) == 6
    for run in done.runs:
        losses, norm = full(work, run, LOSSES[data])
        np.testing.assert_allclose(run.loss, losses, rtol=1e-7, err_msg=str(run.cell))
        assert run.grad_norm == pytest.approx(norm, rel=1e-9)


def test_in_a_chunk_with_others_each_keeps_its_place() -> None:
    knobs: dict[str, Any] = {"etas": [0.1, 0.2], "steps": 20, "seeds": 2}
    mixed = sb.race("mlp:6:tanh", "iris", schemes=["he", "constant(0.2)", "torch_default"], **knobs)
    names = {(run.cell.scheme, run.engine) for run in mixed.runs}
    assert names == {("kaiming_normal", "batched"), ("constant(0.2)", "quotient"), ("torch_default", "batched")}
    for scheme in ("he", "constant(0.2)"):
        alone = sb.race("mlp:6:tanh", "iris", schemes=[scheme], **knobs)
        same = [run.loss for run in mixed.runs if run.cell.scheme == alone.runs[0].cell.scheme]
        np.testing.assert_allclose(same, [run.loss for run in alone.runs], rtol=1e-5)
    assert "one unit a layer" in next(run.note for run in mixed.runs if run.engine == "quotient")


def test_one_that_diverges_leaves_the_rest() -> None:
    done = sb.race("mlp:8:relu", "diabetes", schemes=["constant(0.1)"], seeds=1, etas=[1e-6, 1e3], steps=50, points=10)
    assert [run.diverged_at is None for run in done.runs] == [True, False]
    assert math.isfinite(done.runs[0].loss[-1])


@pytest.mark.parametrize(
    ("change", "tied"),
    [
        (None, True),
        ("fc1.weight", False),
        ("fc1.bias", False),
        ("fc2.weight", False),
        ("fc3.weight", False),
        ("fc3.bias", True),
    ],
)
def test_one_number_that_differs_is_enough(change: str | None, tied: bool) -> None:
    spec = nets.parse_spec("mlp:4-3:tanh")
    state = dict(nets.build(spec, 2, 2, sb.schemes.constant(0.1)).state_dict())
    if change is not None:
        state[change] = state[change].clone()
        state[change].view(-1)[-1] += 1e-7
    assert is_tied(spec, state) is tied


def test_what_has_nothing_to_reduce() -> None:
    for target in ("mlp:1-1:tanh", "logistic"):
        done = sb.race(target, "iris", schemes=["constant(0.1)"], seeds=1, etas=[0.1], steps=5)
        assert done.runs[0].engine == "batched"
