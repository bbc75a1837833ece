"""The ladder: depth, quiet steps, rounding, balanced batches, and the factor that is named."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import symbreak as sb


def zeros(net: nn.Module) -> nn.Module:
    for p in net.parameters():
        nn.init.zeros_(p)
    return net


def chain(depth: int, width: int, activation: type[nn.Module]) -> nn.Sequential:
    parts = [part for _ in range(depth - 1) for part in (nn.Linear(width, width), activation())]
    return nn.Sequential(*parts, nn.Linear(width, 3))


@pytest.mark.parametrize("depth", [2, 10, 50])
def test_a_zero_sigmoid_chain_wakes_one_layer_a_step(depth: int) -> None:
    net = zeros(chain(depth, 4, nn.Sigmoid))
    report = sb.check(net, torch.randn(16, 4))
    assert list(report.wakeup.values())[::2] == list(range(depth, 0, -1))
    assert report.verdict == "redundant"


def test_a_deep_random_chain_has_no_false_never() -> None:
    torch.manual_seed(0)
    report = sb.check(chain(60, 16, nn.Tanh), torch.randn(16, 16))
    assert set(report.wakeup.values()) == {1}


def test_one_quiet_step_is_not_the_end() -> None:
    """Loss (a0 - a1) T with a0 = a1 = 0 is quiet for T at step 1 and 2; T wakes at 3 (THEORY.md section 5)."""

    class Gap(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a0, self.a1, self.b = (nn.Parameter(torch.zeros(1)) for _ in range(3))
            self.T = nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            return (self.a0 - self.a1) * self.T + self.b * x.mean() + 0.1 * (self.a0 * x.mean() + self.a1 * x.std())

    report = sb.check(Gap(), torch.randn(16, 1), objective=lambda m, x: m(x).square().sum() + m(x).sum())
    assert report.wakeup["T"] is not None


class Switch(nn.Module):
    """A router of which the forward calls only the experts that were picked."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.head = nn.Linear(4, 8), nn.Linear(4, 2)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4)) for _ in range(8))

    def forward(self, x: Tensor) -> Tensor:
        gate, picked = self.router(x).softmax(-1).max(-1)
        mixed = torch.zeros_like(x)
        for e in picked.unique().tolist():
            mixed[picked == e] = self.experts[e](x[picked == e]) * gate[picked == e, None]
        out: Tensor = self.head(mixed)
        return out


