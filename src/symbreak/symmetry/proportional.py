"""Units that are positive multiples of one another behind a rectifier: one unit for ever, under SGD and its kin.

phi(c t) = c phi(t) for c > 0. Where incoming weights, bias and outgoing weights of u are c times those of v, activation
and back-signal of u are c times those of v, and so are all gradients: u = c v stays true under every update that is
linear in weights and gradients. Incoming times c and outgoing over c keeps the function, and parts at the first step.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from symbreak.errors import nearest

from .units import Floats, Integers, Network, SymmetryError

KEEPS = frozenset(["sgd", "momentum", "nesterov", "l2", "clip-norm"])
"""Updates under which multiples stay multiples. Adam and its kin divide by the gradient's size, and part them."""
_DIGITS = 9  # of a direction by which candidates are gathered, before they are compared exactly


@dataclass(frozen=True)
class Proportional:
    """Classes of units that are positive multiples of one another.

    Attributes:
        classes: space -> class of each unit, numbered in order of appearance.
        scales: space -> how many times the first of its class each unit is; 1 where it is alone.
    """

    classes: Mapping[str, Integers]
    scales: Mapping[str, Floats]


def proportional(
    network: Network, rectified: Collection[str], *, even: Mapping[str, Collection[int]] | None = None
) -> Proportional:
    """Units whose weights in, weights out and bias are one positive multiple of another's, weight by weight.

    Weights are compared as the fractions that floats are: a multiple that was rounded is none.

    Args:
        rectified: spaces whose units pass through positively homogeneous functions alone (ReLU, leaky ReLU, identity),
            and whose attributes are biases.
        even: space -> columns of its attributes that multiples share (the place of a unit, the scale of a norm).

    Raises:
        SymmetryError: an unknown space.

    Example:
        >>> from symbreak.symmetry import chain
        >>> found = proportional(chain([[[1, 2], [2, 4], [1, 2]], [[3, 6, 5]]]), {"1"})
        >>> found.classes["1"].tolist(), found.scales["1"].tolist()
        ([0, 0, 1], [1.0, 2.0, 1.0])

    Source: homogeneity of ReLU; Neyshabur et al. 2015, arXiv:1506.02617; the invariant sets of Chen et al. 2023,
    arXiv:2306.04251.
    """
    for space in rectified:
        if space not in network.sizes:
            raise SymmetryError(f"no space {space!r} among the units. {nearest(space, network.sizes)}")
    classes: dict[str, Integers] = {}
    scales: dict[str, Floats] = {}
    for space, size in network.sizes.items():
        classes[space], scales[space] = np.arange(size, dtype=np.int64), np.ones(size)
        if space in rectified and space not in network.told_apart:
            classes[space], scales[space] = _grouped(*_weights(network, space, (even or {}).get(space, ())))
    return Proportional(classes, scales)


def _weights(network: Network, space: str, even: Collection[int]) -> tuple[Floats, Floats]:
    """[units, everything that is multiplied]: weights in, weights out, attributes; [units, what multiples share]."""
    size = network.sizes[space]
    parts = [b.weight.reshape(size, -1) for b in network.blocks if b.target == space]
    parts += [b.weight.swapaxes(0, 1).reshape(size, -1) for b in network.blocks if b.source == space]
    attributes = network.attributes.get(space, np.zeros((size, 0)))
    shared = [k for k in range(attributes.shape[1]) if k in even]
    return np.concatenate([*parts, np.delete(attributes, shared, axis=1)], axis=1), attributes[:, shared] + 0.0


def _grouped(table: Floats, shared: Floats) -> tuple[Integers, Floats]:
    largest = np.abs(table).max(axis=1, initial=0.0)
    direction = np.round(table / np.where(largest > 0, largest, 1.0)[:, None], _DIGITS) + 0.0
    candidates: dict[bytes, list[int]] = {}
    classes, scales, found = np.zeros(len(table), dtype=np.int64), np.ones(len(table)), 0
    for unit, row in enumerate(direction):
        firsts = candidates.setdefault(row.tobytes() + shared[unit].tobytes(), [])
        first = next((f for f in firsts if _is_multiple(table[unit], table[f])), None)
        if first is None:
            firsts.append(unit)
            classes[unit], found = found, found + 1
        else:
            classes[unit] = classes[first]
            scales[unit] = largest[unit] / largest[first] if largest[first] > 0 else 1.0
    return classes, scales


def _is_multiple(one: Floats, other: Floats) -> bool:
    """one = c other with c > 0, in exact arithmetic. Candidates have one direction already, so c is not negative."""
    at = int(np.abs(other).argmax()) if other.size else 0
    if not other.size or other[at] == 0:
        return not bool(one.any())
    a, b = Fraction(float(one[at])), Fraction(float(other[at]))
    return all(Fraction(float(x)) * b == Fraction(float(y)) * a for x, y in zip(one, other, strict=True))
