"""Near copies: their distance is a tangent vector of training, and the forecast of SB006 holds against training."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_breast_cancer, load_digits
from torch import Tensor, nn

import symbreak as sb
from symbreak.probe.near import judged
from symbreak.probe.updates import Moments, Update
from symbreak.records import Finding, Parting
from symbreak.thresholds import TOGETHER

Data = tuple[Tensor, Tensor]


def digits() -> Data:
    found = load_digits()
    x = torch.tensor(found.data[:256])
    return (x - x.mean()) / x.std(), torch.tensor(found.target[:256])


def cancer() -> Data:
    found = load_breast_cancer()
    x = torch.tensor(found.data[:256])
    return (x - x.mean(0)) / x.std(0), torch.tensor(found.target[:256])


def teacher() -> Data:
    """What four tanh units make of normal numbers."""
    g = torch.Generator().manual_seed(5)
    x, w, v = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((256, 8), (8, 4), (4, 2)))
    return x, torch.tanh(x @ w) @ v


def loss(output: Tensor, target: Tensor) -> Tensor:
    return F.mse_loss(output, target) if target.is_floating_point() else F.cross_entropy(output, target)


def twice(sizes: tuple[int, ...], distance: float, seed: int, activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    """A net whose first two units are copies, but for `distance` of their weights in."""
    torch.manual_seed(seed)
    parts = [m for i, o in pairwise(sizes[:-1]) for m in (nn.Linear(i, o), activation())]
    net = nn.Sequential(*parts, nn.Linear(*sizes[-2:])).double()
    with torch.no_grad():
        w, b, out = (net.get_parameter(n) for n in ("0.weight", "0.bias", "2.weight"))
        noise = torch.randn(w.shape[1], dtype=torch.float64)
        w[1] = w[0] + distance * w[0].norm() * noise / noise.norm()
        b[1], out[:, 1] = b[0], out[:, 0]
    return net


def apart(net: nn.Module) -> float:
    w = net.get_parameter("0.weight").detach()
    return float((w[0] - w[1]).norm() / w[:2].norm(dim=1).max())


def steps_of_training(net: nn.Module, data: Data, rate: float, most: int) -> int:
    """Steps of plain gradient descent until the copies are apart; `most` where they are not by then."""
    optimizer = torch.optim.SGD(net.parameters(), lr=rate)
    for step in range(1, most + 1):
        optimizer.zero_grad()
        loss(net(data[0]), data[1]).backward()
        optimizer.step()
        if apart(net) > TOGETHER:
            return step
    return most


def checked(net: nn.Module, data: Data, rate: float) -> tuple[Finding, Parting]:
    report = sb.check(net, data, loss, optimizer=torch.optim.SGD(net.parameters(), lr=rate))
    (finding,) = [f for f in report.findings if f.code == "SB006"]
    (parting,) = [s.parting for s in report.trace.slices if s.near and s.side == "out"]
    assert parting is not None
    return finding, parting


# ---- the theory: the difference of two near copies obeys d' = (I - eta H_anti) d -----------------------------------


def test_a_difference_of_copies_moves_by_the_antisymmetric_hessian() -> None:
    x, y = teacher()
    net, rate, distance = twice((8, 3, 2), 0.0, 1), 0.1, 1e-6
    names = ["0.weight", "0.bias", "2.weight", "2.bias"]
    symmetric = torch.cat([net.get_parameter(n).detach().reshape(-1) for n in names])

    def value(flat: Tensor) -> Tensor:
        w, b, v, c = flat.split([24, 3, 6, 2])
        return F.mse_loss(torch.tanh(x @ w.reshape(3, 8).t() + b) @ v.reshape(2, 3).t() + c, y)

    hessian = torch.autograd.functional.hessian(value, symmetric)
    swap = torch.arange(35)
    swap[:16] = torch.cat([torch.arange(8, 16), torch.arange(8)])
    swap[[24, 25, 27, 28, 30, 31]] = swap[[25, 24, 28, 27, 31, 30]]
    assert torch.allclose(hessian, hessian[swap][:, swap], atol=1e-12)
    delta = torch.randn(35, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    delta = delta - delta[swap]
    start = symmetric + distance * delta
    moved = start - rate * torch.func.grad(value)(start)
    foretold = delta - rate * hessian @ delta
    assert torch.allclose((moved - moved[swap]) / (2 * distance), foretold, atol=1e-4 * float(foretold.norm()))
    assert torch.allclose(foretold, -foretold[swap], atol=1e-12)


# ---- the forecast against training ---------------------------------------------------------------------------------

NUMBERS = [
    (digits, (64, 2, 10), 5e-5, 0.2, 3),
    (digits, (64, 2, 10), 5e-4, 0.2, 2),
    (teacher, (8, 3, 2), 5e-4, 0.05, 2),
    (teacher, (8, 3, 2), 5e-4, 0.2, 2),
]
BOUNDS = [(digits, (64, 12, 10), 1e-6, 0.1, 1), (teacher, (8, 12, 2), 5e-4, 0.1, 1), (cancer, (30, 3, 2), 1e-5, 0.5, 2)]


@pytest.mark.parametrize(("data", "sizes", "distance", "rate", "seed"), NUMBERS)
def test_a_number_of_steps_is_right_within_a_factor_of_two(
    data: type, sizes: tuple[int, ...], distance: float, rate: float, seed: int
) -> None:
    finding, parting = checked(twice(sizes, distance, seed), data(), rate)
    assert parting.steps is not None
    steps = steps_of_training(twice(sizes, distance, seed), data(), rate, 2000)
    assert 0.5 < parting.steps / steps < 2
    assert (
        f"of each other for about {finding.because.partition('for about ')[2].split()[0]} steps of sgd"
        in finding.because
    )
    assert finding.standing == ("measured" if parting.measured else "heuristic")


@pytest.mark.parametrize(("data", "sizes", "distance", "rate", "seed"), BOUNDS)
def test_where_the_growth_is_not_steady_only_a_bound_is_told(
    data: type, sizes: tuple[int, ...], distance: float, rate: float, seed: int
) -> None:
    finding, parting = checked(twice(sizes, distance, seed), data(), rate)
    assert parting.steps is None
    assert "for more than" in finding.because
    assert finding.standing == "measured"
    assert steps_of_training(twice(sizes, distance, seed), data(), rate, int(parting.looked)) == int(parting.looked)


def test_copies_that_attract_stay_together() -> None:
    net, data, rate = twice((30, 2, 2), 5e-4, 2), cancer(), 0.3
    finding, parting = checked(net, data, rate)
    assert parting.steps == math.inf
    assert finding.standing == "heuristic"
    assert finding.because.endswith("so at this rate they stay together for ever")
    before = apart(net)
    assert steps_of_training(net, data, rate, 1000) == 1000
    assert apart(net) < before


def test_the_look_is_shorter_than_what_it_foretells() -> None:
    """Small steps are followed in long ones: thirty passes for hundreds of steps of the optimizer."""
    net = twice((64, 12, 10), 1e-6, 1)
    report = sb.check(net, digits(), loss, optimizer=torch.optim.SGD(net.parameters(), lr=0.01))
    (parting,) = [s.parting for s in report.trace.slices if s.near and s.side == "out"]
    assert parting is not None
    assert parting.looked > 1000
    assert report.passes < 60


@pytest.mark.parametrize(
    ("optimizer", "with_loss", "why"),
    [
        ("muon", True, "for how long is not followed under muon"),
        ("sgd", False, "for how long depends on the loss, and none was given"),
        ("adam", False, "for how long depends on the loss, and none was given"),
    ],
)
def test_where_nothing_is_foretold_the_finding_says_why(optimizer: str, with_loss: bool, why: str) -> None:
    report = sb.check(twice((8, 3, 2), 1e-5, 2), teacher(), loss if with_loss else None, optimizer=optimizer)
    (finding,) = [f for f in report.findings if f.code == "SB006"]
    assert finding.because.endswith(f"probed steps; {why}")
    assert "steps_together" not in finding.evidence


# ---- optimizers with a memory ----------------------------------------------------------------------------------------

Make = Callable[..., torch.optim.Optimizer]
MOMENTUM: Make = partial(torch.optim.SGD, lr=0.02, momentum=0.9)
NESTEROV: Make = partial(torch.optim.SGD, lr=0.02, momentum=0.8, nesterov=True, weight_decay=0.1)
ADAM: Make = partial(torch.optim.Adam, lr=0.01)
COUPLED: Make = partial(torch.optim.Adam, lr=0.01, betas=(0.8, 0.95), weight_decay=0.1)
ADAMW: Make = partial(torch.optim.AdamW, lr=0.01, weight_decay=0.3)
RMSPROP: Make = partial(torch.optim.RMSprop, lr=0.001, alpha=0.9)


def update_of(optimizer: torch.optim.Optimizer) -> Update:
    group = optimizer.param_groups[0]
    found = Update.of(type(optimizer).__name__.lower(), group["lr"], group)
    assert found is not None
    return found


@pytest.mark.parametrize("make", [MOMENTUM, NESTEROV, ADAM, COUPLED, ADAMW, RMSPROP])
def test_one_step_at_a_time_is_torchs_own_step(make: Make) -> None:
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(5, generator=g, dtype=torch.float64).requires_grad_()
    optimizer = make([weight])
    update, mine = update_of(optimizer), Moments.fresh(weight.detach())
    for _ in range(20):
        gradient = torch.randn(5, generator=g, dtype=torch.float64)
        weight.grad = gradient.clone()
        mine = mine.after(update, update.pulled(gradient, mine.weight), torch.zeros_like(gradient), 1)
        optimizer.step()
        assert torch.allclose(mine.weight, weight.detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("make", [MOMENTUM, ADAM, ADAMW, RMSPROP])
def test_a_stretch_is_many_steps_of_a_gradient_that_changes_linearly(make: Make) -> None:
    weight = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = make([weight])
    update, mine = update_of(optimizer), Moments.fresh(weight.detach())
    start, slope = torch.tensor([1.0, -0.5, 0.3]).double(), torch.tensor([-0.01, 0.004, 0.0]).double()
    done = 0
    for steps in (1, 2, 4, 8, 16, 32):
        mine = mine.after(update, start + done * slope, slope, steps)
        for _ in range(steps):
            weight.grad = start + done * slope
            optimizer.step()
            done += 1
    assert torch.allclose(mine.weight, weight.detach(), rtol=0.02)


@pytest.mark.parametrize(
    ("make", "data", "sizes", "distance", "seed"),
    [
        (MOMENTUM, digits, (64, 2, 10), 5e-4, 2),
        (ADAM, teacher, (8, 3, 2), 5e-4, 2),
        (ADAM, digits, (64, 12, 10), 1e-6, 1),
        (ADAMW, teacher, (8, 3, 2), 5e-4, 2),
        (RMSPROP, teacher, (8, 3, 2), 5e-4, 2),
    ],
)
def test_a_forecast_follows_the_optimizer_that_is_given(
    make: Make, data: Callable[[], Data], sizes: tuple[int, ...], distance: float, seed: int
) -> None:
    net, (x, y) = twice(sizes, distance, seed), data()
    optimizer = make(net.parameters())
    report = sb.check(net, (x, y), loss, optimizer=optimizer)
    (parting,) = [s.parting for s in report.trace.slices if s.near and s.side == "out"]
    (finding,) = [f for f in report.findings if f.code == "SB006"]
    assert parting is not None
    assert (finding.standing, parting.measured) == ("measured", True)
    assert f"steps of {parting.update} on this batch" in finding.because
    steps, most = 0, 1 + 2 * int(parting.steps or parting.looked / 4)
    while apart(net) <= TOGETHER and steps < most:
        optimizer.zero_grad()
        loss(net(x), y).backward()
        optimizer.step()
        steps += 1
    if parting.steps is None:
        assert steps == most
    else:
        assert 0.5 < parting.steps / steps < 2


def test_a_rate_that_was_guessed_is_said_to_be() -> None:
    report = sb.check(twice((8, 3, 2), 1e-5, 2), teacher(), loss, optimizer="adamw")
    (finding,) = [f for f in report.findings if f.code == "SB006"]
    assert "steps of adamw at 0.001 with weight decay 0.01, the usual rate, on this batch" in finding.because


@pytest.mark.parametrize("option", ["amsgrad", "maximize", "centered"])
def test_an_option_that_changes_the_step_is_not_followed(option: str) -> None:
    assert Update.of("rmsprop" if option == "centered" else "adam", 1e-3, {option: True}) is None


def test_the_model_comes_back_from_the_look() -> None:
    net = twice((8, 3, 2), 1e-5, 2)
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    checked(net, teacher(), 0.1)
    assert all(torch.equal(p, before[n]) for n, p in net.named_parameters())


# ---- what a look says ----------------------------------------------------------------------------------------------


def growing(rate: float, looked: int, start: float = 1e-6) -> Parting:
    times = [looked * i / 16 for i in range(17)]
    return judged(times, [start * math.exp(rate * t) for t in times], settled=True)


@pytest.mark.parametrize("rate", [0.01, 0.02, 0.1])
def test_steady_growth_is_exact(rate: float) -> None:
    parting = growing(rate, 400)
    assert parting.steps == pytest.approx(math.log(TOGETHER / 1e-6) / rate, rel=1e-3)
    assert parting.measured == (parting.steps < 400)


def test_what_is_too_far_or_not_steady_is_not_told() -> None:
    assert growing(0.001, 400).steps is None
    times = [float(t) for t in range(1, 101)]
    assert judged([0.0, *times], [1e-6, *(1e-6 * t**1.2 for t in times)]).steps is None  # a power law slows down


@pytest.mark.parametrize(("settled", "steps"), [(True, math.inf), (False, None)])
def test_attraction_lasts_only_once_training_has_settled(settled: bool, steps: float | None) -> None:
    times = [float(t) for t in range(50)]
    assert judged(times, [1e-4 * math.exp(-0.01 * t) for t in times], settled=settled).steps == steps
