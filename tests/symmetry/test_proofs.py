"""Copies that the probe sees are `proved` where a certificate holds them, on the models it stands for and no others."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor, nn

import symbreak as sb
from symbreak.cli import main
from symbreak.symmetry import unit_graph, verify


def alike(net: nn.Module) -> nn.Module:
    for p in net.parameters():
        nn.init.constant_(p, 0.1)
    return net


def mlp(*between: nn.Module) -> nn.Module:
    return alike(nn.Sequential(nn.Linear(8, 6), nn.Tanh(), *between, nn.Linear(6, 3)))


def convolutions() -> nn.Module:
    return nn.Sequential(
        alike(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), alike(nn.Linear(4 * 9, 2))
    )


class Heads(nn.Module):
    """Two heads of attention that are copies, queries to output."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)
        with torch.no_grad():
            for part in self.attention.in_proj_weight.chunk(3):
                part[4:] = part[:4]
            self.attention.out_proj.weight[:, 4:] = self.attention.out_proj.weight[:, :4]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.attention(x, x, x)[0])
        return out


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTM(8, 5, batch_first=True), nn.Linear(5, 3)
        alike(self)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.cell(x)[0])
        return out


@pytest.mark.parametrize(
    ("build", "shape", "code"),
    [
        (mlp, (16, 8), "SB001"),
        (convolutions, (4, 3, 5, 5), "SB001"),
        (Heads, (4, 5, 8), "SB002"),
        (Recurrent, (4, 5, 8), "SB001"),
    ],
)
def test_ties_are_proved(build: Callable[[], nn.Module], shape: tuple[int, ...], code: str) -> None:
    torch.manual_seed(0)
    net, x = build(), torch.randn(shape)
    report = sb.check(net, x)
    assert {(f.code, f.standing) for f in report.findings if f.severity == "error"} == {(code, "proved")}
    assert report.certificate is not None
    assert verify(report.certificate.to_json(), unit_graph(net, x).network) == report.certificate


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_what_dropout_tears_apart_is_not_proved(optimizer: str) -> None:
    torch.manual_seed(0)
    report = sb.check(mlp(nn.Dropout(0.5)), torch.randn(16, 8), optimizer=optimizer)
    assert [(f.code, f.standing) for f in report.findings if f.severity == "error"] == [("SB001", "measured")]
    assert report.certificate is None


