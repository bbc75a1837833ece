"""The unit graph of a model: its spaces of units, the weights between them, and which axis of which tensor holds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from .units import Network


@dataclass(frozen=True)
class Axis:
    """What one axis of a parameter or buffer runs over.

    Attributes:
        spaces: spaces laid end to end along the axis (a fused qkv has several); () where it is not units (kernel taps).
        repeat: consecutive entries that belong to one unit (flattened h*w behind a convolution).
    """

    spaces: tuple[str, ...]
    repeat: int = 1


@dataclass(frozen=True)
class UnitGraph:
    """A network of units read off a model.

    Attributes:
        network: what refinement and certificates read.
        axes: parameter or buffer -> its axes.
        breakers: what tears classes apart although the weights do not, as `certificate.KEPT_FROM` names it.
        cut: space, tensor or module that is not understood -> why; empty where the graph is whole.
    """

    network: Network
    axes: Mapping[str, tuple[Axis, ...]]
    breakers: tuple[str, ...] = ()
    cut: Mapping[str, str] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """True where nothing was cut out, so that a class of the network is a proved class of the model."""
        return not self.cut


def unit_graph(
    model: nn.Module,
    batch: Any = None,
    loss: Callable[..., Tensor] | None = None,
    objective: Callable[..., Tensor] | None = None,
    *,
    seed: int = 0,
) -> UnitGraph:
    """The unit graph of a model: being written."""
    raise NotImplementedError
