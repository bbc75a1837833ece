"""The certificate of "never": its claims against training, its strength against theory, what it refuses to prove."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import symbreak as sb
from ground_truth import CASES
from ground_truth.case import Case
from symbreak.probe import look, zeros
from symbreak.probe.zero_rules import RULES
from symbreak.records import Finding, Trace

LOOK = importlib.import_module("symbreak.probe.look")  # the function of the same name hides the module


def never(report: sb.Report) -> list[Finding]:
    return [f for f in report.findings if f.code == "SB101"]


def proved(trace: Trace) -> dict[str, int]:
    return {t.name: t.proved for t in trace.tensors if t.proved}


# ---- the catalogue -----------------------------------------------------------------------------------------

STUCK_CASES = [case for case in CASES if "SB101" in case.codes and "stuck" in case.verdict and case.ladder]
NOT_BY_ZEROS = {  # why no zero holds another one at zero
    "BatchNorm on constants": "equal samples that a normalisation cancels",
    "BatchNorm with zero gamma and tanh": "equal samples that a normalisation cancels",
    "BatchNorm behind constant weights": "equal samples that a normalisation cancels",
}


@pytest.mark.parametrize("case", STUCK_CASES, ids=repr)
def test_a_never_that_zeros_explain_is_proved(case: Case) -> None:
    report = sb.check(case.model(), case.batch, case.loss)
    assert never(report)
    standings = {f.standing for f in never(report)}
    assert standings == ({"measured"} if case.name in NOT_BY_ZEROS else {"proved"})


@pytest.mark.parametrize("name", ["large negative bias on a whole ReLU layer"])
def test_dead_units_stay_measured(name: str) -> None:
    case = next(case for case in CASES if case.name == name)
    report = sb.check(case.model(), case.batch, case.loss)
    assert {f.standing for f in never(report)} <= {"measured"}
    assert proved(report.trace) == {}


# ---- no claim is ever wrong --------------------------------------------------------------------------------

ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {  # name -> (function, is phi(0) zero)
    "tanh": (torch.tanh, True),
    "relu": (torch.relu, True),
    "gelu": (F.gelu, True),
    "sigmoid": (torch.sigmoid, False),
    "softplus": (F.softplus, False),
}


class Wired(nn.Module):
    """Layers that each read the sum, the product or the concatenation of two earlier results, chosen at random."""

    def __init__(self, seed: int, layers: int, width: int = 4) -> None:
        super().__init__()
        self.plan: list[tuple[int, int, str, str]] = []
        self.layers = nn.ModuleList()
        generator = torch.Generator().manual_seed(seed)

        def pick(n: int) -> int:
            return int(torch.randint(n, (), generator=generator))

        for i in range(layers):
            join = ["sum", "product", "both", "norm", "attend"][pick(5)]
            self.plan.append((pick(i + 1), pick(i + 1), join, list(ACTIVATIONS)[pick(len(ACTIVATIONS))]))
            self.layers.append(nn.Linear(2 * width if join == "both" else width, width))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 2)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=generator))
                kind = pick(6)
                if kind < 2:
                    p.zero_()
                elif kind == 2:
                    p.mul_((torch.rand(p.shape, generator=generator) > 0.5).to(p.dtype))
                elif kind == 3:
                    p[pick(p.shape[0])] = 0

    def forward(self, x: Tensor) -> Tensor:
        seen = [x]
        for (i, j, join, phi), layer in zip(self.plan, self.layers, strict=True):
            a, b = seen[i], seen[j]
            h = torch.cat([a, b], 1) if join == "both" else a * b if join == "product" else a + b
            h = self.norm(h) if join == "norm" else (a @ b.t()).softmax(1) @ a if join == "attend" else h
            seen.append(ACTIVATIONS[phi][0](layer(h)))
        out: Tensor = self.head(seen[-1])
        return out


def gradients_in_training(model: nn.Module, steps: int, seed: int) -> dict[str, Tensor]:
    """Parameter -> [like it] True where any step of SGD on random data at a random rate gave it a gradient."""
    generator = torch.Generator().manual_seed(seed)
    touched = {n: torch.zeros(p.shape, dtype=torch.bool) for n, p in model.named_parameters()}
    model.double()
    for _ in range(steps):
        x, y = (torch.randn(6, n, generator=generator, dtype=torch.float64) for n in (4, 2))
        model.zero_grad()
        F.mse_loss(model(x), y).backward()
        rate = 10 ** (-3 * torch.rand((), generator=generator).item())
        with torch.no_grad():
            for name, p in model.named_parameters():
                if p.grad is not None:
                    touched[name] |= p.grad != 0
                    p.sub_(rate * p.grad / (1 + p.grad.norm()))
    return touched


def refuted(model: nn.Module, seed: int) -> tuple[int, list[str]]:
    """How many elements a look at the model proves, and the tensors where training contradicts it."""
    found: dict[str, Tensor] = {}

    def keep(runner: Any, candidates: Mapping[str, Tensor]) -> zeros.Proof | None:
        proof = zeros.prove(runner, candidates)
        found.update(proof.still if proof is not None else {})
        return proof

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LOOK, "prove", keep)
        look(model, (torch.randn(6, 4), torch.randn(6, 2)), F.mse_loss, seed=seed)
    touched = gradients_in_training(model, 30, seed)
    wrong = [n for n, still in found.items() if bool((still & touched[n]).any())]
    return sum(int(still.sum()) for still in found.values()), wrong


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), layers=st.integers(1, 5))
def test_nothing_proved_ever_gets_a_gradient(seed: int, layers: int) -> None:
    assert refuted(Wired(seed, layers), seed)[1] == []


def test_the_random_nets_do_get_proofs() -> None:
    assert sum(refuted(Wired(seed, 3), seed)[0] > 0 for seed in range(8)) >= 3


class TestAWrongRule:
    """Sigmoid, said to keep zero at zero, which it does not."""

    class Net(nn.Module):
        """A stuck net, and a layer beside it that reads a sigmoid of its zeros and sends nothing back."""

        def __init__(self) -> None:
            super().__init__()
            self.net, self.beside = stuck(), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.net(x) + self.beside(self.net[:4](x).detach().sigmoid())
            return out

    def test_a_number_refutes_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(RULES, "sigmoid", RULES["tanh"])
        assert look(self.Net(), torch.randn(6, 4)).never is None
        monkeypatch.undo()
        assert look(self.Net(), torch.randn(6, 4)).never is not None

    def test_training_catches_it_where_no_number_does(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert refuted(self.Net(), 0)[1] == []
        monkeypatch.setitem(RULES, "sigmoid", RULES["tanh"])
        monkeypatch.setattr(zeros, "_refutes", lambda _tensor, _may: False)
        assert refuted(self.Net(), 0)[1] == ["beside.weight"]


# ---- as strong as the theory -------------------------------------------------------------------------------


def never_by_theory(weights: list[bool], biases: list[bool], phi_of_zero: bool) -> set[str]:
    """THEORY.md section 5 for a chain: h_l is nonzero iff phi(0) != 0 or b_l or (W_l and h_{l-1}); dual backward; W_l
    wakes iff its input and its back-signal are nonzero. True stands for nonzero."""
    n = len(weights)
    w, b = list(weights), list(biases)
    while True:
        h = [True]
        for i in range(n - 1):
            h.append(phi_of_zero or b[i] or (w[i] and h[i]))
        d = [False] * n
        d[-1] = True
        for i in reversed(range(n - 1)):
            d[i] = d[i + 1] and w[i + 1]
        new_w = [w[i] or (h[i] and d[i]) for i in range(n)]
        new_b = [b[i] or d[i] for i in range(n)]
        if (new_w, new_b) == (w, b):
            sleeping = {f"{2 * i}.weight" for i in range(n) if not (h[i] and d[i])}
            return sleeping | {f"{2 * i}.bias" for i in range(n) if not d[i]}
        w, b = new_w, new_b


@settings(max_examples=25, deadline=None)
@given(data=st.data(), depth=st.integers(2, 5), phi=st.sampled_from(["tanh", "gelu", "sigmoid", "softplus"]))
def test_chains_agree_with_boolean_propagation(data: st.DataObject, depth: int, phi: str) -> None:
    weights, biases = (data.draw(st.lists(st.booleans(), min_size=depth, max_size=depth)) for _ in range(2))
    modules = {"tanh": nn.Tanh, "gelu": nn.GELU, "sigmoid": nn.Sigmoid, "softplus": nn.Softplus}
    parts = [part for _ in range(depth - 1) for part in (nn.Linear(4, 4), modules[phi]())]
    net = nn.Sequential(*parts, nn.Linear(4, 2))
    for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
        for name, nonzero in ((f"{2 * i}.weight", w), (f"{2 * i}.bias", b)):
            nn.init.normal_(net.get_parameter(name), std=float(nonzero))
    trace = look(net, (torch.randn(8, 4), torch.randn(8, 2)), F.mse_loss)
    sleeping = never_by_theory(weights, biases, not ACTIVATIONS[phi][1])
    assert {t.name for t in trace.tensors if t.wake is None} == sleeping
    assert {t.name for t in trace.tensors if t.proved == t.numel} == sleeping
    assert set(proved(trace)) == sleeping


# ---- what it refuses, and what it costs --------------------------------------------------------------------


def stuck() -> nn.Sequential:
    """Two zero layers in series, which hold each other; the one before them gets no back-signal."""
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    for name in ("2.weight", "2.bias", "4.weight"):
        nn.init.zeros_(net.get_parameter(name))
    return net


class Around(nn.Module):
    """A stuck net, with something done to its hidden signal."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.change = stuck(), change

    def forward(self, x: Tensor) -> Tensor:
        h = self.net[3](self.net[2](self.net[1](self.net[0](x))))
        out: Tensor = self.net[4](self.change(h))
        return out


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        return 2 * x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        return 2 * g


