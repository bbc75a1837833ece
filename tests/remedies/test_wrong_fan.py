"""SB407: weights scaled by a fan that is not theirs; told where it matters, hidden by a norm, silent where right."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import symbreak as sb
from symbreak.schemes import CATALOGUE, fans_of, parse

Fill = Callable[[Tensor], object]


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


class Stack(nn.Module):
    """Eight experts in one tensor [expert, in, out], softly mixed."""

    def __init__(self, fill: Fill) -> None:
        super().__init__()
        self.router = nn.Linear(24, 8)
        self.experts = nn.Parameter(torch.empty(8, 24, 40))
        self.head = nn.Linear(40, 2)
        fill(self.experts)

    def forward(self, x: Tensor) -> Tensor:
        each = torch.bmm(x.expand(8, *x.shape), self.experts).relu()
        return self.head((each * self.router(x).softmax(-1).T.unsqueeze(-1)).sum(0))


class Fused(nn.Module):
    """Queries, keys and values from one matrix."""

    def __init__(self, fill: Fill) -> None:
        super().__init__()
        self.num_heads = 4
        self.qkv, self.o = nn.Linear(32, 96), nn.Linear(32, 32)
        fill(self.qkv.weight)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
        return self.o(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def convolutions(layer: Callable[[], nn.Module], fill: Fill, *, norm: bool = False, depth: int = 4) -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(depth):
        conv = layer()
        fill(conv.weight)
        layers += [conv, *([nn.BatchNorm2d(conv.out_channels)] if norm else []), nn.ReLU()]
    return nn.Sequential(*layers)


depthwise = partial(nn.Conv2d, 32, 32, 3, padding=1, groups=32)
grouped = partial(nn.Conv2d, 32, 32, 3, padding=1, groups=4)
transposed = partial(nn.ConvTranspose2d, 32, 32, 3, padding=1, groups=8)
narrowing = partial(nn.ConvTranspose2d, 32, 4, 3, padding=1)
IMAGES, TOKENS, ROWS = (
    torch.randn(s, generator=torch.Generator().manual_seed(0)) for s in ((8, 32, 6, 6), (8, 5, 32), (64, 24))
)
FAN_OUT = partial(nn.init.kaiming_normal_, mode="fan_out")

WRONG = {
    "depthwise, fan_out": (lambda: convolutions(depthwise, FAN_OUT), IMAGES, 32**0.5),
    "grouped, fan_out": (lambda: convolutions(grouped, FAN_OUT), IMAGES, 2.0),
    "grouped, fan_out, uniform": (
        lambda: convolutions(grouped, partial(nn.init.kaiming_uniform_, mode="fan_out")), IMAGES, 2.0,
    ),
    "transposed in groups, xavier": (
        lambda: convolutions(transposed, nn.init.xavier_normal_), IMAGES, ((32 + 256) / (32 + 32)) ** 0.5,
    ),
    "stacked, kaiming": (lambda: Stack(nn.init.kaiming_normal_), ROWS, 24**0.5),
    "stacked, torch's default": (lambda: Stack(partial(nn.init.kaiming_uniform_, a=5**0.5)), ROWS, 24**0.5),
    "fused, fan_out": (lambda: Fused(FAN_OUT), TOKENS, 3**0.5),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_told_and_healed(name: str) -> None:
    build, x, factor = WRONG[name]
    model = build()
    report = sb.check(model, x)
    found = [f for f in report.findings if f.code == "SB407"]
    assert found
    assert report.verdict == ("healthy" if name == "fused, fan_out" else "degraded")  # 1.7 alone is torch's own default
    for f in found:
        assert f.severity == "warning"
        assert f.evidence["factor"] == pytest.approx(factor, rel=0.75 if "stacked" in name else 0.01)
    plan = sb.fix(model, report)
    assert "SB407" not in {f.code for f in plan.after.findings}
    done = {c.tensor: c.actions for c in plan.changes}
    assert {done.get(f.evidence["tensor"]) for f in found} == {("rescale",)}


RIGHT: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "depthwise, fan_in": (lambda: convolutions(depthwise, nn.init.kaiming_normal_), IMAGES),
    "torch's defaults": (lambda: convolutions(grouped, lambda w: w), IMAGES),
    "torch's default, transposed": (lambda: convolutions(narrowing, lambda w: w, depth=1), IMAGES),
    "transposed, fan_in of the shape, which is its fan_out": (
        lambda: convolutions(narrowing, nn.init.kaiming_normal_, depth=1),
        IMAGES,
    ),
    "transposed, fan_out": (lambda: convolutions(narrowing, FAN_OUT, depth=1), IMAGES),
    "0.02 whatever the shape": (lambda: convolutions(depthwise, partial(nn.init.normal_, std=0.02)), IMAGES),
    "stacked, by the input": (lambda: Stack(partial(nn.init.normal_, std=(2 / 24) ** 0.5)), ROWS),
    "stacked, 0.02": (lambda: Stack(partial(nn.init.normal_, std=0.02)), ROWS),
    "fused, xavier": (lambda: Fused(nn.init.xavier_uniform_), TOKENS),
    "fused, fan_in": (lambda: Fused(nn.init.kaiming_normal_), TOKENS),
    "an ordinary layer, fan_out": (lambda: convolutions(partial(nn.Conv2d, 32, 32, 1), FAN_OUT), IMAGES),
}


@pytest.mark.parametrize("name", RIGHT)
def test_silent(name: str) -> None:
    build, x = RIGHT[name]
    report = sb.check(build(), x)
    assert "SB407" not in {f.code for f in report.findings}
    assert report.trace.wrong_fans == ()


@pytest.mark.parametrize("layer", [depthwise, grouped])
def test_a_norm_behind_hides_it(layer: Callable[[], nn.Module]) -> None:
    model = convolutions(layer, FAN_OUT, norm=True)
    report = sb.check(model, IMAGES)
    found = [f for f in report.findings if f.code == "SB407"]
    assert {f.severity for f in found} == {"info"}
    assert "a normalisation behind it hides that" in found[0].because
    assert report.verdict == "healthy"
    assert sb.fix(model, report).changes == ()


@pytest.mark.parametrize(
    "text", ["kaiming_normal", "kaiming_uniform", "xavier_normal", "lecun_normal", "torch_default"]
)
def test_the_fans_of_the_catalogue_are_never_wrong(text: str) -> None:
    for groups, n in ((1, 8), (4, 32), (32, 32), (16, 64)):
        conv = nn.Conv2d(n, n, 3, padding=1, groups=groups)

        def fill(weight: Tensor, fans: object = fans_of(conv)) -> None:
            generator = torch.Generator().manual_seed(len(text))
            weight.data.copy_(parse(text).draw(weight.shape, generator=generator, fans=fans))  # type: ignore[arg-type]

        x = torch.randn(8, n, 5, 5, generator=torch.Generator().manual_seed(1))
        model = convolutions(partial(nn.Conv2d, n, n, 3, padding=1, groups=groups), fill)
        assert sb.check(model, x).trace.wrong_fans == ()
    assert text in CATALOGUE


def test_the_factor_is_the_ratio_of_the_two_sizes() -> None:
    model = convolutions(depthwise, FAN_OUT)
    (first, *_) = sb.check(model, IMAGES).trace.wrong_fans
    right, used = 2 / first.right[1], 2 / first.used[1]
    assert first.factor == pytest.approx(math.sqrt(right / used))
    assert first.formula == "kaiming_normal(mode='fan_out')"
