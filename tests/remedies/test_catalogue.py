"""Every known start: what is broken is healed, judged by training it without symbreak; what is not is left alone."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import nn

import symbreak as sb
from ground_truth import CASES, conditions, fatal, oracle
from ground_truth.case import Case
from test_borrow import Kept

SAMPLE = [*fatal.CASES, *conditions.CASES, *[c for c in CASES if c not in (*fatal.CASES, *conditions.CASES)][::3]]
BROKEN = [c for c in SAMPLE if c.verdict.isdisjoint({"healthy"})]
KEEPS_FUNCTION = {
    "all-zero MLP, Tanh": 2,
    "all-zero MLP, ReLU": 2,
    "all-zero MLP, GELU": 2,
    "all-zero MLP, LeakyReLU": 2,
    "LoRA with A = B = 0": 1,
    "two zero layers in series": 1,
    "ReZero alpha and last layer both zero": 1,
    "SwiGLU with g and u zero": 1,
    "SwiGLU with u and d zero": 1,
    "SwiGLU with g and d zero": 1,
    "attention with Q = K = 0": 1,
    "attention with V = O = 0": 1,
    "all-zero MLP, Sigmoid": 1,
    "all-zero MLP, Softplus": 1,
    "all weights and biases constant": 1,
    "constant hidden layers, random head": 1,
    "Net2Wider, equal split": 1,
    "copied experts, zero router": 1,
    "copied experts, equal router rows": 1,
    "heads equal in Q, K, V and O": 1,
    "tie both": 1,
    "joint swap over two layers": 1,
    "sign mirror, tanh": 1,
    "near copies, 1e-6 apart": 1,
}
"""case -> tensors touched, where the outputs stay as they are"""


@cache
def planned(name: str) -> tuple[Case, nn.Module, sb.Plan]:
    case = next(c for c in CASES if c.name == name)
    model = case.model()
    report = sb.check(model, case.batch, case.loss)
    with Kept(model, case.batch):  # whatever the case: fix itself touches nothing
        return case, model, sb.fix(model, report)


def mended(name: str) -> Case:
    """The case with the repaired model in the place of the broken one."""
    case, _, plan = planned(name)
    state = plan.state_dict()

    def build() -> nn.Module:
        model = case.build()
        model.load_state_dict(state)
        return model

    return replace(case, build=build)


@pytest.mark.parametrize("name", [c.name for c in BROKEN])
def test_what_is_broken_is_healed(name: str) -> None:
    _, _, plan = planned(name)
    assert not plan.left, str(plan)
    assert plan.after.verdict == "healthy"
    assert plan.changes


@pytest.mark.parametrize("name", [c.name for c in SAMPLE if "healthy" in c.verdict])
def test_what_is_not_broken_is_left_alone(name: str) -> None:
    plan = planned(name)[2]
    if plan.before.verdict == "healthy" and not any(f.severity != "info" for f in plan.before.findings):
        assert plan.changes == ()
        assert plan.function_change == 0.0


@pytest.mark.parametrize("name", KEEPS_FUNCTION)
def test_the_function_is_kept_and_few_tensors_touched(name: str) -> None:
    case, _, plan = planned(name)
    assert len(plan.changes) == KEEPS_FUNCTION[name]
    assert plan.function_change is not None
    assert plan.function_change < (1e-5 if "near" in name else 1e-6)
    x = case.batch[0] if isinstance(case.batch, tuple) else case.batch
    before, after = case.model().double().eval(), mended(name).model().double().eval()
    with torch.no_grad():
        gap = (before(x.double()) - after(x.double())).abs().max()
        assert float(gap) <= 1e-5 * float(before(x.double()).square().mean().sqrt())


@pytest.mark.parametrize("name", [c.name for c in BROKEN if c.verdict & {"stuck"} and c.ladder])
def test_training_wakes_every_tensor(name: str) -> None:
    found = oracle.ladder(mended(name))
    asleep = [n for n, step in found.items() if step is None and planned(name)[1].get_parameter(n).requires_grad]
    shadowed = {"0.bias", "3.bias"} if "BatchNorm" in name else set()  # a batch norm erases the bias before it
    assert set(asleep) <= shadowed


@pytest.mark.parametrize("name", [c.name for c in BROKEN if c.widths])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_training_tells_every_unit_apart(name: str, optimizer: oracle.Optimizer) -> None:
    case = mended(name)
    for layer, (_, units) in case.widths.items():
        assert oracle.distinct_units(case, layer, optimizer, lr=0.05) == units, layer


@pytest.mark.parametrize("name", [c.name for c in BROKEN if c.tied])
def test_training_parts_every_copy(name: str) -> None:
    case = mended(name)
    for pattern in case.tied:
        assert oracle.tied(case, pattern, torch.optim.SGD, lr=0.05) == 0, pattern


@pytest.mark.parametrize("name", [c.name for c in BROKEN])
def test_apply_does_what_was_told_and_undo_takes_it_back(name: str) -> None:
    case, model, plan = planned(name)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    places = {n: (id(p), p.data_ptr()) for n, p in model.named_parameters()}
    plan.apply()
    changed = {n for n, t in model.state_dict().items() if not same_bits(t, before[n])}
    assert changed == {c.tensor for c in plan.changes}
    report = sb.check(model, case.batch, case.loss)
    assert report.verdict == plan.after.verdict
    assert [(f.code, f.where) for f in report.findings] == [(f.code, f.where) for f in plan.after.findings]
    plan.undo()
    assert all(same_bits(t, before[n]) for n, t in model.state_dict().items())
    assert places == {n: (id(p), p.data_ptr()) for n, p in model.named_parameters()}


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.cpu().numpy().tobytes() == b.cpu().numpy().tobytes()


def test_the_same_plan_every_time() -> None:
    for name in ("all weights and biases constant", "LoRA with A = B = 0", "twin critics from one seed"):
        case, _, plan = planned(name)
        model = case.model()
        torch.manual_seed(123)
        again = sb.fix(model, sb.check(model, case.batch, case.loss))
        assert [c.tensor for c in again.changes] == [c.tensor for c in plan.changes]
        assert all(torch.equal(a.value, b.value) for a, b in zip(again.changes, plan.changes, strict=True))
