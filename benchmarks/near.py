"""How long near copies stay together, forecast against training: `python -m benchmarks.near [--optimizer NAME]`.

Each net has one unit twice, `distance` apart. The forecast is SB006's (symbreak/probe/near.py), from at most 30 passes.
The truth is training in float64 by torch's own optimizer on the same batch, and, for comparison, on mini-batches of 64.
The exit code is 1 where a forecast is wrong.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from torch import Tensor, nn

import symbreak as sb
from symbreak.records import Parting
from symbreak.thresholds import TOGETHER

Data = tuple[Tensor, Tensor, Callable[[Tensor, Tensor], Tensor]]


def digits(n: int = 256) -> Data:
    found = load_digits()
    x = torch.tensor(found.data[:n])
    return (x - x.mean()) / x.std(), torch.tensor(found.target[:n]), F.cross_entropy


def cancer(n: int = 256) -> Data:
    found = load_breast_cancer()
    x = torch.tensor(found.data[:n])
    return (x - x.mean(0)) / x.std(0), torch.tensor(found.target[:n]), F.cross_entropy


def diabetes(n: int = 442) -> Data:
    found = load_diabetes()
    x, y = torch.tensor(found.data[:n]), torch.tensor(found.target[:n])[:, None]
    return x / x.std(0), (y - y.mean()) / y.std(), F.mse_loss


def teacher(n: int = 256, units: int = 4) -> Data:
    """What `units` tanh units make of normal numbers."""
    g = torch.Generator().manual_seed(5)
    x, w, v = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((n, 8), (8, units), (units, 2)))
    return x, torch.tanh(x @ w) @ v, F.mse_loss


@dataclass(frozen=True)
class Setting:
    name: str
    data: Callable[[], Data]
    activation: type[nn.Module]
    hidden: tuple[int, ...]
    distance: float
    rate: float
    seed: int = 1


def build(s: Setting) -> tuple[nn.Sequential, Data]:
    """A net whose first two units are near copies, in and out."""
    x, y, loss = s.data()
    outputs = int(y.max()) + 1 if not y.is_floating_point() else y.shape[1]
    torch.manual_seed(s.seed)
    sizes = [x.shape[1], *s.hidden]
    parts = [m for i, o in itertools.pairwise(sizes) for m in (nn.Linear(i, o), s.activation())]
    net = nn.Sequential(*parts, nn.Linear(sizes[-1], outputs)).double()
    with torch.no_grad():
        w, b, out = net.get_parameter("0.weight"), net.get_parameter("0.bias"), net.get_parameter("2.weight")
        noise = torch.randn(w.shape[1], dtype=torch.float64)
        w[1] = w[0] + s.distance * w[0].norm() * noise / noise.norm()
        b[1], out[:, 1] = b[0], out[:, 0]
    return net, (x, y, loss)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "momentum": partial(torch.optim.SGD, momentum=0.9),
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
}
USUAL = (1e-3, 1e-2)  # rates of those that divide by the gradient's size; the settings' own are gradient descent's


def trained(
    net: nn.Module, data: Data, optimizer: torch.optim.Optimizer, most: int, batch: int | None = None
) -> tuple[int | None, float]:
    """The step at which the copies are further apart than TOGETHER; None after `most`, and the growth until then."""
    x, y, loss = data
    g = torch.Generator().manual_seed(7)
    start = now = apart(net)
    for step in range(1, most + 1):
        rows = slice(None) if batch is None else torch.randint(len(x), (batch,), generator=g)
        optimizer.zero_grad()
        loss(net(x[rows]), y[rows]).backward()
        optimizer.step()
        now = apart(net)
        if now > TOGETHER:
            return step, now / start
    return None, now / start


def apart(net: nn.Module) -> float:
    w = net.get_parameter("0.weight").detach()
    return float((w[0] - w[1]).norm() / w[:2].norm(dim=1).max())


def forecast(net: nn.Module, data: Data, optimizer: torch.optim.Optimizer) -> Parting | None:
    x, y, loss = data
    trace = sb.check(net, (x, y), loss, optimizer=optimizer).trace
    return next((s.parting for s in trace.slices if s.near and s.side == "out"), None)


def settings(optimizer: str) -> Iterator[Setting]:
    """Every net with every rate, once; momentum's rates are a tenth, since its steps add up to ten."""
    found = list(_settings())
    if optimizer == "momentum":
        found = [replace(s, rate=s.rate / 10) for s in found]
    elif optimizer != "sgd":
        found = [replace(s, rate=rate) for s in found for rate in USUAL]
    return iter(dict.fromkeys(found))


