"""What `provenance` costs: building, loading and training steps with and without it, in one process, in turn.

    python benchmarks/provenance.py

The model is a transformer encoder of 100 million parameters. Each line: the median of seven turns without and with the
block, their ratio, and what one operation costs more.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import symbreak as sb

TURNS = 7


class Counter(TorchDispatchMode):
    """How many operations there are."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += 1
        return func(*args, **(kwargs or {}))


def large() -> nn.Module:
    """Fourteen layers of 7.1 million parameters, each drawn on its own."""
    return nn.Sequential(*(nn.TransformerEncoderLayer(768, 12, 3072, batch_first=True) for _ in range(14)))


def many() -> nn.Module:
    """A thousand small layers: the worst case, where an operation does next to nothing."""
    return nn.Sequential(*(nn.Linear(8, 8) for _ in range(1000)))


def seconds(work: Callable[[], object], watched: bool) -> float:
    block = sb.provenance() if watched else contextlib.nullcontext()
    started = time.perf_counter()
    with block:
        work()
    return time.perf_counter() - started


def compare(name: str, work: Callable[[], object]) -> None:
    with Counter() as counter:
        work()
    times = [(seconds(work, False), seconds(work, True)) for _ in range(TURNS)]
    plain, watched = (statistics.median(column) for column in zip(*times, strict=True))
    each = 1e6 * (watched - plain) / counter.count
    print(
        f"{name:42} {plain:8.3f} s  {watched:8.3f} s  x{watched / plain:5.2f}  "
        f"{counter.count:6} operations, {each:5.0f} us each"
    )


def main() -> None:
    net = large()
    print(f"{sum(p.numel() for p in net.parameters()) / 1e6:.0f} million parameters, {torch.get_num_threads()} threads")
    compare("build it", large)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pt"
        torch.save(net.state_dict(), path)
        compare("torch.load and load_state_dict", lambda: net.load_state_dict(torch.load(path)))
    compare("build 1000 layers of 8 x 8", many)
    x, small = torch.randn(8, 8), many()
    compare("forward and backward of those", lambda: small(x).sum().backward())


if __name__ == "__main__":
    main()