class Forgetful(nn.Module):
    """As many layers as Switch has experts, and a head as wide; the forward forgets the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.head = nn.ModuleList(nn.Linear(4, 4) for _ in range(4)), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        for layer in list(self.layers)[:-1]:
            x = layer(x).tanh()
        out: Tensor = self.head(x)
        return out


@pytest.mark.parametrize(("build", "code", "where"), [(Switch, "SB106", "experts."), (Forgetful, "SB104", "layers.3.")])
def test_an_expert_waits_and_a_forgotten_layer_is_unused(build: Callable[[], nn.Module], code: str, where: str) -> None:
    torch.manual_seed(0)
    report = sb.check(build(), torch.randn(6, 4))
    (finding,) = [f for f in report.findings if f.code in ("SB104", "SB106")]
    assert finding.code == code
    assert finding.where.startswith(where)


def test_the_blocking_factor_is_named() -> None:
    class LoRA(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base = nn.Linear(6, 6).requires_grad_(False)
            self.A, self.B = nn.Linear(6, 2, bias=False), zeros(nn.Linear(2, 6, bias=False))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.base(x) + self.B(self.A(x))
            return out

    report = sb.check(LoRA(), torch.randn(8, 6))
    assert dict(report.wakeup) == {"A.weight": 2, "B.weight": 1}
    (late,) = report.findings
    assert late.because == "A.weight first learns at step 2: B.weight is zero, so the back-signal is zero until step 2"


def test_balanced_classes_do_not_hide_the_output_bias() -> None:
    net = zeros(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)))
    batch = torch.randn(16, 4), torch.arange(16) % 2
    assert sb.check(net, batch, nn.functional.cross_entropy).wakeup["2.bias"] == 1


def test_a_key_bias_is_shadowed_whatever_the_seed() -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)
        report = sb.check(layer, torch.randn(4, 6, 16), seed=seed)
        (shadow,) = [f for f in report.findings if f.code == "SB105"]
        assert shadow.units == tuple(range(16, 32)), seed
        assert report.verdict == "healthy"


class Bottleneck(nn.Module):
    """An encoder whose code is rounded to whole numbers, and a head that no loss looks at."""

    def __init__(self, *, rounds: bool) -> None:
        super().__init__()
        self.encoder, self.decoder, self.aside = nn.Linear(6, 4), nn.Linear(4, 3), nn.Linear(4, 2)
        self.rounds = rounds

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code = self.encoder(x)
        code = (20 * code).int().to(x.dtype) / 20 if self.rounds else code
        return self.decoder(code), self.aside(code)


@pytest.mark.parametrize("rounds", [False, True])
def test_a_graph_that_is_cut_is_told_from_a_branch_that_is_not_used(rounds: bool) -> None:
    torch.manual_seed(0)
    batch = torch.randn(32, 6), torch.randn(32, 3)
    report = sb.check(Bottleneck(rounds=rounds), batch, lambda out, y: (out[0] - y).square().mean())
    found = {(f.code, f.where) for f in report.findings if f.severity != "info"}
    cut = {("SB101", "encoder")} if rounds else set()
    assert found == {("SB104", "aside.weight"), *cut}
    assert report.verdict == ("stuck" if rounds else "healthy")


@pytest.mark.parametrize("last", [lambda z: z / z.norm(dim=1, keepdim=True), lambda z: z.softmax(1) + 0 * z.sign()])
def test_a_start_where_every_gradient_is_rounding_is_stuck(last: Callable[[Tensor], Tensor]) -> None:
    """One output, normalised, is 1 or -1 whatever the weights; beside each other none of the gradients looks odd."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))

        def forward(self, x: Tensor) -> Tensor:
            return last(self.body(x))

    torch.manual_seed(0)
    assert sb.check(Net(), torch.randn(32, 6)).verdict == "stuck"


def test_a_tiny_loss_is_no_rounding() -> None:
    torch.manual_seed(0)
    net, y = chain(3, 8, nn.Tanh), torch.randn(32, 3)
    report = sb.check(net, (torch.randn(32, 8), y), lambda o, t: 1e-14 * nn.functional.mse_loss(o, t), ignore=["SB207"])
    assert (report.verdict, set(report.wakeup.values())) == ("healthy", {1})


