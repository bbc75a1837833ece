"""What the schemes that look at data promise, measured with hooks of the test's own."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import symbreak as sb
from symbreak.errors import BatchError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int = 24, seed: int = 1) -> Tensor:
    return 3 * torch.randn(n, 3, 12, 12, generator=generator(seed)) + 1


def convolutional() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, stride=2, groups=4), nn.GELU(),
        nn.ConvTranspose2d(16, 8, 2, groups=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 20), nn.Tanh(),
        nn.Linear(20, 5),
    )  # fmt: skip


LAYERS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


def outputs(model: nn.Module, batch: Any) -> dict[str, Tensor]:
    """Layer -> its output [..., o], the units last."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, out: Tensor) -> None:
            found[name] = out.detach().movedim(1, -1) if out.dim() == 4 else out.detach()

        return hook

    hooks = [m.register_forward_hook(keep(n)) for n, m in model.named_modules() if isinstance(m, LAYERS)]
    with torch.no_grad():
        model(batch)
    for handle in hooks:
        handle.remove()
    return found


# ---- LSUV ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tol", [0.1, 0.001])
def test_lsuv_gives_every_layer_variance_one(tol: float) -> None:
    model, x = convolutional(), images()
    assert any(abs(float(o.var()) - 1) > 0.5 for o in outputs(model, x).values())  # the control
    start = sb.init_(model, f"lsuv(tol={tol})", x, generator=generator())
    for out in outputs(model, x).values():
        assert float(out.var(unbiased=False)) == pytest.approx(1, abs=tol + 1e-4)
    first = model[0].weight.detach().flatten(1)
    gram = first @ first.T
    assert torch.allclose(gram, gram.diagonal().mean() * torch.eye(16), atol=1e-4)  # still orthogonal, only scaled
    assert start["0.weight"].action == "scaled"
    assert repr(start["0.weight"].scheme).startswith("lsuv")
    assert "the variance of its output went from" in start["0.weight"].because


def test_lsuv_in_fused_attention_sizes_each_projection() -> None:
    model = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, dropout=0.3)
    x = 5 * torch.randn(6, 7, 16, generator=generator())
    sb.init_(model, "lsuv", x, generator=generator())
    attention = model.self_attn
    for part in attention.in_proj_weight.detach().chunk(3):
        assert float((x @ part.T).var()) == pytest.approx(1, abs=0.03)
    model.eval()
    out = attention(x, x, x, need_weights=False)[0]
    assert float(out.detach().var()) == pytest.approx(1, abs=0.03)
    assert model.training is False


def test_a_shared_layer_is_sized_once_and_a_recurrent_one_is_only_drawn() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.again, self.rnn = nn.Linear(6, 6), nn.GRU(6, 5, batch_first=True)
            self.spare, self.out = nn.Linear(6, 6), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.again(torch.relu(self.again(x)))
            out: Tensor = self.out(self.rnn(y)[0])
            return out

    model, x = Net(), torch.randn(8, 4, 6)
    start = sb.init_(model, "lsuv", x, generator=generator())
    assert float(model.again(x).detach().var()) == pytest.approx(1, abs=0.02)
    assert start["rnn.weight_ih_l0"].because.startswith("a recurrent layer's gates")
    assert start["spare.weight"].because.startswith("not reached by this batch")


def test_constant_and_infinite_outputs() -> None:
    class Net(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.a, self.b, self.factor = nn.Linear(4, 4), nn.Linear(4, 2), factor

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.b(self.a(x * self.factor))
            return out

    start = sb.init_(Net(0.0), "lsuv", torch.randn(8, 4))
    assert "constant on this batch" in start["a.weight"].because
    model = Net(math.inf)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(BatchError, match=r"the output of a.weight is not finite on this batch"):
        sb.init_(model, "lsuv", torch.randn(8, 4))
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


# ---- Kraehenbuehl, weight norm ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scheme", "mean"), [("krahenbuhl(between=False)", 0.1), ("weight_norm_data", 0.0),
                                              ("krahenbuhl(beta=-0.5, between=False)", -0.5)])  # fmt: skip
