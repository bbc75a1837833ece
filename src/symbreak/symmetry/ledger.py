"""The book of units while a graph is read: spaces, what is one with what, attributes, weights; a Network at the end.

Units are numbered through. A unit may come to stand for another one, at a tap: the axis of a weight that reads a
flattened map is first a space of its own, then a unit and a position for each entry. Nothing here knows of operations.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .units import Block, Floats, Integers, Network

LARGEST = 120_000_000  # entries of one table of weights; a larger one is cut out
PLACE = "place"  # whose numbers say where a unit lies: they do not change with its sign or size


class TooLargeError(Exception):
    """A table of weights between two spaces would not fit; the spaces are told apart instead."""


@dataclass(frozen=True)
class _Weights:
    """Weights [o, i, k] from entries of some spaces to entries of others; None stands for the identity."""

    target: Integers
    target_taps: Integers
    source: Integers
    source_taps: Integers
    weight: Floats | None


@dataclass(frozen=True)
class _Attribute:
    ids: Integers
    taps: Integers
    table: Floats  # [entries, a]
    of: str | None


class Ledger:
    """Spaces and what ties them. Arrays of units and taps go in and out together, entry by entry."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._starts: list[int] = []
        self._sizes: list[int] = []
        self._parent: Integers = np.zeros(0, np.int64)
        self._tap: Integers = np.zeros(0, np.int64)
        self._base: Integers = np.zeros(0, np.int64)  # taps of the hop to the parent, the same for a whole space
        self._axis: NDArray[np.bool_] = np.zeros(0, bool)  # an axis of a tensor that nothing has used as units yet
        self._attributes: list[_Attribute] = []
        self._weights: list[_Weights] = []
        self._apart: list[Integers] = []
        self._apart_if_used: list[Integers] = []
        self.cut: dict[str, str] = {}
        self.columns: dict[str, list[str | None]] = {}  # space -> what each column of its attributes is of

    # ---- spaces ------------------------------------------------------------------------------------------------

    def fresh(self, name: str, size: int, *, axis: bool = False) -> Integers:
        """A new space. `axis`: an axis of a tensor, which becomes units, or stands for others, at its first use."""
        start = len(self._parent)
        self._names.append(self._unused(name))
        self._starts.append(start)
        self._sizes.append(size)
        ids = np.arange(start, start + size, dtype=np.int64)
        self._parent = np.concatenate([self._parent, ids])
        self._tap = np.concatenate([self._tap, np.zeros(size, np.int64)])
        self._base = np.concatenate([self._base, np.ones(size, np.int64)])
        self._axis = np.concatenate([self._axis, np.full(size, axis)])
        return ids

    @property
    def units(self) -> int:
        """How many were made so far, those that stand for others too."""
        return len(self._parent)

    def _unused(self, name: str) -> str:
        if name not in self._names:
            return name
        number = 2
        while f"{name}#{number}" in self._names:
            number += 1
        return f"{name}#{number}"

    def resolve(self, ids: Integers, taps: Integers) -> tuple[Integers, Integers]:
        """What the units stand for now."""
        ids, taps = np.asarray(ids), np.asarray(taps)
        while True:
            parents = self._parent[ids]
            if np.array_equal(parents, ids):
                return ids, taps
            taps = taps * self._base[ids] + self._tap[ids]
            ids = parents

    def space_of(self, ids: Integers) -> Integers:
        """The number of the space in which each unit was made."""
        return np.searchsorted(self._starts, ids, side="right") - 1

    def name_of(self, ids: Integers) -> str:
        """The name of the space of the first of these units."""
        ids, _ = self.resolve(ids.reshape(-1)[:1], np.zeros(1, np.int64))
        return self._names[int(self.space_of(ids)[0])]

    def is_axis(self, ids: Integers) -> bool:
        """True where all of these are entries of axes that nothing has used yet."""
        return bool(self._axis[ids].all()) and np.array_equal(self._parent[ids], ids)

    def use(self, ids: Integers) -> None:
        """These axes are spaces of units from now on."""
        spaces = np.unique(self.space_of(self.resolve(ids, np.zeros_like(ids))[0]))
        for s in spaces.tolist():
            self._axis[self._starts[s] : self._starts[s] + self._sizes[s]] = False

    def _whole(self, ids: Integers) -> bool:
        """True where these are all the units of their spaces, each once."""
        if len(np.unique(ids)) != len(ids):
            return False
        spaces, counts = np.unique(self.space_of(ids), return_counts=True)
        return all(
            count == int((self._parent[start : start + size] == np.arange(start, start + size)).sum())
            for count, start, size in (
                (n, self._starts[s], self._sizes[s]) for s, n in zip(spaces, counts, strict=True)
            )
        )

    # ---- what is one -------------------------------------------------------------------------------------------

    def stand_for(self, axis: Integers, ids: Integers, taps: Integers) -> None:
        """The entries of an unused axis stand for these units, at these taps, from now on."""
        self._parent[axis] = ids
        self._tap[axis] = taps
        self._base[axis] = int(taps.max(initial=0)) + 1
        self._axis[axis] = False

    def unify(self, a: Integers, b: Integers) -> bool:
        """Make two lists of units one, unit by unit; False where they are not whole spaces, or share one."""
        if not (self._whole(a) and self._whole(b)):
            return False
        spaces_a, spaces_b = np.unique(self.space_of(a)), np.unique(self.space_of(b))
        if np.intersect1d(spaces_a, spaces_b).size:
            return False
        newer = bool(self._axis[a].all()) or (not self._axis[b].all() and a.min() > b.min())
        if len(spaces_a) < len(spaces_b) or (len(spaces_a) == len(spaces_b) and newer):  # the older name stays
            a, b, spaces_b = b, a, spaces_a
        if len(spaces_b) > 1:
            self.attribute(a, np.zeros_like(a), self.space_of(b).astype(np.float64)[:, None], of=PLACE)
        used = not (self._axis[a].all() and self._axis[b].all())
        self._parent[b] = a
        self._axis[b] = False
        if used:
            self._axis[a] = False
        return True

    # ---- what tells units apart, and what ties them ------------------------------------------------------------

    def tell_apart(self, ids: Integers, why: str | None = None) -> None:
        """Every unit of the spaces of these is a class of its own; `why` where that is for want of understanding."""
        ids = np.unique(ids)
        if not len(ids):
            return
        self._apart.append(ids)
        self.use(ids)
        if why is not None:
            self.cut.setdefault(self.name_of(ids), why)

    def apart_if_used(self, axis: Integers) -> None:
        """The entries of this axis differ, should anything come to use them as units."""
        self._apart_if_used.append(np.unique(axis))

    def attribute(self, ids: Integers, taps: Integers, table: Floats, *, of: str | None = None) -> None:
        """Numbers that must agree within a class: [entries, a]; `of` a tensor, or PLACE, or neither."""
        self.use(ids)
        self._attributes.append(_Attribute(ids, taps, table, of))

    def weigh(
        self, target: Integers, target_taps: Integers, source: Integers, source_taps: Integers, weight: Floats | None
    ) -> None:
        """A weighted sum: weight[o, i] or [o, i, k] from source entry i to target entry o; None is the identity."""
        self.use(target)
        self.use(source)
        if weight is not None and weight.size > LARGEST:
            raise TooLargeError
        if weight is not None and weight.ndim == 2:
            weight = weight[..., None]
        self._weights.append(_Weights(target, target_taps, source, source_taps, weight))

    # ---- the result --------------------------------------------------------------------------------------------

    def network(self) -> Network:
        """Everything in the book as a Network.

        Raises:
            SymmetryError: weights that are not finite.
        """
        alive = self.alive()
        sizes = {self._names[s]: len(units) for s, units in alive.items()}
        tables: dict[int, list[Floats]] = {s: [] for s in alive}
        self.columns = {self._names[s]: [] for s in alive}
        blocks: list[Block] = []
        seen: set[bytes] = set()
        for record in self._weights:
            key = self._digest(record)
            if key not in seen:  # a recurrent weight is used at every step, and is one block
                seen.add(key)
                blocks += self._blocks(record, alive, tables)
        for carried in self._attributes:
            self._scatter(carried, alive, tables)
        told = self._told(alive, tables)
        attributes = {self._names[s]: np.concatenate(t, axis=1) for s, t in tables.items() if t}
        return Network(sizes, tuple(blocks), attributes, frozenset(self._names[s] for s in told))

    def layout(self, ids: Integers, alive: Mapping[int, Integers]) -> tuple[tuple[str, ...], int] | None:
        """Spaces laid end to end along these entries, and how often each unit repeats; None where it is no such order.

        ((), 1) for an axis that holds no units.
        """
        units, _ = self.resolve(ids, np.zeros_like(ids))
        if self._axis[units].all():
            return (), 1
        spaces = self.space_of(units)
        if any(int(s) not in alive for s in np.unique(spaces)):
            return None
        repeat = 1
        while repeat < len(units) and units[repeat] == units[0]:
            repeat += 1
        names, at = [], 0
        while at < len(units):
            wanted = np.repeat(alive[int(spaces[at])], repeat)
            if not np.array_equal(units[at : at + len(wanted)], wanted):
                return None
            names.append(self._names[int(spaces[at])])
            at += len(wanted)
        return tuple(names), repeat

    def alive(self) -> dict[int, Integers]:
        """Space -> its units, those that stand for themselves and are used."""
        found = {}
        for s, (start, size) in enumerate(zip(self._starts, self._sizes, strict=True)):
            ids = np.arange(start, start + size)
            ids = ids[(self._parent[ids] == ids) & ~self._axis[ids]]
            if len(ids):
                found[s] = ids
        return found

    def named(self) -> dict[str, Integers]:
        """The same by the names of the spaces."""
        return {self._names[s]: ids for s, ids in self.alive().items()}

    def _groups(self, ids: Integers, taps: Integers) -> Iterable[tuple[int, Integers, Integers]]:
        """Entries by the space they were made in and their tap: root space, entries, their units in it."""
        units, at = self.resolve(ids, taps)
        keys = np.column_stack([self.space_of(ids), at, self.space_of(units)])
        for key in np.unique(keys, axis=0):
            chosen = np.flatnonzero((keys == key).all(1))
            yield int(key[2]), chosen, units[chosen]

    def _blocks(
        self, record: _Weights, alive: Mapping[int, Integers], tables: dict[int, list[Floats]]
    ) -> Iterable[Block]:
        found: dict[tuple[int, int], list[Floats]] = {}
        sources = list(self._groups(record.source, record.source_taps))
        for s, _, units in sources:
            self._mark(s, units, alive, tables)
        for t, rows, targets in self._groups(record.target, record.target_taps):
            self._mark(t, targets, alive, tables)
            for s, columns, units in sources:
                to, of = np.searchsorted(alive[t], targets), np.searchsorted(alive[s], units)
                if record.weight is not None:
                    full = np.zeros((len(alive[t]), len(alive[s]), record.weight.shape[2]))
                    full[to[:, None], of] = record.weight[np.ix_(rows, columns)]
                else:
                    _, r, c = np.intersect1d(rows, columns, assume_unique=True, return_indices=True)
                    if not len(r):
                        continue
                    full = np.zeros((len(alive[t]), len(alive[s]), 1))
                    np.add.at(full, (to[r], of[c]), 1.0)
                found.setdefault((t, s), []).append(full)
        for (t, s), parts in found.items():
            yield Block(self._names[s], self._names[t], np.concatenate(parts, axis=2))

    def _digest(self, record: _Weights) -> bytes:
        found = hashlib.sha256()
        for ids, taps in ((record.target, record.target_taps), (record.source, record.source_taps)):
            for part in self.resolve(ids, taps):
                found.update(np.ascontiguousarray(part).tobytes())
        found.update(b"" if record.weight is None else np.ascontiguousarray(record.weight).tobytes())
        return found.digest()

    def _mark(
        self, space: int, units: Integers, alive: Mapping[int, Integers], tables: dict[int, list[Floats]]
    ) -> None:
        """Where only some units of a space take part, which do is an attribute: the zeros of the others stay zero."""
        if len(np.unique(units)) < len(alive[space]):
            self._add(tables, space, np.isin(alive[space], units).astype(np.float64)[:, None], PLACE)

    def _add(self, tables: dict[int, list[Floats]], space: int, columns: Floats, of: str | None) -> None:
        tables[space].append(columns)
        self.columns[self._names[space]] += [of] * columns.shape[1]

    def _scatter(self, record: _Attribute, alive: Mapping[int, Integers], tables: dict[int, list[Floats]]) -> None:
        for s, chosen, units in self._groups(record.ids, record.taps):
            self._mark(s, units, alive, tables)
            order = np.lexsort((chosen, units))  # a unit that occurs twice at one tap has two sets of numbers
            values, who = record.table[chosen[order]], np.searchsorted(alive[s], units[order])
            first = np.r_[True, who[1:] != who[:-1]]
            nth = np.arange(len(who)) - np.maximum.accumulate(np.where(first, np.arange(len(who)), 0))
            for n in range(int(nth.max(initial=0)) + 1):
                column = np.zeros((len(alive[s]), values.shape[1]))
                column[who[nth == n]] = values[nth == n]
                self._add(tables, s, column, record.of)

    def _told(self, alive: Mapping[int, Integers], tables: dict[int, list[Floats]]) -> set[int]:
        told: set[int] = set()
        used = (ids for ids in self._apart_if_used if not self._axis[self.resolve(ids, np.zeros_like(ids))[0]].any())
        for ids in (*self._apart, *used):
            for s, _, units in self._groups(ids, np.zeros_like(ids)):
                units = np.unique(units)
                if len(units) == len(alive[s]):
                    told.add(s)
                else:
                    number = np.zeros(len(alive[s]))
                    number[np.searchsorted(alive[s], units)] = 1 + np.arange(len(units))
                    self._add(tables, s, number[:, None], None)
        return told


def one_each(ids: Integers, taps: Integers) -> Integers:
    """Taps that tell the copies of one unit at one tap apart, by their order."""
    order = np.lexsort((np.arange(len(ids)), taps, ids))
    same = np.r_[False, (ids[order][1:] == ids[order][:-1]) & (taps[order][1:] == taps[order][:-1])]
    if not same.any():
        return taps
    where = np.arange(len(ids))
    nth = np.empty(len(ids), np.int64)
    nth[order] = where - np.maximum.accumulate(np.where(same, 0, where))
    return taps * (int(nth.max()) + 1) + nth


def row_numbers(table: NDArray[np.float64]) -> Floats:
    """Equal rows get equal numbers, [rows, 1]; -0.0 is 0.0."""
    rows = np.ascontiguousarray(table.reshape(len(table), -1) + 0.0)
    seen: dict[bytes, int] = {}
    return np.array([[float(seen.setdefault(row.tobytes(), len(seen)))] for row in rows]).reshape(len(rows), 1)
