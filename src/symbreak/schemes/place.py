"""Where a tensor stands in its model: all that a formula may read besides the shape."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from symbreak.errors import SchemeError
from symbreak.schemes.fans import Fans, Layout

if TYPE_CHECKING:
    from torch import Tensor

Role = Literal[
    "weight",  # between units: linear, convolution
    "bias",
    "gain",  # of a norm
    "gate",  # a scalar or vector that multiplies a branch: ReZero, LayerScale, tanh gates
    "embedding",  # a table [row, d] that is looked up
    "recurrent",  # hidden to hidden
    "recurrent_bias",  # the second of the two biases torch's recurrent layers add
    "query_key", "value", "query_key_value", "attention_out",  # of attention; the third is all in one weight
    "feed_forward",
    "adapter_in", "adapter_out",  # A and B of LoRA
    "router",
    "slope",  # of PReLU
    "unknown",  # a bare parameter: only the model's own code knows
]  # fmt: skip
Position = Literal["first", "hidden", "last"]
BIASES = ("bias", "recurrent_bias")
VECTORS = (*BIASES, "gain", "gate")

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a tensor stands. Everything has a default; a scheme says which fact it misses.

    Args:
        shape: of the tensor; filled in when it is drawn.
        fans: of its layer, where neither shape nor layout says (a bias, a bilinear form).
        layout: how the axes are to be read.
        role: what it does there.
        position: first layer, last layer, or between.
        layer: its layer or block, counted from 1.
        depth: how many there are.
        branches: residual branches of the whole network.
        branch_layers: weight layers in its residual branch.
        in_branch: whether it lies inside a residual branch.
        branch_end: whether it is the last weight, or the last norm, of its residual branch.
        side: encoder or decoder, where the model has both.
        base: fans of the same tensor in the model whose learning rate was tuned (muP).
        padding: row of an embedding that stays zero.
    Example:
        >>> Place(shape=(32, 1, 3, 3), layout=Layout(groups=32)).fan_out
        9

    Source: the formulas of the catalogue; nothing is here that none of them reads.
    """

    shape: tuple[int, ...] = ()
    fans: Fans | None = None
    layout: Layout = field(default=Layout())
    role: Role = "weight"
    position: Position = "hidden"
    layer: int | None = None
    depth: int | None = None
    branches: int | None = None
    branch_layers: int | None = None
    in_branch: bool = False
    branch_end: bool = False
    side: Literal["encoder", "decoder"] | None = None
    base: Fans | None = None
    padding: int | None = None

    def having(self, shape: Sequence[int], fans: Fans | None = None) -> Place:
        """The same place for a tensor of this shape."""
        return replace(self, shape=tuple(shape), fans=fans or self.fans)

    @property
    def is_bias(self) -> bool:
        """Whether it is added, not multiplied."""
        return self.role in BIASES

    @property
    def known_fans(self) -> Fans:
        """Fans as given, else those of shape and layout."""
        if self.fans is not None:
            return self.fans
        if len(self.shape) < 2 + self.layout.stack:
            raise SchemeError("the fans of a tensor with fewer than two axes are those of its layer: pass fans=.")
        return self.layout.fans(self.shape)

    @property
    def fan_in(self) -> int:
        """Terms that meet in one output, at least 1."""
        return _counted("fan_in", self.known_fans.fan_in)

    @property
    def fan_out(self) -> int:
        """Outputs that one input feeds, at least 1."""
        return _counted("fan_out", self.known_fans.fan_out)

    def matrices(self, weight: Tensor) -> Iterator[Tensor]:
        """Every independent weight as a writable view [o, i, *kernel]: one an expert, a group, and a fused part."""
        layout = self.layout
        stacked = weight.reshape(-1, *weight.shape[layout.stack :]) if layout.stack else weight[None]
        for one in stacked:
            for group in one.chunk(layout.groups, dim=0):
                for part in group.chunk(layout.parts, dim=1 if layout.transposed else 0):
                    yield part.transpose(0, 1) if layout.transposed else part

    def matrix_shape(self) -> tuple[int, int, int]:
        """(o, i, taps) of each of them; from the fans where the shape is not known."""
        if not self.shape:
            return self.fan_out, self.fan_in, 1
        own, layout = self.shape[self.layout.stack :], self.layout
        if len(own) < 2:
            raise SchemeError(f"it needs a weight with two axes, such as (out, in); this one has shape {self.shape}.")
        taps = 1
        for size in own[2:]:
            taps *= size
        first, second = own[0] // layout.groups, own[1]
        o, i = (second, first) if layout.transposed else (first, second)
        return o // layout.parts, i, taps


def _counted(name: str, fan: int) -> int:
    if fan < 1:
        raise SchemeError(f"{name}={fan}: expected 1 or more.")
    return fan


def told(place: Place, fact: str, given: T | None = None) -> Any:
    """A fact that was passed as an argument, else read from the place; without either, an error that names both.

    Example:
        >>> told(Place(depth=12), "depth"), told(Place(depth=12), "depth", 3)
        (12, 3)

    Source: the argument wins, because the person who wrote it looked.
    """
    found = given if given is not None else getattr(place, fact)
    if found is None:
        raise SchemeError(f"it depends on {fact}, which is not known here: pass {fact}=, or place=Place({fact}=...).")
    return found
