"""An example of a rule: a function that builds what `check` takes, the same at every call."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from torch import nn

Start: TypeAlias = "tuple[nn.Module, Any, Callable[..., Any] | None]"
"""(model, batch, loss)"""
Example: TypeAlias = Callable[[], Start]
Pair: TypeAlias = tuple[Example, Example]
"""Where the rule fires, and the same model repaired."""


def seeded(build: Example) -> Example:
    """Build from seed 0 and leave the caller's random numbers as they were."""

    @functools.wraps(build)
    def example() -> Start:
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return build()

    return example
