"""Fans where torch's are not right, places, what follows, what suits, and the command line over a whole model."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import symbreak as sb
from symbreak import schemes
from symbreak.cli import main
from symbreak.errors import SchemeError
from symbreak.schemes import (
    Fans,
    Following,
    Layout,
    Place,
    fans_of,
    fans_of_shape,
    following,
    layout_of,
    parse,
    places_of,
)
from symbreak.schemes.fans import layout_used
from symbreak.schemes.suits import suits
from symbreak.schemes.survey import survey


class Conv1D(nn.Module):
    """As transformers' one: weight [in, out]."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.weight, self.bias = nn.Parameter(torch.randn(nx, nf)), nn.Parameter(torch.zeros(nf))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.addmm(self.bias, x.flatten(0, -2), self.weight).view(*x.shape[:-1], self.nf)


# ---- fans ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "name", "fan_in", "fan_out"),
    [
        (nn.LSTM(3, 5), "weight_ih_l0", 3, 5),
        (nn.LSTM(3, 5), "weight_hh_l0", 5, 5),
        (nn.LSTM(3, 5), "bias_hh_l0", 5, 5),
        (nn.LSTM(3, 5, num_layers=2, bidirectional=True, proj_size=2), "weight_ih_l1_reverse", 4, 5),
        (nn.GRU(3, 5), "weight_ih_l0", 3, 5),
        (nn.RNNCell(3, 5), "weight_hh", 5, 5),
        (nn.MultiheadAttention(12, 3), "in_proj_weight", 12, 12),
        (nn.MultiheadAttention(12, 3), "in_proj_bias", 12, 12),
        (nn.MultiheadAttention(12, 3, kdim=7), "k_proj_weight", 7, 12),
        (nn.MultiheadAttention(12, 3).out_proj, "weight", 12, 12),
        (nn.Bilinear(3, 4, 5), "weight", 12, 5),
        (nn.Linear(7, 5), "bias", 7, 5),
        (nn.Conv2d(8, 8, 3, groups=8), "weight", 9, 9),
        (nn.Conv2d(8, 16, 1), "weight", 8, 16),
        (nn.ConvTranspose2d(8, 4, 3), "bias", 72, 36),
        (Conv1D(6, 4), "weight", 4, 6),
    ],
)
def test_fans_of_every_kind_of_parameter(module: nn.Module, name: str, fan_in: int, fan_out: int) -> None:
    assert fans_of(module, name) == Fans(fan_in, fan_out)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (nn.LayerNorm(4), "weight"),
        (nn.Embedding(4, 3), "weight"),
        (nn.LSTM(3, 4), "weight"),
        (nn.PReLU(), "weight"),
        (nn.MultiheadAttention(4, 2, add_bias_kv=True), "bias_k"),
    ],
)
def test_what_has_no_fans(module: nn.Module, name: str) -> None:
    assert fans_of(module, name) is None
    assert layout_of(module, name) is None


@pytest.mark.parametrize(
    ("layout", "shape", "fan_in", "fan_out"),
    [
        (Layout(stack=1), (8, 256, 64), 64, 256),
        (Layout(stack=1, transposed=True), (8, 64, 256), 64, 256),
        (Layout(stack=1, parts=2), (8, 512, 64), 64, 256),
        (Layout(parts=3), (96, 32), 32, 32),
        (Layout(transposed=True, parts=3), (32, 96), 32, 32),
        (Layout(groups=4), (8, 4, 3), 12, 6),
        (Layout(stack=2), (2, 3, 5, 7), 7, 5),
    ],
)
def test_fans_of_layouts_and_their_matrices(layout: Layout, shape: tuple[int, ...], fan_in: int, fan_out: int) -> None:
    assert layout.fans(shape) == Fans(fan_in, fan_out)
    weight = torch.arange(float(math.prod(shape))).reshape(shape)
    matrices = list(Place(shape=shape, layout=layout).matrices(weight))
    assert {math.prod(m.shape[1:]) for m in matrices} == {fan_in}
    assert {m.shape[0] * math.prod(m.shape[2:]) for m in matrices} == {fan_out}
    assert sorted(torch.cat([m.flatten() for m in matrices]).tolist()) == weight.flatten().tolist()  # each weight once


