"""What running a model shows of each weight, against what a reader of its code would say."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symbreak.schemes import ACTIVATIONS, activation, places_of
from symbreak.starts.facts import Facts, facts_of, refined
from symbreak.starts.flow import GRID, Flow, record
from symbreak.starts.images import catalogued, second_moment
from symbreak.starts.session import within


def read(model: nn.Module, batch: Any) -> tuple[Flow, Facts]:
    flow = within(model, batch, None, record)
    return flow, facts_of(flow)


class Written(nn.Module):
    """One layer, and a function of its result."""

    def __init__(self, phi: Any) -> None:
        super().__init__()
        self.a, self.b, self.phi = nn.Linear(6, 8), nn.Linear(8, 3), phi

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(self.phi(self.a(x)))
        return out


def gelu_by_hand(z: Tensor) -> Tensor:
    return 0.5 * z * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * torch.pow(z, 3))))


WRITTEN = {
    "relu": F.relu,
    "silu": lambda z: z * torch.sigmoid(z),
    "mish": lambda z: z * torch.tanh(F.softplus(z)),
    "gelu('tanh')": gelu_by_hand,
    "gelu": lambda z: z * 0.5 * (1.0 + torch.erf(z / math.sqrt(2.0))),
    "relu_squared": lambda z: torch.relu(z) ** 2,
    "hardswish": lambda z: z * F.relu6(z + 3) / 6,
    "leaky_relu(0.2)": lambda z: F.leaky_relu(z, 0.2),
    "elu(0.5)": lambda z: F.elu(z, alpha=0.5),
    "sin(30.0)": lambda z: torch.sin(30 * z),
    "hardtanh(-2.0, 3.0)": lambda z: z.clamp(-2, 3),
    "softplus": lambda z: torch.log1p(torch.exp(z)),
    "tanh": lambda z: torch.tanh(z.reshape(-1, 2, 4)).flatten(1),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_activations_are_known_by_what_they_compute(name: str) -> None:
    _, facts = read(Written(WRITTEN[name]), torch.randn(5, 6))
    assert repr(facts.of["a.weight"].phi) == name
    assert facts.of["b.weight"].phi is None


def test_a_function_of_ones_own_is_measured() -> None:
    _, facts = read(Written(lambda z: 0.3 * torch.relu(z) + 0.1 * torch.cos(z)), torch.randn(5, 6))
    fact = facts.of["a.weight"]
    z = torch.randn(2_000_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert fact.phi is None
    assert fact.keeps == pytest.approx(float((0.3 * z.relu() + 0.1 * z.cos()).square().mean()), rel=3e-3)


@pytest.mark.parametrize("name", [n for n in ACTIVATIONS if n not in ("identity", "rrelu", "prelu", "threshold")])
def test_the_grid_tells_every_row_of_the_catalogue_apart(name: str) -> None:
    found = catalogued(activation(name)(GRID.clone()).double())
    assert found is not None
    assert found.name == name or (name, found.name) in {("celu", "elu"), ("lecun_tanh", "lecun_tanh")}


def test_a_second_moment_on_the_grid_is_the_quadratures() -> None:
    from symbreak.schemes import gains

    for name in ("relu", "gelu", "tanh", "softplus", "hardswish"):
        image = activation(name)(GRID.clone()).double()
        assert second_moment(image) == pytest.approx(gains(name).second_moment, rel=1e-4)


class Block(nn.Module):
    def __init__(self, d: int, *, gate: bool = False) -> None:
        super().__init__()
        self.norm, self.a, self.b = nn.LayerNorm(d), nn.Linear(d, 2 * d), nn.Linear(2 * d, d)
        self.gamma = nn.Parameter(torch.full((d,), 1e-4)) if gate else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(F.gelu(self.a(self.norm(x))))
        return x + (y if self.gamma is None else self.gamma * y)


def test_branches_are_counted_along_their_stream() -> None:
    net = nn.Sequential(nn.Linear(4, 8), *(Block(8) for _ in range(3)), nn.LayerNorm(8), nn.Linear(8, 2))
    _, facts = read(net, torch.randn(5, 4))
    assert facts.of["1.b.weight"].branch_end
    assert facts.of["3.b.weight"].branches == 3
    assert facts.of["3.b.weight"].branch_layers == 2
    assert not facts.of["1.a.weight"].branch_end
    assert facts.of["1.a.weight"].in_branch
    assert (facts.of["0.weight"].first, facts.of["5.weight"].last) == (True, True)
    assert facts.outputs == ("5.weight",)
    _, gated = read(nn.Sequential(nn.Linear(4, 8), Block(8, gate=True)), torch.randn(5, 4))
    assert gated.of["1.b.weight"].gate_follows


def test_post_norm_streams_have_one_branch_and_a_norm_resets_the_depth() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    _, facts = read(nn.Sequential(nn.Linear(4, 8), layer, nn.Linear(8, 2)), torch.randn(3, 5, 4))
    assert facts.of["1.linear2.weight"].branches == 1
    assert facts.of["1.linear2.weight"].branch_end
    assert facts.of["1.self_attn.out_proj.weight"].branch_end
    assert not facts.of["1.self_attn.out_proj.weight"].first
    deep = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, 2))
    _, facts = read(deep, torch.randn(3, 4))
    assert [f.depth for f in facts.of.values()] == [2, 2, 1]


def test_a_projection_on_the_skip_path_is_a_branch_of_its_own() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.a = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1)
            self.b, self.skip = nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(8, 16, 1)
            self.bn, self.head = nn.BatchNorm2d(16), nn.Linear(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.stem(x))
            x = torch.relu(self.bn(self.b(torch.relu(self.a(x)))) + self.skip(x))
            out: Tensor = self.head(x.mean((2, 3)))
            return out

    _, facts = read(Net(), torch.randn(2, 3, 8, 8))
    assert facts.of["skip.weight"].branch_end
    assert facts.of["b.weight"].branch_end
    assert facts.of["b.weight"].normalised
    assert facts.norm_ends == {"bn.weight"}
    assert facts.of["a.weight"].in_branch
    assert not facts.of["stem.weight"].in_branch


class Attention(nn.Module):
    """Written out, with rotary angles, and with every name changed."""

    def __init__(self, *, fused: bool) -> None:
        super().__init__()
        self.one, self.two, self.three, self.four = (nn.Linear(8, 8) for _ in range(4))
        self.bias = nn.Embedding(5, 2)
        self.fused = fused

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (2, 4)).transpose(1, 2) for f in (self.one, self.two, self.three))
        turn = torch.linspace(0, 1, x.shape[1])[:, None]
        q, k = (t * turn.cos() + torch.cat([-t[..., 2:], t[..., :2]], -1) * turn.sin() for t in (q, k))
        bias = self.bias(torch.arange(5)[:, None] * torch.ones(1, 5, dtype=torch.long)).permute(2, 0, 1)
        if self.fused:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        else:
            out = (q @ k.transpose(-1, -2) / 2 + bias).softmax(-1) @ v
        return x + self.four(out.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("fused", [False, True])
def test_parts_of_attention_are_known_by_where_they_go(fused: bool) -> None:
    model = Attention(fused=fused)
    _, facts = read(model, torch.randn(2, 5, 8))
    parts = {name.split(".")[0]: fact.part for name, fact in facts.of.items()}
    assert parts == {"one": "query_key", "two": "query_key", "three": "value", "four": None, "bias": None}
    assert facts.of["four.weight"].branch_end
    assert not facts.of["one.weight"].branch_end  # a rotation is no residual sum
    assert facts.lookups_in_logits == {"bias.weight"}


def test_gated_linear_units_and_norms_written_out() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 16), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            value, gate = self.a(x).chunk(2, -1)
            y = self.b(value * F.silu(gate))
            y = (y - y.mean(-1, keepdim=True)) / torch.sqrt(y.var(-1, keepdim=True) + 1e-6)
            y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)
            out: Tensor = self.c(torch.relu(y))
            return out

    _, facts = read(Net(), torch.randn(3, 4))
    assert facts.of["a.weight"].ends == "different things"
    assert facts.of["b.weight"].normalised
    assert repr(facts.of["b.weight"].phi) == "relu"


def test_bare_parameters_are_weights_by_the_operation_that_uses_them() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.right = nn.Parameter(torch.randn(4, 8))
            self.left = nn.Parameter(torch.randn(8, 8))
            self.experts = nn.Parameter(torch.randn(3, 8, 2))
            self.kernel = nn.Parameter(torch.randn(8, 2, 3))
            self.shift = nn.Parameter(torch.zeros(8))

        def forward(self, x: Tensor) -> Tensor:
            y = (x @ self.right).T
            y = (self.left @ y).T + self.shift
            y = F.conv1d(y[..., None].expand(-1, -1, 4), self.kernel, padding=1, groups=4).mean(-1)
            return torch.bmm(y.expand(3, -1, -1), self.experts)

    model = Net()
    _, facts = read(model, torch.randn(5, 4))
    places = refined(places_of(model), facts)
    fans = {name: (p.fan_in, p.fan_out) for name, p in places.items() if p.role == "weight"}
    assert fans == {"right": (4, 8), "left": (8, 8), "kernel": (6, 6), "experts": (8, 2)}
    assert places["shift"].role == "unknown"
