"""Mirror images and multiples through `check`: proved where training keeps them, silent where it does not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import symbreak as sb
from symbreak.cli import main
from symbreak.records import Finding
from symbreak.symmetry import SymmetryError, unit_graph, verify, verify_on

ODD: list[Callable[[], nn.Module]] = [nn.Tanh, nn.Softsign, nn.Identity, nn.Hardtanh, nn.Tanhshrink]
X = torch.randn(16, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Lion(torch.optim.Optimizer):
    """Chen et al. 2023, arXiv:2302.06675."""

    def __init__(self, parameters: Iterable[Tensor], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                p.sub_(group["lr"] * (torch.sign(0.9 * m + 0.1 * p.grad) + 0.01 * p))
                m.mul_(0.99).add_(p.grad, alpha=0.01)


def net(act: nn.Module, *, bias: bool = True, seed: int = 0, widths: tuple[int, ...] = (6, 5)) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for i, o in zip((4, *widths), (*widths, 3), strict=True):
        layers += [nn.Linear(i, o, bias=bias), act]
    return nn.Sequential(*layers[:-1]).double()


@torch.no_grad()
def multiply(model: nn.Sequential, layer: int, v: int, u: int, *, inward: float, bias: float, out: float) -> None:
    """Unit u of a layer becomes unit v, its weights in, bias and weights out times these factors."""
    first, second = model[layer], model[layer + 2]
    first.weight[u] = inward * first.weight[v]  # type: ignore[index]
    if first.bias is not None:
        first.bias[u] = bias * first.bias[v]  # type: ignore[index]
    second.weight[:, u] = out * second.weight[:, v]  # type: ignore[index]


def mirrored(act: nn.Module, **knobs: object) -> nn.Sequential:
    model = net(act, **knobs)  # type: ignore[arg-type]
    multiply(model, 0, 1, 3, inward=-1, bias=-1, out=-1)
    return model


def found(model: nn.Module, optimizer: str = "sgd") -> list[Finding]:
    return [f for f in sb.check(model, X, optimizer=optimizer).findings if f.code == "SB001"]


def apart(model: nn.Sequential, factor: float, make: Callable[..., torch.optim.Optimizer], layer: int = 0) -> float:
    """How far unit 3 is from this multiple of unit 1 after training, over the size of the weights."""
    optimizer = make(model.parameters(), lr=0.01)
    target = torch.randn(16, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for _ in range(60):
        optimizer.zero_grad()
        (model(X) - target).square().mean().backward()
        optimizer.step()
    w = model[layer].weight.detach()
    assert isinstance(w, Tensor)
    return float((w[3] - factor * w[1]).abs().max() / w.abs().max())


# ---- mirror images -----------------------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@given(
    act=st.sampled_from(ODD), bias=st.booleans(), seed=st.integers(0, 2**16), layer=st.sampled_from([0, 2]),
    pair=st.permutations(range(5)), optimizer=st.sampled_from(["sgd", "adam", "lion", "adamw"]),
)  # fmt: skip
def test_mirror_images_are_proved(
    act: Callable[[], nn.Module], bias: bool, seed: int, layer: int, pair: list[int], optimizer: str
) -> None:
    model = net(act(), bias=bias, seed=seed)
    multiply(model, layer, pair[0], pair[1], inward=-1, bias=-1, out=-1)
    (tie,) = found(model, optimizer)
    assert (tie.where, tie.standing, set(tie.units)) == (str(layer), "proved", {pair[0], pair[1]})
    assert "mirror images" in tie.because
    assert "as SGD, Adam and Lion are" in str(tie.evidence["assumes"])


WRONG = [{"inward": 1.0}, {"bias": 1.0}, {"out": 1.0}, {"inward": -1.5}, {"out": -0.5}]


@settings(max_examples=8, deadline=None)
@given(
    act=st.sampled_from([nn.Tanh, nn.Softsign]), wrong=st.sampled_from(WRONG), seed=st.integers(0, 2**16),
    layer=st.sampled_from([0, 2]),
)  # fmt: skip
def test_one_wrong_sign_leaves_nothing_to_report(
    act: Callable[[], nn.Module], wrong: dict[str, float], seed: int, layer: int
) -> None:
    model = net(act(), seed=seed)
    multiply(model, layer, 1, 3, **({"inward": -1.0, "bias": -1.0, "out": -1.0} | wrong))
    assert not found(model)


@pytest.mark.parametrize("act", [nn.GELU(), nn.Sigmoid(), nn.ReLU(), nn.Softplus()])
def test_an_activation_that_is_not_odd_leaves_nothing_to_report(act: nn.Module) -> None:
    assert not found(mirrored(act))
    assert apart(mirrored(act), -1, torch.optim.SGD) > 1e-6


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW, Lion], ids=lambda m: m.__name__)
def test_training_keeps_mirror_images_and_parts_those_with_a_wrong_sign(
    make: Callable[..., torch.optim.Optimizer],
) -> None:
    assert apart(mirrored(nn.Tanh()), -1, make) < 1e-12
    model = net(nn.Tanh())
    multiply(model, 0, 1, 3, inward=-1, bias=1, out=-1)
    assert apart(model, -1, make) > 1e-4


def test_copies_and_mirror_images_in_one_layer() -> None:
    model = mirrored(nn.Tanh())
    multiply(model, 0, 1, 5, inward=1, bias=1, out=1)
    multiply(model, 0, 0, 2, inward=1, bias=1, out=1)
    (tie,) = found(model)
    assert (tie.standing, sorted(map(sorted, tie.evidence["groups"]))) == ("proved", [[0, 2], [1, 3, 5]])


def test_a_unit_that_is_its_own_mirror_image_is_dead_and_no_copy() -> None:
    model = mirrored(nn.Tanh())
    multiply(model, 0, 2, 2, inward=0, bias=0, out=0)
    report = sb.check(model, X)
    said = {(f.code, f.standing, f.units) for f in report.findings if f.severity == "error"}
    assert said == {("SB001", "proved", (1, 3)), ("SB101", "proved", (2,))}
    assert report.verdict == "stuck"


def test_batch_norm_keeps_signs_and_layer_norm_does_not() -> None:
    def normed(norm: nn.Module) -> nn.Sequential:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 6, bias=False), norm, nn.Tanh(), nn.Linear(6, 3)).double()
        with torch.no_grad():
            model[0].weight[3] = -model[0].weight[1]
            model[3].weight[:, 3] = -model[3].weight[:, 1]
        return model

    assert [f.standing for f in found(normed(nn.BatchNorm1d(6)))] == ["proved"]
    assert [f.standing for f in found(normed(nn.RMSNorm(6)))] == ["proved"]
    assert not found(normed(nn.LayerNorm(6)))


def test_dropout_leaves_mirror_images_measured_at_most() -> None:
    model = mirrored(nn.Tanh())
    model.insert(2, nn.Dropout(0.5))
    assert all(f.standing == "measured" for f in found(model))


# ---- the certificate ---------------------------------------------------------------------------------------------


def test_a_certificate_of_mirror_images_is_checked_again_on_the_model() -> None:
    model = mirrored(nn.Tanh())
    certificate = sb.check(model, X).certificate
    assert certificate is not None
    text, graph = certificate.to_json(), unit_graph(model, X)
    assert verify_on(text, graph) == certificate
    assert "0 beside its negatives (10 of 12 units distinct)" in certificate.in_words()
    with pytest.raises(SymmetryError, match="other weights"):
        verify(text, graph.network)
    with torch.no_grad():
        model[0].bias[3] *= -1  # type: ignore[index]
    with pytest.raises(SymmetryError, match="other weights"):
        verify_on(text, unit_graph(model, X))


FACTORY = """
import torch
from torch import nn