def test_experts_are_scaled_like_one_of_them() -> None:
    """torch reads [expert, out, in] as a convolution with `in` taps, and is off by the number of outputs."""
    place = Place(layout=Layout(stack=1))
    stack = schemes.kaiming_normal().draw((8, 256, 64), generator=torch.Generator(), place=place)
    assert float(stack.std()) == pytest.approx(math.sqrt(2 / 64), rel=0.01)
    torchs = nn.init.kaiming_normal_(torch.empty(8, 256, 64), generator=torch.Generator())
    assert float(torchs.std()) < 0.1 * float(stack.std())


@pytest.mark.parametrize(
    ("shape", "facts", "message"),
    [
        ((4,), {}, "it needs two axes, such as"),
        ((4, 4), {"stack": 1}, "it needs two axes after 1 stacked"),
        ((6, 4), {"groups": 4}, "cannot be cut into 4 groups and 1 parts"),
        ((6, 4), {"parts": 0}, "cannot be cut into 1 groups and 0 parts"),
        ((4, 6), {"parts": 4, "transposed": True}, "cannot be cut into 1 groups and 4 parts"),
    ],
)
def test_shapes_without_fans(shape: tuple[int, ...], facts: dict[str, int], message: str) -> None:
    with pytest.raises(SchemeError, match=message):
        fans_of_shape(shape, **facts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "shape", "axis", "options", "fans"),
    [
        ("linear", (10, 6), 0, {}, Fans(6, 10)),
        ("addmm", (6, 10), 1, {}, Fans(6, 10)),  # transformers' Conv1D
        ("conv_transpose2d", (8, 2, 3, 3), 1, {"groups": 2}, Fans(36, 18)),
        ("lstm", (24, 5), 0, {"parts": 4}, Fans(5, 6)),
        ("bmm", (4, 6, 10), 2, {}, Fans(6, 10)),
        ("matmul", (4, 10, 6), -2, {}, Fans(6, 10)),
        ("matmul", (10, 6), None, {}, Fans(6, 10)),
    ],
)
def test_layouts_of_weights_seen_in_use(
    kind: str, shape: tuple[int, ...], axis: int | None, options: dict[str, int], fans: Fans
) -> None:
    layout = layout_used(kind, shape, axis, **options)
    assert layout is not None
    assert layout.fans(shape) == fans


def test_a_unit_axis_in_front_of_others_has_no_layout() -> None:
    assert layout_used("einsum", (4, 6, 10), 0) is None
    assert layout_used("einsum", (4, 6, 10), None) is None


def test_the_layers_of_a_report_show_the_scheme_by_their_true_fans() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.deep = nn.Conv1d(48, 48, 7, groups=48)
            self.memory = nn.LSTM(48, 64, batch_first=True)
            self.fused = Conv1D(96, 64)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            made: torch.Tensor = self.fused(self.memory(self.deep(x).mT)[0])
            return made

    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        model = Net()
    schemes.kaiming_normal(mode="fan_out").fill_(model.deep.weight, generator=generator, place=Place(layout=Layout(48)))
    four = Place(layout=Layout(parts=4))
    schemes.xavier_normal().fill_(model.memory.weight_ih_l0, generator=generator, place=four)  # type: ignore[arg-type]
    schemes.lecun_normal().fill_(model.fused.weight, generator=generator, place=Place(layout=Layout(transposed=True)))
    report = sb.check(model, torch.randn(4, 48, 20, generator=generator))
    shown = {row.weight: row.scheme for row in report.layers}
    assert shown["deep.weight"].startswith("kaiming_normal")  # of torch's fan_out, 48 times as large, it would be 1/48
    assert shown["memory.weight_ih_l0"].startswith("xavier_normal")
    assert shown["fused.weight"].startswith("lecun_normal")


# ---- places -------------------------------------------------------------------------------------------------------


