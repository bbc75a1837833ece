""" "auto": what suits each tensor; zeros that are meant stay, zeros that harm go; what is broken is healed."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import symbreak as sb
from symbreak import schemes
from symbreak.schemes import places_of


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mlp(phi: Callable[[], nn.Module], depth: int = 3, width: int = 16) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(4, width), phi()]
    for _ in range(depth - 2):
        layers += [nn.Linear(width, width), phi()]
    return nn.Sequential(*layers, nn.Linear(width, 3))


X, Y = torch.randn(64, 4, generator=generator(9)), torch.arange(64) % 3


def chosen(start: sb.starts.Start) -> dict[str, str]:
    return {step.tensor: repr(step.scheme) for step in start.changed}


# ---- the choice ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phi", "scheme"),
    [(nn.ReLU, "kaiming_normal"), (nn.GELU, "kaiming_normal(gain=1.534)"), (nn.SELU, "lecun_normal"),
     (nn.Sigmoid, "xavier_normal(gain=4.0)"), (lambda: nn.LeakyReLU(0.5), "kaiming_normal(gain=1.265)")],
)  # fmt: skip
def test_the_activation_that_follows_decides(phi: Callable[[], nn.Module], scheme: str) -> None:
    assert chosen(sb.init_(mlp(phi), "auto", X))["2.weight"] == scheme


def test_data_does_not_fill_the_first_sigmoids() -> None:
    model = mlp(nn.Sigmoid, depth=4, width=64)
    start = sb.init_(model, "auto", X, generator=generator())
    assert (chosen(start)["0.weight"], chosen(start)["2.weight"]) == ("lecun_normal", "xavier_normal(gain=4.0)")
    assert float((model[0](X).abs() > 3).double().mean()) < 0.01
    schemes.xavier_normal(gain=4.0).fill_(model[0].weight, generator=generator())
    assert float((model[0](X).abs() > 3).double().mean()) > 0.01


def test_deep_tanh_nets_start_at_the_edge_with_biases() -> None:
    model = mlp(nn.Tanh, depth=40)
    start = sb.init_(model, "auto", X, generator=generator())
    assert chosen(start)["40.weight"] == "edge_of_chaos"
    assert chosen(start)["40.bias"] == "edge_of_chaos"
    assert float(model[40].bias.detach().std()) == pytest.approx(0.39, rel=0.5)


def test_a_function_that_no_catalogue_has_gets_the_gain_it_needs() -> None:
    class Bent(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return torch.relu(z) + 0.5 * torch.sin(z)

    model = mlp(Bent, width=400)
    start = sb.init_(model, "auto", X, generator=generator())
    assert "a function of its own follows" in start["0.weight"].because
    ratio = model[1](torch.randn(1_000_000, generator=generator())).square().mean()
    gain = float(chosen(start)["0.weight"].partition("gain=")[2].rstrip(")"))
    assert gain**2 * float(ratio) == pytest.approx(1, rel=0.01)


def test_tied_tables_and_the_positions_added_to_them() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.positions = nn.Embedding(50, 16), nn.Embedding(8, 16)
            self.hidden, self.head = nn.Linear(16, 16), nn.Linear(16, 50, bias=False)
            self.head.weight = self.tokens.weight

        def forward(self, ids: Tensor) -> Tensor:
            x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
            out: Tensor = self.head(x + torch.relu(self.hidden(x)))
            return out

    model = Model()
    start = sb.init_(model, "auto", torch.randint(0, 50, (4, 8), generator=generator()), generator=generator())
    assert chosen(start)["tokens.weight"] == chosen(start)["positions.weight"] == "embedding_normal"
    assert float(model.tokens.weight.detach().std()) == pytest.approx(0.25, rel=0.1)
    assert start["tokens.weight"].also == ("head.weight",)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*")
def test_weight_norm_lengths_follow_the_directions(old: bool) -> None:
    wrap = nn.utils.weight_norm if old else parametrizations.weight_norm
    model = nn.Sequential(wrap(nn.Linear(4, 64)), nn.ReLU(), nn.Linear(64, 3))
    start = sb.init_(model, "auto", X, generator=generator())
    assert float(model[0](X).detach().std()) == pytest.approx(math.sqrt(2), rel=0.2)
    assert {"set", "drawn"} <= {step.action for step in start.steps if step.tensor.startswith("0.")}


def test_recurrent_layers() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.out = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.out(self.rnn(x)[0][:, -1])
            return found

    taken = chosen(sb.init_(Net(), "auto", torch.randn(8, 5, 4), generator=generator()))
    assert taken["rnn.weight_hh_l0"] == "orthogonal"
    assert taken["rnn.bias_ih_l0"] == "lstm_forget_bias"


# ---- zeros -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phi", [nn.Tanh, nn.ReLU, nn.GELU, nn.Sigmoid, nn.Softplus])
def test_a_net_of_zeros_is_healed(phi: Callable[[], nn.Module]) -> None:
    model = mlp(phi, depth=4)
    for p in model.parameters():
        nn.init.zeros_(p)
    loss = nn.CrossEntropyLoss()
    assert sb.check(model, (X, Y), loss).verdict in ("stuck", "redundant")
    start = sb.init_(model, "auto", (X, Y), loss=loss, generator=generator())
    assert sb.check(model, (X, Y), loss).verdict == "healthy"
    assert all(step.because.startswith("zero, and ") for step in start.changed if step.tensor.endswith("weight"))


class Adapted(nn.Module):
    """A frozen layer with LoRA, a zero convolution beside it, a ReZero branch, an adaLN-Zero gate, a zero head."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(8, 8).requires_grad_(False)
        self.lora_A, self.lora_B = nn.Linear(8, 2, bias=False), nn.Linear(2, 8, bias=False)
        self.side, self.zero = nn.Linear(8, 8), nn.Linear(8, 8)
        self.alpha, self.branch = nn.Parameter(torch.zeros(1)), nn.Linear(8, 8)
        self.condition, self.block = nn.Linear(8, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)
        for layer in (self.lora_B, self.zero, self.condition, self.head):
            nn.init.zeros_(layer.weight)
        for layer in (self.zero, self.condition, self.head):
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.base(x) + self.lora_B(self.lora_A(x)) + self.zero(torch.relu(self.side(x)))
        x = x + self.alpha * torch.relu(self.branch(x))
        x = x + self.condition(F.silu(x.mean(0, keepdim=True))) * self.block(x)
        out: Tensor = self.head(x)
        return out