class Shifted(torch.autograd.Function):
    """Backward gives a gradient that forward does not have: nothing may be concluded from forward alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        return 2 * x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        return g + 1


def in_place(h: Tensor) -> Tensor:
    h = h * 2
    h[:, :2].mul_(3)
    h.t()[1].add_(h[:, 0])
    return h.relu_()


def written_into(h: Tensor) -> Tensor:
    """Ones, written into zeros through a view: one of the four hidden units is no zero any more."""
    noise = torch.zeros_like(h)
    noise[:, 1:].t()[0] = 1.0
    return h + noise


def written_by_numpy(h: Tensor) -> Tensor:
    noise = torch.zeros(h.shape, dtype=h.dtype)
    noise.numpy()[:] = 1.0
    return h + noise


@pytest.mark.parametrize(
    "change",
    [in_place, Doubled.apply, lambda h: checkpoint(torch.sin, h, use_reentrant=False), lambda h: h.view(-1).view_as(h)],
    ids=["in place", "custom function", "checkpoint", "views"],
)
def test_zeros_are_followed_through(change: Callable[[Tensor], Tensor]) -> None:
    report = sb.check(Around(change), torch.randn(8, 4))
    assert {f.standing for f in never(report)} == {"proved"}
    assert set(proved(report.trace)) == {"net.0.weight", "net.0.bias", "net.2.weight", "net.2.bias", "net.4.weight"}


def test_a_backward_that_makes_gradients_of_nothing_is_believed() -> None:
    report = sb.check(Around(Shifted.apply), torch.randn(8, 4))
    assert report.wakeup["net.2.weight"] is not None
    assert "net.2.weight" not in proved(report.trace)


@pytest.mark.parametrize(
    ("change", "sure"),
    [(written_into, {"net.2.weight": 12, "net.2.bias": 3, "net.4.weight": 6}), (written_by_numpy, {})],
)
def test_what_is_written_into_zeros_is_no_zero(change: Callable[[Tensor], Tensor], sure: dict[str, int]) -> None:
    report = sb.check(Around(change), torch.randn(8, 4))
    assert report.wakeup["net.4.weight"] is not None
    assert proved(report.trace) == sure


def test_memory_written_behind_torch_takes_the_proof_back() -> None:
    """Nothing is proved of a net in which a number that is certainly zero turns out to be another one."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.beside = stuck(), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            noise = torch.zeros(x.shape, dtype=x.dtype)
            noise.numpy()[:] = 1.0
            out: Tensor = self.net(x) + self.beside(noise)
            return out

    report = sb.check(Net(), torch.randn(8, 4))
    assert {f.standing for f in never(report)} == {"measured"}
    assert report.trace.never is None