class Zoo(nn.Module):
    """One of everything that is read without being run."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 12, padding_idx=0)
        self.attention = nn.MultiheadAttention(12, 3)
        self.memory = nn.LSTM(12, 6)
        self.body = nn.Sequential(nn.Conv1d(6, 6, 3, groups=6), nn.BatchNorm1d(6), nn.PReLU(), nn.Conv1d(6, 6, 1))
        self.q_proj = nn.Linear(6, 6)
        self.router = nn.Linear(6, 4)
        self.scale = nn.Parameter(torch.ones(1))
        self.tokens = nn.Parameter(torch.zeros(1, 5, 6))
        self.head = nn.Linear(12, 20, bias=False)
        self.head.weight = self.table.weight


def test_roles_are_read_from_modules() -> None:
    places = places_of(Zoo())
    roles = {name: place.role for name, place in places.items()}
    assert roles == {
        "scale": "unknown", "tokens": "unknown", "table.weight": "embedding",
        "attention.in_proj_weight": "query_key_value", "attention.in_proj_bias": "bias",
        "attention.out_proj.weight": "attention_out", "attention.out_proj.bias": "bias",
        "memory.weight_ih_l0": "weight", "memory.weight_hh_l0": "recurrent",
        "memory.bias_ih_l0": "bias", "memory.bias_hh_l0": "recurrent_bias",
        "body.0.weight": "weight", "body.0.bias": "bias", "body.1.weight": "gain", "body.1.bias": "bias",
        "body.2.weight": "slope", "body.3.weight": "weight", "body.3.bias": "bias",
        "q_proj.weight": "query_key", "q_proj.bias": "bias", "router.weight": "router", "router.bias": "bias",
    }  # fmt: skip
    assert places["table.weight"].padding == 0
    assert places["body.0.weight"].layout == Layout(groups=6)
    assert places["memory.bias_ih_l0"].layout == Layout(parts=4)
    assert places["attention.in_proj_weight"].fans == Fans(12, 12)
    assert [name for name, place in places.items() if place.position == "last"] == ["body.3.weight", "body.3.bias"]


def test_adapters_are_known_by_their_names() -> None:
    model = nn.ModuleDict({"lora_A": nn.ModuleDict({"default": nn.Linear(8, 2)}), "lora_B": nn.Linear(2, 8)})
    roles = {name: place.role for name, place in places_of(model).items()}
    assert roles["lora_A.default.weight"] == "adapter_in"
    assert roles["lora_B.weight"] == "adapter_out"


class Adapted(nn.Module):
    """A projection as peft leaves it."""

    def __init__(self) -> None:
        super().__init__()
        self.base_layer = nn.Linear(8, 8)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(8, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, 8, bias=False)})


ADAPTED = {
    "q_proj.base_layer.weight": "query_key", "q_proj.lora_A.default.weight": "adapter_in",
    "q_proj.lora_B.default.weight": "adapter_out", "k_proj.weight": "query_key",
    "v_proj.base_layer.weight": "value", "v_proj.lora_A.default.weight": "adapter_in",
    "v_proj.lora_B.default.weight": "adapter_out", "o_proj.weight": "attention_out",
}  # fmt: skip


def test_the_factors_inside_a_projection_are_adapters() -> None:
    block = nn.ModuleDict(
        {"q_proj": Adapted(), "k_proj": nn.Linear(8, 8), "v_proj": Adapted(), "o_proj": nn.Linear(8, 8)}
    )
    places = places_of(block)
    assert {n: p.role for n, p in places.items() if n.endswith("weight")} == ADAPTED
    assert places["q_proj.lora_A.default.weight"].fans == Fans(8, 2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_factors_of_peft_are_adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("peft") is None:
        pytest.skip("peft is not installed")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    from real_models import zoo

    places = places_of(zoo.build("peft.lora").model)
    head = "base_model.model.model.layers.0.self_attn."
    assert {n.removeprefix(head): p.role for n, p in places.items() if n.startswith(head)} == ADAPTED


class Mixer(nn.Module):
    """The parts of Mamba's block by the names and sizes of transformers."""

    def __init__(self, fused: int) -> None:
        super().__init__()
        self.in_proj, self.out_proj = nn.Linear(8, fused), nn.Linear(16, 8)
        self.A_log = nn.Parameter(torch.zeros(16, 4))


def test_a_state_space_block_is_not_read_as_attention() -> None:
    one, two = places_of(nn.ModuleDict({"mixer": Mixer(32)})), places_of(Mixer(44))
    assert one["mixer.in_proj.weight"].layout == one["mixer.in_proj.bias"].layout == Layout(parts=2)
    assert one["mixer.in_proj.weight"].fans == one["mixer.in_proj.bias"].fans == Fans(8, 16)
    assert one["mixer.out_proj.weight"].role == "weight"
    assert two["in_proj.weight"].layout == Layout()  # Mamba-2: five parts of unequal widths
    assert two["in_proj.weight"].fans == Fans(8, 44)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_mambas_of_transformers_are_not_read_as_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("transformers is not installed")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    from real_models import zoo

    for name in ("hf.mamba.CausalLM", "hf.falcon_mamba.CausalLM", "hf.jamba.CausalLM"):
        places = places_of(zoo.build(name).model)
        fused = [place for tensor, place in places.items() if tensor.endswith("in_proj.weight")]
        assert fused
        assert all(place.layout == Layout(parts=2) and 2 * place.fan_out == place.shape[0] for place in fused)
        assert not [n for n, p in places.items() if p.role == "attention_out" and "out_proj" in n]
    places = places_of(zoo.build("hf.mamba2.CausalLM").model)
    assert {places[n].layout for n in places if n.endswith("in_proj.weight")} == {Layout()}


