"""What each kind of operation does to unit axes, and what it asks of the units: the rules that a graph is read by.

Soundness rests on one argument. A tensor's labels say how it moves when the units of a class are permuted; an operation
that treats these units alike passes its labels on and writes down, as weights and attributes, what the units must share
for that; whatever does not treat them alike tells them apart, and then there is nothing left to claim.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from .ledger import LARGEST, PLACE, Ledger, TooLargeError, one_each, row_numbers
from .tracked import Label, Tracked, aligned
from .units import Floats, Integers

Letters = Sequence[str]
WIDE = 8  # a longer row of numbers is kept as the number of its kind


class Algebra:
    """Rules over one ledger.

    Attributes:
        breakers: what tears classes apart without being a weight.
        where: name of the module that runs, for the names of new spaces.
        prefix: what names of tensors and modules start with, and names of spaces do not.
        inputs: kernel of a convolution in groups -> unit of each channel that it reads, -1 where channels are no units;
            None where they are not the same at every use.
    """

    def __init__(self, ledger: Ledger, prefix: str = "", *, heed_dropout: bool = True) -> None:
        self.ledger = ledger
        self.heed_dropout = heed_dropout
        self.prefix = prefix
        self.breakers: dict[str, None] = {}
        self.where = ""
        self.axes: dict[str, tuple[Integers | None, ...]] = {}
        self.entangled: set[str] = set()
        self.inputs: dict[str, Integers | None] = {}
        self._values: dict[str, Tensor] = {}
        self._exposed: set[str] = set()
        self._joint: dict[str, list[Integers]] = {}

    # ---- tensors of the model ----------------------------------------------------------------------------------

    def tensor(self, name: str, value: Tensor, *, fixed: bool) -> Tracked:
        """A parameter or buffer: every axis is a space that waits for its first use."""
        if name not in self.axes:
            self._values[name] = value
            self.axes[name] = tuple(
                self.ledger.fresh(_axis_name(name.removeprefix(self.prefix), k, value.dim()), n, axis=True)
                if n > 1
                else None
                for k, n in enumerate(value.shape)
            )
        labels = []
        for k, ids in enumerate(self.axes[name]):
            if ids is not None:
                at = ids.reshape([-1 if d == k else 1 for d in range(value.dim())])
                labels.append(Label(at, np.zeros_like(at)))
        return Tracked(tuple(value.shape), tuple(labels), value=value, owner=name, fixed=fixed)

    def exposed(self, t: Tracked) -> Tracked:
        """A parameter that is not read as weights but entry by entry: equal entries are asked of a class."""
        if t.owner is None:
            return t
        if t.fixed:
            return replace(t, labels=(), owner=None)
        self.expose(t.owner)
        return replace(t, owner=None, value=None)

    def expose(self, name: str) -> None:
        if name in self._exposed:
            return
        self._exposed.add(name)
        self._part(name)
        value = numbers(self._values[name])
        for k, ids in enumerate(self.axes[name]):
            if ids is not None:
                rows = np.moveaxis(value, k, 0).reshape(len(ids), -1)
                if rows.shape[1] <= WIDE:
                    self.ledger.attribute(ids, np.zeros_like(ids), rows, of=name)
                else:  # which kind of row says nothing of its negative
                    self.ledger.attribute(ids, np.zeros_like(ids), row_numbers(rows))

    # ---- nothing left to claim ---------------------------------------------------------------------------------

    def forget(self, t: Tracked, why: str | None = None, dims: Iterable[int] | None = None) -> Tracked:
        """Tell the units of some dimensions apart, and drop their labels; `why` where that is for want of a rule."""
        t = self.exposed(t)
        touched = None if dims is None else set(dims)
        kept = []
        for label in t.labels:
            if touched is None or label.dims & touched:
                self._apart(label, why)
            else:
                kept.append(label)
        return replace(t, labels=tuple(kept))

    def drop_out(self, t: Tracked) -> None:
        """Units that are left out at random are each for itself; what lies in front of them or behind a sum is not."""
        if not self.heed_dropout:
            self.breakers["dropout"] = None
            return
        for label in t.labels:
            self._apart(label)

    def _apart(self, label: Label, why: str | None = None) -> None:
        ids, _ = self.resolved(label)
        self.ledger.tell_apart(ids, why)

    def resolved(self, label: Label) -> tuple[Integers, Integers]:
        ids, taps = self.ledger.resolve(label.ids.reshape(-1), label.taps.reshape(-1))
        return ids, taps

    # ---- several labels that become one ------------------------------------------------------------------------

    def combined(self, labels: Sequence[Label], shape: Sequence[int]) -> Label:
        """One label for entries that depend on all of these, over `shape` (1 where none of them varies)."""
        wide = [label.each(lambda a: np.ascontiguousarray(np.broadcast_to(a, shape))) for label in labels]
        found = wide[0]
        for other in wide[1:]:
            found = self._paired(found, other, shape)
        return found

    def _paired(self, a: Label, b: Label, shape: Sequence[int]) -> Label:
        ids_a, taps_a = self.resolved(a)
        ids_b, taps_b = self.resolved(b)
        if np.array_equal(ids_a, ids_b) and np.array_equal(taps_a, taps_b):
            return a
        for ids, taps, axis in ((ids_a, taps_a, ids_b), (ids_b, taps_b, ids_a)):
            if self.ledger.is_axis(axis) and _alone(axis) and not np.intersect1d(ids, axis).size:
                taps = one_each(ids, taps)
                self.ledger.stand_for(axis, ids, taps)
                return Label(ids.reshape(shape), taps.reshape(shape))
        if not taps_a.any() and not taps_b.any() and self.ledger.unify(ids_a, ids_b):
            return a
        pairs = self.ledger.fresh(self.where, len(ids_a))
        none = np.zeros_like(pairs)
        try:
            for ids, taps in ((ids_a, taps_a), (ids_b, taps_b)):
                self._copies(pairs, ids, taps)
        except TooLargeError:
            why = f"{len(pairs)} pairs of units are too many for a table"
            for ids in (ids_a, ids_b, pairs):
                self.ledger.tell_apart(ids, why)
        return Label(pairs.reshape(shape), none.reshape(shape))

    def _copies(self, target: Integers, source: Integers, taps: Integers) -> None:
        """Every target entry is fed by the one source entry at its place."""
        if len(target) * len(np.unique(source)) > LARGEST // 4:
            raise TooLargeError
        self.ledger.weigh(target, np.zeros_like(target), source, taps, None)

    # ---- entry by entry ----------------------------------------------------------------------------------------

    def elementwise(self, operands: Sequence[Tracked], shape: Sequence[int]) -> Tracked:
        """The same function of corresponding entries, everywhere."""
        ndim = len(shape)
        several = [aligned(self.exposed(t), ndim) for t in operands]
        labels = []
        for group in _groups([(label, n) for n, t in enumerate(several) for label in t.labels]):
            label = self._agreed(several, group)
            if label is not None:
                labels.append(label)
        level = {d for d in range(ndim) if shape[d] > 1 and not any(t.varies(d) for t in several)}
        drawn = any(t.random for t in several) and all(t.random or t.fixed for t in several)
        return Tracked(tuple(shape), tuple(labels), frozenset(level), random=drawn)

    def _agreed(self, several: Sequence[Tracked], group: list[tuple[Label, int]]) -> Label | None:
        dims = frozenset().union(*(label.dims for label, _ in group))
        ndim = several[0].ndim
        constants = []
        for n, t in enumerate(several):
            covered = frozenset().union(*(label.dims for label, m in group if m == n))
            if not any(t.varies(d) for d in dims - covered):
                continue
            if t.random and not t.labels:
                self.breakers["dropout"] = None
            elif t.fixed and t.value is not None:
                constants.append(t)
            else:
                for label, _ in group:
                    self._apart(label)
                return None
        shape = [max(label.ids.shape[d] for label, _ in group) for d in range(ndim)]
        found = self.combined([label for label, _ in group], shape)
        for t in constants:
            found = self._told_by(found, t)
        return found

    def _told_by(self, label: Label, constant: Tracked) -> Label:
        """Numbers that never change meet units: units that meet different ones differ."""
        assert constant.value is not None
        dims = sorted(label.dims)
        value = numbers(constant.value)
        value = np.broadcast_to(value, [max(n, label.ids.shape[d]) for d, n in enumerate(value.shape)])
        rows = row_numbers(np.moveaxis(value, dims, range(len(dims))).reshape(math.prod(label.ids.shape), -1))
        if (rows == rows[0]).all():
            return label
        ids, taps = self.resolved(label)
        taps = one_each(ids, taps)
        self.ledger.attribute(ids, taps, rows)
        return Label(ids.reshape(label.ids.shape), taps.reshape(label.ids.shape))

    # ---- over units and over positions -------------------------------------------------------------------------

    def reduced(self, t: Tracked, dims: Iterable[int], *, keepdim: bool) -> Tracked:
        """A symmetric function (sum, mean, norm, largest value) of the entries along some dimensions."""
        t = self.exposed(t)
        gone = {d % t.ndim for d in dims} if t.ndim else set()
        labels = []
        for label in t.labels:
            left = self._summed(label, gone)
            if left is not None:
                labels.append(left)
        full = tuple(1 if d in gone else n for d, n in enumerate(t.shape))
        found = Tracked(full, tuple(labels), t.level - gone, random=t.random)
        return found if keepdim else _dropped(found, gone)

    def _summed(self, label: Label, gone: set[int]) -> Label | None:
        """The label of sums over the units of some dimensions; None where nothing of it is left."""
        over = sorted(label.dims & gone)
        if not over:
            return label
        rest = [d for d in range(label.ids.ndim) if d not in over]
        ids, taps = (np.transpose(a, [*rest, *over]) for a in (label.ids, label.taps))
        kept = ids.shape[: len(rest)]
        ids, taps = self.ledger.resolve(ids.reshape(math.prod(kept), -1), taps.reshape(math.prod(kept), -1))
        keys, at = np.unique(np.stack([ids.reshape(-1), taps.reshape(-1)]), axis=1, return_inverse=True)
        at = at.reshape(ids.shape)
        if len(ids) == 1:  # which entries take part, and how often, tells units apart
            counts = np.bincount(at[0], minlength=keys.shape[1])
            self.ledger.attribute(keys[0], keys[1], counts[:, None].astype(np.float64), of=PLACE)
            return None
        sums = self.ledger.fresh(f"{self.where}.sums", len(ids))
        if len(sums) * keys.shape[1] > LARGEST // 4:
            why = f"sums of {keys.shape[1]} entries are too many for a table"
            for some in (keys[0], sums):
                self.ledger.tell_apart(some, why)
        else:
            weight = np.zeros((len(ids), keys.shape[1]))
            np.add.at(weight, (np.arange(len(ids))[:, None], at), 1.0)
            self.ledger.weigh(sums, np.zeros_like(sums), keys[0], keys[1], weight)
        shape = [1 if d in over else n for d, n in enumerate(label.ids.shape)]
        return Label(sums.reshape(shape), np.zeros(shape, np.int64))

    def normalised(self, t: Tracked, dims: Iterable[int]) -> Tracked:
        """Entries divided or shifted by symmetric functions of those along some dimensions (norms, softmax)."""
        t = self.exposed(t)
        gone = {d % t.ndim for d in dims}
        for label in t.labels:
            self._summed(label, gone)
        return t

    def only(self, t: Tracked, dims: Iterable[int]) -> Tracked:
        """With labels that lie along these dimensions or not at all: other dimensions become taps of new units."""
        t = t if t.owner is not None else self.exposed(t)
        kept = set(dims)
        return replace(t, labels=tuple(self._demoted(label, kept) for label in t.labels))

    def _demoted(self, label: Label, kept: set[int]) -> Label:
        if not label.dims & kept or label.dims <= kept:
            return label
        rest = [d for d in range(label.ids.ndim) if d in kept]
        over = [d for d in range(label.ids.ndim) if d not in kept]
        ids, taps = (np.transpose(a, [*rest, *over]) for a in (label.ids, label.taps))
        n = math.prod(ids.shape[: len(rest)])
        ids, taps = self.ledger.resolve(ids.reshape(n, -1), taps.reshape(n, -1))
        units = self.ledger.fresh(self.where, n)
        shape = [m if d in kept else 1 for d, m in enumerate(label.ids.shape)]
        if n * len(np.unique(ids)) * ids.shape[1] > LARGEST:
            why = f"{n} units over {ids.shape[1]} positions are too many for a table"
            for some in (ids, units):
                self.ledger.tell_apart(some, why)
        else:
            for p in range(ids.shape[1]):
                self._copies(units, ids[:, p], taps[:, p])
        return Label(units.reshape(shape), np.zeros(shape, np.int64))

    # ---- products and weighted sums, by letters as in einsum -----------------------------------------------------

    def contracted(self, x: Tracked, w: Tracked, lx: Letters, lw: Letters, lo: Letters, taps: Letters = ()) -> Tracked:
        """einsum("lx,lw->lo"). `taps` are letters of w alone, positions of a kernel that are summed apart."""
        sizes = _sizes((x, lx), (w, lw))
        if x.owner is not None and w.owner is None:
            x, w, lx, lw = w, x, lw, lx
        if w.owner is None or x.owner is not None or (w.fixed and not _touches(x, lx, set(lx) & set(lw))):
            return self._product(x, w, lx, lw, lo, sizes)
        found = self._weighted(x, w, lx, lw, lo, taps, sizes)
        return self._product(x, w, lx, lw, lo, sizes) if found is None else found

    def _product(self, x: Tracked, w: Tracked, lx: Letters, lw: Letters, lo: Letters, sizes: dict[str, int]) -> Tracked:
        """Both sides are signals: sums of products of units."""
        order = [*lo, *dict.fromkeys(a for a in (*lx, *lw) if a not in lo)]
        several = [_spread(self.exposed(t), letters, order) for t, letters in ((x, lx), (w, lw))]
        gone = set(range(len(lo), len(order)))
        labels = []
        for group in _groups([(label, n) for n, t in enumerate(several) for label in t.labels]):
            label = self._agreed(several, group)
            left = None if label is None else self._summed(label, gone)
            if left is not None:
                labels.append(left.each(lambda a: a.reshape(a.shape[: len(lo)])))
        shape = tuple(sizes[a] for a in lo)
        return Tracked(shape, tuple(labels))

    def _weighted(
        self, x: Tracked, w: Tracked, lx: Letters, lw: Letters, lo: Letters, taps: Letters, sizes: dict[str, int]
    ) -> Tracked | None:
        """w holds parameters entry by entry: weights from units to units. None where this form does not fit."""
        assert w.owner is not None
        assert w.value is not None
        c = [a for a in lw if a in lx and a not in lo]
        n = [a for a in lw if a in lx and a in lo]
        o = [a for a in lw if a not in lx and a in lo]
        if len(c) + len(n) + len(o) + len(taps) != len(lw) or any(a not in lo and a not in c for a in lx):
            return None
        shared = [lx.index(a) for a in (*n, *c)]
        x = self.only(self.exposed(x), shared)
        touching = [label for label in x.labels if label.dims & set(shared)]
        passing = [label for label in x.labels if not label.dims & set(shared)]
        owner, weight = w.owner, w.value
        w = self._settled_kernel(w, lw, taps)
        sides = [[a for a in (n + o) if d_in(label, lw, a)] for label in w.labels]
        summed = [label for label in w.labels if any(d_in(label, lw, a) for a in c)]
        if any(side and label in summed for side, label in zip(sides, w.labels, strict=True)):
            return None
        laid = not any(d_in(label, lx, a) for label in touching for a in n)  # the same units for every n
        kept = [a for a in n + o if sizes[a] > 1]
        whole = sum(map(bool, sides)) <= 1 and all(len(side) == len(kept) for side in sides if side)
        if owner in self._joint or not (laid and whole):
            self._part(owner)
            if not all(self.ledger.is_axis(self.resolved(label)[0]) for label in w.labels):
                return None
        source = self._source(x, touching, lx, n, c, w, lw, sizes)
        if source is None:
            return None
        target = self._target(w, lw, n, o, sizes)
        if not (laid and whole):
            self._joint[owner] = [self.resolved(label)[0] for label in (target, source)]
            if summed or not whole:
                self.entangled.add(owner)
        order = [lw.index(a) for a in (*n, *o, *c, *taps)]
        value = numbers(weight.permute(order))
        size = [math.prod(sizes[a] for a in letters) for letters in (n, o, c, taps)]
        value = value.reshape(size)
        self._weigh(target, source, value, apart=self._raw(x, touching, lx, n), owner=owner)
        labels = [*(_moved(label, lx, lo) for label in passing)]
        if target.ids.size > 1:
            labels.append(_moved(target, [*n, *o], lo))
        return Tracked(tuple(sizes[a] for a in lo), tuple(labels))

    def reads(self, w: Tracked, x: Tracked) -> None:
        """Note the units along dimension 1 that a convolution in groups reads: no axis of its kernels holds them."""
        if w.owner is None:
            return
        along = [label for label in x.labels if 1 in label.dims]
        one: Integers | None = np.full(x.shape[1], -1)
        if along:
            one = along[0].ids.reshape(-1) if len(along) == 1 and along[0].dims == {1} else None
        before = self.inputs.setdefault(w.owner, one)
        if before is not one and not (before is not None and one is not None and np.array_equal(before, one)):
            self.inputs[w.owner] = None

    def _settled_kernel(self, w: Tracked, lw: Letters, taps: Letters) -> Tracked:
        """Without labels along the positions of a kernel: each is another one, whatever else the weight is used for."""
        at = {lw.index(a) for a in taps}
        for label in w.labels:
            if label.dims & at:
                self.ledger.apart_if_used(label.ids.reshape(-1))
        return replace(w, labels=tuple(label for label in w.labels if not label.dims & at))

    @staticmethod
    def _raw(x: Tracked, touching: Sequence[Label], lx: Letters, n: Letters) -> bool:
        """True where x differs along the letters that both sides keep, and no label says how."""
        return any(x.varies(lx.index(a)) and not any(d_in(label, lx, a) for label in touching) for a in n)

    def _source(
        self,
        x: Tracked,
        touching: Sequence[Label],
        lx: Letters,
        n: Letters,
        c: Letters,
        w: Tracked,
        lw: Letters,
        sizes: dict[str, int],
    ) -> Label | None:
        """Units and taps of what is summed over, [n..., c...]; the axes of w that run over it stand for them."""
        axes = [label for label in w.labels if any(d_in(label, lw, a) for a in c)]
        if len(axes) > 1 or (not axes and any(sizes[a] > 1 for a in c)):
            return None
        if not touching:
            if not axes:  # a sum over one entry
                one = self.ledger.fresh(f"{self.where}.input", 1)
                self.ledger.tell_apart(one)
                return Label(one.reshape([1] * len(c)), np.zeros([1] * len(c), np.int64))
            if any(x.varies(lx.index(a)) for a in c):
                self._apart(axes[0])
            return _moved(axes[0], lw, c)
        order = [*n, *c]
        along = [_moved(label, lx, order) for label in touching]
        full = [max(label.ids.shape[k] for label in along) for k in range(len(order))]
        found = self.combined(along, full)
        for k, a in enumerate(order):  # data along a letter that is summed: each position is a tap
            if k >= len(n) and found.ids.shape[k] == 1 and sizes[a] > 1:
                at = np.arange(sizes[a]).reshape([-1 if j == k else 1 for j in range(len(order))])
                wide = [sizes[a] if j == k else m for j, m in enumerate(found.ids.shape)]
                found = Label(np.ascontiguousarray(np.broadcast_to(found.ids, wide)), found.taps * sizes[a] + at)
        if any(found.ids.shape[k] > 1 for k in range(len(n))):  # other units for every n: no axis stands for them
            return found
        found = found.each(lambda a: a.reshape(a.shape[len(n) :]))
        return self._read_by(found, [_moved(label, lw, c) for label in axes], w.owner)

    def _read_by(self, found: Label, axes: Sequence[Label], owner: str | None) -> Label:
        """The axes of a weight that reads these entries."""
        if len(axes) == 1 and axes[0].ids.size == found.ids.size:
            ids, taps = self.resolved(found)
            mine, at = self.resolved(axes[0])
            taps = one_each(ids, taps)
            if self.ledger.is_axis(mine) and len(np.unique(mine)) == len(mine):
                self.ledger.stand_for(mine, ids, taps)
            elif not (np.array_equal(mine, ids) and np.array_equal(at, taps)) and not (
                not at.any() and not taps.any() and self.ledger.unify(ids, mine)
            ):
                why = f"{owner} is read in two orders"
                self.ledger.tell_apart(ids, why)
                self.ledger.tell_apart(mine, why)
            return Label(ids.reshape(found.ids.shape), taps.reshape(found.ids.shape))
        for label in (found, *axes):
            self._apart(label, f"{owner} is read in a way that is not understood")
        return found

    def _part(self, owner: str) -> None:
        """A second use of a weight whose units could not be laid along its axes: nothing says that both uses agree."""
        for ids in self._joint.pop(owner, []):
            self.ledger.tell_apart(ids, f"{owner} is used in two ways")

    def _target(self, w: Tracked, lw: Letters, n: Letters, o: Letters, sizes: dict[str, int]) -> Label:
        order = [*n, *o]
        shape = [sizes[a] for a in order]
        axes = [_moved(label, lw, order) for label in w.labels if any(d_in(label, lw, a) for a in order)]
        if not axes:
            ids = self.ledger.fresh(self.where, 1)
            return Label(ids.reshape([1] * len(order)), np.zeros([1] * len(order), np.int64))
        if len(axes) == 1 and axes[0].ids.shape == tuple(shape):
            ids, taps = self.resolved(axes[0])
            self.ledger.use(ids)
            return Label(ids.reshape(shape), taps.reshape(shape))
        ids = self.ledger.fresh(self.where, math.prod(shape)).reshape(shape)
        return Label(ids, np.zeros_like(ids))

    def _weigh(self, target: Label, source: Label, value: Floats, *, apart: bool, owner: str) -> None:
        """Write the weights down, [n, o, c, taps]; what is zero by construction is marked as such."""
        to, to_taps = self.resolved(target)
        rows = value.shape[0] * value.shape[1]
        if apart:
            which = np.repeat(np.arange(value.shape[0], dtype=np.float64), value.shape[1])
            self.ledger.attribute(to, to_taps, which[:, None], of=PLACE)
        ids, taps = self.resolved(source)
        if len(ids) == value.shape[2]:  # the same units for every n
            self._try(to, to_taps, ids, one_each(ids, taps), value.reshape(rows, *value.shape[2:]), owner)
            return
        ids, taps = (
            np.broadcast_to(a, (value.shape[0], value.shape[2]))
            if a.size == 1
            else a.reshape(value.shape[0], value.shape[2])
            for a in (ids, taps)
        )
        taps = np.stack([one_each(i, t) for i, t in zip(ids, taps, strict=True)])
        keys, at = np.unique(np.stack([ids.reshape(-1), taps.reshape(-1)]), axis=1, return_inverse=True)
        at = at.reshape(ids.shape)
        if rows * keys.shape[1] * value.shape[3] > LARGEST:
            self._too_large(to, ids.reshape(-1), owner)
            return
        full = np.zeros((rows, keys.shape[1], value.shape[3]))
        mask = np.zeros((rows, keys.shape[1]))
        for g in range(value.shape[0]):
            here = np.arange(g * value.shape[1], (g + 1) * value.shape[1])
            full[np.ix_(here, at[g])] = value[g]
            mask[np.ix_(here, at[g])] = 1.0
        self._try(to, to_taps, keys[0], keys[1], full, owner)
        if not mask.all():
            self._try(to, to_taps, keys[0], keys[1], mask, owner)

    def _try(self, to: Integers, to_taps: Integers, ids: Integers, taps: Integers, value: Floats, owner: str) -> None:
        try:
            self.ledger.weigh(to, to_taps, ids, taps, value)
        except TooLargeError:
            self._too_large(to, ids, owner)

    def _too_large(self, to: Integers, ids: Integers, owner: str) -> None:
        why = f"{owner} is too large for a table of weights"
        self.ledger.tell_apart(to, why)
        self.ledger.tell_apart(ids, why)


# ---- letters and shapes ------------------------------------------------------------------------------------------


def numbers(value: Tensor) -> Floats:
    """The values in float64, exactly."""
    plain = value.detach().to("cpu")
    if plain.is_complex():
        plain = torch.view_as_real(plain)
    found: Floats = plain.to(torch.float64).numpy()
    return found


def _axis_name(name: str, k: int, ndim: int) -> str:
    """The space that a tensor's axis would be: its layer's, for the first one of a weight."""
    if ndim == 1:
        return name
    layer = name.removesuffix(".weight") if name != "weight" else name
    return layer if k == 0 else f"{layer}[{k}]"


def _alone(ids: Integers) -> bool:
    return len(np.unique(ids)) == len(ids)


def d_in(label: Label, letters: Letters, a: str) -> bool:
    """True where the label varies along this letter."""
    return list(letters).index(a) in label.dims


def _touches(t: Tracked, letters: Letters, wanted: set[str]) -> bool:
    return any(d_in(label, letters, a) for label in t.labels for a in wanted)


def _moved(label: Label, letters: Letters, order: Letters) -> Label:
    """The arrays with their dimensions in another order of letters; 1 along letters that they do not have."""
    there = list(letters)
    have = [there.index(a) for a in order if a in there]
    rest = [d for d in range(label.ids.ndim) if d not in have]
    shape = [label.ids.shape[there.index(a)] if a in there else 1 for a in order]
    return label.each(lambda x: np.transpose(x, [*have, *rest]).reshape(shape))


def _spread(t: Tracked, letters: Letters, order: Letters) -> Tracked:
    """The tensor over all letters of `order`, 1 along those it does not have."""
    there = list(letters)
    shape = tuple(t.shape[there.index(a)] if a in there else 1 for a in order)
    level = frozenset(k for k, a in enumerate(order) if a in there and there.index(a) in t.level)
    value = None
    if t.value is not None:
        have = [there.index(a) for a in order if a in there]
        value = t.value.permute(have).reshape(shape)
    return replace(t, shape=shape, labels=tuple(_moved(a, letters, order) for a in t.labels), level=level, value=value)


def _sizes(*sides: tuple[Tracked, Letters]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for t, letters in sides:
        for a, n in zip(letters, t.shape, strict=True):
            sizes[a] = max(sizes.get(a, 1), n)
    return sizes


def _groups(labels: list[tuple[Label, int]]) -> list[list[tuple[Label, int]]]:
    """Labels that share a dimension, directly or through others."""
    found: list[list[tuple[Label, int]]] = []
    for one in labels:
        near = [g for g in found if any(one[0].dims & other.dims for other, _ in g)]
        found = [g for g in found if g not in near]
        found.append([x for g in near for x in g] + [one])
    return found


def _dropped(t: Tracked, gone: set[int]) -> Tracked:
    kept = [d for d in range(t.ndim) if d not in gone]
    labels = tuple(a.each(lambda x: x.reshape([x.shape[d] for d in kept])) for a in t.labels)
    return t.viewed([t.shape[d] for d in kept], labels, (i for i, d in enumerate(kept) if d in t.level), None)
