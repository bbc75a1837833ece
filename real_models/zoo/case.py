"""An entry of the list: how to build a model, what to feed it, and what it minimises where it has its own loss."""

import importlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from real_models.shim import stand_in_for_torchvision
from real_models.zoo.draw import Draw

Build = Callable[[], nn.Module]
Objective = Callable[[nn.Module, Any], Tensor]


@dataclass(frozen=True)
class Entry:
    build: Build
    batch: Draw
    objective: Objective | None = None


@dataclass(frozen=True)
class Case:
    """A model at its initial weights, ready for `symbreak.check(case.model, case.batch, objective=case.objective)`."""

    name: str
    model: nn.Module
    batch: Any
    objective: Objective | None
    entry: Entry

    def draw(self, seed: int) -> Any:
        """A fresh batch of the same kind; `batch` is `draw(0)`."""
        return draw(self.entry, seed)

    def forward(self, batch: Any) -> Any:
        """The model's output on a batch, in whichever of the three forms the batch has."""
        if isinstance(batch, dict):
            return self.model(**batch)
        if isinstance(batch, tuple):
            return self.model(*batch[0])
        return self.model(batch)


ENTRIES: dict[str, Entry] = {}


def add(name: str, build: Build, batch: Draw, objective: Objective | None = None) -> None:
    """Put an entry on the list."""
    assert name not in ENTRIES, f"{name} is on the list twice"
    ENTRIES[name] = Entry(build, batch, objective)


def build(name: str, seed: int = 0, *, entries: Mapping[str, Entry] = ENTRIES) -> Case:
    """Build an entry from a seed: the same seed gives the same weights and the same batches."""
    entry = entries[name]
    stand_in_for_torchvision()
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    model = entry.build()
    model.train()
    return Case(name, model, draw(entry, seed), entry.objective, entry)


def draw(entry: Entry, seed: int) -> Any:
    return entry.batch(torch.Generator().manual_seed(seed))


def load(module: str) -> Any:
    """Import a library at the moment a model of it is built, never before."""
    stand_in_for_torchvision()
    return importlib.import_module(module)


def words(text: str) -> list[str]:
    return text.split()


def library(name: str) -> str:
    """The part of a name before the first dot: entries of one library share the cost of importing it."""
    return name.split(".", 1)[0]
