"""The smallest model where each rule fires: healed, or said to be out of reach of the weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import symbreak as sb
from symbreak.rules.examples import EXAMPLES

OUT_OF_REACH = {"SB104", "SB301", "SB304", "SB405"}
HARMLESS = {"SB007", "SB103", "SB105", "SB106", "SB302", "SB406", "SB901"}


@pytest.mark.parametrize("code", EXAMPLES)
def test_the_firing_twin(code: str) -> None:
    model, batch, loss = EXAMPLES[code][0]()
    plan = sb.fix(model, sb.check(model, batch, loss))
    after = {f.code for f in plan.after.findings}
    if code in HARMLESS:
        assert plan.changes == ()
    elif code in OUT_OF_REACH:
        assert code in {u.finding.code for u in plan.left}
        assert plan.changes == ()
        assert all("no repair of weights is known" in u.reason for u in plan.left if u.finding.code == code)
    else:
        assert code not in after, str(plan)
        assert plan.left == ()
        assert plan.after.verdict == "healthy"


@pytest.mark.parametrize("code", EXAMPLES)
def test_the_silent_twin_stays_as_it_is(code: str) -> None:
    model, batch, loss = EXAMPLES[code][1]()
    report = sb.check(model, batch, loss)
    if not any(f.severity == "warning" for f in report.findings):  # a dead unit of a random start
        assert sb.fix(model, report).changes == ()


def test_the_prior_of_one_logit() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 1))
    nn.init.constant_(model[0].bias, 9.0)
    y = (torch.arange(50) % 5 == 0).float().unsqueeze(1)
    plan = sb.fix(model, sb.check(model, (torch.randn(50, 4), y), nn.functional.binary_cross_entropy_with_logits))
    (change,) = plan.changes
    assert (change.tensor, change.actions) == ("0.bias", ("set",))
    assert float(change.value[0].sigmoid()) == pytest.approx(0.2)


def test_a_class_that_is_absent_is_not_impossible() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3))
    with torch.no_grad():
        model[0].bias.copy_(torch.tensor([0.0, 0.0, 30.0]))
    y = torch.arange(40) % 2
    plan = sb.fix(model, sb.check(model, (torch.randn(40, 4), y), nn.functional.cross_entropy))
    (change,) = plan.changes
    assert bool(torch.isfinite(change.value).all())
    assert change.value.softmax(0)[:2].tolist() == pytest.approx([0.494, 0.494], abs=0.01)


def test_factors_that_cancel_keep_the_function() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
    for layer in model[::2]:
        nn.init.kaiming_normal_(layer.weight)
    with torch.no_grad():
        model[0].weight.mul_(1e5), model[0].bias.mul_(1e5)
        model[2].weight.mul_(1e-5)
    x = torch.randn(32, 6)
    report = sb.check(model, x, select=["SB201", "SB202", "SB203", "SB204"])
    assert report.findings
    plan = sb.fix(model, report)
    assert plan.after.findings == ()
    assert plan.function_change is not None
    assert plan.function_change < 1e-5
    assert {c.tensor for c in plan.changes} == {"0.weight", "0.bias", "2.weight"}
