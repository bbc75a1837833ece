"""How a tensor is drawn anew: as `schemes.suits` has it, and in place of what was done to it before."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import symbreak as sb
from symbreak import schemes
from symbreak.remedies import split, stages
from symbreak.remedies.bench import Bench
from symbreak.remedies.part import Part, adding, replacing, scaling
from symbreak.remedies.suited import fresh, place_of, suited
from symbreak.schemes import Fans, Layout
from symbreak.schemes.survey import survey

X = torch.randn(32, 12, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def bench_of(model: nn.Module, x: Tensor = X) -> Bench:
    report = sb.check(model, x)
    assert report._asked is not None
    return Bench(model, report._asked, report)


@pytest.mark.parametrize("phi", [nn.ReLU, nn.GELU, nn.Tanh, nn.SELU, nn.Sigmoid])
def test_a_repair_draws_what_the_command_line_says_suits(phi: Callable[[], nn.Module]) -> None:
    model = nn.Sequential(nn.Linear(12, 16), phi(), nn.Linear(16, 16), phi(), nn.Linear(16, 3))
    bench = bench_of(model)
    told = {row.name: row.suit.scheme for row in survey(model)}
    assert {n: suited(bench, n)[0] for n in told if "weight" in n} == {n: told[n] for n in told if "weight" in n}


class Bare(nn.Module):
    """Parameters that only running tells: experts in one tensor, tokens, a gate, a gain."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(4, 12) * 0.02)
        self.experts = nn.Parameter(torch.randn(4, 12, 20) * 0.3)
        self.gate, self.gain = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.ones(12))
        self.inside = nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        z = torch.layer_norm(x.unflatten(0, (4, -1)) + self.tokens[:, None], (12,), self.gain)
        out: Tensor = (z + self.gate * self.inside(z)) @ self.experts
        return out


def test_places_of_bare_parameters_come_from_what_was_seen() -> None:
    bench = bench_of(Bare())
    experts = place_of(bench, "experts")
    assert (experts.layout, experts.fans) == (Layout(transposed=True, stack=1), Fans(12, 20))
    assert {n: place_of(bench, n).role for n in ("gate", "gain", "tokens")} == {
        "gate": "gate", "gain": "gain", "tokens": "unknown",
    }  # fmt: skip
    assert suited(bench, "gate")[0] == schemes.constant(0.1)  # not zero, which is what a repair has to replace
    assert suited(bench, "tokens")[0] == schemes.normal(0.02)
    drawn = fresh(bench, "experts")
    assert drawn.dtype == torch.float64
    assert float(drawn.std()) == pytest.approx(12**-0.5, rel=0.1)
    assert torch.equal(drawn, fresh(bench, "experts"))
    assert not torch.equal(drawn, fresh(bench, "experts", salt="again"))


def test_the_second_factor_of_an_adapter_is_drawn_where_it_has_to_be() -> None:
    model = nn.ModuleDict({"lora_A": nn.Linear(12, 2, bias=False), "lora_B": nn.Linear(2, 12, bias=False)})
    both = nn.Sequential(*model.values())
    both.lora_A, both.lora_B = both[0], both[1]
    bench = bench_of(both)
    assert bool(fresh(bench, "1.weight").any())


def test_what_is_drawn_anew_forgets_what_was_done_before() -> None:
    bench = bench_of(nn.Sequential(nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 3)))
    both = Part("rescale", "", (("0.weight", scaling(2.0)), ("2.weight", scaling(3.0))))
    bench.choose([both, Part("jitter", "", (("0.weight", adding(1.0)),))])
    assert [p.tensors for p in bench.chosen] == [("0.weight", "2.weight"), ("0.weight",)]
    new = torch.ones(4, 12, dtype=torch.float64)
    bench.choose([Part("draw", "", (("0.weight", replacing(new)),)), Part("shift", "", (("0.weight", adding(1.0)),))])
    assert [(p.action, p.tensors) for p in bench.chosen] == [
        ("rescale", ("2.weight",)), ("draw", ("0.weight",)), ("shift", ("0.weight",)),
    ]  # fmt: skip
    assert torch.equal(bench.now("0.weight"), new + 1)


def test_all_layers_of_one_number_may_be_drawn_anew_together() -> None:
    model = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3))
    for layer, number in ((model[0], 0.02), (model[2], 0.02), (model[5], 0.0)):
        nn.init.constant_(layer.weight, number)  # type: ignore[arg-type]
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    (part,) = split.anew(bench_of(model), ())
    assert part.tensors == ("0.weight", "2.weight")  # not the norm's ones, and not what is zero
    nn.init.normal_(model[0].weight)  # type: ignore[arg-type]
    assert list(split.anew(bench_of(model), ())) == []


def test_a_whole_repair_is_tried_where_no_set_of_parts_heals(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where unequal shares leave some experts without tokens: `split.propose` is left without a part that heals."""
    model = nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    for p in model.parameters():
        nn.init.constant_(p, 0.3)
    report = sb.check(model, X)

    def harmless(bench: Bench, findings: object) -> list[Part]:
        return [Part("shift", "", (("0.bias", adding(0.01)),))]

    def plan(instead: stages.Propose) -> sb.Plan:
        stage = stages.Stage(split.takes, harmless, instead=instead)
        monkeypatch.setattr(stages, "STAGES", (stage,))
        return sb.fix(model, report)

    assert plan(split.anew).after.verdict == "healthy"
    assert {c.tensor for c in plan(split.anew).changes} == {"2.weight"}  # of three that could be drawn, what it takes
    assert plan(lambda bench, findings: ()).changes == ()
