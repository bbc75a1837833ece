"""Spaces of units and the weights that tie them: what refinement reads and a certificate speaks of.

A residual stream is one space that several blocks write to; a recurrent weight is a block from a space to itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from symbreak.errors import SymbreakError, nearest

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Partition = Mapping[str, Integers]
Level = Literal["biequitable", "elementwise", "block-constant"]
"""What a class keeps equal, from the coarsest to the finest: sums of weights over classes; multisets of weights over
classes; every weight."""


class SymmetryError(SymbreakError):
    """A network that cannot be partitioned, or a partition or certificate that does not hold."""


@dataclass(frozen=True)
class Block:
    """Weights from one space to another, [o, i], or [o, i, k] with k taps of a kernel that are kept apart."""

    source: str
    target: str
    weight: Floats


@dataclass(frozen=True)
class Network:
    """Units in named spaces, weighted blocks between them, and what else each unit carries.

    Attributes:
        sizes: space -> units.
        blocks: in any order; shared weights are listed once for every use.
        attributes: space -> [units, a]: bias, scale and shift of a norm, running statistics, learning-rate group, ...
        told_apart: spaces whose units are singletons: inputs, outputs, units behind dropout.

    Raises:
        SymmetryError: an unknown space, a shape that does not fit, or a weight that is not finite.
    """

    sizes: Mapping[str, int]
    blocks: tuple[Block, ...]
    attributes: Mapping[str, Floats] = field(default_factory=dict)
    told_apart: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for name in (*(s for b in self.blocks for s in (b.source, b.target)), *self.attributes, *self.told_apart):
            if name not in self.sizes:
                raise SymmetryError(f"no space {name!r} among the units. {nearest(name, self.sizes)}")
        for b in self.blocks:
            what, wanted = f"the weight from {b.source!r} to {b.target!r}", (self.sizes[b.target], self.sizes[b.source])
            if b.weight.ndim not in (2, 3) or b.weight.shape[:2] != wanted:
                raise SymmetryError(f"{what} has shape {b.weight.shape}; expected {wanted}, and a third axis for taps.")
            _require_finite(what, b.weight)
        for space, table in self.attributes.items():
            if table.ndim != 2 or len(table) != self.sizes[space]:
                raise SymmetryError(
                    f"attributes of {space!r} have shape {table.shape}; expected ({self.sizes[space]}, attributes)."
                )
            _require_finite(f"attributes of {space!r}", table)


def _require_finite(what: str, values: Floats) -> None:
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        at = tuple(int(i) for i in bad[0])
        raise SymmetryError(
            f"{what} holds {len(bad)} NaN or infinite values, the first at {at}. Nothing can be proved."
        )


def chain(weights: Sequence[ArrayLike], biases: Sequence[ArrayLike | None] = ()) -> Network:
    """A layered network: weights[l] is [o, i] from space l to space l + 1; first and last space are told apart.

    Example:
        >>> net = chain([np.ones((3, 2)), np.ones((1, 3))])
        >>> dict(net.sizes)
        {'0': 2, '1': 3, '2': 1}
    """
    matrices = [np.asarray(w, dtype=np.float64) for w in weights]
    for w in matrices:
        if w.ndim not in (2, 3):
            raise SymmetryError(
                f"a weight of a chain has shape {w.shape}; expected (out, in), and a third axis for taps."
            )
    sizes = {"0": matrices[0].shape[1]} | {str(n + 1): w.shape[0] for n, w in enumerate(matrices)}
    blocks = tuple(Block(str(n), str(n + 1), w) for n, w in enumerate(matrices))
    tables = {str(n + 1): np.asarray(b, dtype=np.float64).reshape(-1, 1) for n, b in enumerate(biases) if b is not None}
    return Network(sizes, blocks, tables, frozenset({"0", str(len(matrices))}))