def test_every_unit_has_its_mean_and_deviation_one(scheme: str, mean: float) -> None:
    model, x = convolutional(), images()
    sb.init_(model, scheme, x, generator=generator())
    for out in outputs(model, x).values():
        units = out.reshape(-1, out.shape[-1])
        assert torch.allclose(units.mean(0), torch.full_like(units[0], mean), atol=2e-4)
        assert torch.allclose(units.std(0, unbiased=False), torch.ones_like(units[0]), atol=2e-4)


@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, nn.utils.weight_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*")
def test_weight_normed_layers_get_their_lengths_and_shifts(wrap: Any) -> None:
    model = nn.Sequential(wrap(nn.Linear(6, 12)), nn.Tanh(), wrap(nn.Linear(12, 4)))
    x = 7 + 3 * torch.randn(400, 6, generator=generator())
    sb.init_(model, "weight_norm_data", x, generator=generator())
    units = outputs(model, x)["2"]
    assert torch.allclose(units.mean(0), torch.zeros(4), atol=1e-4)
    assert torch.allclose(units.std(0, unbiased=False), torch.ones(4), atol=1e-3)


def test_between_layers_the_rates_of_change_become_one() -> None:
    layers: list[nn.Module] = [nn.Linear(8, 32, bias=False), nn.ReLU()]
    for width in (64, 16, 128, 32):
        layers += [nn.Linear(layers[-2].out_features, width, bias=False), nn.ReLU()]  # type: ignore[arg-type]
    model, x = nn.Sequential(*layers, nn.Linear(32, 4, bias=False)), torch.randn(64, 8, generator=generator())
    y = torch.randn(64, 4, generator=generator(1))

    def rates() -> Tensor:
        model.zero_grad()
        F.mse_loss(model(x), y).backward()
        pairs = [(p.grad, p.detach()) for p in model.parameters()]
        return torch.stack([g.norm() / p.norm() for g, p in pairs if g is not None])

    sb.init_(model, "krahenbuhl(between=False)", (x, y), loss=F.mse_loss, generator=generator())
    apart, scale = rates(), model(x).detach()
    start = sb.init_(model, "krahenbuhl(tol=0.02)", (x, y), loss=F.mse_loss, generator=generator())
    together = rates()
    assert float(apart.max() / apart.min()) > 1.5
    assert float(together.max() / together.min()) < 1.05
    assert torch.allclose(model(x).detach(), scale, rtol=1e-3, atol=1e-4)  # homogeneous: the factors cancel
    assert start.notes[0].startswith("between layers: the rates of change lay within a factor of")


# ---- MetaInit, GradInit ----------------------------------------------------------------------------------------------


def deep(width: int = 16, depth: int = 6, phi: Callable[[], nn.Module] = nn.Tanh) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(4, width), phi()]
    for _ in range(depth - 2):
        layers += [nn.Linear(width, width), phi()]
    return nn.Sequential(*layers, nn.Linear(width, 3))


def quotient_by_finite_difference(model: nn.Module, x: Tensor, y: Tensor, eps: float = 1e-5) -> float:
    """GQ with H g from two gradients: g(theta) - g(theta - h g) over h, in float64."""
    model = copy.deepcopy(model).double()
    params = list(model.parameters())

    def gradient() -> list[Tensor]:
        found = torch.autograd.grad(F.cross_entropy(model(x.double()), y), params)
        return [g.clone() for g in found]

    g, h = gradient(), 1e-6
    with torch.no_grad():
        for p, d in zip(params, g, strict=True):
            p.sub_(h * d)
    moved = gradient()
    total, n = 0.0, 0
    for a, b in zip(g, moved, strict=True):
        product = (a - b) / h
        sign = torch.where(a >= 0, 1.0, -1.0)
        total += float((((a - product) / (a + eps * sign)) - 1).abs().sum())
        n += a.numel()
    return total / n


def test_the_gradient_quotient_is_what_finite_differences_say() -> None:
    from symbreak.starts.learned import quotient_and_slopes
    from symbreak.starts.session import within

    model = deep()
    x, y = torch.randn(16, 4, generator=generator()), torch.arange(16) % 3
    noise = torch.randn(16, 4, generator=generator(3), dtype=torch.float64)
    value, slopes = within(
        model, (x, y), F.cross_entropy,
        lambda session: quotient_and_slopes(session, ["0.weight"], 1e-5, 0, generator(3)),
    )  # fmt: skip
    assert value == pytest.approx(quotient_by_finite_difference(model, noise, y), rel=1e-3)
    bigger = copy.deepcopy(model)
    with torch.no_grad():
        bigger[0].weight.mul_(1 + 1e-4)
    change = quotient_by_finite_difference(bigger, noise, y) - quotient_by_finite_difference(model, noise, y)
    assert math.copysign(1, change) == slopes["0.weight"]


