"""The update rules of torch.optim, for many models stacked along a first axis, each with a learning rate of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from symbreak.errors import nearest
from symbreak.races.errors import RaceError

Name = Literal["sgd", "momentum", "adam", "adamw"]
NAMES: tuple[Name, ...] = ("sgd", "momentum", "adam", "adamw")
USUAL_ETA: dict[str, float] = {"sgd": 0.1, "momentum": 0.01, "adam": 1e-3, "adamw": 1e-3}
MOMENTUM, BETA1, BETA2, EPS, DECAY = 0.9, 0.9, 0.999, 1e-8, 0.01
COPIES = {"sgd": 0, "momentum": 1, "adam": 2, "adamw": 2}
"""Tensors as large as the weights that each rule keeps."""


class Rule:
    """Moves stacked tensors [m, ...] in place by their gradients.

    Example:
        >>> weights = [torch.ones(2, 1)]
        >>> Rule("sgd", weights).step([torch.ones(2, 1)], torch.tensor([0.1, 0.5]))
        >>> weights[0].flatten()
        tensor([0.9000, 0.5000])

    Source: torch.optim.SGD, Adam and AdamW, whose defaults these are.
    """

    def __init__(self, name: str, parameters: Sequence[Tensor]) -> None:
        self.name, self.parameters, self.t = name, list(parameters), 0
        self.kept = [[torch.zeros_like(p) for p in self.parameters] for _ in range(COPIES[name])]

    def step(self, gradients: Sequence[Tensor], eta: Tensor) -> None:
        """One step; eta [m]."""
        self.t += 1
        for number, (p, g) in enumerate(zip(self.parameters, gradients, strict=True)):
            rate = eta.to(p.dtype).reshape(-1, *[1] * (p.ndim - 1))
            if self.name == "sgd":
                p.addcmul_(g, rate, value=-1)
            elif self.name == "momentum":
                p.addcmul_(self.kept[0][number].mul_(MOMENTUM).add_(g), rate, value=-1)
            else:
                if self.name == "adamw":
                    p.mul_(1 - DECAY * rate)
                mean, square = self.kept[0][number], self.kept[1][number]
                mean.lerp_(g, 1 - BETA1)
                square.mul_(BETA2).addcmul_(g, g, value=1 - BETA2)
                root = math.sqrt(1 - BETA2**self.t)  # both corrections in two numbers, not in two more passes
                denominator = square.sqrt().add_(EPS * root)
                p.sub_(rate * (root / (1 - BETA1**self.t)) * mean / denominator)

    def keep(self, rows: Tensor, parameters: Sequence[Tensor]) -> None:
        """Go on with some of the models; `parameters` are theirs."""
        self.parameters = list(parameters)
        self.kept = [[one[rows] for one in group] for group in self.kept]


Schedule = Callable[[float], float]
SCHEDULES: dict[str, Schedule] = {
    "constant": lambda t: 1.0,  # noqa: ARG005 (one signature)
    "linear": lambda t: 1.0 - t,
    "cosine": lambda t: 0.5 * (1.0 + math.cos(math.pi * t)),
    "warmup": lambda t: min(1.0, 10.0 * t + 1e-3),
}
"""Factor on eta against the share of the steps done: "warmup" rises over the first tenth."""


def schedule_of(given: Any) -> tuple[str, Schedule]:
    """A schedule by name, or factor(share of the steps done) -> number.

    Raises:
        RaceError: neither.
    Example:
        >>> schedule_of("linear")[1](0.25)
        0.75
    """
    if callable(given):
        return getattr(given, "__qualname__", repr(given)), given
    if given not in SCHEDULES:
        raise RaceError(f"no schedule is called {given!r}. {nearest(str(given), SCHEDULES)} Or factor(share done).")
    return given, SCHEDULES[given]


def optimizer_of(given: Any) -> str:
    """A known optimizer's name.

    Raises:
        RaceError: any other.
    Example:
        >>> optimizer_of("adam")
        'adam'
    """
    if given not in NAMES:
        raise RaceError(f"no optimizer {given!r} can be raced. {nearest(str(given), NAMES)}")
    return str(given)
