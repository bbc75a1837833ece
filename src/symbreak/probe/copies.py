"""Units that are one and the same: equal slices of weights and gradients, equal activations and back-signals.

Every parameter is cut along its axes; each slice of (W, dW) is kept as a random projection, a few numbers a step. Two
slices that stay equal over at least three live steps on generic data move alike. A layer's units are compared a second
way, by function (activation and back-signal), which also finds copies whose weights differ (a joint swap over layers).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from symbreak.thresholds import NEAR

from .borrow import Borrowed, weights
from .observe import Seen, Site
from .passes import Pass
from .project import Array, project

LIVE_STEPS = 3  # equal at this many live steps counts as tied
_KEPT = 4  # live steps kept a tensor
_MOST_NEAR = 20_000  # units beyond which near copies are not searched


@dataclass(frozen=True)
class Slices:
    """The slices of one parameter along one axis: which are tied, nearly tied, or equal at the start only."""

    parameter: str
    axis: int
    count: int
    tied: tuple[tuple[int, ...], ...] = ()
    mirrored: bool = False
    by_function: bool = False
    near: tuple[tuple[int, ...], ...] = ()
    near_distance: float = 0.0
    separated: tuple[tuple[int, ...], ...] = ()
    separated_at: int | None = None
    defect: float = 0.0
    steps: int = 0
    labels: tuple[int, ...] = ()
    multiples: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Twins:
    """Sub-networks of one shape that start with equal weights, and whether they stay equal."""

    modules: tuple[str, ...]
    kind: str
    tied: bool
    steps: int
    tensors: int


@dataclass
class _Track:
    start: dict[int, Array] = field(default_factory=dict)  # axis -> projection of W before the first step
    weights: dict[int, list[Array]] = field(default_factory=dict)
    gradients: dict[int, list[Array]] = field(default_factory=dict)
    steps: list[int] = field(default_factory=list)


class CopyLog:
    """Collects projections during a climb, then says which slices are copies."""

    def __init__(self, precision: torch.dtype) -> None:
        self._tolerance = 1e-9 if precision == torch.float64 else 2e-5
        self._tracks: dict[str, _Track] = {}
        self._flat: dict[str, list[tuple[int, float, float | None]]] = {}
        self._sites: dict[str, list[tuple[int, Site]]] = {}
        self._final: dict[str, Tensor] = {}
        self._varied: frozenset[str] = frozenset()
        self._axes: dict[str, tuple[int, ...]] = {}

    def log(self, step: int, held: Borrowed, seen: Pass, awake: Iterable[str]) -> None:
        """Record one pass, before the weights move."""
        live = set(awake)
        for layer, site in seen.seen.sites.items():
            self._sites.setdefault(layer, []).append((step, site))
        for name, p in held.params.items():
            gradient = seen.gradients.get(name) if name in live else None
            if step == 1 or gradient is not None:
                if name not in self._axes:
                    self._axes[name] = _axes(name, p, seen.seen)
                self._log_one(step, name, p.data, gradient)

    def _log_one(self, step: int, name: str, value: Tensor, gradient: Tensor | None) -> None:
        track = self._tracks.setdefault(name, _Track())
        if len(track.steps) >= _KEPT or not self._axes[name]:
            return
        weights = [project(value, axis) for axis in self._axes[name]]
        gradients = None if gradient is None else [project(gradient, axis) for axis in self._axes[name]]
        signed = None if gradients is None else _signature(gradients[0])
        self._flat.setdefault(name, []).append((step, _signature(weights[0]), signed))
        for i, axis in enumerate(self._axes[name]):
            track.start.setdefault(axis, weights[i])
            if gradients is not None:
                track.weights.setdefault(axis, []).append(weights[i])
                track.gradients.setdefault(axis, []).append(gradients[i])
        if gradients is not None:
            track.steps.append(step)

    def enough(self, awake: Iterable[str]) -> bool:
        """True once every tensor that is awake was seen live often enough to tell copies apart."""
        return all(len(self._tracks[n].steps) >= LIVE_STEPS for n in awake if n in self._tracks)

    # ---- what it found -------------------------------------------------------------------------------------------

    def keep(self, held: Borrowed, varied: frozenset[str]) -> None:
        """Remember the weights at the end of the climb, to measure how equal the copies are, and which began varied."""
        self._varied = varied
        self._final = {name: p.data for name, p in held.params.items()}

    def slices(self, *, free_biases: frozenset[str], outputs: frozenset[str]) -> tuple[Slices, ...]:
        """Every parameter and axis: its copies, near copies, and slices that were equal at the start only.

        Args:
            free_biases: biases that nothing depends on (absorbed by a normalisation); they do not tell units apart.
            outputs: parameters whose units are the model's outputs; output units are never copies of each other.
        """
        found = []
        by_axis = {(calls[0][1].weight, calls[0][1].out_axis): calls for calls in self._sites.values()}
        for name, track in self._tracks.items():
            value = self._final[name]
            for axis in self._axes[name] if value.dim() >= 2 and value.numel() else ():
                site = by_axis.get((name, axis), [])
                if site and name in outputs:
                    continue
                one = self._one(name, axis, track, site, value, free_biases)
                if one is not None:
                    found.append(one)
        return tuple(found)

    def _one(
        self,
        name: str,
        axis: int,
        track: _Track,
        site: list[tuple[int, Site]],
        value: Tensor,
        free_biases: frozenset[str],
    ) -> Slices | None:
        count = value.shape[axis]
        columns, gradients = track.weights.get(axis, []), track.gradients.get(axis, [])
        start = track.start[axis]
        extra = self._bias_columns(site, free_biases, len(columns)) if site else []
        back = _back(site, track.steps)
        # A slice of varied numbers that equals another is no chance: one live step shows that they move alike.
        live = _alive(gradients, LIVE_STEPS, count) | (_alive(gradients, 1, count) & _varied_slices(value, axis))
        if not columns:
            same = _cluster([start, *extra, *back], self._tolerance)
            return Slices(name, axis, count, labels=tuple(same.tolist()))
        coordinates = [c for c in (*columns, *gradients, *extra, *back) if len(c) == count]
        equal = self._verified(_cluster(coordinates, self._tolerance), live, value, axis)
        by_function = self._by_function(site, track.steps, live, count)
        exact = equal if by_function is None else _join(equal, by_function)
        mirrored = False
        if site:
            signed = self._verified(_cluster(_upright(coordinates), self._tolerance), live, value, axis, mirrored=True)
            mirrored = len(np.unique(_join(exact, signed))) < len(np.unique(exact))
            exact = _join(exact, signed) if mirrored else exact
        tied = _groups(exact, live)
        multiples = self._multiples(coordinates, exact, live, value, axis) if site else ()
        near, distance = self._near(coordinates, exact, live, value, axis) if count <= _MOST_NEAR else ((), 0.0)
        equal_at_start = _cluster([start], self._tolerance)
        apart = tuple(g for g in _groups(equal_at_start, np.abs(start) > 0) if len(set(exact[list(g)])) > 1)
        defect = max((_defect(value, axis, g, mirrored=mirrored) for g in tied), default=0.0)
        return Slices(
            name, axis, count, tied, mirrored, by_function is not None and bool(tied) and defect > 1e-6,
            near, distance, apart, track.steps[0] if apart else None, defect, len(track.steps), tuple(exact.tolist()),
            multiples,
        )  # fmt: skip

    def _multiples(
        self, coordinates: list[Array], exact: NDArray[np.int64], live: NDArray[np.bool_], value: Tensor, axis: int
    ) -> tuple[tuple[int, ...], ...]:
        """Slices that are one up to a positive factor, the same for weights and gradients, and not all equal."""
        table = np.stack(coordinates, 1)
        table = table[:, np.abs(table).max(0, initial=0.0) > 0]
        own = np.linalg.norm(table / np.abs(table).max(0, initial=1e-300), axis=1)
        live = live & (own > 0)
        labels = _cluster(list((table / np.where(own > 0, own, 1.0)[:, None]).T), self._tolerance)
        found = []
        for first, *others in _groups(labels, live):
            if len(set(exact[[first, *others]].tolist())) == 1:
                continue
            u = value.select(axis, first) / own[first]
            gaps = {v: float((value.select(axis, v) / own[v] - u).norm() / u.norm().clamp(min=1e-300)) for v in others}
            group = (first, *(v for v, gap in gaps.items() if gap <= 1e2 * self._tolerance))
            if len(set(exact[list(group)].tolist())) > 1:
                found.append(group)
        return tuple(found)

    def _verified(
        self, labels: NDArray[np.int64], live: NDArray[np.bool_], value: Tensor, axis: int, *, mirrored: bool = False
    ) -> NDArray[np.int64]:
        """The labels, less the members that only looked equal: among many slices a few projections agree by chance."""
        labels = labels.copy()
        fresh = int(labels.max(initial=0)) + 1
        for first, *others in _groups(labels, live):
            for other in others:
                gap = _distance(value, axis, first, other)
                gap = min(gap, _distance(value, axis, first, other, sign=-1)) if mirrored else gap
                if gap > 1e2 * self._tolerance:
                    labels[other], fresh = fresh, fresh + 1
        return labels

    def _bias_columns(self, site: list[tuple[int, Site]], free: frozenset[str], kept: int) -> list[Array]:
        bias = site[0][1].bias
        if bias is None or bias in free or bias not in self._tracks:
            return []
        track = self._tracks[bias]
        gates = [track.start[0], *track.weights.get(0, [])[:kept], *track.gradients.get(0, [])[:kept]]
        return [g for g in gates if len(g) == len(track.start[0])]

    def _by_function(
        self, site: list[tuple[int, Site]], steps: list[int], live: NDArray[np.bool_], count: int
    ) -> NDArray[np.int64] | None:
        """Classes of units with equal activation and back-signal at every live step."""
        calls = [s for step, s in site if step in steps and s.forward and len(s.forward) == len(s.backward)]
        if len(calls) < LIVE_STEPS or not live.any() or self._tolerance > 1e-6:
            return None  # float32 is too coarse to tell equal functions from similar ones
        columns = [t for s in calls for t in (*s.forward, *s.backward)]
        if any(len(c) != count for c in columns):
            return None
        labels = _cluster(columns, self._tolerance)
        moving = _alive([s.backward[0] for s in calls], LIVE_STEPS, count) & _alive(
            [s.forward[0] for s in calls], LIVE_STEPS, count
        )
        return np.where(moving, labels, labels.max(initial=0) + 1 + np.arange(count))

    def _near(
        self, coordinates: list[Array], exact: NDArray[np.int64], live: NDArray[np.bool_], value: Tensor, axis: int
    ) -> tuple[tuple[tuple[int, ...], ...], float]:
        """Distinct slices within NEAR of each other, relative to their own size, in weights and gradients alike."""
        from scipy.spatial import cKDTree

        first = np.unique(exact, return_index=True)[1]
        rows = np.array([i for i in first if live[i]])
        if len(rows) < 2:
            return (), 0.0
        points = np.stack(coordinates, 1)[rows]
        sizes = np.abs(points).max(0)
        points = points[:, sizes > 0] / sizes[sizes > 0]
        pairs = cKDTree(points).query_pairs(NEAR, output_type="ndarray")
        own = np.linalg.norm(points, axis=1)
        gap = np.linalg.norm(points[pairs[:, 0]] - points[pairs[:, 1]], axis=1) / np.maximum(own[pairs[:, 0]], 1e-300)
        close = [(a, b) for a, b in pairs[gap < NEAR] if _distance(value, axis, int(rows[a]), int(rows[b])) < NEAR]
        if not close:
            return (), 0.0
        labels = np.arange(len(points))
        for a, b in close:
            labels[labels == labels[b]] = labels[a]
        groups = tuple(tuple(int(rows[i]) for i in np.flatnonzero(labels == k)) for k in np.unique(labels))
        return tuple(g for g in groups if len(g) > 1), max(
            _distance(value, axis, int(rows[a]), int(rows[b])) for a, b in close
        )

    def tied_names(self, model: nn.Module) -> frozenset[str]:
        """The parameters that hold copies, in their slices or as a whole."""
        sliced = {s.parameter for s in self.slices(free_biases=frozenset(), outputs=frozenset()) if s.tied}
        modules = [m + "." for t in self.twins(model) if t.tied for m in t.modules]
        return frozenset(sliced | {n for n in self._final if any(n.startswith(m) for m in modules)})

    def twins(self, model: nn.Module) -> tuple[Twins, ...]:
        """Sub-modules of one class and shape that start bit for bit alike, outermost first."""
        groups: dict[tuple[type, tuple[tuple[str, tuple[int, ...], float], ...]], list[str]] = {}
        for name, module in model.named_modules():
            parts = weights(module).items()
            if not name or not any(p.dim() >= 2 and name + "." + n in self._varied for n, p in parts):
                continue
            prefix = name + "."
            start = tuple(
                (n, tuple(p.shape), self._flat.get(prefix + n, [(1, float("nan"), None)])[0][1]) for n, p in parts
            )
            groups.setdefault((type(module), start), []).append(name)
        found: list[Twins] = []
        for (kind, start), names in groups.items():
            inside = any(all(any(n.startswith(m + ".") for m in t.modules) for n in names) for t in found)
            if len(names) < 2 or inside or _nested(names):
                continue
            members, label = [name for name, *_ in start], getattr(kind, "__name__", str(kind))
            classes = self._stay_together(names, members)
            found += [Twins(tuple(c), label, True, steps, len(members)) for c, steps in classes if len(c) > 1]
            if len(classes) > 1:
                found.append(Twins(tuple(names), label, False, 0, len(members)))
        return tuple(found)

    def _stay_together(self, modules: list[str], parts: list[str]) -> list[tuple[list[str], int]]:
        """Classes of modules that move alike, with the number of live steps that shows it."""
        classes: list[tuple[list[str], int]] = []
        for module in modules:
            for i, (members, steps) in enumerate(classes):
                together, seen = self._stay([members[0], module], parts)
                if together:
                    members.append(module)
                    classes[i] = (members, min(steps, seen) if steps else seen)
                    break
            else:
                classes.append(([module], 0))
        return classes

    def _stay(self, modules: list[str], parts: list[str]) -> tuple[bool, int]:
        steps = 0
        for part in parts:
            paths = [self._flat.get(f"{m}.{part}", []) for m in modules]
            if len({len(path) for path in paths}) > 1:
                return False, 0  # one of them rested, such as an expert without samples so far
            for together in zip(*paths, strict=False):
                weights, gradients = [w for _, w, _ in together], [g for *_, g in together]
                if (
                    len({step for step, *_ in together}) > 1
                    or any((g is None) != (gradients[0] is None) for g in gradients)
                    or not _alike(weights, self._tolerance)
                ):
                    return False, 0
                known = [g for g in gradients if g is not None]
                if known and not _alike(known, self._tolerance):
                    return False, 0
            steps = max(steps, sum(g is not None for *_, g in paths[0]))
        return steps >= LIVE_STEPS, steps


def widths(
    log_slices: Iterable[Slices], sites: Mapping[str, Site], outputs: frozenset[str]
) -> dict[str, tuple[int, int]]:
    """layer -> (distinct units, units). Outputs are always distinct; a recurrent unit is its gates together."""
    classes = {(s.parameter, s.axis): s for s in log_slices}
    found: dict[str, tuple[int, int]] = {}
    for layer, site in sites.items():
        one = classes.get((site.weight, site.out_axis if site.out_axis is not None else -1))
        if one is not None and one.labels:
            labels = np.array(one.labels).reshape(site.gates, -1)
            found[layer] = (len(np.unique(labels, axis=1).T), labels.shape[1])
        elif site.weight in outputs and site.shape:
            n = site.shape[-1] if site.kind == "linear" else site.shape[min(1, len(site.shape) - 1)]
            found[layer] = (n, n)
    return found


def _axes(name: str, p: nn.Parameter, seen: Seen) -> tuple[int, ...]:
    site = next((s for s in seen.sites.values() if s.weight == name), None)
    if p.dim() == 1:
        return (0,)
    if p.dim() > 2 and site is not None and site.kind.startswith("conv"):
        return (0, 1)  # kernel taps are not exchangeable: the data shifts under them
    return tuple(range(p.dim()))


def _signature(rows: Array) -> float:
    """One number for a whole tensor, from its projection."""
    return float(_weights(len(rows)) @ rows)


@lru_cache(maxsize=256)
def _weights(length: int) -> Array:
    return np.random.default_rng(length).standard_normal(length)


def _cluster(columns: list[Array], tolerance: float) -> NDArray[np.int64]:
    """Labels of rows that agree in every column, to `tolerance` of the column's size."""
    labels = np.zeros(len(columns[0]) if columns else 0, dtype=np.int64)
    for column in columns:
        if len(column) != len(labels) or labels.max(initial=0) + 1 == len(labels):
            continue  # all are told apart already
        size = np.abs(column).max(initial=0.0)
        if size == 0:
            continue
        order = np.argsort(column, kind="stable")
        jumps = np.diff(column[order]) > tolerance * np.maximum(size * 1e-3, np.abs(column[order][1:]))
        rank = np.zeros_like(labels)
        rank[order[1:]] = np.cumsum(jumps)
        labels = np.unique(np.stack([labels, rank]), axis=1, return_inverse=True)[1].reshape(-1)
    return labels