@pytest.mark.parametrize(("gamma", "bias", "dead"), [(0.0, -1.0, False), (0.0, -100.0, True), (1.0, -100.0, True)])
def test_units_that_see_a_zero_for_now_are_not_dead(gamma: float, bias: float, dead: bool) -> None:
    """A gate behind a zero norm weight sees its own bias only; what it will see later is of about unit size."""

    class Squeeze(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.fc1, self.fc2, self.head = (
                nn.BatchNorm1d(8),
                nn.Linear(8, 8),
                nn.Linear(8, 8),
                nn.Linear(8, 3),
            )
            nn.init.constant_(self.norm.weight, gamma)
            with torch.no_grad():
                self.fc1.bias[:4] = bias

        def forward(self, x: Tensor) -> Tensor:
            branch = self.norm(x)
            out: Tensor = self.head(x + branch * self.fc2(self.fc1(branch).relu()).sigmoid())
            return out

    torch.manual_seed(0)
    report = sb.check(Squeeze(), torch.randn(32, 8))
    assert [f.units for f in report.findings if f.code == "SB102"] == ([(0, 1, 2, 3)] if dead else [])


def test_a_forward_that_a_shift_breaks_has_felt_it() -> None:
    """VITS reads the length of its output off a sum: no graph leads to it, and a shifted one can be refused."""

    class ReadsItsLength(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.length, self.frame = nn.Linear(4, 1, bias=False), nn.Linear(4, 2)
            self.right = self.length(torch.ones(4)).item()

        def forward(self, x: Tensor) -> Tensor:
            if abs(self.length(torch.ones_like(x[0])).item() - self.right) > 1e-3:
                raise RuntimeError("no such length")
            out: Tensor = self.frame(x)
            return out

    report = sb.check(ReadsItsLength(), torch.randn(8, 4))
    assert report.verdict == "stuck"
    assert [(f.code, f.where) for f in report.findings if f.severity == "error"] == [("SB101", "length.weight")]


def test_what_a_rounding_hides_is_not_absorbed() -> None:
    """A small shift moves nothing, as in front of a normalisation; a large one does."""

    class Rounded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.level, self.frame = nn.Parameter(torch.tensor([3.2])), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.frame(x) * self.level.round()
            return out

    report = sb.check(Rounded(), torch.randn(8, 4))
    assert report.verdict == "stuck"
    assert [(f.code, f.where) for f in report.findings if f.severity == "error"] == [("SB101", "level")]


def test_a_bias_absorbed_on_one_side_of_a_relu_is_no_never() -> None:
    """All units are on, so the normalisation removes the bias; a large shift turns some off, and then it learns."""
    torch.manual_seed(0)
    first = nn.Linear(8, 16)
    nn.init.constant_(first.bias, 2.5)
    net = nn.Sequential(first, nn.ReLU(), nn.BatchNorm1d(16), nn.Linear(16, 2))
    report = sb.check(net, 0.1 * torch.randn(32, 8))
    assert report.verdict == "healthy"
    assert [f.where for f in report.findings if f.code == "SB105"] == ["0.bias"]


class _Anchors(nn.Module):
    """Two heads whose scores stand end to end, and a loss that asks for those that `chosen` marks."""

    def __init__(self) -> None:
        super().__init__()
        self.near, self.far = nn.Linear(6, 4), nn.Linear(6, 4)
        self.wanted: Tensor
        self.register_buffer("wanted", torch.tensor([0, 2, 3, 1]))

    def scores(self, x: Tensor) -> Tensor:
        return torch.cat([self.near(x), self.far(x)], 1)


def _matched(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    assert isinstance(model, _Anchors)
    x, chosen = batch
    return (model.scores(x)[chosen] - 1).square().mean()


def _first_four(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    assert isinstance(model, _Anchors)
    return (model.scores(batch[0])[:, :4] - 1).square().mean()


def _by_a_buffer(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    assert isinstance(model, _Anchors)
    return (model.scores(batch[0]).index_select(1, model.wanted) - 1).square().mean()


def test_what_the_data_leave_out_waits_and_what_the_code_leaves_out_never_learns() -> None:
    """A detector's far anchors learn from the batch that has a box for them; a slice or a buffer never lets them."""
    torch.manual_seed(0)
    x, chosen = torch.randn(8, 6), torch.zeros(8, 8, dtype=torch.bool)
    chosen[:, :4] = torch.rand(8, 4) < 0.7
    waits = sb.check(_Anchors(), (x, chosen), objective=_matched)
    assert waits.verdict == "healthy"
    assert [(f.code, f.where) for f in waits.findings if f.code == "SB106"] == [("SB106", "far.weight")]
    for fixed in (_first_four, _by_a_buffer):
        assert sb.check(_Anchors(), (x, chosen), objective=fixed).verdict == "stuck"


def test_layers_inside_vmap() -> None:
    """An ensemble stacked for torch.func: what passes inside has no numbers of its own, and the check goes round it."""

    class Ensemble(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.members, self.head = nn.ModuleList(nn.Linear(6, 4) for _ in range(3)), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            each = [dict(m.named_parameters()) for m in self.members]
            stacked = {name: torch.stack([one[name] for one in each]) for name in each[0]}

            def member(weights: dict[str, Tensor]) -> Tensor:
                out: Tensor = torch.func.functional_call(self.members[0], weights, (x,))
                return out.tanh()

            out: Tensor = self.head(torch.func.vmap(member)(stacked).mean(0))
            return out

    torch.manual_seed(0)
    assert sb.check(Ensemble(), torch.randn(8, 6)).verdict == "healthy"


MARGINS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "relu of a difference": lambda o, y: (F.relu(0.9 - o) ** 2 + F.relu(o - 50.0) ** 2).mean(),
    "relu of the negative": lambda o, y: (F.relu(-o - 50.0) + (o - 1) ** 2).mean(),
    "relu of the output": lambda o, y: (F.relu(o * 1.0 - 50.0) + (o - 1) ** 2).mean(),
    "clamp": lambda o, y: ((o - 50.0).clamp(min=0) + (o - 1) ** 2).mean(),
}


@pytest.mark.parametrize("name", MARGINS)
@pytest.mark.parametrize("lengths", [False, True])
def test_a_margin_in_the_loss_that_nothing_exceeds_is_no_dead_unit(name: str, *, lengths: bool) -> None:
    """A loss by hand has its own rectifiers (hinge, triplets, capsules): they rest where all is well."""

    class Lengths(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.unflatten(-1, (3, 2)).norm(dim=-1)

    torch.manual_seed(0)
    last = [nn.Linear(8, 6), Lengths()] if lengths else [nn.Linear(8, 3)]
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), *last)
    report = sb.check(net, (torch.randn(32, 4), torch.zeros(32, 3)), MARGINS[name])
    assert (report.verdict, [f.code for f in report.findings if f.code == "SB102"]) == ("healthy", [])


def test_gradients_inside_the_objective_are_no_back_signal() -> None:
    """A differential equation as objective: the network's own output is not in it, only its derivatives."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))

    def equation(model: nn.Module, points: Tensor) -> Tensor:
        x = points.detach().requires_grad_()
        (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        (curve,) = torch.autograd.grad(slope[:, 0].sum(), x, create_graph=True)
        start = torch.stack([x[:, 0], torch.zeros_like(x[:, 1])], 1)
        here = model(start)[:, 0] - torch.sin(3 * start[:, 0])
        return (slope[:, 1] - 0.1 * curve[:, 0]).square().mean() + here.square().mean()

    report = sb.check(net, torch.rand(64, 2) * 2 - 1, objective=equation)
    assert (report.verdict, report.findings) == ("healthy", ())


@pytest.mark.parametrize("what", ["a layer that is off", "a frozen zero"])
def test_what_may_hide_a_tensor_from_every_output_is_named(what: str) -> None:
    """A density that is off hides all colours (NeRF); a mask of zeros hides what it multiplies (KAN)."""

    class Field(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.colour, self.density, self.mask = nn.Linear(3, 3), nn.Linear(3, 1), torch.zeros(3)
            nn.init.constant_(self.density.bias, -5.0)

        def forward(self, x: Tensor) -> Tensor:
            weight = 1 - torch.exp(-F.relu(self.density(x))) if "layer" in what else self.mask.to(x) * self.density(x)
            return self.colour(x) * weight

    torch.manual_seed(0)
    found = [f for f in sb.check(Field(), torch.randn(64, 3)).findings if f.where == "colour.weight"]
    assert [(f.code, what in f.because) for f in found] == [("SB101", True)]


class Gated(nn.Module):
    """A branch behind a gate, which a residual goes round: a highway layer."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.branch, self.gate, self.last = nn.Linear(12, 32), *(nn.Linear(32, n) for n in (32, 32, 3))
        nn.init.constant_(self.gate.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        out: Tensor = self.last(x + torch.sigmoid(self.gate(x)) * torch.relu(self.branch(x)))
        return out


@pytest.mark.parametrize("bias", [-100.0, -40.0, -20.0, -8.0, -3.0, 0.0, 3.0, 8.0, 20.0])
def test_a_gate_may_start_open_or_shut_but_not_jammed(bias: float) -> None:
    """At -100 two hundred steps of Adam do not move what the gate shuts off; at -8 it opens."""
    batch = torch.randn(32, 12, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 3
    model = Gated(bias)
    report = sb.check(model, batch, F.cross_entropy)
    jammed = abs(bias) > 15
    assert (report.verdict, [f.code for f in report.findings]) == (
        ("degraded", ["SB205"]) if jammed else ("healthy", [])
    )
    if jammed:
        plan = sb.fix(model, report)
        plan.apply()
        assert [c.tensor for c in plan.changes] == ["gate.bias"]
        assert sb.check(model, batch, F.cross_entropy).verdict == "healthy"
