"""The coarsest partition: colour refinement in both directions, on residues instead of floats.

A float is m 2^e, so it has an exact residue modulo a prime, and sums of residues are residues of the exact sums: no
rounding, no tolerance. A unit's signature is its class sums times random factors, one a class, so a round costs one
pass over the weights whatever the number of classes. Units with equal sums always get equal signatures, so nothing is
ever split wrongly; unequal sums agree by chance once in 2^52, and the certificate, which is exact, would refuse that.

Where a class was split, the sums over its largest part follow from the sums over the class, which agree already. So
after the first round only the weights of the smaller parts are read, a weight at most log2(units) times in all, and
usually less than once: Paige and Tarjan's "all but the largest", for all splitters of a round at once. Residues are
made anew for what is read: nothing as large as a weight is stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .units import Block, Floats, Integers, Level, Network, Partition

Residues = NDArray[np.uint64]


def _signed(values: list[int], p: int) -> Residues:
    """[sign and exponent, the first 12 bits of a float] these numbers modulo p, then their negatives."""
    return np.array([*values, *(-v % p for v in values)], dtype=np.uint64)


_EXCESS = {2**31 - 1: 1, 2**31 - 19: 19}  # primes 2^31 - c, so that 2^31 is c: products fit in 64 bits, no division
PRIMES = tuple(_EXCESS)
_LOW = np.uint64(2**31 - 1)
_POWERS = {p: _signed([pow(2, max(e, 1) - 1075, p) for e in range(2**11)], p) for p in PRIMES}
_HIDDEN = {p: _signed([(e > 0) * pow(2, e - 1023, p) for e in range(2**11)], p) for p in PRIMES}
_FACTORS = 2**26  # random factors are below, so that products with what is below 2^37 fit in 64 bits
_CHUNK = 1 << 16  # weights at once: temporaries stay in the cache


@dataclass(frozen=True)
class Refinement:
    """A partition, and what finding it took.

    Attributes:
        rounds: how often the classes were split.
        passes: weights read, of all weights of the network.
    """

    partition: Partition
    rounds: int
    passes: float


def coarsest(network: Network, *, level: Level = "biequitable", seed: int = 0) -> Partition:
    """The coarsest partition of every space under which equal units stay equal.

    "biequitable": class sums in and out agree; kept by updates that are linear in the weights or elementwise in the
    gradient. "elementwise": multisets of weights agree, so it is also kept by every elementwise function of the weights
    (Adam with coupled L2, L1, clipping). "block-constant": equal rows and equal columns.

    Args:
        seed: of the random factors; another seed gives the same partition.

    Returns:
        space -> class of each unit, numbered from 0 in order of appearance.

    Example:
        >>> from symbreak.symmetry.units import chain
        >>> net = chain([[[1, 2], [1, 2], [3, 0]], [[1, 1, 5]]])
        >>> coarsest(net)["1"].tolist()
        [0, 0, 1]

    Source: Paige & Tarjan 1987; weighted sums: Valmari & Franceschinis 2010.
    """
    return refinement(network, level=level, seed=seed).partition


def refinement(network: Network, *, level: Level = "biequitable", seed: int = 0) -> Refinement:
    """`coarsest`, with rounds and passes counted. Arguments as there."""
    generator = np.random.default_rng(seed)
    starts, units = _layout(network)
    reader = _Reader(network, starts, level, seed)
    colour = _first_colours(network, starts, units)
    if level == "block-constant":
        each = np.arange(units, dtype=np.int64)
        colour = _split(colour, reader.signatures(each, np.ones(units, dtype=bool), generator))
        return Refinement(_by_space(network, starts, colour), 1, reader.passes)
    fresh, rounds = np.ones(units, dtype=bool), 0
    while fresh.any():
        rounds += 1
        after = _split(colour, reader.signatures(colour, fresh, generator))
        fresh, colour = _all_but_the_largest(colour, after), after
    return Refinement(_by_space(network, starts, colour), rounds, reader.passes)


def _layout(network: Network) -> tuple[dict[str, int], int]:
    starts, units = {}, 0
    for space, size in network.sizes.items():
        starts[space], units = units, units + size
    return starts, units


def _first_colours(network: Network, starts: dict[str, int], units: int) -> Integers:
    """Units of one space with equal attributes; those told apart alone."""
    colour = np.zeros(units, dtype=np.int64)
    used = 0
    for space, size in network.sizes.items():
        here = np.zeros(size, dtype=np.int64)
        if space in network.told_apart:
            here = np.arange(size, dtype=np.int64)
        elif space in network.attributes and network.attributes[space].shape[1]:
            here = _numbered(network.attributes[space] + 0.0)  # -0.0 becomes 0.0
        colour[starts[space] : starts[space] + size] = here + used
        used += int(here.max(initial=-1)) + 1
    return colour


def _all_but_the_largest(before: Integers, after: Integers) -> NDArray[np.bool_]:
    """[units] True in every part of a split class but its largest one."""
    parts = np.bincount(after)
    parent = np.empty(len(parts), dtype=np.int64)
    parent[after] = before
    order = np.lexsort((parts, parent))  # by parent, its largest part last
    last = np.append(parent[order][1:] != parent[order][:-1], True) if len(order) else np.ones(0, dtype=bool)
    smaller = np.ones(len(parts), dtype=bool)
    smaller[order[last]] = False
    return smaller[after]


class _Reader:
    """Reads weights some rows at a time, and counts them."""

    def __init__(self, network: Network, starts: dict[str, int], level: Level, salt: int) -> None:
        self._network, self._starts = network, starts
        self._scrambled, self._salt = level == "elementwise", salt
        self._read = 0

    @property
    def passes(self) -> float:
        return self._read / max(1, sum(b.weight.size for b in self._network.blocks))

    def signatures(self, colour: Integers, fresh: NDArray[np.bool_], generator: np.random.Generator) -> Residues:
        """[units, primes]: random combinations of the sums of each unit over the classes of the fresh ones."""
        found = np.zeros((len(colour), len(PRIMES)), dtype=np.uint64)
        classes = int(colour.max(initial=-1)) + 1
        for block in self._network.blocks:
            into, out = _span(self._network, self._starts, block)
            weight = block.weight[..., None] if block.weight.ndim == 2 else block.weight
            shape = (len(PRIMES), classes, weight.shape[2])
            ahead, back = (generator.integers(1, _FACTORS, size=shape, dtype=np.uint64) for _ in range(2))
            rows, columns = np.flatnonzero(fresh[into]), np.flatnonzero(fresh[out])
            to, of = (f[:, colour[s]] * fresh[s, None] for f, s in ((back, into), (ahead, out)))
            if len(rows) * weight.shape[1] + len(columns) * weight.shape[0] > weight[..., 0].size:
                self._add(found, into, out, weight, None, None, to, of)  # once for both is cheaper
            else:
                self._add(found, into, out, weight, None, columns, None, of)
                self._add(found, into, out, weight, rows, None, to, None)
            found = np.stack([_reduced(found[:, n], p) for n, p in enumerate(PRIMES)], axis=1)
        return found

    def _add(
        self, found: Residues, into: slice, out: slice, weight: Floats, rows: Integers | None,
        columns: Integers | None, to: Residues | None, of: Residues | None,
    ) -> None:  # fmt: skip
        """Add, for these rows and columns of a weight, its sums along rows (`of`) and along columns (`to`)."""
        at = np.arange(weight.shape[0]) if rows is None else rows
        wide = (weight.shape[1] if columns is None else len(columns)) * weight.shape[2]
        if not len(at) or not wide:
            return
        step = max(1, _CHUNK // wide)
        for r in range(0, len(at), step):
            some = at[r : r + step]
            part = weight[some[0] : some[-1] + 1] if rows is None else weight[some]
            part = part if columns is None else part[:, columns]
            self._read += part.size
            for n, residues in enumerate(_scrambled(part, self._salt) if self._scrambled else _exact(part)):
                p = PRIMES[n]
                if of is not None:
                    factors = of[n] if columns is None else of[n, columns]
                    found[into.start + some, n] += _folded(residues * factors, p).sum((1, 2), dtype=np.uint64)
                if to is not None:
                    sums = _folded(residues * to[n, some][:, None], p).sum((0, 2), dtype=np.uint64)
                    found[out if columns is None else out.start + columns, n] += sums


def _exact(weight: Floats) -> Iterator[Residues]:
    """For each prime m 2^e modulo it, below 2^37: exact, and a sum of them is the residue of the exact sum."""
    bits = np.ascontiguousarray(weight).view(np.uint64)
    top, low = (bits >> np.uint64(52)).astype(np.intp), bits & np.uint64(2**52 - 1)
    for p in PRIMES:
        yield _folded(_folded(low, p) * _POWERS[p][top], p) + _HIDDEN[p][top]


def _scrambled(weight: Floats, salt: int) -> Iterator[Residues]:
    """For each prime a random number that depends on the value alone (splitmix64 of its bits)."""
    for p in PRIMES:
        bits = (weight + 0.0).view(np.uint64) ^ np.uint64((salt * 0x9E3779B97F4A7C15 + p) % 2**64)  # no -0.0
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
        yield _folded(bits ^ (bits >> np.uint64(31)), p)


def _folded(x: Residues, p: int) -> Residues:
    """The same modulo p, below 2^38 and, for x below 2^53, below 2^32: 2^31 is replaced once by what it is modulo p."""
    return (x & _LOW) + (x >> np.uint64(31)) * np.uint64(_EXCESS[p])


def _reduced(x: Residues, p: int) -> Residues:
    """x modulo p."""
    found = _folded(_folded(_folded(x, p), p), p)
    return np.where(found >= p, found - np.uint64(p), found)


def _span(network: Network, starts: dict[str, int], block: Block) -> tuple[slice, slice]:
    into, out = (slice(starts[s], starts[s] + network.sizes[s]) for s in (block.target, block.source))
    return into, out


def _split(colour: Integers, signatures: Residues) -> Integers:
    return _numbered(np.column_stack([colour.astype(np.uint64), signatures]))


def _numbered(rows: NDArray[np.float64] | NDArray[np.uint64]) -> Integers:
    """Equal rows share a number; numbers in order of appearance."""
    _, first, inverse = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse.reshape(-1)]


def _by_space(network: Network, starts: dict[str, int], colour: Integers) -> Partition:
    return {s: _numbered(colour[starts[s] : starts[s] + n, None].astype(np.float64)) for s, n in network.sizes.items()}
