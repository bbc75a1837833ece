"""The catalogue of known starts: first against an independent oracle, then `symbreak.check` against the catalogue."""

from __future__ import annotations

from functools import cache

import pytest
import torch

import symbreak
from ground_truth import CASES, oracle
from ground_truth.case import Case

CLAIMS_A_LADDER = [case for case in CASES if case.ladder]
CLAIMS_TIES = [case for case in CASES if case.tied]
CLAIMS_WIDTHS = [case for case in CASES if case.widths]


def spoken(report: symbreak.Report) -> set[str]:
    return {finding.code for finding in report.findings}


@cache
def checked(case_name: str) -> symbreak.Report:
    case = next(case for case in CASES if case.name == case_name)
    return symbreak.check(case.model(), case.batch, case.loss)


def test_names_are_unique() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CLAIMS_A_LADDER, ids=repr)
def test_oracle_agrees_with_ladder(case: Case) -> None:
    found = oracle.ladder(case)
    assert found == {name: case.expected_step(name) for name in found}


@pytest.mark.parametrize("case", CLAIMS_WIDTHS, ids=repr)
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_oracle_agrees_with_widths(case: Case, optimizer: oracle.Optimizer) -> None:
    for layer, (distinct, _units) in case.widths.items():
        assert oracle.distinct_units(case, layer, optimizer, lr=0.05) == distinct, layer


@pytest.mark.parametrize("case", CLAIMS_TIES, ids=repr)
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_oracle_agrees_with_ties(case: Case, optimizer: oracle.Optimizer) -> None:
    for pattern, count in case.tied.items():
        assert oracle.tied(case, pattern, optimizer, lr=0.05) == count, pattern


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_verdict(case: Case) -> None:
    report = checked(case.name)
    assert report.verdict in case.verdict, str(report)


@pytest.mark.parametrize("case", CLAIMS_A_LADDER, ids=repr)
def test_wakeup_ladder(case: Case) -> None:
    report = checked(case.name)
    trainable = [name for name, parameter in case.model().named_parameters() if parameter.requires_grad]
    assert {name: report.wakeup[name] for name in trainable} == {name: case.expected_step(name) for name in trainable}


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_codes(case: Case) -> None:
    found = spoken(checked(case.name))
    missing = [wanted for wanted in case.codes if found.isdisjoint(wanted.split("|"))]
    assert (missing, found & case.absent) == ([], set())


@pytest.mark.parametrize("case", CLAIMS_WIDTHS, ids=repr)
def test_widths(case: Case) -> None:
    report = checked(case.name)
    assert {layer: report.width[layer] for layer in case.widths} == dict(case.widths)
