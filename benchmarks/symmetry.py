"""Refinement against the size of the network, training of a quotient against training of the full network:
`python benchmarks/symmetry.py [LARGEST]`.

Refinement: chains of two square layers between thin ones, whose units are copied four times and shuffled, so that the
classes are known. Prints seconds, passes over the weights, memory beside them, and the exponent by which time grows
with the number of weights.

Quotient: a network of width 4096 all of whose weights are one number, 64-4096-4096-10, and its quotient, trained by
AdamW on the same batches, in turns, after a warm-up. Prints the ratio of the medians and how far the losses are apart.
"""

from __future__ import annotations

import math
import sys
import time
import tracemalloc
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


def train() -> None:
    net, (x, y) = constant_net(), batch()
    loss = nn.CrossEntropyLoss()
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
    print(f"\nwidth {WIDTH}, all weights {1 / WIDTH}: {q.size[0]:,} of {q.size[1]:,} parameters, made in {made:.1f} s")
    print(f"a step of AdamW: {full * 1e3:.1f} ms full, {small * 1e3:.2f} ms as its quotient: {full / small:,.0f} times")
    net, x = constant_net().double(), x.double()
    q = sb.quotient(net, batch=(x, y), loss=loss)
    sides = [(m, torch.optim.AdamW(m.parameters(), 1e-3)) for m in (net, q.model)]
    pairs = [[step(m, o, x, y) for m, o in sides] for _ in range(4)]
    print(f"losses in float64: apart by {max(abs(a - b) for a, b in pairs):.1e} at most in {len(pairs)} steps")


def constant_net() -> nn.Module:
    net = nn.Sequential(nn.Linear(64, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 10))
    for p in net.parameters():
        nn.init.constant_(p, 1 / WIDTH)
    return net


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
    train()


if __name__ == "__main__":
    main()
