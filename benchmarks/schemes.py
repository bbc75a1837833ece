"""What filling weights costs: each scheme against torch.nn.init's own fill of the same tensors, side by side.

    python benchmarks/schemes.py [MILLIONS]

100 million parameters by default, as the linear layers of a small GPT. Both fills take turns in one process; times are
medians over the turns. Budget: at most 1.3 times torch for the plain schemes. Patterns are measured on a tenth, because
a QR decomposition of all would take minutes in either library; there both columns are for the reader, without a budget.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from symbreak.schemes import Scheme, parse

BUDGET = 1.3
TURNS = 5
BLOCK = [(3072, 1024), (1024, 1024), (4096, 1024), (1024, 4096)]  # 12.6 million: one layer of a GPT of width 1024

Fill = Callable[[Tensor, torch.Generator], object]

PLAIN: dict[str, Fill] = {
    "zeros": lambda w, g: nn.init.zeros_(w),  # noqa: ARG005 (one signature)
    "uniform(-0.05, 0.05)": lambda w, g: nn.init.uniform_(w, -0.05, 0.05, generator=g),
    "normal(0.02)": lambda w, g: nn.init.normal_(w, std=0.02, generator=g),
    "torch_default": lambda w, g: nn.init.kaiming_uniform_(w, a=math.sqrt(5), generator=g),
    "kaiming_normal": lambda w, g: nn.init.kaiming_normal_(w, generator=g),
    "xavier_uniform": lambda w, g: nn.init.xavier_uniform_(w, generator=g),
    "truncated_normal(0.02, corrected=False)": lambda w, g: nn.init.trunc_normal_(
        w, std=0.02, a=-0.04, b=0.04, generator=g
    ),
}
PATTERNS: dict[str, Fill] = {
    "identity": lambda w, g: nn.init.eye_(w),  # noqa: ARG005 (one signature)
    "orthogonal": lambda w, g: nn.init.orthogonal_(w, generator=g),
    "sparse": lambda w, g: nn.init.sparse_(w, 1 - 15 / w.shape[0], std=1.0, generator=g),
}


def weights(millions: float) -> list[Tensor]:
    """Tensors of the shapes of BLOCK, as many as it takes; every page already touched."""
    made: list[Tensor] = []
    while sum(weight.numel() for weight in made) < millions * 1e6:
        made.append(torch.zeros(BLOCK[len(made) % len(BLOCK)]))
    return made


def seconds(fill: Callable[[Tensor], object], tensors: list[Tensor]) -> float:
    started = time.perf_counter()
    for tensor in tensors:
        fill(tensor)
    return time.perf_counter() - started


def compare(scheme: Scheme, torchs: Fill, tensors: list[Tensor], turns: int) -> tuple[float, float]:
    """Median seconds of ours and of torch's, in turn."""
    generator = torch.Generator().manual_seed(0)
    ours, theirs = [], []
    for _ in range(turns):
        ours.append(seconds(lambda weight: scheme.fill_(weight, generator=generator), tensors))
        theirs.append(seconds(lambda weight: torchs(weight, generator), tensors))
    return statistics.median(ours), statistics.median(theirs)


def main() -> int:
    millions = float(sys.argv[1]) if len(sys.argv) > 1 else 100.0
    over = []
    for rows, tensors, turns in ((PLAIN, weights(millions), TURNS), (PATTERNS, weights(millions / 10)[:4], 3)):
        count = sum(tensor.numel() for tensor in tensors) / 1e6
        print(f"{count:.0f} million parameters in {len(tensors)} tensors, {torch.get_num_threads()} threads")
        print(f"{'scheme':<42}{'symbreak':>10}{'torch':>10}{'ratio':>8}")
        for text, torchs in rows.items():
            ours, theirs = compare(parse(text), torchs, tensors, turns)
            ratio = ours / theirs
            over += [text] * (rows is PLAIN and ratio > BUDGET)
            print(f"{text:<42}{ours:>9.3f}s{theirs:>9.3f}s{ratio:>8.2f}")
        print()
    print(f"over {BUDGET}: {', '.join(over) or 'none'}")
    return bool(over)


if __name__ == "__main__":
    sys.exit(main())
