"""Refinement against the size of the network: `python benchmarks/symmetry.py [LARGEST]`.

Chains of two square layers between thin ones, whose units are copied four times and shuffled, so that the classes are
known. Prints seconds, memory and the exponent by which time grows with the number of weights.
"""

from __future__ import annotations

import math
import sys
import time
import tracemalloc
from itertools import pairwise

import numpy as np

from symbreak.symmetry import Network, chain, coarsest

COPIES = 4


def net_of(weights: float) -> Network:
    rng = np.random.default_rng(0)
    width = COPIES * round(math.sqrt(weights / 2) / COPIES)
    which = [rng.permutation(np.repeat(np.arange(width // COPIES), COPIES)) for _ in range(3)]
    square = (width // COPIES, width // COPIES)
    first, last = rng.standard_normal((width // COPIES, 16)), rng.standard_normal((16, width // COPIES))
    inner = [rng.standard_normal(square)[np.ix_(o, i)] for i, o in pairwise(which)]
    return chain([first[which[0]], *inner, last[:, which[2]]])


def main() -> None:
    largest = float(sys.argv[1]) if len(sys.argv) > 1 else 1e7
    rows: list[tuple[int, float]] = []
    print(f"{'weights':>12}{'classes':>9}{'of units':>9}{'seconds':>10}{'MB weights':>12}{'MB beside':>11}")
    for power in range(5, round(math.log10(largest)) + 1):
        net = net_of(10.0**power)
        count = sum(b.weight.size for b in net.blocks)
        start = time.perf_counter()
        classes = coarsest(net)
        seconds = time.perf_counter() - start
        tracemalloc.start()
        coarsest(net)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        hidden = [classes[s] for s in net.sizes if s not in net.told_apart]
        found, units = sum(int(c.max()) + 1 for c in hidden), sum(len(c) for c in hidden)
        assert found * COPIES == units, "a class was missed"
        rows.append((count, seconds))
        print(
            f"{count:>12,}{found:>9}{units:>9}{seconds:>10.3f}{count * 8 / 2**20:>12.0f}{peak / 2**20:>11.0f}",
            flush=True,
        )
    if len(rows) > 1:
        sizes, times = np.log(np.array(rows)).T
        print(f"time grows as weights^{np.polyfit(sizes, times, 1)[0]:.2f}")


if __name__ == "__main__":
    main()