def test_metainit_lowers_the_quotient_and_keeps_directions() -> None:
    model = deep(depth=8)
    x, y = torch.randn(32, 4, generator=generator()), torch.arange(32) % 3
    sb.init_(model, "kaiming_normal(gain=3.0)", generator=generator(5))
    before, directions = (
        quotient_by_finite_difference(model, x, y),
        F.normalize(model[2].weight.detach().flatten(), dim=0),
    )
    start = sb.init_(model, "metainit(steps=40, start='kaiming_normal(gain=3.0)')", (x, y), loss=F.cross_entropy,
                     generator=generator(5))  # fmt: skip
    assert quotient_by_finite_difference(model, x, y) < 0.5 * before
    assert torch.allclose(F.normalize(model[2].weight.detach().flatten(), dim=0), directions, atol=1e-5)
    assert start.notes[0].startswith("the gradient quotient went from")
    assert "its norm times" in start["2.weight"].because


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_gradinit_keeps_its_bound_and_lowers_the_loss_after_one_step(optimizer: str) -> None:
    model = deep(phi=nn.ReLU, depth=8, width=32)
    x, y = torch.randn(64, 4, generator=generator()), torch.arange(64) % 3
    gamma = 1.0 if optimizer == "sgd" else 20.0
    eta = 0.1 if optimizer == "sgd" else 0.01

    def one_step() -> tuple[float, float]:
        stepped = copy.deepcopy(model)
        stepped.zero_grad()
        F.cross_entropy(stepped(x), y).backward()
        grads = [p.grad for p in stepped.parameters() if p.grad is not None]
        size = sum(float(g.abs().sum() if optimizer == "adam" else g.square().sum()) for g in grads)
        with torch.no_grad():
            for p in stepped.parameters():
                if p.grad is not None:
                    p.sub_(eta * (p.grad.sign() if optimizer == "adam" else p.grad))
            return (size if optimizer == "adam" else size**0.5), float(F.cross_entropy(stepped(x), y))

    sb.init_(model, "kaiming_normal(gain=3.0)", generator=generator(2))
    norm, loss = one_step()
    text = f"gradinit(steps=120, learning_rate=0.03, eta={eta}, gamma={gamma}, optimizer={optimizer!r}, " \
           "start='kaiming_normal(gain=3.0)')"  # fmt: skip
    start = sb.init_(model, text, (x, y), loss=F.cross_entropy, generator=generator(2))
    after, lower = one_step()
    assert norm > gamma
    assert after <= 1.1 * gamma
    assert lower < loss
    assert "on this batch: gradient norm" in start.notes[0]


def test_gradinit_without_a_loss_says_so() -> None:
    with pytest.raises(BatchError, match=r"none was given. Pass loss= and a batch \(x, y\)"):
        sb.init_(deep(), "gradinit", torch.randn(8, 4))


def test_metainit_of_attention_and_of_a_linear_model() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    start = sb.init_(layer, "metainit(steps=2)", torch.randn(4, 5, 8), generator=generator())
    assert start["linear1.weight"].action == "scaled"
    start = sb.init_(nn.Linear(4, 2), "metainit(steps=2)", torch.randn(4, 4), generator=generator())
    assert start["weight"].action == "scaled"


def test_a_mapping_may_leave_layers_to_data() -> None:
    model, x = convolutional(), images()
    before = model[0].weight.detach().clone()
    start = sb.init_(model, {"8.*": "lsuv", "10.*": "zeros"}, x, generator=generator())
    assert torch.equal(model[0].weight, before)
    assert float(outputs(model, x)["8"].var()) == pytest.approx(1, abs=0.02)
    assert {s.tensor for s in start.changed} == {"8.weight", "8.bias", "10.weight", "10.bias"}
