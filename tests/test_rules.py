"""Each rule fires where it should, is silent on the repaired twin, and has a page; select, ignore and the verdict."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import symbreak as sb
from symbreak import thresholds
from symbreak.errors import ConfigError
from symbreak.records import (
    ActivationTrace,
    InputTrace,
    LayerTrace,
    SliceClasses,
    TargetTrace,
    TensorTrace,
    Trace,
    TwinModules,
)
from symbreak.report import Report
from symbreak.rules import RULES, find, judge, validate_codes
from symbreak.rules.examples import EXAMPLES
from symbreak.rules.rule import Rule

ORDER = [
    "SB001",
    "SB002",
    "SB003",
    "SB004",
    "SB005",
    "SB006",
    "SB007",
    "SB101",
    "SB102",
    "SB103",
    "SB104",
    "SB105",
    "SB106",
    "SB201",
    "SB202",
    "SB203",
    "SB204",
    "SB205",
    "SB206",
    "SB207",
    "SB208",
    "SB301",
    "SB302",
    "SB303",
    "SB304",
    "SB404",
    "SB405",
    "SB406",
    "SB407",
    "SB901",
]

FIRES = {
    "SB001": ("0", (0, 1, 2, 3), "redundant"),
    "SB002": ("q", (0, 1), "redundant"),
    "SB003": ("experts.0", (), "redundant"),
    "SB004": ("registers", (0, 1, 2, 3), "redundant"),
    "SB005": ("first", (), "redundant"),
    "SB006": ("0", (0, 1), "degraded"),
    "SB007": ("0", (0, 1, 2, 3), "healthy"),
    "SB101": ("0.weight", (), "stuck"),
    "SB102": ("1", tuple(range(8)), "stuck"),
    "SB103": ("0.weight", (), "healthy"),
    "SB104": ("auxiliary.weight", (), "healthy"),
    "SB105": ("0.bias", (), "healthy"),
    "SB106": ("0.weight", (5, 6, 7, 8, 9), "healthy"),
    "SB201": ("10", (), "degraded"),
    "SB202": ("12", (), "degraded"),
    "SB203": ("0", (), "degraded"),
    "SB204": ("0", (), "degraded"),
    "SB205": ("1", (), "degraded"),
    "SB206": ("1", (), "degraded"),
    "SB207": ("Linear", (), "degraded"),
    "SB208": ("12", (), "degraded"),
    "SB301": ("input 0", (), "degraded"),
    "SB302": ("input 0", (2,), "healthy"),
    "SB303": ("output", (), "healthy"),
    "SB304": ("output", (), "degraded"),
    "SB404": ("weight", (), "unknown"),
    "SB405": ("0.weight", (), "healthy"),
    "SB406": ("0", (), "healthy"),
    "SB407": ("0", (), "degraded"),
    "SB901": ("Kernel", (), "healthy"),
}
"""code -> (where, units, verdict) of the firing twin"""


@functools.cache
def reported(code: str, which: int) -> Report:
    model, batch, loss = EXAMPLES[code][which]()
    return sb.check(model, batch, loss)


# ---- twins -----------------------------------------------------------------------------------------------------


def test_every_rule_has_twins() -> None:
    assert list(EXAMPLES) == [r.code for r in RULES] == list(FIRES)


@pytest.mark.parametrize("code", EXAMPLES)
def test_fires_at_its_place(code: str) -> None:
    where, units, verdict = FIRES[code]
    report = reported(code, 0)
    found = {(f.where, f.units) for f in report.findings if f.code == code}
    assert (where, units) in found
    assert report.verdict == verdict
    for f in report.findings:
        assert f.slug == find(f.code).slug


@pytest.mark.parametrize("code", EXAMPLES)
def test_silent_on_the_repaired_twin(code: str) -> None:
    report = reported(code, 1)
    assert code not in {f.code for f in report.findings}
    assert report.verdict == "healthy", [f.because for f in report.findings]


@pytest.mark.parametrize("code", EXAMPLES)
def test_the_twins_share_their_architecture(code: str) -> None:
    shapes = []
    for twin in EXAMPLES[code]:
        model, batch, _ = twin()
        shapes.append(
            (type(model).__name__, [(n, tuple(p.shape)) for n, p in model.named_parameters() if n != "0.bias"])
        )
        assert batch is not None
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("code", EXAMPLES)
def test_twins_are_seeded_and_leave_the_random_numbers_alone(code: str, which: int) -> None:
    before = torch.random.get_rng_state()
    first, second = EXAMPLES[code][which]()[0], EXAMPLES[code][which]()[0]
    assert torch.equal(before, torch.random.get_rng_state())
    for p, q in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(p.nan_to_num(), q.nan_to_num())


def test_the_rules_do_not_import_torch() -> None:
    code = "import sys, symbreak.rules; [r.page for r in symbreak.rules.RULES]; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- the list --------------------------------------------------------------------------------------------------


def test_codes_and_slugs_are_unique_and_in_order() -> None:
    assert [r.code for r in RULES] == ORDER
    assert len({r.slug for r in RULES}) == len(RULES)


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.code)
def test_the_page_has_all_its_parts(rule: Rule) -> None:
    title, line, blank, what, *rest = rule.page.splitlines()
    assert title == f"{rule.code} {rule.slug} ({rule.severity})"
    assert line == "=" * len(title)
    assert blank == ""
    assert what[0].isupper()
    starts = [part.strip().partition(":")[0] for part in "\n".join(rest).split("\n\n")]
    assert [s for s in starts if s in ("Why", "Evidence", "Remedy", "Fires on", "Silent on")] == [
        "Why",
        "Evidence",
        "Remedy",
        "Fires on",
        "Silent on",
    ]
    assert rule.page.count("import torch\n") == 2
    assert all(text == text.rstrip() for text in rule.page.splitlines())
    assert "def " + EXAMPLES[rule.code][0].__name__ not in rule.page


def test_rules_are_found_by_code_and_by_slug() -> None:
    assert find("sb101") is find("never-wakes") is find("NEVER-WAKES")


@pytest.mark.parametrize(
    ("wrong", "near"), [("SB110", "SB10"), ("tied-unit", "tied-units"), ("never", "never-wakes"), ("", "")]
)
def test_an_unknown_rule_names_the_nearest_three(wrong: str, near: str) -> None:
    with pytest.raises(ConfigError, match="no rule") as error:
        find(wrong)
    named = str(error.value).partition("Nearest: ")[2].partition(".")[0].split(", ")
    assert len(named) == 3
    assert near in " ".join(named)


# ---- select, ignore, verdict -----------------------------------------------------------------------------------


def codes(trace: Trace, **chosen: list[str]) -> set[str]:
    return {f.code for f in judge(trace, **chosen)[0]}


def test_select_and_ignore_take_codes_and_prefixes() -> None:
    trace = reported("SB102", 0).trace
    assert codes(trace) == {"SB101", "SB102"}
    assert codes(trace, select=["SB102"]) == {"SB102"}
    assert codes(trace, select=["SB1"], ignore=["SB101"]) == {"SB102"}
    assert codes(trace, select=["sb2"]) == set()
    assert codes(trace, ignore=["SB1"]) == set()
    assert judge(trace, ignore=["SB1"])[1] == "healthy"


@pytest.mark.parametrize("wrong", ["SB9999", "tied", "", " "])
def test_an_unknown_prefix_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match="no rule code starts with"):
        validate_codes([wrong])


def test_the_worst_finding_makes_the_verdict() -> None:
    tied = SliceClasses("a.weight", "a", 0, "out", 4, tied=((0, 1),), live_steps=4)
    asleep = tensor("b.weight", status="asleep", wake=None)
    hot = InputTrace("input 0", (8, 4), 0.0, 50.0, 0.0, 90.0)
    base = trace(tensors=(tensor("a.weight"), tensor("b.weight")))
    assert judge(base)[1] == "healthy"
    degraded = replace(base, inputs=(hot,))
    redundant = replace(degraded, slices=(tied,))
    stuck = replace(redundant, tensors=(tensor("a.weight"), asleep))
    unknown = replace(stuck, nonfinite="the loss")
    assert [judge(t)[1] for t in (degraded, redundant, stuck, unknown)] == ["degraded", "redundant", "stuck", "unknown"]
    assert judge(replace(base, steps=0))[1] == "unknown"


def test_findings_come_worst_first() -> None:
    for code in EXAMPLES:
        ranks = [("error", "warning", "info").index(f.severity) for f in reported(code, 0).findings]
        assert ranks == sorted(ranks)


def test_some_dead_units_degrade_and_a_dead_layer_is_stuck() -> None:
    weight = tensor("a.weight", shape=(4, 3), sleeping_rows=(0, 1, 2, 3))
    some = ActivationTrace("a", "relu", "a", 4, 64, 0.3, 0.7, dead=(0, 1), surely_dead=(0,))
    found, verdict = judge(trace(tensors=(weight,), activations=(some,)))
    assert [(f.code, f.severity, f.units) for f in found] == [("SB102", "warning", (0,))]
    assert verdict == "degraded"
    whole = replace(some, dead=(0, 1, 2, 3))
    assert judge(trace(tensors=(replace(weight, status="asleep"),), activations=(whole,)))[1] == "stuck"
    assert judge(trace(tensors=(weight,), activations=(whole,)))[1] == "healthy"  # it woke at another step: luck


# ---- thresholds ------------------------------------------------------------------------------------------------


def trace(**parts: object) -> Trace:
    base = Trace(
        model="Net", precision="float64", steps=4, climbs=1, seed=0, passes=4.0, optimizer="sgd", learning_rate=0.01,
        loss=None, batch="(8, 4)", tensors=(),
    )  # fmt: skip
    return replace(base, **parts)  # type: ignore[arg-type]


def tensor(name: str, **parts: object) -> TensorTrace:
    base = TensorTrace(
        name=name,
        layer=name.rpartition(".")[0],
        shape=(4, 4),
        status="live",
        start="varied",
        roles=frozenset({"weight"}),
        wake=1,
    )
    return replace(base, **parts)  # type: ignore[arg-type]


def layer(name: str, **parts: object) -> LayerTrace:
    base = LayerTrace(
        name=name, kind="linear", weight=f"{name}.weight", shape=(4, 4), scheme="normal", activation="tanh",
        out_axis=0, gates=1, heads=None, from_data=False, forward_rms=1.0, forward_variance=1.0,
        backward_rms=1.0, backward_norm=1.0, weight_rms=0.5, gradient_rms=0.1, gradient_to_weight=0.2,
        update_to_weight=1e-3, spread=1.0,
    )  # fmt: skip
    return replace(base, **parts)  # type: ignore[arg-type]


def tanh(where: str, *, layer: str | None = None, linear: float = 0.5, saturated: float = 0.1) -> ActivationTrace:
    return ActivationTrace(where, "tanh", layer or where, 8, 64, linear, saturated, (), ())


def depth(**last: object) -> tuple[LayerTrace, ...]:
    return (layer("a"), layer("b"), layer("c", **last))


S = thresholds.SCALE_RATIO
BELOW, ABOVE = 0.99, 1.01
EDGES: dict[str, Callable[[float], Trace]] = {
    "SB201": lambda x: trace(layers=depth(forward_rms=x * S)),
    "SB202": lambda x: trace(layers=depth(forward_variance=1 / (x * S) ** 2)),
    "SB203": lambda x: trace(layers=(layer("a", backward_norm=x * S), layer("b"), layer("c"))),
    "SB204": lambda x: trace(layers=(layer("a", backward_norm=1 / (x * S)), layer("b"), layer("c"))),
    "SB205": lambda x: trace(activations=(tanh("a", saturated=x * thresholds.SATURATED_SHARE),)),
    "SB206": lambda x: trace(
        departure=0.0,
        layers=depth(),
        activations=(tanh("a", linear=thresholds.LINEAR_SHARE + (x - 1) / 100), tanh("b", linear=1.0)),
    ),
    "SB207": lambda x: trace(loss=1.0, layers=(layer("a", update_to_weight=x * thresholds.FIRST_STEP_TOO_LARGE),)),
    "SB208": lambda x: trace(
        layers=depth(spread=thresholds.COLLAPSED / x),
        tensors=tuple(tensor(f"{name}.weight") for name in "abc"),
    ),
    "SB301": lambda x: trace(inputs=(InputTrace("x", (8, 4), 0.0, x * thresholds.LARGE_INPUT, -99.0, 99.0),)),
    "SB303": lambda x: trace(loss=1 + x * thresholds.PRIOR_EXCESS, target=TargetTrace(9, entropy=1.0)),
    "SB304": lambda x: trace(target=TargetTrace(9, high=x, output_activation="sigmoid", output_range=(0.0, 1.0))),
}


@pytest.mark.parametrize("code", EDGES)
def test_the_threshold_is_where_it_says(code: str) -> None:
    assert code not in codes(EDGES[code](BELOW))
    assert code in codes(EDGES[code](ABOVE))


def test_a_first_step_that_float32_rounds_away() -> None:
    edge = thresholds.FIRST_STEP_TOO_SMALL
    assert "SB207" in codes(trace(loss=1.0, layers=(layer("a", update_to_weight=edge / 2),)))
    assert "SB207" not in codes(trace(loss=1.0, layers=(layer("a", update_to_weight=edge * 2),)))
    rounding, late = (layer("a", update_to_weight=1e-16),), (tensor("a.weight", wake=2),)  # behind a zero norm scale
    assert "SB207" not in codes(trace(loss=1.0, layers=rounding, tensors=late))


def test_columns_of_very_different_scale() -> None:
    edge = thresholds.UNEVEN_FEATURES

    def of(ratio: float) -> Trace:
        return trace(inputs=(InputTrace("x", (8, 4), 0.0, 1.0, -3.0, 3.0, feature_std=(1.0, ratio)),))

    assert "SB301" not in codes(of(edge * BELOW))
    assert "SB301" in codes(of(edge * ABOVE))


def test_the_output_activation_is_no_hidden_depth() -> None:
    zeros = nn.Sequential(nn.Linear(4, 1), nn.Sigmoid())
    for p in zeros.parameters():
        nn.init.zeros_(p)
    assert sb.check(zeros, torch.randn(32, 4, generator=torch.Generator().manual_seed(0))).verdict == "healthy"


# ---- sentences of single rules ---------------------------------------------------------------------------------


def test_a_dead_unit_is_no_shadowed_bias() -> None:
    bias = tensor("a.bias", shape=(4,), roles=frozenset({"bias"}), absorbed_rows=(0, 2))
    relu = ActivationTrace("a", "relu", "a", 4, 64, 0.3, 0.7, dead=(2,), surely_dead=())
    (found,) = judge(trace(tensors=(bias,), activations=(relu,)))[0]
    assert (found.code, found.units) == ("SB105", (0,))
    assert (
        found.because
        == "shifting entry 0 of a.bias moves no output: a later normalisation, softmax or difference removes it"
    )


def test_unused_tensors_of_one_module_are_one_finding() -> None:
    names = [f"heads.{i}.{p}" for i in range(30) for p in ("weight", "bias")]
    (found,) = judge(trace(tensors=tuple(tensor(n, status="unused", wake=None) for n in names)))[0]
    assert found.where == "heads.0.weight"
    assert found.because == "60 tensors (heads.*.weight and heads.*.bias) have no path to the loss in this call"


def test_never_names_the_zero_on_each_side() -> None:
    stuck = tensor(
        "b.weight", status="asleep", wake=None, start="zero", input_zero=("a.weight",), back_zero=("c.weight",)
    )
    (found,) = judge(trace(tensors=(stuck,)))[0]
    assert found.because == (
        "b.weight never gets a gradient: its input stays zero because a.weight is zero, and its back-signal stays zero "
        "because c.weight is zero"
    )
    assert found.remedy is not None
    assert found.remedy.hint.startswith("re-initialise b.weight, or a.weight and c.weight")


def test_nothing_sleeps_where_nothing_could_be_measured() -> None:
    asleep = tensor("b.weight", status="asleep", wake=None)
    assert codes(trace(tensors=(asleep,), nonfinite="the loss")) == {"SB404"}


def test_breakers_are_named() -> None:
    tied = SliceClasses("a.weight", "a", 0, "out", 4, tied=((0, 1), (2, 3)), live_steps=4)
    (found,) = judge(trace(tensors=(tensor("a.weight"),), slices=(tied,), breakers=("dropout (p=0.5)",)))[0]
    assert found.because.startswith("all 4 units of a, in 2 groups such as (0-1), share weights in and weights out")
    assert found.because.endswith("(assumes deterministic updates; dropout (p=0.5) in this model can break the tie)")


def test_experts_are_not_told_as_networks() -> None:
    twin = TwinModules(("experts.0", "experts.1"), "MLP", tied=True, live_steps=4, tensors=4, experts=True)
    assert codes(trace(twins=(twin,))) == {"SB003"}
    assert codes(trace(twins=(replace(twin, experts=False),))) == {"SB005"}
    assert codes(trace(twins=(replace(twin, tied=False),))) == {"SB406"}


@pytest.mark.parametrize("code", ["SB203", "SB204"])
def test_one_layer_alone_is_no_matter_of_depth(code: str) -> None:
    """A head a thousand times too small shrinks the back-signal once; so does a chain, but at each of its layers."""
    far = 10 * S if code == "SB203" else 1 / (10 * S)
    steady = tuple(layer(f"{i}", backward_norm=1.0) for i in range(8))
    one, chain = layer("x", backward_norm=far), tuple(layer(f"{i}", backward_norm=far ** (1 - i / 8)) for i in range(9))
    alone = (one, *steady) if code == "SB203" else (*steady, layer("head", backward_norm=1 / far))
    assert code not in codes(trace(layers=alone))
    assert code in codes(trace(layers=tuple(layer(r.name, backward_norm=(r.backward_norm or 0) ** 2) for r in chain)))


def test_a_zero_that_cuts_the_signal_is_no_collapse() -> None:
    """LeViT starts each branch behind a zero scale, also where no residual goes round it: nothing differs there yet."""
    torch.manual_seed(0)
    gate = nn.BatchNorm1d(16)
    nn.init.zeros_(gate.weight)
    net = nn.Sequential(
        nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), gate, nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2)
    )
    report = sb.check(net, torch.randn(32, 8))
    assert report.verdict == "healthy"
    assert [f.code for f in report.findings if f.severity == "warning"] == []
    assert "SB103" in {f.code for f in report.findings}


@pytest.mark.parametrize(("layers", "verdict"), [(1, "healthy"), (2, "degraded")])
def test_a_small_wrong_fan_is_told_and_two_in_a_row_count(layers: int, verdict: str) -> None:
    torch.manual_seed(0)
    grouped = [nn.Conv2d(64, 64, 3, padding=1, groups=4) for _ in range(layers)]
    for conv in grouped:
        nn.init.kaiming_normal_(conv.weight, mode="fan_out")
    net = nn.Sequential(*(part for conv in grouped for part in (conv, nn.ReLU())))
    report = sb.check(net, torch.randn(4, 64, 6, 6))
    assert [f.code for f in report.findings if f.severity == "warning"] == ["SB407"] * layers
    assert report.verdict == verdict


def test_a_wrong_fan_in_residual_branches_is_told_and_changes_no_verdict() -> None:
    """Visformer's grouped convolutions are 2.8 times too small, each in a branch beside a stream that is not."""

    class Stream(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branches = nn.ModuleList(nn.Conv2d(64, 64, 3, padding=1, groups=8) for _ in range(4))
            for conv in self.branches:
                nn.init.kaiming_normal_(conv.weight, mode="fan_out")

        def forward(self, x: Tensor) -> Tensor:
            for conv in self.branches:
                x = x + conv(x).relu() / 4
            return x

    torch.manual_seed(0)
    report = sb.check(Stream(), torch.randn(4, 64, 6, 6))
    assert [f.code for f in report.findings if f.severity == "warning"] == ["SB407"] * 4
    assert report.verdict == "healthy"


def test_a_guessed_learning_rate_is_given_a_decade() -> None:
    """The same first step, three times the weights, with a rate that the user named and with one that he did not."""
    torch.manual_seed(0)
    net = nn.Linear(8, 1, bias=False)
    nn.init.normal_(net.weight, std=1e-2)
    x = torch.randn(64, 8)
    batch, loss = (x, 2 * x.sum(1, keepdim=True)), nn.functional.mse_loss
    guessed = sb.check(net, batch, loss)
    given = sb.check(net, batch, loss, optimizer=torch.optim.SGD(net.parameters(), lr=1e-2))
    assert [[f.code for f in r.findings if f.severity == "warning"] for r in (guessed, given)] == [["SB207"]] * 2
    assert (guessed.verdict, given.verdict) == ("healthy", "degraded")


class _Holder(nn.Module):
    """A model under a name that a format string, a markup or a pattern would read as its own."""

    NAME = "{x}[b]*"

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.add_module(self.NAME, model)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self, self.NAME)(*args, **kwargs)


@pytest.mark.parametrize("code", EXAMPLES)
def test_names_are_told_as_they_are(code: str) -> None:
    model, batch, loss = EXAMPLES[code][0]()
    plain = [f for f in reported(code, 0).findings if f.code == code]
    report = sb.check(_Holder(model), batch, loss)
    odd = [f for f in report.findings if f.code == code]
    assert [f.units for f in odd] == [f.units for f in plain]
    assert all(f.where.startswith(_Holder.NAME) for f in odd) or plain[0].where not in dict(model.named_modules())
    assert odd[0].where in report.to_text()