def test_a_part_that_is_not_understood_leaves_it_measured() -> None:
    class Opaque(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
            return gradient * 2

    class Doubled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if float(x.sum()) > 1e9:
                return x
            out: Tensor = Opaque.apply(x)  # type: ignore[no-untyped-call]
            return out

    torch.manual_seed(0)
    report = sb.check(mlp(Doubled()), torch.randn(16, 8))
    assert [(f.code, f.standing) for f in report.findings if f.severity == "error"] == [("SB001", "measured")]


def test_a_healthy_model_has_no_certificate() -> None:
    torch.manual_seed(0)
    assert sb.check(nn.Linear(4, 2), torch.randn(8, 4)).certificate is None


# ---- outputs under an objective ------------------------------------------------------------------------------------


class Mixture(nn.Module):
    """A mixture density network, its components copies of one another."""

    def __init__(self, equal: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.hidden = nn.Sequential(nn.Linear(1, 16), nn.Tanh())
        self.shares, self.means, self.widths = (nn.Linear(16, 5) for _ in range(3))
        with torch.no_grad():
            for head in (self.shares, self.means, self.widths):
                head.weight[:equal], head.bias[:equal] = head.weight[0].clone(), 0.1

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.hidden(x)
        return self.shares(h), self.means(h), self.widths(h)


def likelihood(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    shares, means, widths = model(batch[0])
    apart = (batch[1] - means) / widths.exp()
    return -torch.logsumexp(shares.log_softmax(1) - widths - apart.square() / 2, 1).mean()


@pytest.mark.parametrize("equal", [5, 2])
def test_equal_components_under_an_objective_are_proved_and_healed(equal: int) -> None:
    model, x = Mixture(equal), torch.randn(64, 1, generator=torch.Generator().manual_seed(0))
    report = sb.check(model, (x, torch.sin(3 * x)), objective=likelihood)
    found = {(f.where, f.units, f.standing) for f in report.findings if f.code == "SB001"}
    assert found >= {(head, tuple(range(equal)), "proved") for head in ("means", "widths")}
    plan = sb.fix(model, report)
    plan.apply()
    assert sb.check(model, (x, torch.sin(3 * x)), objective=likelihood).verdict == "healthy"


LABELS = torch.arange(32) % 3  # of six classes three are absent: their rows of a zero head get equal gradients here


@pytest.mark.parametrize(
    "objective",
    [
        lambda m, b: nn.functional.cross_entropy(m(b[0]), b[1]),
        lambda m, b: nn.functional.cross_entropy(m(b[0]), LABELS),
        lambda m, b: -m(b[0]).log_softmax(1).gather(1, LABELS[:, None]).mean(),
        lambda m, b: (m(b[0]).softmax(1) - nn.functional.one_hot(LABELS, 6)).square().mean(),
        lambda m, b: nn.functional.binary_cross_entropy_with_logits(m(b[0]), nn.functional.one_hot(LABELS, 6).to(b[0])),
    ],
)
def test_classes_that_are_absent_from_an_objective_are_no_copies(objective: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 6))
    nn.init.zeros_(net[2].weight)
    nn.init.zeros_(net[2].bias)
    report = sb.check(net, (torch.randn(32, 8), LABELS), objective=objective)
    assert (report.verdict, [f.code for f in report.findings if f.code == "SB001"]) == ("healthy", [])


# ---- on the command line -----------------------------------------------------------------------------------------


def check(*options: str, init: str = "constant(0.1)") -> Result:
    return CliRunner().invoke(main, ["check", "mlp:6-6:tanh", "--data", "iris", "--init", init, *options])


def test_a_certificate_is_stored_and_proved_again(tmp_path: Path) -> None:
    path = str(tmp_path / "cert.json")
    assert check("--certificate", path).exit_code == 1
    again = check("--verify", path)
    assert again.exit_code == 0
    assert again.stdout.startswith("proved: fc1 (1 of 6 units distinct), fc2 (1 of 6 units distinct).")
    assert re.search(r"may be broken by: .*dropout", again.stdout)


def test_a_certificate_of_other_weights_or_a_changed_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cert.json"
    check("--certificate", str(path))
    other = check("--verify", str(path), init="constant(0.2)")
    assert (other.exit_code, other.stdout) == (2, "")
    assert "made for other weights" in other.stderr
    path.write_text(path.read_text().replace("0, 0, 0", "0, 0, 1"))
    changed = check("--verify", str(path))
    assert changed.exit_code == 2
    assert "changed after it was written" in changed.stderr
    missing = check("--verify", str(tmp_path / "none.json"))
    assert missing.exit_code == 2
    assert "cannot be read" in missing.stderr


def test_without_a_tie_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "cert.json"
    done = check("--certificate", str(path), init="xavier")
    assert done.exit_code == 0
    assert "no tie was found" in done.stderr
    assert not path.exists()


def test_dropout_elsewhere_does_not_stand_in_the_way() -> None:
    """Behind a transformer's MLP the stream is dropped out; the hidden units themselves are not, and stay copies."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 5), nn.Dropout(0.5), nn.Linear(5, 3))
    with torch.no_grad():
        for p in (net[0].weight, net[0].bias):
            p[1] = p[0]  # type: ignore[index]
        net[2].weight[:, 1] = net[2].weight[:, 0]  # type: ignore[index,operator]
    report = sb.check(net, torch.randn(16, 8))
    assert [(f.where, f.units, f.standing) for f in report.findings if f.code == "SB001"] == [("0", (0, 1), "proved")]
