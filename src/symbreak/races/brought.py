"""What a factory brings: a model, perhaps a batch, perhaps an objective(model, batch) that says what is minimised."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from symbreak import factories
from symbreak.errors import TargetError

Objective = Callable[[nn.Module, Any], Tensor]
ONE_AT_A_TIME = threading.RLock()
"""Held by whoever sets the global random state or a module's mode: chunks may run in threads."""


@dataclass(frozen=True, eq=False)
class Brought:
    """What one call of a factory gave.

    Example:
        >>> found = bring(lambda: (nn.Linear(2, 1), torch.zeros(4, 2), lambda net, x: net(x).mean()), "mean of a line")
        >>> found.batch.shape, callable(found.objective)
        (torch.Size([4, 2]), True)

    Source: the TARGET grammar, `symbreak check --help`.
    """

    model: nn.Module
    batch: Any = field(default=None, repr=False)
    objective: Objective | None = None


def bring(factory: Any, name: str, seed: int = 0) -> Brought:
    """Call a factory with the random states seeded, and put them back.

    Args:
        factory: text of a factory, a callable without arguments, or a module, which is taken as it is.
        name: as the user wrote it.
        seed: what the factory draws from.
    Raises:
        TargetError: it raises, or returns no model, (model, batch) or (model, batch, objective).
    """
    if isinstance(factory, nn.Module):
        return Brought(factory)
    with seeded(seed):
        found = factories.load(factory, TargetError) if isinstance(factory, str) else factory
        if isinstance(found, nn.Module):
            return Brought(found)
    with seeded(seed):  # anew, because an import happens only once and may draw
        made = factories.call(found, name, TargetError)
    parts = made if isinstance(made, tuple) else (made,)
    if not 1 <= len(parts) <= 3:
        raise TargetError(
            f"{name} returned a tuple of {len(parts)}; expected model, (model, batch) or (model, batch, objective)."
        )
    model, batch, objective = (*parts, None, None)[:3]
    if not isinstance(model, nn.Module):
        raise TargetError(f"{name} returned {type(model).__name__}; expected a torch.nn.Module.")
    if objective is not None and not callable(objective):
        raise TargetError(
            f"{name} returned {type(objective).__name__} as objective; expected objective(model, batch) -> a scalar."
        )
    return Brought(model, batch, objective)


class Minimised(nn.Module):
    """A model whose output is its objective on a batch: `functional_call` swaps the tensors inside."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: Any) -> Tensor:
        return self.objective(self.model, batch)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """A factory draws from the global random states: set them, and put them back."""
    plain, legacy = random.getstate(), np.random.get_state()
    with ONE_AT_A_TIME, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(plain)
            np.random.set_state(legacy)


@contextlib.contextmanager
def in_mode(module: nn.Module, *, train: bool) -> Iterator[None]:
    """A module and all in it in training or evaluation mode, for a while."""
    modes = [(one, one.training) for one in module.modules()]
    for one, _ in modes:
        one.training = train
    try:
        yield
    finally:
        for one, mode in modes:
            one.training = mode