def test_zeros_that_are_meant_stay() -> None:
    model = Adapted()
    before = copy.deepcopy(model.state_dict())
    start = sb.init_(model, "auto", torch.randn(16, 8, generator=generator()), generator=generator())
    for name in (
        "lora_B.weight",
        "zero.weight",
        "zero.bias",
        "alpha",
        "condition.weight",
        "head.weight",
        "base.weight",
    ):
        assert torch.equal(model.state_dict()[name], before[name]), name
        assert start[name].action == "kept"
    assert start["condition.weight"].because == "zero on purpose: wakes at step 2, and blocks nothing"
    assert start["lora_B.weight"].because.startswith("zero, so that the adapter starts as nothing")
    assert not torch.equal(model.lora_A.weight, before["lora_A.weight"])
    assert sb.check(model, torch.randn(16, 8)).verdict == "healthy"


def test_of_two_zeros_in_series_the_weight_is_drawn_and_the_gate_stays() -> None:
    model = Adapted()
    nn.init.zeros_(model.branch.weight)
    nn.init.zeros_(model.branch.bias)
    batch = torch.randn(16, 8, generator=generator())
    assert sb.check(model, batch).verdict == "stuck"
    start = sb.init_(model, "auto", batch, generator=generator())
    assert start["branch.weight"].action == "drawn"
    assert start["alpha"].action == "kept"
    assert sb.check(model, batch).verdict == "healthy"


def test_norms_shut_on_both_ways_are_opened_and_one_alone_stays_shut() -> None:
    class Net(nn.Module):
        def __init__(self, *, both: bool) -> None:
            super().__init__()
            self.stem, self.a, self.skip = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 8)
            self.bn, self.bn_skip, self.head = nn.BatchNorm1d(8), nn.BatchNorm1d(8), nn.Linear(8, 3)
            nn.init.zeros_(self.bn.weight)
            if both:
                nn.init.zeros_(self.bn_skip.weight)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            out: Tensor = self.head(torch.relu(self.bn(self.a(x)) + self.bn_skip(self.skip(x))))
            return out

    one, both = Net(both=False), Net(both=True)
    assert sb.init_(one, "auto", X)["bn.weight"].action == "kept"
    assert sb.check(both, X).verdict == "stuck"
    sb.init_(both, "auto", X, generator=generator())
    assert sb.check(both, X).verdict == "healthy"


@pytest.mark.parametrize("fault", ["constant", "nan", "huge", "tiny", "dead"])
def test_other_broken_starts_are_healed(fault: str) -> None:
    model = nn.Sequential(*mlp(nn.ReLU, depth=4, width=32)[:4], nn.LayerNorm(32), nn.Linear(32, 3))
    with torch.no_grad():
        for p in model.parameters():
            if fault == "constant":
                p.fill_(0.1)
            elif fault == "nan":
                p.fill_(float("nan"))
            elif fault == "huge":
                p.mul_(1e4)
            elif fault == "tiny":
                p.mul_(1e-6)
        if fault == "dead":
            model[2].bias.fill_(-1e3)
    start = sb.init_(model, "auto", X, generator=generator())
    assert all(bool(p.isfinite().all()) for p in model.parameters())
    if fault in ("constant", "nan", "dead"):
        assert sb.check(model, X).verdict == "healthy", str(start)
    assert float(model[0].weight.detach().std()) == pytest.approx(math.sqrt(2 / 4), rel=0.3)


