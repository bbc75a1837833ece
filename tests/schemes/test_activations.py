"""The catalogue of activations: every column of a table computed elsewhere, laws, and any callable."""

from __future__ import annotations

import csv
import math
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from symbreak.errors import SchemeError
from symbreak.schemes import activations as names
from symbreak.schemes.activations import ACTIVATIONS, OTHER_NAMES, Activation, activation
from symbreak.schemes.gain import (
    critical,
    critical_without_bias,
    gains,
    linear_up_to,
    region,
    saturated_share,
    steepest,
)
from symbreak.schemes.quadrature import kinks_of, value_and_slope

# Computed with scipy's quad and hand-written derivatives; slopes and regions on a grid over [-10, 10].
TABLE = {
    row["activation"]: row
    for row in csv.DictReader((Path(__file__).parent / "activations.csv").read_text(encoding="utf-8").splitlines())
}
CALLED = {
    "elu(1)": "elu",
    "celu(1)=elu(1)": "celu",
    "gelu(erf)": "gelu",
    "gelu(tanh)": "gelu('tanh')",
    "silu/swish": "silu",
    "lecun_tanh 1.7159tanh(2z/3)": "lecun_tanh",
    "softplus-ln2": "shifted_softplus",
    "hardshrink(0.5)*": "hardshrink",
    "relu^2": "relu_squared",
    "sin(30z) SIREN": "sin(30)",
    "snake z+sin^2 z": "snake",
    "gaussian exp(-z^2)": "gaussian",
}
ROWS = [(CALLED.get(name, name), row) for name, row in TABLE.items()]
rows = pytest.mark.parametrize(("text", "row"), ROWS, ids=[text for text, _ in ROWS])
# torch's hardsigmoid has 1/6 in float32 inside its backward pass, so its slope is 3e-8 off even in float64.
PRECISION = {"hardsigmoid": 1e-6}


@rows
def test_moments_and_gains(text: str, row: dict[str, str]) -> None:
    phi, near = activation(text), PRECISION.get(text, 1e-9)
    value, slope = value_and_slope(phi, np.array([0.0]))
    found = gains(phi)
    mine = {
        "phi0": value[0],
        "dphi0": slope[0],
        "E_phi": found.mean,
        "E_phi2": found.second_moment,
        "Var_phi": found.variance,
        "E_dphi": found.slope_mean,
        "E_dphi2": found.slope_second_moment,
        "gain_fwd": found.forward,
        "gain_var": found.centred,
        "gain_bwd": found.backward,
        "chi_at_gain_fwd": found.chi,
        "R2_sigma1": found.linearity,
        "sup_dphi": steepest(phi),
        "sigma_lin": linear_up_to(phi),
    }
    for column, number in mine.items():
        assert number == pytest.approx(float(row[column]), rel=near, abs=near), column


@rows
def test_gauss_hermite_errs_by_what_the_table_says(text: str, row: dict[str, str]) -> None:
    """Also the control of the quadrature: 200 nodes without a split are seen to fail where the table says so."""
    phi, (nodes, weights) = activation(text), np.polynomial.hermite_e.hermegauss(200)
    found, (value, slope) = gains(phi), value_and_slope(phi, nodes)
    weights = weights / weights.sum()
    off_value = weights @ value**2 - found.second_moment
    off_slope = weights @ slope**2 - found.slope_second_moment
    assert off_value == pytest.approx(float(row["GH200_err_phi2"]), abs=1e-9)
    assert off_slope == pytest.approx(float(row["GH200_err_dphi2"]), abs=1e-7)


@rows
@pytest.mark.parametrize("q", [0.1, 0.5, 1.0, 2.0])
def test_edge_of_chaos(text: str, row: dict[str, str], q: float) -> None:
    edge = critical(text, q)
    told = re.match(r"sw=([\d.]+), sb2=([-\d.]+)( \(INFEASIBLE)?", row[f"EOC_q{q}"])
    assert told is not None
    assert math.sqrt(edge.weight_variance) == pytest.approx(float(told[1]), abs=6e-5)
    assert edge.bias_variance == pytest.approx(float(told[2]), abs=6e-5)
    assert edge.feasible == (told[3] is None)


@rows
def test_edge_without_bias(text: str, row: dict[str, str]) -> None:
    edge, told = critical_without_bias(text), re.match(r"q\*=([\d.]+),sw=([\d.]+)", row["EOC_sb0"])
    if told is None:
        assert edge is None
    else:
        assert edge is not None
        assert edge.q == pytest.approx(float(told[1]), abs=6e-4)
        assert math.sqrt(edge.weight_variance) == pytest.approx(float(told[2]), abs=6e-5)
    if row["EOC_q0_sb0"].startswith("sw="):  # the limit of small signals
        limit = math.sqrt(critical(text, 1e-8).weight_variance)
        assert limit == pytest.approx(float(row["EOC_q0_sb0"][3:]), rel=1e-4)


