"""The judge of single warnings can say both: true of the units that are dead, false of any that are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from symbreak.records import Finding, Remedy


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))


def case_of(activation: type[nn.Module], *, biases: dict[int, float] | None = None, scale: float = 1.0) -> Any:
    """A perceptron in float64; `biases` of the first layer's units, `scale` of all hidden weights."""
    from real_models.zoo import Case
    from real_models.zoo.case import Entry
    from real_models.zoo.draw import normal

    torch.manual_seed(0)
    layers = [nn.Linear(16, 12), activation()] + [x for _ in range(5) for x in (nn.Linear(12, 12), activation())]
    model = nn.Sequential(*layers, nn.Linear(12, 3)).double()
    with torch.no_grad():
        for unit, bias in (biases or {}).items():
            model[0].bias[unit] = bias  # type: ignore[index, operator]
        for layer in model[2:-1:2]:
            layer.weight *= scale
    entry = Entry(lambda: model, normal(16, 16))
    return Case("perceptron", model, entry.batch(torch.Generator().manual_seed(0)), None, entry)


def told(code: str, where: str, *units: int, layer: str = "") -> Finding:
    return Finding(code, "", "warning", where, "", units, remedy=Remedy("shift", layer) if layer else None)


@pytest.mark.parametrize(
    ("units", "truth"), [((3,), True), ((3, 5), True), ((4,), False), ((3, 4), False), ((99,), None)]
)
def test_dead_units(units: tuple[int, ...], truth: bool | None) -> None:
    from real_models.claims import is_true

    case = case_of(nn.ReLU, biases={3: -100.0, 5: -100.0})
    assert is_true(case, told("SB102", "1", *units, layer="0")) is truth


def test_dead_units_of_no_layer_are_not_judged() -> None:
    from real_models.claims import is_true

    assert is_true(case_of(nn.ReLU), told("SB102", "1", 3)) is None
    assert is_true(case_of(nn.ReLU), told("SB407", "0")) is None


@pytest.mark.parametrize(("bias", "truth"), [(50.0, True), (0.0, False)])
def test_saturated_units(bias: float, truth: bool) -> None:
    from real_models.claims import is_true

    case = case_of(nn.Tanh, biases=dict.fromkeys(range(12), bias))
    assert is_true(case, told("SB205", "1")) is truth


@pytest.mark.parametrize(("scale", "truth"), [(20.0, True), (1.5, False)])
def test_a_back_signal_that_grows(scale: float, truth: bool) -> None:
    from real_models.claims import is_true

    assert is_true(case_of(nn.LeakyReLU, scale=scale), told("SB203", "0")) is truth


def test_an_unused_tensor() -> None:
    from real_models.claims import is_true

    case = case_of(nn.ReLU)
    case.model.register_parameter("spare", nn.Parameter(torch.ones(3, dtype=torch.float64)))
    assert is_true(case, told("SB104", "spare")) is True
    assert is_true(case, told("SB104", "0.weight")) is False


@pytest.mark.parametrize(
    ("code", "claim", "outcome"),
    [
        ("SB102", True, "silent"),
        ("SB102", False, "false alarm"),
        ("SB102", None, "false alarm"),  # of the fault's own kind, and nothing bears it out
        ("SB205", True, "silent"),
        ("SB205", False, "false alarm"),  # of another kind, and training refutes it
        ("SB205", None, "silent"),
    ],
)
def test_what_counts_as_a_false_alarm(code: str, claim: bool | None, outcome: str) -> None:
    from real_models.faults import judge
    from real_models.injections import INJECTIONS

    (wrong_fan,) = [injection for injection in INJECTIONS if injection.name == "wrong fan"]
    new = {(code, "1"): told(code, "1", 3)}
    claims = {} if claim is None else {(code, "1"): claim}
    assert judge("harmless", wrong_fan, new, claims)[0] == outcome
    assert judge("fatal", wrong_fan, new, claims)[0] == ("caught" if code == "SB102" else "missed")


def test_an_error_on_a_harmless_change_is_a_false_alarm_whatever_it_names() -> None:
    from real_models.faults import judge
    from real_models.injections import INJECTIONS

    error = Finding("SB102", "", "error", "1", "", (3,))
    assert judge("harmless", INJECTIONS[0], {("SB102", "1"): error}, {})[0] == "false alarm"
