"""Models as people write them, with torch's own start: healthy, in float64, every tensor accounted for."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import symbreak
from probe_models import CASES, Case


@pytest.fixture(scope="module", params=CASES, ids=repr)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


@pytest.fixture(scope="module")
def checked(case: Case) -> tuple[nn.Module, symbreak.Report]:
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old torch interfaces say that they are old
        model = case.build()
    return model, symbreak.check(model, case.batch(), case.loss, objective=case.objective)


def test_verdict(case: Case, checked: tuple[nn.Module, symbreak.Report]) -> None:
    report = checked[1]
    assert report.verdict == "healthy", report.to_text(concise=True)


def test_precision(case: Case, checked: tuple[nn.Module, symbreak.Report]) -> None:
    assert checked[1].dtype == case.dtype


def test_every_trainable_tensor_is_in_the_ladder(case: Case, checked: tuple[nn.Module, symbreak.Report]) -> None:
    model, report = checked
    inner = getattr(model, "module", getattr(model, "_orig_mod", model))
    expected = {name for name, p in inner.named_parameters() if p.requires_grad}
    assert set(report.wakeup) == expected
    if case.healthy:
        shadowed = {f.where for f in report.findings if f.code == "SB105"}
        assert {name for name, step in report.wakeup.items() if step != 1} <= shadowed | {
            name for name in expected if name.endswith("in_proj_bias")
        }
