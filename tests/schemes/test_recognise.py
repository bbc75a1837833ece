"""Recognition against the catalogue: what it drew is told from the values, as far as values can tell."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from symbreak import schemes
from symbreak.schemes import Layout, Place, parse, recognise

from .cases import CASES, Case

# Schemes that are another one at that place, or that only differ in what is beside the weights.
SAME = {
    "normal(mean=0.5)": "normal(std=1.0, mean=0.5)",
    "fixup": "kaiming_normal(mode='fan_out')",
    "unit_scaling": "normal(std=1.0)", "ntk": "normal(std=1.0)", "mup": "lecun_normal", "mean_field": "lecun_normal",
    "truncated_normal(std=0.02)": None,  # told by the parent's size
    "variance_scaling(scale=2.0, mode='fan_out', distribution='normal')": "kaiming_normal(mode='fan_out')",
    "variance_scaling(mode='fan_avg', distribution='uniform')": "xavier_uniform",
}  # fmt: skip
EXACT = {
    "hippo_legs",
    "mamba_decay",
    "zeros",
    "ones",
    "constant",
    "orthogonal",
    "delta_orthogonal",
    "identity",
    "dirac",
    "zero_hadamard",
    "idinit",
}
DRAWN = {"uniform", "normal", "torch_default", "lecun_normal", "lecun_uniform", "xavier_normal", "kaiming_normal",
         "kaiming_uniform", "sparse", "embedding_normal", "word2vec", "variance_scaling"}  # fmt: skip
TOLD = [
    case for case in CASES
    if case.scheme.name in EXACT | DRAWN and not case.place.branch_end and case.text not in
    ("identity(gain=0.5)-", "variance_scaling(mode='fan_geo_avg')", "idinit(gain=2.0, noise=0.1)")
]  # fmt: skip


def drawn(case: Case) -> torch.Tensor:
    return case.scheme.draw(case.place.shape, generator=torch.Generator().manual_seed(5), place=case.place)


def placed(case: Case) -> Place:
    """What a tracer knows of it: layout, role and fans."""
    known = Place(shape=case.place.shape, layout=case.place.layout, role=case.place.role)
    fans = case.place.fans
    if fans is None and len(case.place.shape) >= 2 and case.place.role != "embedding":
        fans = known.known_fans
    return dataclasses.replace(known, fans=fans)


@pytest.mark.parametrize("case", TOLD, ids=str)
def test_what_was_drawn_is_told(case: Case) -> None:
    found = recognise(drawn(case), place=placed(case))
    wanted = SAME.get(case.text, case.text)
    assert found.scheme is not None, found.text
    if wanted is not None:
        same = found.scheme == parse(wanted) or wanted in found.text or _as_large(found.scheme, case)
        assert same, found.text
    assert found.certainty == "exact" if case.scheme.name in EXACT else found.certainty.endswith(": 1")


def _as_large(found: schemes.Scheme, case: Case) -> bool:
    """The same law under another name: sizes agree to a hundredth."""
    ours, theirs = found.moments(place=placed(case)), case.scheme.moments(place=case.place)
    return ours.std == pytest.approx(theirs.std, rel=0.02) and ours.mean == pytest.approx(theirs.mean, abs=0.01)


@pytest.mark.parametrize(
    ("weight", "text"),
    [
        (nn.init.dirac_(torch.empty(8, 2, 3), groups=4), "dirac"),
        (2 * torch.eye(4), "identity(gain=2.0)"),
        (torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]), "lstm_forget_bias"),
        (schemes.zero_hadamard().draw((40, 12, 3, 3), generator=torch.Generator()), "zero_hadamard"),
        (schemes.nguyen_widrow().draw((30, 8), generator=torch.Generator()), "nguyen_widrow"),
        (schemes.nguyen_widrow(active=2.0).draw((30, 8), generator=torch.Generator()), "nguyen_widrow(active=2.0)"),
        (schemes.idinit().draw((30, 8), generator=torch.Generator()), "idinit"),
        (schemes.idinit(noise=0.0).draw((30, 8), generator=torch.Generator()), "idinit(noise=0.0)"),
        (schemes.delta_orthogonal(gain=1.5).draw((9, 5, 3), generator=torch.Generator()), "delta_orthogonal(gain=1.5)"),
    ],
)
def test_exact_patterns(weight: torch.Tensor, text: str) -> None:
    bias = Place(role="bias", layout=Layout(parts=4))
    assert recognise(weight, place=bias if weight.dim() == 1 else None).text == text


def test_chrono_is_told_with_its_longest_time() -> None:
    place = Place(role="bias", layout=Layout(parts=4))
    bias = schemes.chrono(500).draw((4 * 300,), generator=torch.Generator(), place=place)
    found = recognise(bias, place=place)
    assert found.scheme is not None
    assert found.scheme.name == "chrono"
    assert dict(found.scheme.arguments)["longest"] == pytest.approx(500, rel=0.05)


def test_gates_are_orthogonal_one_by_one() -> None:
    place = Place(layout=Layout(parts=4))
    weight = schemes.orthogonal().draw((80, 20), generator=torch.Generator(), place=place)
    assert recognise(weight, place=place).text == "orthogonal"
    assert recognise(weight).text == "orthogonal(gain=2.0)"  # the control: read as one matrix, its gain is another


def test_near_misses_are_not_taken_for_patterns() -> None:
    noise = 0.05 * torch.randn(30, 20, generator=torch.Generator().manual_seed(0))
    for near in (torch.eye(30, 20) + noise, nn.init.orthogonal_(torch.empty(30, 20)) + noise):
        assert recognise(near).certainty != "exact"
    trained = schemes.nguyen_widrow().draw((30, 8), generator=torch.Generator()) + noise[:, :8]
    assert "nguyen" not in recognise(trained).text


def test_odds_grow_with_the_values() -> None:
    few, many = (schemes.normal(0.02).draw((n,), generator=torch.Generator().manual_seed(1)) for n in (400, 40_000))
    odds = [recognise(weight).odds for weight in (few, many)]
    assert odds[0] is not None
    assert odds[1] is not None
    assert 3 < odds[0] < odds[1]
    assert recognise(few[:8]).odds is None
    assert recognise(few[:8]).certainty == ""