@rows
@pytest.mark.parametrize("which", ["linear", "saturated"])
def test_regions(text: str, row: dict[str, str], which: str) -> None:
    column = {"linear": "linear_slope_ge_2_3", "saturated": "saturated_slope_le_0_1"}[which]
    told = [tuple(map(float, part.strip("[]. ").split(","))) for part in row[column].split(" u ") if part]
    if text == "abs":  # the table counts the corner itself, which has no width
        told = [(-math.inf, math.inf)] if which == "linear" else []
    mine = region(text, which)  # type: ignore[arg-type]
    assert len(mine) == len(told) or row[column].endswith("...")
    for (low, high), (told_low, told_high) in zip(mine, told, strict=False):
        assert (low, high) == pytest.approx((told_low, told_high), abs=2e-3)
    if which == "saturated":
        assert saturated_share(text) == pytest.approx(float(row["P_sat_N01"]), abs=2.5e-5)  # the table's grid step


# ---- the rows themselves -----------------------------------------------------------------------------------------

EVERY = pytest.mark.parametrize("phi", [*ACTIVATIONS.values(), activation("hardtanh(-2, 3)"), activation("elu(0.5)")])


def test_the_table_is_covered() -> None:
    told = {activation(text).name for text, _ in ROWS}
    assert set(ACTIVATIONS) - told == {"rrelu", "threshold"}


@EVERY
def test_the_module_computes_the_function(phi: Activation) -> None:
    z = torch.linspace(-8, 8, 401, dtype=torch.float64)
    module = phi.module().double().eval()
    assert torch.equal(module(z.clone()), phi(z))
    assert pickle.loads(pickle.dumps(module))(z.clone()).equal(phi(z))
    assert torch.equal(z, torch.linspace(-8, 8, 401, dtype=torch.float64))


@EVERY
def test_reach_holds_and_is_come_near(phi: Activation) -> None:
    z = torch.cat([torch.linspace(-50, 50, 100_001, dtype=torch.float64), torch.tensor([-1e6, 1e6]).double()])
    low, high = phi.reach
    values = phi(z)
    assert float(values.min()) >= low - 1e-9
    assert float(values.max()) <= high + 1e-9
    if phi.name != "threshold":
        assert math.isinf(low) or float(values.min()) == pytest.approx(low, abs=1e-4)
        assert math.isinf(high) or float(values.max()) == pytest.approx(high, abs=1e-4)
        assert math.isfinite(low) or float(values.min()) < -20
        assert math.isfinite(high) or float(values.max()) > 20


@EVERY
def test_kinds_are_what_they_say(phi: Activation) -> None:
    z = torch.linspace(-30, 30, 6001, dtype=torch.float64)
    slope = phi.slope(z)
    flat = bool((slope[[0, -1]].abs() < 0.05 * slope.abs().max()).all())
    increasing = bool((slope >= 0).all())
    off = bool((slope[z < 0] == 0).all()) and bool((phi(z[z < 0]) == 0).all())
    assert (phi.kind == "sigmoidal") == (flat and increasing and not off)
    assert (phi.kind == "rectifier") == off


def test_what_the_probe_and_the_rules_read() -> None:
    assert {"relu", "gelu", "prelu", "rrelu", "sin", "threshold", "arctan"} <= names.ELEMENTWISE
    assert {"tanh", "sigmoid", "softsign", "hardtanh", "hardsigmoid", "erf", "atan", "arctan"} == names.BOUNDED
    assert {"relu", "relu6", "threshold"} == names.PIECEWISE
    assert set(names.RANGES) == names.BOUNDED
    assert names.RANGES["sigmoid"] == (0.0, 1.0)
    for name in names.ELEMENTWISE:
        assert hasattr(F, name) or hasattr(torch, name)


@pytest.mark.parametrize(
    "text", [*ACTIVATIONS, *OTHER_NAMES, "leaky_relu(0.2)", "gelu('tanh')", "hardtanh(max_val=3.0)"]
)
def test_one_notation(text: str) -> None:
    phi = activation(text)
    assert activation(repr(phi)) == phi
    assert hash(activation(repr(phi))) == hash(phi)
    assert text in (*OTHER_NAMES, repr(phi))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tanhh", "no activation is called 'tanhh'. Nearest: tanh"),
        ("leaky_relu(", "is not an activation"),
        ("a.b(1)", "is not an activation"),
        ("leaky_relu(x)", "is not an activation"),
        ("relu(1)", "relu takes 0 options"),
        ("elu(beta=1)", "elu has no option 'beta' left to set: options are alpha"),
        ("elu(1, alpha=2)", "no option 'alpha' left to set"),
        ("relu(alpha=2)", "it takes none"),
        ("elu('a')", r"elu\(alpha='a'\): expected a value such as 1.0"),
        ("gelu(1)", r"gelu\(approximate=1\): expected a value such as 'none'"),
    ],
)
def test_bad_names(text: str, message: str) -> None:
    with pytest.raises(SchemeError, match=message):
        activation(text)


