"""The look at a start before it is trained, against `symbreak.check` one start at a time."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import symbreak as sb
from symbreak import nets
from symbreak.races import Cell
from symbreak.races.looks import look
from symbreak.races.plan import prepared
from symbreak.races.result import from_json

SCHEMES = [
    "zeros", "ones", "constant(0.1)", "torch_default", "xavier_uniform", "orthogonal", "normal(0.001)", "zero_hadamard",
     "sparse", "idinit", "lsuv",
]  # fmt: skip
TARGETS = [
    ("mlp:8-8:tanh", "iris"),
    ("mlp:8-6-8:sigmoid", "iris"),
    ("mlp:9:gelu", "xor"),
    ("mlp:8:softplus", "diabetes"),
    ("mlp:6-6:relu", "wine"),
    ("mlp:5-5:identity", "diabetes"),
    ("logistic", "breast_cancer"),
    ("linear", "diabetes"),
]


@pytest.mark.parametrize(("target", "data"), TARGETS)
def test_side_by_side_as_check_says_of_each_alone(target: str, data: str) -> None:
    work = prepared(target, data, batch_size=None if target == "linear" else 32)
    spec, (x, y) = work.subject.spec, next(work.table.batches(1))
    assert spec is not None
    states = [work.subject.state(Cell(name, 3, 0.1)) for name in SCHEMES]
    found = dict(zip(SCHEMES, look(work, states), strict=True))
    for name, state in zip(SCHEMES, states, strict=True):
        model = nets.build(spec, work.subject.n_features, work.subject.n_outputs, sb.schemes.zeros())
        model.load_state_dict(state)
        report = sb.check(model, (x, y), work.score.function)
        assert found[name].wakeup == dict(report.wakeup), name
        hidden = {layer: pair for layer, pair in report.width.items() if layer in found[name].width}
        assert found[name].width == hidden, name


def test_the_ladder_of_a_deep_zero_net_is_climbed_to_its_end() -> None:
    """Plain steps would shrink doubly exponentially, and the first layers would seem to sleep for ever."""
    work = prepared("mlp:6-6-6-6-6-6-6:sigmoid", "iris")
    (found,) = look(work, [work.subject.state(Cell("zeros", 0, 0.1))])
    assert [found.wakeup[f"fc{k}.weight"] for k in range(1, 9)] == [8, 7, 6, 5, 4, 3, 2, 1]
    assert set(found.width.values()) == {(1, 6)}


def test_balanced_classes_give_rounding_not_a_gradient() -> None:
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    work = prepared("mlp:8:tanh", (x, torch.arange(30) % 3), batch_size=None, held_out=0)
    (found,) = look(work, [work.subject.state(Cell("zeros", 0, 0.1))])
    assert set(found.wakeup.values()) == {None}


def test_copies_and_near_copies() -> None:
    work = prepared("mlp:8:tanh", "iris")
    state = work.subject.state(Cell("normal", 0, 0.1))
    w, b, a = state["fc1.weight"], state["fc1.bias"], state["fc2.weight"]
    w[1], a[:, 1] = w[0], a[:, 0]  # copies, in and out
    w[3] = w[2]  # equal in, different out: apart after a step
    w[5], a[:, 5] = w[4] * (1 + 1e-5), a[:, 4]  # nearly
    b[7] += 1.0
    w[7], a[:, 7] = w[6], a[:, 6]  # but for the bias
    (found,) = look(work, [state])
    assert found.width == {"fc1": (7, 8)}


def test_copies_by_a_joint_permutation_of_two_layers() -> None:
    """identity: no two rows of fc2 are equal, yet its last units hear copies, say the same, and always will."""
    work = prepared("mlp:8-8:tanh", "iris")
    state = work.subject.state(Cell("identity", 0, 0.1))
    (found,) = look(work, [state])
    assert found.width == {"fc1": (5, 8), "fc2": (5, 8)}
    assert work.subject.spec is not None
    model = nets.build(work.subject.spec, 4, 3, sb.schemes.zeros()).double()
    model.load_state_dict(state)
    for x, y in work.table.batches(50):
        model.zero_grad()
        work.score.function(model(x.double()), y).backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.1 * p.grad
    h = model[:4](work.table.train[0].double()).detach()  # [n, 8] behind the second tanh
    assert float((h[:, 4:] - h[:, 4:5]).abs().max()) < 1e-12
    assert float((h[:, 4] - h[:, 3]).abs().max()) > 1e-2


def test_every_run_says_it_and_so_do_table_frame_and_json() -> None:
    done = sb.race("mlp:8-8:tanh", "iris", schemes=["zeros", "he"], seeds=3, etas=[0.1, 0.2], steps=20)
    zero = next(run for run in done.runs if run.cell.scheme == "zeros")
    assert zero.wakeup == {**dict.fromkeys(zero.wakeup), "fc3.bias": 1}
    assert zero.width == {"fc1": (1, 8), "fc2": (1, 8)}
    frame = done.to_frame().groupby("scheme")[["asleep", "last_wakeup", "distinct_units", "hidden_units"]].max()
    assert frame.loc["zeros"].tolist() == [5, 1, 2, 16]
    assert frame.loc["kaiming_normal"].tolist() == [0, 1, 16, 16]
    assert "zeros starts with a fault: 5 of 6 tensors get no gradient, and 2 of 16 hidden units are" in str(done)
    again = from_json(done.to_json())
    assert [dataclasses.astuple(run) for run in again.runs] == [dataclasses.astuple(run) for run in done.runs]


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.gate, self.head = nn.Linear(4, 6), nn.Parameter(torch.zeros(())), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x) + self.gate * self.body(x)[:, :3]


def test_other_modules_are_looked_at_when_asked() -> None:
    knobs: dict[str, Any] = {"schemes": ["as_built"], "seeds": 2, "etas": [0.1], "steps": 4}
    assert sb.race(Gated, "iris", **knobs).runs[0].wakeup == {}
    assert math.isnan(sb.race(Gated, "iris", **knobs).to_frame()["asleep"][0])
    done = sb.race(Gated, "iris", look=True, **knobs)
    assert done.runs[1].wakeup == {"gate": 1, "body.weight": 2, "body.bias": 2, "head.weight": 1, "head.bias": 1}
    model = Gated()
    before = {name: one.clone() for name, one in model.state_dict().items()}
    sb.race(model, "iris", look=True, **{**knobs, "schemes": ["he"]})
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    assert sb.race("mlp:8", "iris", look=False, **{**knobs, "schemes": ["he"]}).runs[0].width == {}