def test_a_feed_forward_block_has_no_attention_output() -> None:
    model = nn.ModuleDict({"wi": nn.Linear(8, 16), "wo": nn.Linear(16, 8)})
    assert places_of(model)["wo.weight"].role == "weight"
    apart = nn.MultiheadAttention(12, 3, kdim=8, vdim=4)  # three weights, without a packed one
    roles = {name: place.role for name, place in places_of(apart).items()}
    assert roles["out_proj.weight"] == "attention_out"
    assert roles["v_proj_weight"] == "value"


class Drifting(nn.Module):
    """A parametrisation that counts its calls in every mode, and draws."""

    calls: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return weight + 0 * torch.randn(1)


def test_reading_places_leaves_parametrised_weights_as_they_were() -> None:
    with torch.random.fork_rng():
        model = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(5, 4)), nn.ReLU(), nn.Linear(4, 2))
        nn.utils.parametrize.register_parametrization(model[2], "weight", Drifting())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    places_of(model)
    assert following(model)["0"].phi == schemes.activation("relu")
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(state, torch.get_rng_state())
    assert all(module.training for module in model.modules())


def test_what_follows_in_a_sequential() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.LeakyReLU(0.2), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.Dropout(),
        nn.ReLU(), nn.Flatten(), nn.Linear(4, 4), nn.Linear(4, 4), Conv1D(4, 4), Zoo(), nn.Tanh(), nn.Linear(4, 2),
    )  # fmt: skip
    found = following(net)
    assert found["0"] == Following(schemes.activation("leaky_relu(0.2)"), normalised=True)
    assert found["4"] == Following(schemes.activation("relu"))
    assert found["8"] == found["9"] == found["13"] == Following(None)
    assert "10" not in found  # a block stands behind it
    assert following(nn.TransformerEncoderLayer(8, 2, activation="gelu"))["linear1"].phi == schemes.activation("gelu")
    inner = following(nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.ELU(0.5), nn.Linear(2, 2)), nn.ReLU()))
    assert inner == {"0.0": Following(schemes.activation("elu(0.5)"))}  # what follows 0.2 is outside its Sequential


# ---- suits --------------------------------------------------------------------------------------------------------

WEIGHT = Place(shape=(64, 32), fans=Fans(32, 64))


@pytest.mark.parametrize(
    ("phi", "facts", "scheme", "because"),
    [
        ("relu", {}, "kaiming_normal", "keeps 0.5 of a second moment"),
        ("leaky_relu(0.2)", {}, "kaiming_normal(gain=1.387)", "gain 1.387 makes up"),
        ("gelu", {}, "kaiming_normal(gain=1.534)", "gelu follows"),
        ("tanh", {}, "kaiming_normal(gain=1.593)", "tanh follows"),
        ("tanh", {"depth": 60}, "edge_of_chaos", "60 layers"),
        ("sigmoid", {}, "xavier_normal(gain=4.0)", "whose slope at zero is 1/4"),
        ("sigmoid", {"position": "first"}, "lecun_normal", "data of size 1"),
        ("selu", {}, "lecun_normal", "gain 1"),
        ("sin(30)", {}, "siren", "about standard normal"),
        (None, {"position": "last"}, "lecun_normal", "the output"),
        (None, {}, "lecun_normal", "no activation before the next layer"),
        ("relu", {"branch_end": True, "branches": 16}, "kaiming_normal(gain=0.25)", "16 residual branches"),
        ("relu", {"role": "recurrent"}, "orthogonal", "again and again"),
        ("relu", {"role": "bias"}, "zeros", "tell the units apart"),
        ("sin", {"role": "bias"}, "torch_default", "phase"),
        ("relu", {"role": "router"}, "normal(std=0.02)", "no two experts the same"),
        (None, {"role": "adapter_out"}, "lora", "starts as nothing"),
        (None, {"role": "gain"}, "ones", "has already set the scale"),
        (None, {"role": "gain", "branch_end": True}, "zero_gamma", "starts as the identity"),
        (None, {"role": "gate"}, "layer_scale(epsilon=1e-05)", "almost closed"),
        (None, {"role": "gate", "shape": (1,)}, "rezero", "closed at first"),
        (None, {"role": "slope"}, "constant(0.25)", "PReLU"),
    ],
)
def test_the_scheme_that_suits(phi: str | None, facts: dict[str, object], scheme: str, because: str) -> None:
    found = suits(dataclasses.replace(WEIGHT, **facts), phi)  # type: ignore[arg-type]
    assert found.scheme == parse(scheme)
    assert because in found.because