# ---- biases ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [3, 20])
def test_the_output_bias_is_the_log_of_the_shares(classes: int) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, classes))
    y = torch.randint(0, classes, (400,), generator=generator()) * torch.randint(0, 2, (400,), generator=generator(1))
    sb.init_(model, "auto", (torch.randn(400, 4), y), loss=F.cross_entropy, generator=generator())
    shares = torch.bincount(y, minlength=classes).clamp_min(0.5) / 400
    assert torch.allclose(model[2].bias.softmax(0), shares / shares.sum(), atol=1e-5)


def test_the_output_bias_of_logits_and_of_quantities() -> None:
    x = torch.randn(200, 4)
    many = (torch.rand(200, 3, generator=generator()) < torch.tensor([0.1, 0.5, 0.9])).float()
    for loss, y, wanted in (
        (nn.BCEWithLogitsLoss(), many, torch.logit(many.mean(0))),
        (nn.BCEWithLogitsLoss(), many[:, :1], torch.logit(many[:, :1].mean(0))),
        (nn.MSELoss(), 5 + many, 5 + many.mean(0)),
        (nn.SmoothL1Loss(), 5 + many[:, :1], 5 + many[:, :1].mean(0)),
    ):
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, y.shape[1]))
        sb.init_(model, "auto", (x, y), loss=loss, generator=generator())
        assert torch.allclose(model[2].bias, wanted, atol=1e-4)


def test_ignored_labels_do_not_count_and_odd_losses_set_no_prior() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    y = torch.tensor([0, 0, 1, 2] * 10)
    y[::4] = -100
    sb.init_(model, "auto", (torch.randn(40, 4), y), loss=nn.CrossEntropyLoss())
    assert torch.allclose(model[2].bias.softmax(0), torch.ones(3) / 3)
    sb.init_(model, "auto", (torch.randn(40, 4), y), loss=lambda out, target: out.square().mean())
    assert not model[2].bias.any() or torch.allclose(model[2].bias.softmax(0), torch.ones(3) / 3)


def test_a_prior_that_somebody_chose_and_a_softplus_rate_stay() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Softplus(), nn.Linear(8, 3))
    nn.init.constant_(model[2].bias, -4.6)
    nn.init.uniform_(model[0].bias, -7, -2)
    before = model[0].bias.detach().clone()
    start = sb.init_(model, "auto", X)
    assert start["2.bias"].because == "one number on the output: a prior that somebody chose"
    assert torch.equal(model[0].bias, before)


# ---- without a batch -------------------------------------------------------------------------------------------------


def test_without_a_batch_moments_are_propagated() -> None:
    model = mlp(nn.GELU, width=256)
    start = sb.init_(model, "auto", generator=generator())
    assert "second moment" in start["2.weight"].because
    x = torch.randn(256, 4)
    with torch.no_grad():
        for layer in model:
            x = layer(x)
            if isinstance(layer, nn.Linear):
                assert float(x.square().mean()) == pytest.approx(1, rel=0.35)


def test_without_a_batch_where_none_can_be_made_up() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2))

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            out: Tensor = self.net(a + b)
            return out

    model = Two()
    nn.init.zeros_(model.net[2].weight)
    start = sb.init_(model, "auto")
    assert start["net.0.weight"].scheme == sb.schemes.kaiming_normal(gain=1.534)
    assert start["net.2.weight"].action == "drawn"
    assert start.notes[0].startswith("the model was not run (no made-up batch fits Two")
    assert start.to_text().splitlines()[-1].startswith("note: the model was not run")


def test_places_are_there_for_every_tensor() -> None:
    model = Adapted()
    assert set(places_of(model)) == {step.tensor for step in sb.init_(model, "auto", torch.randn(4, 8)).steps}


def test_bare_parameters_and_gates_that_were_never_written_get_their_usual_start() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.gamma = (
                nn.Parameter(torch.full((1, 4), math.nan)),
                nn.Parameter(torch.full((4,), math.nan)),
            )
            self.into, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.token
            out: Tensor = self.head(x + self.gamma * torch.relu(self.into(x)))
            return out

    model = Net()
    start = sb.init_(model, "auto", X, generator=generator())
    assert start["token"].scheme == schemes.normal(0.02)
    assert start["gamma"].scheme == schemes.layer_scale(1e-5)
    assert sb.check(model, X).verdict == "healthy"
    again = sb.init_(model, "auto", X, generator=generator(1))
    assert again["token"].action == again["gamma"].action == "kept"