def model():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 2), nn.Tanh(), nn.Linear(2, 3))
    with torch.no_grad():
        net[0].weight[1], net[0].bias[1] = -net[0].weight[0], -net[0].bias[0]
        net[2].weight[:, 1] = -net[2].weight[:, 0]
    return net, torch.randn(8, 4)
"""


def test_the_command_line_writes_it_and_proves_it_again(tmp_path: Path) -> None:
    (tmp_path / "mirror.py").write_text(FACTORY)
    certificate = str(tmp_path / "c.json")
    run = lambda *options: CliRunner().invoke(main, ["check", f"{tmp_path / 'mirror.py'}:model", *options])
    assert run("--certificate", certificate).exit_code == 1
    again = run("--verify", certificate)
    assert again.exit_code == 0, again.output
    assert "beside its negatives (2 of 4 units distinct)" in again.output


# ---- positive multiples ------------------------------------------------------------------------------------------


def scaled(
    act: nn.Module, *, inward: float = 2.0, bias: float = 2.0, out: float = 2.0, layer: int = 0
) -> nn.Sequential:
    model = net(act)
    multiply(model, layer, 1, 3, inward=inward, bias=bias, out=out)
    return model


@pytest.mark.parametrize("act", [nn.ReLU(), nn.LeakyReLU(0.1), nn.Identity()])
@pytest.mark.parametrize("layer", [0, 2])
def test_multiples_are_proved_under_sgd(act: nn.Module, layer: int) -> None:
    (tie,) = found(scaled(act, layer=layer))
    assert (tie.where, tie.standing, set(tie.units)) == (str(layer), "proved", {1, 3})
    assert "one function up to scale" in tie.because
    assert "which sgd keeps" in tie.because
    assert apart(scaled(act, layer=layer), 2, torch.optim.SGD, layer) < 1e-12


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "lion", "rmsprop"])
def test_multiples_that_the_optimizer_parts_are_not_reported(optimizer: str) -> None:
    assert not found(scaled(nn.ReLU()), optimizer)
    assert apart(scaled(nn.ReLU()), 2, Lion if optimizer == "lion" else torch.optim.Adam) > 1e-3


@pytest.mark.parametrize("wrong", [{"out": 0.5}, {"bias": 1.0}, {"inward": -2.0}, {"out": 4.0}])
def test_what_is_no_multiple_is_not_reported(wrong: dict[str, float]) -> None:
    assert not found(scaled(nn.ReLU(), **wrong))
    assert apart(scaled(nn.ReLU(), **wrong), wrong.get("inward", 2.0), torch.optim.SGD) > 1e-4


@pytest.mark.parametrize("act", [nn.GELU(), nn.Tanh(), nn.SiLU()])
def test_multiples_behind_what_is_no_rectifier_are_not_reported(act: nn.Module) -> None:
    assert not found(scaled(act))