def _settings() -> Iterator[Setting]:
    wide = [("digits", digits), ("cancer", cancer), ("diabetes", diabetes), ("teacher", teacher)]
    for rate, distance, (name, data), activation in itertools.product(
        (0.1, 0.5), (5e-4, 1e-6), wide, (nn.Tanh, nn.ReLU)
    ):
        yield Setting(name, data, activation, (12,), distance, rate)
    for seed, distance, (name, data) in itertools.product((2, 3), (5e-4, 1e-5), wide):  # too few units to spare one
        yield Setting(name, data, nn.Tanh, (3,), distance, 0.5, seed)
        yield Setting(name, data, nn.GELU, (8, 8), distance, 0.5, seed)
    for seed, distance, rate, units in itertools.product((2, 3), (5e-4, 5e-5), (0.05, 0.2), (2, 3)):
        yield Setting("digits", digits, nn.Tanh, (units,), distance, rate, seed)
        yield Setting("teacher", teacher, nn.Tanh, (units,), distance, rate, seed)


def verdict(p: Parting, truth: int | None, growth: float, most: int) -> str:
    """Right: within a factor of two of a number; not before what was looked at; closer than at first for ever."""
    if p.steps is None:
        return "right" if truth is None or truth > p.looked / 2 else "WRONG"
    if p.steps == float("inf"):
        return "right" if truth is None and growth < 2 else "WRONG"
    if truth is None:
        return "open" if p.steps > most / 2 else "WRONG"
    return "right" if 0.5 <= p.steps / truth <= 2 else "WRONG"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.near", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="sgd")
    parser.add_argument("--most", type=int, default=4000, metavar="STEPS")
    options = parser.parse_args()
    torch.set_num_threads(1)
    seen: Counter[str] = Counter()
    print(f"{'net':34} {'distance':>8} {'rate':>5} {'forecast':>24} {'training':>20} {'mini-batches':>20}")
    make = OPTIMIZERS[options.optimizer]
    for s in settings(options.optimizer):
        net, data = build(s)
        p = forecast(net, data, make(net.parameters(), lr=s.rate))
        if p is None:
            continue  # their gradients differ by more than weights that are this close
        said = f"> {p.looked:.0f}" if p.steps is None else f"{'about' if p.measured else 'maybe'} {p.steps:.0f}"
        truth, growth = trained(net, data, make(net.parameters(), lr=s.rate), options.most)
        net, _ = build(s)
        noisy, noisy_growth = trained(net, data, make(net.parameters(), lr=s.rate), options.most, 64)
        told = [f"{t}" if t else f"> {options.most} (x{g:.2g})" for t, g in ((truth, growth), (noisy, noisy_growth))]
        seen[outcome := verdict(p, truth, growth, options.most)] += 1
        name = f"{s.name} {s.activation.__name__} {'-'.join(map(str, s.hidden))}"
        print(
            f"{name:34} {s.distance:8.0e} {s.rate:5} {said:>14} (x{p.growth:6.2g}) {told[0]:>20} {told[1]:>20}  "
            f"{outcome}",
            flush=True,
        )
    print(f"{options.optimizer}: " + ", ".join(f"{n} {outcome}" for outcome, n in seen.items()))
    return 1 if seen["WRONG"] else 0


if __name__ == "__main__":
    sys.exit(main())
