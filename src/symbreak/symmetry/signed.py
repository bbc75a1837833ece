"""Units that are one another's negatives, or proportional: what an activation's own symmetry adds to equal units.

phi(-z) = -phi(z): unit v may be minus unit u, with incoming weights, bias and outgoing weights all negated. Give every
unit of an odd space a second node that stands for its negative; classes of that doubled network are classes with signs,
so refinement and certificates serve as they are. A unit in one class with its own negative is zero, and dead for ever.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from symbreak.errors import nearest

from .certificate import Certificate, certify
from .refine import coarsest
from .units import Block, Floats, Integers, Level, Network, SymmetryError

BESIDE = " beside its negatives"


@dataclass(frozen=True)
class Mirrored:
    """Classes of units that are equal up to their sign.

    Attributes:
        classes: space -> class of each unit.
        signs: space -> 1 or -1, how each unit stands to the first of its class; 0 where it is its own negative.
        doubled: the network in which the units with their negatives are plain classes: a space "h" that has them is
            called "h beside its negatives" there.
        certificate: the proof, of the doubled network. What keeps plain classes keeps these, as every update is odd in
            the weights and gradients together; a bound that is not symmetric around zero is none.
    """

    classes: Mapping[str, Integers]
    signs: Mapping[str, Integers]
    doubled: Network
    certificate: Certificate

    @property
    def dead(self) -> Mapping[str, tuple[int, ...]]:
        """Space -> units that are zero for every input and never get a gradient."""
        return {s: tuple(np.flatnonzero(signs == 0).tolist()) for s, signs in self.signs.items() if (signs == 0).any()}


def mirrored(
    network: Network,
    odd: Collection[str],
    *,
    even: Mapping[str, Collection[int]] | None = None,
    level: Level = "biequitable",
    seed: int = 0,
) -> Mirrored:
    """The coarsest classes of units that are equal or opposite.

    Args:
        odd: spaces whose units pass through odd functions alone (tanh, sin, softsign, identity).
        even: space -> columns of its attributes that a unit shares with its negative (the scale of a norm); a bias
            changes its sign.
        level, seed: as for `coarsest`.

    Raises:
        SymmetryError: an unknown space.

    Example:
        >>> from symbreak.symmetry import chain
        >>> net = chain([[[1, 2], [-1, -2], [1, 2]], [[3, -3, 3]]])
        >>> found = mirrored(net, {"1"})
        >>> found.classes["1"].tolist(), found.signs["1"].tolist()
        ([0, 0, 0], [1, -1, 1])

    Source: sign and permutation invariant sets, Chen et al. 2023, arXiv:2306.04251.
    """
    both = doubled(network, odd, even=even)
    partition = coarsest(both, level=level, seed=seed)
    classes, signs = {}, {}
    for space, size in network.sizes.items():
        here = space if space in both.sizes else space + BESIDE
        classes[space], signs[space] = _folded(partition[here], size)
    return Mirrored(classes, signs, both, certify(both, partition, level=level))


def doubled(network: Network, odd: Collection[str], *, even: Mapping[str, Collection[int]] | None = None) -> Network:
    """The network with the negatives of its odd units behind them; `odd` and `even` as for `mirrored`.

    Raises:
        SymmetryError: an unknown space.
    """
    for space in odd:
        if space not in network.sizes:
            raise SymmetryError(f"no space {space!r} among the units. {nearest(space, network.sizes)}")
    twice, even = frozenset(odd) - network.told_apart, even or {}
    called = {s: s + BESIDE if s in twice else s for s in network.sizes}
    sign = {s: np.repeat([1.0, -1.0] if called[s] != s else [1.0], n) for s, n in network.sizes.items()}
    blocks = tuple(
        Block(called[b.source], called[b.target], _lifted(b.weight, sign[b.target], sign[b.source]))
        for b in network.blocks
    )
    attributes = {}
    for space, table in network.attributes.items():
        factors = np.ones((len(sign[space]), table.shape[1]))
        moved = [k for k in range(table.shape[1]) if k not in even.get(space, ())]
        factors[:, moved] = sign[space][:, None]
        attributes[called[space]] = np.concatenate([table] * (len(factors) // len(table))) * factors
    return Network({called[s]: len(signs) for s, signs in sign.items()}, blocks, attributes, network.told_apart)


def _lifted(weight: Floats, rows: Floats, columns: Floats) -> Floats:
    o, i = (len(signs) // n for signs, n in zip((rows, columns), weight.shape, strict=False))
    taps = (1,) * (weight.ndim - 2)
    return np.tile(weight, (o, i, *taps)) * (rows[:, None] * columns).reshape(len(rows), len(columns), *taps)


def _folded(lifted: Integers, size: int) -> tuple[Integers, Integers]:
    """Classes and signs of the units, from the classes of units and negatives."""
    if len(lifted) == size:
        return lifted, np.ones(size, dtype=np.int64)
    unit, negative = lifted[:size], lifted[size:]
    of_pair = np.minimum(unit, negative)
    _, first, classes = np.unique(of_pair, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))[classes]
    signs = np.where(unit == negative, 0, np.where(unit == unit[first][classes], 1, -1))
    return order.astype(np.int64), signs.astype(np.int64)
