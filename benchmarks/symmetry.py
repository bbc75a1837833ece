"""Refinement against the size of the network, training of a quotient against training of the full network:
`python benchmarks/symmetry.py [LARGEST]`.

Refinement: chains of two square layers between thin ones, whose units are copied four times and shuffled, so that the
classes are known. Prints seconds, passes over the weights, memory beside them, and the exponent by which time grows
with the number of weights.

Quotient: a network of width 4096 all of whose weights are one number, 64-4096-4096-10, and its quotient, trained by
AdamW on the same batches, in turns, after a warm-up. Prints the ratio of the medians and how far the losses are apart.
The same for a Transformer layer of width 256 and a residual block of grouped convolutions with group norm, whose
units, heads and groups are each there four times.
"""

from __future__ import annotations

import math
import sys
import time
import tracemalloc
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

import symbreak as sb
from symbreak.symmetry import Network, chain
from symbreak.symmetry.refine import refinement

COPIES, WIDTH, STEPS = 4, 4096, 12


def net_of(weights: float) -> Network:
    rng = np.random.default_rng(0)
    width = COPIES * round(math.sqrt(weights / 2) / COPIES)
    which = [rng.permutation(np.repeat(np.arange(width // COPIES), COPIES)) for _ in range(3)]
    square = (width // COPIES, width // COPIES)
    first, last = rng.standard_normal((width // COPIES, 16)), rng.standard_normal((16, width // COPIES))
    inner = [rng.standard_normal(square)[np.ix_(o, i)] for i, o in pairwise(which)]
    return chain([first[which[0]], *inner, last[:, which[2]]])


def refine(largest: float) -> None:
    rows: list[tuple[int, float]] = []
    titles = f"{'weights':>12}{'classes':>9}{'of units':>9}{'rounds':>8}{'passes':>8}{'seconds':>10}"
    print(f"{titles}{'MB weights':>12}{'MB beside':>11}")
    for power in range(5, round(math.log10(largest)) + 1):
        net = net_of(10.0**power)
        count = sum(b.weight.size for b in net.blocks)
        start = time.perf_counter()
        found = refinement(net)
        seconds = time.perf_counter() - start
        tracemalloc.start()
        refinement(net)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        hidden = [found.partition[s] for s in net.sizes if s not in net.told_apart]
        classes, units = sum(int(c.max()) + 1 for c in hidden), sum(len(c) for c in hidden)
        assert classes * COPIES == units, "a class was missed"
        rows.append((count, seconds))
        print(
            f"{count:>12,}{classes:>9}{units:>9}{found.rounds:>8}{found.passes:>8.2f}{seconds:>10.3f}"
            f"{count * 8 / 2**20:>12.0f}{peak / 2**20:>11.0f}",
            flush=True,
        )
    if len(rows) > 1:
        sizes, times = np.log(np.array(rows)).T
        print(f"time grows as weights^{np.polyfit(sizes, times, 1)[0]:.2f}")


def train(name: str, make: Callable[[], nn.Module], x: Tensor, y: Tensor) -> None:
    net, loss = make(), nn.CrossEntropyLoss()
    start = time.perf_counter()
    q = sb.quotient(net, batch=(x, y), loss=loss)
    made = time.perf_counter() - start
    sides = [(m, torch.optim.AdamW(m.parameters(), 1e-3)) for m in (net, q.model)]
    seconds: list[list[float]] = [[], []]
    for _ in range(STEPS):
        for (model, optimizer), times in zip(sides, seconds, strict=True):
            start = time.perf_counter()
            step(model, optimizer, x, y)
            times.append(time.perf_counter() - start)
    full, small = (float(np.median(t[2:])) for t in seconds)
    print(f"\n{name}: {q.size[0]:,} of {q.size[1]:,} parameters, made in {made:.1f} s")
    for space, why in q.kept.items():
        print(f"  kept whole: {space} ({why})")
    print(f"a step of AdamW: {full * 1e3:.1f} ms full, {small * 1e3:.2f} ms as its quotient: {full / small:,.1f} times")
    net, x = make().double(), x.double()
    q = sb.quotient(net, batch=(x, y), loss=loss)
    sides = [(m, torch.optim.AdamW(m.parameters(), 1e-3)) for m in (net, q.model)]
    pairs = [[step(m, o, x, y) for m, o in sides] for _ in range(4)]
    print(f"losses in float64: apart by {max(abs(a - b) for a, b in pairs):.1e} at most in {len(pairs)} steps")


def constant_net() -> nn.Module:
    net = nn.Sequential(nn.Linear(64, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 10))
    for p in net.parameters():
        nn.init.constant_(p, 1 / WIDTH)
    return net


@torch.no_grad()
def copied(net: nn.Module, *tensors: tuple[Tensor, tuple[int, ...], int]) -> nn.Module:
    """The first entries along some axes COPIES times in a row; the first axis may have several such parts."""
    for tensor, axes, parts in tensors:
        for axis in axes:
            for part in tensor.chunk(1 if axis else parts, axis):
                few = part.narrow(axis, 0, part.shape[axis] // COPIES).clone()
                part.copy_(torch.cat([few] * COPIES, axis))
    return net


class Tokens(nn.Module):
    """Pixels as 16 tokens of 4, a Transformer layer of 8 heads, a mean over tokens."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.read, self.write = nn.Linear(4, width), nn.Linear(width, 10)
        self.layer = nn.TransformerEncoderLayer(width, 8, 4 * width, dropout=0.0, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.write(self.layer(self.read(x.unflatten(1, (16, 4)))).mean(1))
        return found

    def copied(self) -> nn.Module:
        layer, mix = self.layer, self.layer.self_attn
        return copied(
            self, (self.read.weight, (0,), 1), (self.read.bias, (0,), 1), (self.write.weight, (1,), 1),
            (mix.in_proj_weight, (0, 1), 3), (mix.in_proj_bias, (0,), 3), (mix.out_proj.weight, (0, 1), 1),
            (layer.linear1.weight, (0, 1), 1), (layer.linear1.bias, (0,), 1), (layer.linear2.weight, (0, 1), 1),
            (layer.linear2.bias, (0,), 1),
        )  # fmt: skip


class Pixels(nn.Module):
    """A picture of 8 x 8, convolutions in groups and group norms."""

    def __init__(self, width: int = 128, groups: int = 16) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.read, self.norm = nn.Conv2d(1, width, 3, padding=1, bias=False), nn.GroupNorm(groups, width)
        self.mix = nn.Conv2d(width, width, 3, padding=1, groups=groups)
        self.own, self.write = nn.Conv2d(width, width, 3, padding=1, groups=width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.norm(self.read(x.unflatten(1, (1, 8, 8)))))
        h = h + torch.relu(self.mix(h))
        found: Tensor = self.write(torch.relu(self.own(h)).mean((2, 3)))
        return found

    def copied(self) -> nn.Module:
        return copied(
            self, (self.read.weight, (0,), 1), (self.mix.weight, (0,), 1), (self.mix.bias, (0,), 1),
            (self.own.weight, (0,), 1), (self.own.bias, (0,), 1), (self.write.weight, (1,), 1),
        )  # fmt: skip


def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(128, 64), torch.randint(0, 10, (128,))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> float:
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return loss.item()


def main() -> None:
    refine(float(sys.argv[1]) if len(sys.argv) > 1 else 1e7)
    train(f"width {WIDTH}, all weights {1 / WIDTH}", constant_net, *batch())
    train("a Transformer layer of width 256", lambda: Tokens().copied(), *batch())
    train("128 channels in 16 groups", lambda: Pixels().copied(), *batch())


if __name__ == "__main__":
    main()
