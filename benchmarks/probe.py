"""What a check costs: its time over a plain forward and backward pass in the same dtype, and its peak memory.

    python benchmarks/probe.py

Each model is measured in a process of its own. Times are minima over repeats, pass and check in the same run. Budget: a
probe step at most 3 plain passes, a whole check at most 40.
"""

from __future__ import annotations

import gc
import itertools
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import symbreak as sb

REPEATS = 3


class Block(nn.Module):
    """A residual block of two convolutions with batch norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))


class Transformer(nn.Module):
    """Patches or tokens, a pre-norm encoder, and a head on every position."""

    def __init__(self, embed: nn.Module, positions: int, width: int, depth: int, out: int, *, causal: bool) -> None:
        super().__init__()
        self.embed, self.causal = embed, causal
        self.position = nn.Parameter(0.02 * torch.randn(1, positions, width))
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Linear(width, out)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        h = (h.flatten(2).transpose(1, 2) if h.dim() == 4 else h) + self.position
        mask = nn.Transformer.generate_square_subsequent_mask(h.shape[1], dtype=h.dtype) if self.causal else None
        out: Tensor = self.head(self.body(h, mask=mask, is_causal=self.causal))
        return out


def mlp() -> tuple[nn.Module, Tensor]:
    sizes = [256, 1024, 1024, 1024]
    hidden = [m for i, o in itertools.pairwise(sizes) for m in (nn.Linear(i, o), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(1024, 10)), torch.randn(256, 256)


def resnet() -> tuple[nn.Module, Tensor]:
    stem = [nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    return nn.Sequential(*stem, *(Block(64) for _ in range(6)), *tail), torch.randn(16, 3, 32, 32)


def vit() -> tuple[nn.Module, Tensor]:
    return Transformer(nn.Conv2d(3, 192, 8, 8), 64, 192, 6, 10, causal=False), torch.randn(16, 3, 64, 64)


def gpt() -> tuple[nn.Module, Tensor]:
    return Transformer(nn.Embedding(2000, 192), 64, 192, 6, 2000, causal=True), torch.randint(0, 2000, (8, 64))


MODELS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {"MLP": mlp, "ResNet": resnet, "ViT": vit, "GPT": gpt}


def plain_pass(model: nn.Module, x: Tensor) -> float:
    """Seconds of one forward and backward pass."""
    start = time.perf_counter()
    model(x).square().mean().backward()
    seconds = time.perf_counter() - start
    model.zero_grad(set_to_none=True)
    return seconds


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(name: str) -> dict[str, float]:
    torch.manual_seed(0)
    model, x = MODELS[name]()
    sb.check(nn.Linear(2, 2), torch.randn(4, 2))  # imports are not what is measured
    size = sum(p.numel() * p.element_size() for p in model.parameters()) / 2**20
    passes, checks = [], []
    plain_pass(model, x)
    own_peak = peak_megabytes()
    for _ in range(REPEATS):
        model.double()
        wide = x.double() if x.is_floating_point() else x
        passes += [plain_pass(model, wide) for _ in range(3)]
        model.float()
        gc.collect()
        start = time.perf_counter()
        report = sb.check(model, x)
        checks.append(time.perf_counter() - start)
    plain, whole = min(passes), min(checks)
    return {
        "plain_ms": 1e3 * plain, "check_ms": 1e3 * whole, "passes": report.passes, "ratio": whole / plain,
        "per_pass": whole / plain / report.passes, "model_mb": size, "extra_mb": peak_megabytes() - own_peak,
    }  # fmt: skip


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
        return
    titles = ("plain pass", "check", "check/pass", "passes", "per pass", "model", "extra peak")
    print(f"{'model':8}" + "".join(f"{title:>12}" for title in titles))
    for name in MODELS:
        out = subprocess.run([sys.executable, __file__, name], check=True, capture_output=True, text=True).stdout
        row = json.loads(out)
        cells = (
            f"{row['plain_ms']:.0f} ms", f"{row['check_ms']:.0f} ms", f"{row['ratio']:.1f}x", f"{row['passes']:.1f}",
            f"{row['per_pass']:.2f}x", f"{row['model_mb']:.0f} MB", f"{row['extra_mb']:.0f} MB",
        )  # fmt: skip
        print(f"{name:8}" + "".join(f"{cell:>12}" for cell in cells))


if __name__ == "__main__":
    main()
