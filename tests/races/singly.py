"""The optimizers of a race as torch.optim has them, for the plain loops that races are held against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

OPTIMIZERS: dict[str, Callable[[Any, float], torch.optim.Optimizer]] = {
    "sgd": lambda p, eta: torch.optim.SGD(p, lr=eta),
    "momentum": lambda p, eta: torch.optim.SGD(p, lr=eta, momentum=0.9),
    "adam": lambda p, eta: torch.optim.Adam(p, lr=eta),
    "adamw": lambda p, eta: torch.optim.AdamW(p, lr=eta),
}