def test_what_is_not_known_is_said() -> None:
    assert suits(Place(role="unknown")).scheme is None
    assert "shrink to 0.32 of themselves a layer" in suits(WEIGHT, "softplus").because
    assert "stays as it is" in suits(Place(role="unknown")).because
    assert "is not known" in suits(WEIGHT, None, known=False).because
    assert "undoes any scale" in suits(WEIGHT, "relu", normalised=True).because
    assert suits(Place(role="embedding"), tied=True).scheme == schemes.embedding_normal()
    with pytest.raises(SchemeError, match="Nearest: relu"):
        suits(WEIGHT, "reluu")


@pytest.mark.parametrize("phi", ["relu", "gelu", "tanh", "silu", "leaky_relu(0.2)", "elu", "selu"])
def test_what_suits_keeps_the_signal_over_ten_layers(phi: str) -> None:
    """Measured on a plain net; with torch's default the signal is gone."""
    generator, width = torch.Generator().manual_seed(0), 512
    wanted = suits(Place(shape=(width, width), depth=10), phi).scheme
    assert wanted is not None
    scales = []
    for scheme in (wanted, schemes.torch_default()):
        z = torch.randn(64, width, generator=generator)
        for _ in range(10):
            place = Place(role="bias", fans=Fans(width, width))
            bias = scheme.draw((width,), generator=generator, place=place) if scheme.name == "edge_of_chaos" else 0
            weight = scheme.draw((width, width), generator=generator)
            z = schemes.activation(phi)(z) @ weight.T + bias
        scales.append(float(z.std()))
    assert 0.35 < scales[0] < 3
    assert scales[1] < 0.35


# ---- whole models -------------------------------------------------------------------------------------------------


def test_a_survey_reads_and_compares() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
    schemes.kaiming_normal().fill_(model[2].weight, generator=torch.Generator())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first, _, second, *_ = survey(model)
    assert first.size == pytest.approx(math.sqrt(1 / 6), rel=0.03)
    assert first.differs
    assert second.size == pytest.approx(1, rel=0.05)
    assert not second.differs
    assert second.has.scheme == second.suit.scheme
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_torchs_own_fused_start_is_told_by_its_fans() -> None:
    rows = {row.name: row for row in survey(Zoo())}
    assert rows["attention.in_proj_weight"].has.text == "xavier_uniform, by the fans of the shape alone"
    assert rows["memory.weight_ih_l0"].has.text == "rnn_default"
    assert rows["table.weight"].suit.scheme == schemes.embedding_normal()  # tied to the head
    assert rows["memory.bias_ih_l0"].suit.scheme == schemes.lstm_forget_bias()


def test_zeros_and_gates_that_are_meant_are_left() -> None:
    block = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    nn.init.zeros_(block[1].weight)  # type: ignore[arg-type]
    block.gamma = nn.Parameter(1e-6 * torch.ones(4))
    rows = {row.name: row for row in survey(block)}
    assert rows["1.weight"].suit.scheme == schemes.zero_gamma()
    assert rows["gamma"].place.role == "gate"


def test_meta_and_frozen_parameters_are_surveyed() -> None:
    with torch.device("meta"):
        meta = nn.Linear(4, 3)
    assert [row.has.text for row in survey(meta)] == ["no values", "no values"]
    frozen = nn.Linear(40, 30).requires_grad_(False)
    assert survey(frozen)[0].has.scheme == schemes.torch_default()


FACTORY = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.head = nn.Linear(40, 50), nn.Linear(50, 3)
    def forward(self, x):
        print("user code prints")
        return self.head(torch.tanh(self.fc(x)))