def test_an_index_that_is_data_proves_nothing_of_a_row() -> None:
    """The batch asks for row 0, which is zero; the next one may ask for another."""

    class Net(nn.Module):
        def __init__(self, fixed: bool) -> None:
            super().__init__()
            self.table, self.out = nn.Embedding(3, 4), nn.Linear(4, 2, bias=False)
            self.register_buffer("rows", torch.zeros(8, dtype=torch.long))
            self.fixed = fixed
            with torch.no_grad():
                self.table.weight[0] = 0
            nn.init.zeros_(self.out.weight)

        def forward(self, rows: Tensor) -> Tensor:
            out: Tensor = self.out(self.table(self.rows if self.fixed else rows))
            return out

    batch = torch.zeros(8, dtype=torch.long)
    assert look(Net(True), batch).never is not None
    assert look(Net(False), batch).never is None


@pytest.mark.parametrize("written", [False, True])
def test_a_frozen_zero_counts_unless_the_forward_writes_to_it(written: bool) -> None:
    """A momentum encoder, say, is frozen for the optimizer, and moves all the same."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = stuck()
            self.net[2].requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.net(x)
            if written:
                self.net[2].weight.data.add_(0.1 * self.net[0].weight.detach())
            return out

    report = sb.check(Net(), torch.randn(8, 4))
    assert (report.trace.never is None) == written
    assert {f.standing for f in never(report)} == (set() if written else {"proved"})


def test_a_branch_on_the_data_is_an_assumption() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = stuck()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.net(x) if x.mean().item() < 1e9 else x[:, :2]
            return out

    report = sb.check(Net(), torch.randn(8, 4))
    assert report.trace.never is not None
    assert report.trace.never.reads == ("item",)
    assert all("reads its data in Python" in str(f.evidence["assumes"]) for f in never(report))
    plain = sb.check(stuck(), torch.randn(8, 4))
    assert not any("Python" in str(f.evidence["assumes"]) for f in never(plain))


def test_a_literal_zero_is_no_zero_once_the_data_was_read() -> None:
    """The factor is 0 on this batch, and may be another one on the next."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside, self.out = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            factor = torch.full((), float(x[0, 0].sign().item() > 2), dtype=x.dtype)
            out: Tensor = self.out(self.inside(x) * factor)
            return out

    trace = look(Net(), torch.randn(8, 4))
    assert proved(trace) == {}
    assert {t.name for t in trace.tensors if t.wake is None} == {"inside.weight", "inside.bias", "out.weight"}


