"""The coarsest partition: colour refinement in both directions, on residues instead of floats.

A float is m 2^e, so it has an exact residue modulo a prime, and sums of residues are residues of the exact sums: no
rounding, no tolerance. A unit's signature is its class sums times random factors, one a class, so a round costs one
pass over the weights whatever the number of classes. Units with equal sums always get equal signatures, so nothing is
ever split wrongly; unequal sums agree by chance once in 2^61, and the certificate, which is exact, would refuse that.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from .units import Block, Floats, Integers, Level, Network, Partition

PRIMES = (2**31 - 1, 2**31 - 19)  # below 2^31, so that products fit in 64 bits
_LOWEST, _HIGHEST = -1130, 1024  # exponents of float64, as frexp gives them, less 53
_POWERS = {p: np.array([pow(2, e, p) for e in range(_LOWEST, _HIGHEST)], dtype=np.uint64) for p in PRIMES}
_CHUNK = 1 << 18  # weights multiplied at once: temporaries stay in the cache

Residues = NDArray[np.uint32]


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
    generator = np.random.default_rng(seed)
    starts, units = _layout(network)
    colour = _first_colours(network, starts, units)
    tables = [[_residues(b.weight, p, level, salt=seed) for p in PRIMES] for b in network.blocks]
    if level == "block-constant":
        each = np.arange(units, dtype=np.int64)
        return _by_space(network, starts, _split(colour, _signatures(network, tables, starts, each, generator)))
    classes = int(colour.max(initial=-1)) + 1
    while True:
        colour = _split(colour, _signatures(network, tables, starts, colour, generator))
        found = int(colour.max(initial=-1)) + 1
        if found == classes:
            return _by_space(network, starts, colour)
        classes = found


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


def _residues(weight: Floats, p: int, level: Level, *, salt: int) -> list[Residues]:
    """One table [o, i] of residues a tap. At "elementwise" a scrambled residue stands for the value itself."""
    taps = weight[..., None] if weight.ndim == 2 else weight
    return [_residue(taps[..., k], p, scrambled=level == "elementwise", salt=salt)
            for k in range(taps.shape[-1])]  # fmt: skip


def _residue(weight: Floats, p: int, *, scrambled: bool, salt: int) -> Residues:
    """Residues of a matrix, some rows at a time: temporaries never grow with it."""
    found = np.empty(weight.shape, dtype=np.uint32)
    rows = max(1, _CHUNK // max(1, weight.shape[1]))
    for r in range(0, weight.shape[0], rows):
        part = weight[r : r + rows] + 0.0  # -0.0 becomes 0.0
        found[r : r + rows] = _scrambled(part, p, salt) if scrambled else _exact(part, p)
    return found


def _exact(weight: Floats, p: int) -> NDArray[np.uint64]:
    """m 2^e modulo p: exact, and a sum of them is the residue of the exact sum."""
    mantissa, exponent = np.frexp(weight)
    whole = np.mod(np.ldexp(mantissa, 53).astype(np.int64), p).astype(np.uint64)
    residue: NDArray[np.uint64] = whole * _POWERS[p][exponent - 53 - _LOWEST] % np.uint64(p)
    return residue


def _scrambled(weight: Floats, p: int, salt: int) -> NDArray[np.uint64]:
    """A random number that depends on the value alone (splitmix64 of its bits)."""
    bits = weight.view(np.uint64) ^ np.uint64((salt * 0x9E3779B97F4A7C15 + p) % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    mixed: NDArray[np.uint64] = (bits ^ (bits >> np.uint64(31))) % np.uint64(p)
    return mixed


def _signatures(
    network: Network,
    tables: list[list[list[Residues]]],
    starts: dict[str, int],
    colour: Integers,
    generator: np.random.Generator,
) -> NDArray[np.uint64]:
    """[units, primes]: random combinations of the class sums in and out of each unit."""
    found = np.zeros((len(colour), len(PRIMES)), dtype=np.uint64)
    classes = int(colour.max(initial=-1)) + 1
    for block, residues in zip(network.blocks, tables, strict=True):
        into, out = _span(network, starts, block)
        for n, p in enumerate(PRIMES):
            for table in residues[n]:
                forward, back = (generator.integers(1, p, size=classes, dtype=np.uint64) for _ in range(2))
                found[into, n] += _times(table, forward[colour[out]], p)
                found[out, n] += _times(table.T, back[colour[into]], p)
            found[:, n] %= np.uint64(p)
    return found


def _span(network: Network, starts: dict[str, int], block: Block) -> tuple[slice, slice]:
    into, out = (slice(starts[s], starts[s] + network.sizes[s]) for s in (block.target, block.source))
    return into, out


def _times(table: Residues, factors: NDArray[np.uint64], p: int) -> NDArray[np.uint64]:
    """table @ factors modulo p, some rows at a time."""
    rows = max(1, _CHUNK // max(1, table.shape[1]))
    parts: Iterable[NDArray[np.uint64]] = (
        (table[r : r + rows].astype(np.uint64) * factors % np.uint64(p)).sum(1, dtype=np.uint64) % np.uint64(p)
        for r in range(0, table.shape[0], rows)
    )
    return np.concatenate([np.zeros(0, dtype=np.uint64), *parts])


def _split(colour: Integers, signatures: NDArray[np.uint64]) -> Integers:
    return _numbered(np.column_stack([colour.astype(np.uint64), signatures]))


def _numbered(rows: NDArray[np.float64] | NDArray[np.uint64]) -> Integers:
    """Equal rows share a number; numbers in order of appearance."""
    _, first, inverse = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse.reshape(-1)]


def _by_space(network: Network, starts: dict[str, int], colour: Integers) -> Partition:
    return {s: _numbered(colour[starts[s] : starts[s] + n, None].astype(np.float64)) for s, n in network.sizes.items()}
