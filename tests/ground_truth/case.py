"""What one row of the ground truth looks like, and the few helpers that all rows share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TypeAlias

import torch
from torch import Tensor, nn

Batch: TypeAlias = Tensor | tuple[Tensor, Tensor] | dict[str, Tensor]
Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]

HEALTHY = frozenset({"healthy"})
DEGRADED = frozenset({"degraded"})
REDUNDANT = frozenset({"redundant"})
STUCK = frozenset({"stuck"})
TRAINS = HEALTHY | DEGRADED


@dataclass(frozen=True)
class Case:
    """A small model, its data, and what is true of its start.

    Attributes:
        ladder: parameter name or pattern -> first optimizer step (from 1) with a nonzero gradient, None for never.
            The first pattern that fits a name decides. An empty ladder claims nothing.
        verdict: the verdicts that are right.
        codes: rules that must speak; "SB101|SB102" asks for one of the two.
        absent: rules that must be silent.
        widths: layer -> (units that are distinct for ever, units).
        tied: pattern -> how many of the tensors it fits stay equal to another of them;
            where it fits one tensor, how many of its rows.
        floor: gradients below this share of the largest one are rounding noise.
    """

    name: str
    build: Callable[[], nn.Module]
    batch: Batch
    loss: Loss | None
    ladder: Mapping[str, int | None]
    verdict: frozenset[str] = HEALTHY
    codes: frozenset[str] = frozenset()
    absent: frozenset[str] = frozenset()
    widths: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    tied: Mapping[str, int] = field(default_factory=dict)
    floor: float = 1e-12

    def model(self, seed: int = 0) -> nn.Module:
        """The same model for the same seed, whatever random numbers were drawn before."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.build().train()

    def expected_step(self, name: str) -> int | None:
        for pattern, step in self.ladder.items():
            if fnmatchcase(name, pattern):
                return step
        raise LookupError(f"no pattern of case {self.name!r} fits parameter {name!r}")

    def __repr__(self) -> str:
        return self.name


def codes(*names: str) -> frozenset[str]:
    return frozenset(names)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def integers(high: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def regression(features: int, targets: int = 2, samples: int = 32) -> tuple[Tensor, Tensor]:
    return normal(samples, features, seed=1), normal(samples, targets, seed=2)


def classification(features: int, classes: int = 3, samples: int = 32) -> tuple[Tensor, Tensor]:
    return normal(samples, features, seed=1), integers(classes, samples, seed=2)


def images(targets: int, channels: int = 3, size: int = 6, samples: int = 16) -> tuple[Tensor, Tensor]:
    return normal(samples, channels, size, size, seed=1), normal(samples, targets, seed=2)


def sequences(features: int, targets: int, length: int = 5, samples: int = 16) -> tuple[Tensor, Tensor]:
    """One target a sequence."""
    return normal(samples, length, features, seed=1), normal(samples, targets, seed=2)


@torch.no_grad()
def fill_(value: float, *owners: nn.Module | Tensor) -> None:
    for owner in owners:
        tensors: Iterable[Tensor] = owner.parameters() if isinstance(owner, nn.Module) else (owner,)
        for tensor in tensors:
            tensor.fill_(value)


def zero_(*owners: nn.Module | Tensor) -> None:
    fill_(0.0, *owners)


def frozen(module: nn.Module) -> nn.Module:
    return module.requires_grad_(False)


mse: Loss = nn.functional.mse_loss
cross_entropy: Loss = nn.functional.cross_entropy
binary_cross_entropy: Loss = nn.functional.binary_cross_entropy_with_logits