# ---- any callable, any scale -------------------------------------------------------------------------------------


@EVERY
def test_kinks_are_found_without_being_told(phi: Activation) -> None:
    """Against the rows; softsign, relu_squared and ELU bend too smoothly to be seen, and need no split for it."""
    bends = phi.name not in ("softsign", "relu_squared", "elu", "celu") or phi == activation("elu(0.5)")
    assert kinks_of(phi) == pytest.approx(phi.kinks if bends else (), abs=1e-9)


@pytest.mark.parametrize("phi", [F.relu, nn.ReLU(inplace=True), lambda z: z * (z > 0)])
def test_any_callable_finds_its_own_kinks(phi: object) -> None:
    found = gains(phi, 0.7)  # type: ignore[arg-type]
    assert found.second_moment == pytest.approx(0.35, abs=1e-12)
    assert found.slope_second_moment == pytest.approx(0.5, abs=1e-12)


@given(st.floats(0.05, 20), st.floats(-2, 2), st.floats(0.01, 3))
@settings(deadline=None, max_examples=25)
def test_moments_of_a_shifted_hinge(q: float, at: float, slope: float) -> None:
    """Closed form: E[a^2 max(0, z - c)^2] for z ~ N(0, q)."""
    found = gains(lambda z: slope * F.relu(z - at), q)
    s = math.sqrt(q)
    tail, density = 0.5 * math.erfc(at / s / math.sqrt(2)), math.exp(-(at**2) / (2 * q)) / math.sqrt(2 * math.pi)
    assert found.second_moment == pytest.approx(
        slope**2 * ((q + at**2) * tail - at * s * density), rel=1e-10, abs=1e-13
    )
    assert found.slope_second_moment == pytest.approx(slope**2 * tail, rel=1e-10)
    assert found.mean == pytest.approx(slope * (s * density - at * tail), rel=1e-10, abs=1e-13)


@given(st.floats(0.1, 40), st.floats(0.1, 3))
@settings(deadline=None, max_examples=15)
def test_moments_of_a_sine(frequency: float, sigma: float) -> None:
    found, damp = gains(activation("sin").having(frequency), sigma**2), math.exp(-2 * (frequency * sigma) ** 2)
    assert found.second_moment == pytest.approx((1 - damp) / 2, abs=1e-10)
    assert found.slope_second_moment == pytest.approx(frequency**2 * (1 + damp) / 2, rel=1e-10)
    assert found.slope_mean * sigma**2 == pytest.approx(found.projection, rel=1e-9, abs=1e-9)  # Stein


def test_gains_keep_the_signal() -> None:
    """The forward gain keeps the second moment, the backward gain that of the back-signal, in a real layer."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2000, 300, generator=generator, dtype=torch.float64)
    for text in ("tanh", "gelu", "relu", "selu"):
        phi, found = activation(text), gains(text)
        weight = torch.randn(300, 300, generator=generator, dtype=torch.float64) / math.sqrt(300)
        assert float((phi(z) @ weight.T * found.forward).square().mean()) == pytest.approx(1, rel=0.02)
        delta = torch.randn(2000, 300, generator=generator, dtype=torch.float64)
        assert float((delta @ weight * phi.slope(z) * found.backward).square().mean()) == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize(
    ("phi", "message"),
    [
        (lambda z: torch.softmax(z, 0), "depends on its neighbours"),
        (lambda z: z.sum(), "must return a tensor of its input's shape"),
        (lambda z: 1 / (z - z), "is not finite"),
    ],
)
def test_what_is_not_elementwise(phi: object, message: str) -> None:
    with pytest.raises(SchemeError, match=message):
        gains(phi)  # type: ignore[arg-type]


@pytest.mark.parametrize("q", [0, -1.0, math.inf, math.nan, True, "1"])
def test_bad_variances(q: object) -> None:
    with pytest.raises(SchemeError, match="expected the variance of the pre-activation"):
        gains("tanh", q)  # type: ignore[arg-type]


def test_a_step_has_no_edge() -> None:
    def step(z: Tensor) -> Tensor:
        return (z > 0).double()

    assert gains(step).second_moment == pytest.approx(0.5, abs=1e-12)
    assert gains(step).backward == math.inf
    with pytest.raises(SchemeError, match="no weights make it critical"):
        critical(step)
    with pytest.raises(SchemeError, match="expected 'linear' or 'saturated'"):
        region("tanh", "flat")  # type: ignore[arg-type]


def test_reading_the_catalogue_needs_no_torch() -> None:
    code = "import sys, symbreak.schemes.activations as a; a.activation('relu').kinks; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
