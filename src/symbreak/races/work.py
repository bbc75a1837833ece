"""One race as a value: what is trained on what and how. It travels to workers; its summary is what a store is for."""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from symbreak._version import __version__
from symbreak.races.grid import Cell
from symbreak.races.optimizers import Schedule
from symbreak.races.samples import Split, Whole
from symbreak.races.scores import Score
from symbreak.races.subjects import Subject


@dataclass(frozen=True)
class Setup:
    """Everything that the outcome of a cell depends on, as plain values. Two runs of one setup and cell are one run."""

    target: str
    model: str  # fingerprint
    data: str
    data_sha256: str
    loss: str
    metric: str
    optimizer: str
    schedule: str
    steps: int
    batch_size: int
    points: tuple[int, ...]
    held_out: float
    data_seed: int
    goal: float | None
    chance: float | None
    looked: bool  # whether every run says how its start wakes and how wide it is
    symbreak: str = __version__
    torch: str = torch.__version__
    numpy: str = np.__version__

    def to_json(self) -> str:
        """One line of JSON, keys in order."""
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> Setup:
        """What `to_json` wrote."""
        found = json.loads(text)
        return Setup(**{**found, "points": tuple(found["points"])})

    @property
    def key(self) -> str:
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Run:
    """What one run came to, at the steps of the setup's `points`.

    loss and metric are measured on the training rows, held_loss and held_metric on the held-out ones; NaN behind
    the point where it diverged. grad_norm is the L2 norm of the first step's gradient, or of its closed form.

    wakeup is, of each tensor, the first step (from 1) at which it has a gradient, None where a look of a few steps saw
    none; width is, of each hidden layer, (distinct units, units). Both are empty where nobody looked.
    """

    cell: Cell
    loss: tuple[float, ...]
    metric: tuple[float, ...]
    held_loss: tuple[float, ...]
    held_metric: tuple[float, ...]
    grad_norm: float
    diverged_at: int | None
    engine: str  # "batched", "quotient", "one by one", "exact"
    note: str = ""
    wakeup: dict[str, int | None] = field(default_factory=dict)
    width: dict[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Work:
    """A setup with the objects behind it."""

    setup: Setup
    subject: Subject = field(repr=False)
    split: Split | Whole = field(repr=False)
    score: Score = field(repr=False)
    schedule: Schedule = field(repr=False)
    threads: int | None = None
    compile: bool | None = None
    race: str = field(default_factory=lambda: uuid.uuid4().hex)  # the same in every worker

    @property
    def table(self) -> Split:
        """The split; only a model that brings its own batch has none."""
        assert isinstance(self.split, Split)
        return self.split

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if self.setup.schedule in _named():  # lambdas of ours do not pickle; their name does
            state["schedule"] = None
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, given in state.items():
            object.__setattr__(self, name, given)
        if self.schedule is None:
            object.__setattr__(self, "schedule", _named()[self.setup.schedule])


def _named() -> dict[str, Schedule]:
    from symbreak.races.optimizers import SCHEDULES

    return SCHEDULES
