"""`init_` on models as people write them: runs, heals or stays healthy, and leaves everything but weights as it was."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn

import symbreak as sb
from probe_models import CASES, Case
from test_borrow import bits, difference, fingerprint, world

BATCHED = tuple(case for case in CASES if case.objective is None)


def built(case: Case) -> nn.Module:
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old torch interfaces say that they are old
        return case.build()


def state(model: nn.Module) -> dict[str, Any]:
    """The fingerprint without the parameters' version counters, which writing moves."""
    return {key: value for key, value in fingerprint(model).items() if not key.endswith(" data")}


def values(model: nn.Module) -> dict[str, Any]:
    return {name: bits(p) for name, p in model.named_parameters(remove_duplicate=False)}


@pytest.mark.parametrize("case", BATCHED, ids=repr)
def test_auto_touches_weights_alone_and_undo_brings_them_back(case: Case) -> None:
    model = built(case)
    before, old, around = state(model), values(model), world()
    start = sb.init_(model, "auto", case.batch(), loss=case.loss)
    assert difference(around, world()) == []
    assert sb.check(model, case.batch(), case.loss).verdict == "healthy", str(start)
    written = {name for step in start.changed for name in (step.tensor, *step.also)}
    inner = getattr(model, "module", getattr(model, "_orig_mod", model))
    prefix = next(n for n, _ in model.named_parameters()).removesuffix(next(n for n, _ in inner.named_parameters()))
    new = values(model)
    assert {name for name in old if old[name] != new[name]} <= {prefix + name for name in written}
    start.undo()
    assert values(model) == old
    assert difference(before, state(model)) == []


@pytest.mark.parametrize("scheme", ["lsuv", "krahenbuhl(rounds=3)", "weight_norm_data", "analytic"])
@pytest.mark.parametrize("case", BATCHED[::4], ids=repr)
def test_schemes_that_look_leave_the_rest_as_it_was(case: Case, scheme: str) -> None:
    model = built(case)
    before, old, around = state(model), values(model), world()
    start = sb.init_(model, scheme, case.batch(), loss=case.loss)
    assert difference(around, world()) == []
    assert all(bool(p.isfinite().all()) for p in model.parameters() if p.is_floating_point())
    start.undo()
    assert values(model) == old
    assert difference(before, state(model)) == []