def _upright(columns: list[Array]) -> list[Array]:
    """Each row times the sign of its first non-zero coordinate, so that u and -u look alike."""
    table = np.stack(columns, 1)
    size = np.abs(table).max(0, initial=0.0)
    big = np.abs(table) > 1e-9 * size
    first = np.argmax(big, axis=1)
    sign = np.sign(table[np.arange(len(table)), first])
    return list((table * np.where(sign == 0, 1.0, sign)[:, None]).T)


def _alive(gradients: list[Array], steps: int, count: int) -> NDArray[np.bool_]:
    """[count] slices with a gradient at this many steps or more."""
    if len(gradients) < steps:
        return np.zeros(count, dtype=np.bool_)
    table = np.stack([np.abs(g) > 1e-12 * max(np.abs(g).max(initial=0.0), 1e-300) for g in gradients])
    alive: NDArray[np.bool_] = table.sum(0) >= steps
    return alive


def _varied_slices(value: Tensor, axis: int) -> NDArray[np.bool_]:
    """[count] slices that hold different numbers, rather than one constant."""
    rows = value.movedim(axis, 0).reshape(value.shape[axis], -1)
    varied: NDArray[np.bool_] = (rows != rows[:, :1]).any(1).cpu().numpy()
    return varied


def _groups(labels: NDArray[np.int64], keep: NDArray[np.bool_]) -> tuple[tuple[int, ...], ...]:
    members: dict[int, list[int]] = {}
    for i in np.flatnonzero(keep):
        members.setdefault(int(labels[i]), []).append(int(i))
    return tuple(tuple(g) for g in members.values() if len(g) > 1)