def test_some_units_are_proved_by_their_rows() -> None:
    """Units whose weights in and out are zero hold each other; the rest of the layer learns."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    with torch.no_grad():
        net[0].weight[2:4], net[0].bias[2:4], net[2].weight[:, 2:4] = 0, 0, 0
    report = sb.check(net, torch.randn(8, 4))
    (finding,) = never(report)
    assert (finding.units, finding.standing) == ((2, 3), "proved")
    assert proved(report.trace) == {"0.weight": 8, "0.bias": 2, "2.weight": 4}


def test_what_is_proved_in_part_says_so() -> None:
    """A layer behind two dead ends: its weight by zeros, its bias by a ReLU that no number holds at zero."""
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        nn.init.zeros_(net[0].weight)
        net[0].weight[0] = 1.0
        net[0].bias.fill_(-100.0)
        net[0].bias[1:] = 0.0
        net[2].weight[:, 1:] = 0.0
    report = sb.check(net, torch.randn(8, 4))
    (first, *_) = [f for f in never(report) if "0.weight" in f.because]
    assert first.standing == "measured"
    assert "proved of 12 of 16 elements of 0.weight" in first.because


def test_a_healthy_model_pays_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(LOOK, "prove", refuse)
    assert sb.check(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))).verdict == "healthy"
    with pytest.raises(AssertionError):
        sb.check(stuck())


def test_the_passes_of_the_proof_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    with_proof = look(stuck(), torch.randn(8, 4)).passes
    monkeypatch.setattr(LOOK, "prove", lambda *_: None)
    assert with_proof == look(stuck(), torch.randn(8, 4)).passes + 2


def test_the_text_says_what_is_proved_and_what_that_assumes() -> None:
    text = sb.check(stuck(), torch.randn(8, 4)).to_text(width=400)
    assert "Proved for every batch and every value of the other weights." in text
    assert text.count("What is proved assumes finite numbers") == 1