def make():
    return Net(), torch.randn(8, 40)

def alone():
    return nn.ModuleList([Net()])
"""


@pytest.fixture
def factory(tmp_path: Path) -> str:
    (tmp_path / "net.py").write_text(FACTORY, encoding="utf-8")
    return f"{tmp_path / 'net.py'}"


def run(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(main, ["schemes", *arguments])
    return done.exit_code, done.stdout, done.stderr


def test_the_command_says_what_each_tensor_has_and_what_suits(factory: str) -> None:
    code, said, aside = run("--for", f"{factory}:make")
    assert code == 0
    assert "user code prints" not in said
    assert "user code prints" in aside
    block = said.split("fc.bias")[0]
    assert "fc.weight  [50, 40]\n  now    uniform(±1/sqrt(fan_in)), torch's default  (10^" in block
    assert "  suits  kaiming_normal(gain=1.593)  (it has 0.36" in block
    assert "  why    tanh follows and keeps 0.394 of a second moment" in block  # known from a run alone


def test_a_model_that_cannot_be_run_is_read(factory: str) -> None:
    code, said, aside = run("--for", f"{factory}:alone")
    assert code == 0
    assert "not run (" in aside
    assert "why    what follows is not known: gain 1" in said


def test_json_is_the_same_notation(factory: str) -> None:
    _, said, _ = run("--for", f"{factory}:make", "--format", "json")
    rows = json.loads(said)
    assert [row["tensor"] for row in rows] == ["fc.weight", "fc.bias", "head.weight", "head.bias"]
    assert parse(rows[0]["scheme"]) == schemes.torch_default()
    assert parse(rows[0]["suits"]) == schemes.kaiming_normal(gain=1.593)
    assert rows[0]["log_odds"] > 100


def test_options_that_do_not_go_together(factory: str) -> None:
    assert "ask for two things" in run("he", "--for", f"{factory}:make")[2]
    assert "belong to --for TARGET" in run("--data", "digits")[2]
    assert run("--for", "nosuch")[0] == 2


def test_functions_have_pages_and_wrong_names_the_nearest() -> None:
    assert run("net2wider")[1].startswith("net2wider(")
    assert "Chen, Goodfellow and Shlens" in run("net2wider")[1]
    code, _, said = run("net2widr")
    assert code == 2
    assert "Nearest: net2wider" in said
    listed = run()[1]
    for name in (*schemes.CATALOGUE, *schemes.PROCEDURES):
        assert f"  {name} " in listed


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["normal(0.02)"], 0, r"^normal\(std=1.0"),  # the notation of everywhere else
        (["normal(std=-1)"], 2, r"std=-1: expected a finite number"),
        (["normal("], 2, r"no scheme is called 'normal\('. Nearest: normal"),
        (["kaimin()"], 2, r"no scheme is called 'kaimin'. Nearest: kaiming"),
        (["pissa()"], 2, r"pissa is a function on tensors"),
        ([""], 2, r"no scheme is called ''. Nearest: "),
        (["__import__('os').system('x')"], 2, r"no scheme|not a scheme|expected"),
        (["a", "b"], 2, r"unexpected extra argument"),
        (["--for", ""], 2, r"there is no target ''"),
        (["--for", "{}:nosuch"], 2, r"has no 'nosuch'"),
        (["--for", "{}:lazy"], 2, r"'weight' of LazyLinear is lazy and has no shape yet. Run one batch"),
        (["--for", "{}:quantised"], 0, r"has no parameters"),
        (["--for", "{}:raises"], 2, r"raised RuntimeError: boom"),
        (["--for", "{}:make", "--data", "digits"], 0, r"not run \("),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_silly_calls_are_answered(tmp_path: Path, arguments: list[str], code: int, said: str) -> None:
    odd = (
        "\ndef lazy():\n    return nn.LazyLinear(3)\n"
        "def quantised():\n    return torch.ao.quantization.quantize_dynamic(Net(), {nn.Linear}, dtype=torch.qint8)\n"
        "def raises():\n    raise RuntimeError('boom')\n"
    )
    (tmp_path / "odd.py").write_text(FACTORY + odd, encoding="utf-8")
    left, out, err = run(*(text.replace("{}", str(tmp_path / "odd.py")) for text in arguments))
    assert left == code
    assert re.search(said, out + err), out + err
    assert "Traceback" not in out + err
    assert "failed itself" not in err