def _join(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    """The finest labelling coarser than both."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n, m = int(a.max(initial=0)) + 1, int(b.max(initial=0)) + 1
    links = coo_matrix((np.ones(len(a)), (a, n + b)), shape=(n + m, n + m))
    joined: NDArray[np.int64] = connected_components(links, directed=False)[1][a].astype(np.int64)
    return joined


def _back(site: list[tuple[int, Site]], steps: list[int]) -> list[Array]:
    return [t for step, s in site if not steps or step in steps for t in s.backward]


def _defect(value: Tensor, axis: int, group: tuple[int, ...], *, mirrored: bool) -> float:
    """The largest difference inside a class after the last step, relative to the slices' size."""
    rows = (
        value.movedim(axis, 0).reshape(value.shape[axis], -1)[list(group)].abs()
        if mirrored
        else value.movedim(axis, 0).reshape(value.shape[axis], -1)[list(group)]
    )
    size = float(rows.abs().max())
    return float((rows - rows[:1]).abs().max()) / size if size > 0 else 0.0


def _distance(value: Tensor, axis: int, a: int, b: int, *, sign: int = 1) -> float:
    """How far two slices really are from each other, relative to their size: projections only made them suspects."""
    u, v = value.select(axis, a), value.select(axis, b)
    size, gap = float(torch.linalg.vector_norm(u)), float(torch.linalg.vector_norm(u - sign * v))
    return gap / size if size > 0 else (0.0 if gap == 0 else float("inf"))


def _alike(numbers: list[float], tolerance: float) -> bool:
    size = max(abs(n) for n in numbers)
    return max(numbers) - min(numbers) <= tolerance * max(size, 1e-300)


def _nested(names: list[str]) -> bool:
    return any(a != b and b.startswith(a + ".") for a in names for b in names)
