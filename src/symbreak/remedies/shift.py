"""Bring units back to the data: dead ones (SB102), saturated ones (SB205), and what sleeps behind them (SB101).

The bias moves by the mean of the pre-activation, measured on the batch, so that a unit sees both signs; weights shrink
by its spread where that is too large. Directions are kept: which input a unit looks at is not the fault.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from symbreak.probe.passes import Pass
from symbreak.records import ActivationTrace, Finding, LayerTrace
from symbreak.rules.grouping import activation
from symbreak.thresholds import SURELY

from .bench import Bench
from .part import Part, adding, scaling
from .suited import bias_of, tensor_of

_ABOVE = 0.1  # where a unit without any spread is put
_TRIED = 8  # biases before an activation that are tried for the one that moves it


def takes(f: Finding) -> bool:
    """Whether a finding is of this kind: units without slope, or hardly any; or a sleep that no zero explains."""
    return f.code in ("SB102", "SB205") or (f.code == "SB101" and (bool(f.evidence.get("dead")) or _unexplained(f)))


def _unexplained(f: Finding) -> bool:
    """An activation written out by hand is not seen as one: where it is flat, nothing names it."""
    known = ("dead", "input_zero", "back_zero", "wakes_when_zeros_are_filled")
    return "tensors" in f.evidence and not any(f.evidence.get(key) for key in known)


@dataclass(frozen=True)
class _Place:
    """One activation to bring back: its layer, the units concerned, mean and spread of what goes in."""

    where: ActivationTrace
    row: LayerTrace | None  # None where what stands between layer and activation hides which one it is
    units: tuple[int, ...]
    mean: Tensor  # [o]
    std: Tensor  # [o]


def propose(bench: Bench, findings: Sequence[Finding]) -> list[Part]:
    """For every activation: shift its bias; if that does not do, shrink its weights as well."""
    seen = bench.seen()
    if seen is None:
        return []
    shifts, others = [], []
    for place in _places(bench, findings, seen):
        shift = _shifted(bench, place)
        shifts += [shift] if shift is not None else []
        others += [*_shrunk(bench, place), *(_turned(bench, place) if shift is None else ())]
    return [*shifts, *others]


def _places(bench: Bench, findings: Sequence[Finding], seen: Pass) -> Iterator[_Place]:
    trace = bench.report.trace
    asked: dict[str, set[int]] = {}
    for f in findings:
        for where in f.evidence["dead"] if f.code == "SB101" else (f.where,):
            asked.setdefault(where, set()).update(f.units if f.code == "SB102" else ())
    asleep = {n for f in findings if f.code == "SB101" and _unexplained(f) for n in f.evidence["tensors"]}
    yield from _far_below(trace.layers, asleep, seen)
    for a in trace.activations:
        row = next((r for r in trace.layers if r.name == a.layer), None)
        if a.where not in asked:
            continue
        mean, std = _measured(seen, a)
        if mean is None or std is None:
            continue
        dead = set(a.dead) & asked[a.where] if asked[a.where] else set()
        units = tuple(sorted(dead)) or (tuple(range(a.units)) if a.saturated > 0.5 or len(a.dead) == a.units else ())
        if units:
            yield _Place(a, row, units, mean, std)


def _far_below(rows: Sequence[LayerTrace], asleep: set[str], seen: Pass) -> Iterator[_Place]:
    """Layers that sleep, their values far below zero on every sample: whatever follows is flat there."""
    for row in rows:
        site = seen.seen.sites.get(row.name)
        if row.weight in asleep and site is not None and site.mean is not None and site.variance is not None:
            mean, std = site.mean.double(), site.variance.double().sqrt()
            units = tuple(int(u) for u in (-mean > SURELY * std).nonzero().reshape(-1))
            if units:
                off = ActivationTrace(
                    row.name, "what follows", row.name, len(mean), site.samples, 0.0, 1.0, units, units
                )
                yield _Place(off, row, units, mean, std)


def _measured(seen: Pass, a: ActivationTrace) -> tuple[Tensor | None, Tensor | None]:
    """[o] mean and standard deviation of what goes into an activation; of its layer where it is written out."""
    for one in seen.seen.activations:
        if (one.where, one.layer, one.units) == (a.where, a.layer, a.units):
            return one.mean.double(), one.std.double()
    site = seen.seen.sites.get(a.layer or "")
    if site is None or site.mean is None or site.variance is None or len(site.mean) != a.units:
        return None, None
    return site.mean.double(), site.variance.double().sqrt()


def _shifted(bench: Bench, place: _Place) -> Part | None:
    """The bias that moves this activation, less the mean; a unit that sees one number only ends a little above zero."""
    index = list(place.units)
    goal = torch.where(place.std > 0, 0.0, _ABOVE)
    change = torch.zeros_like(place.mean)
    change[index] = (goal - place.mean)[index]
    for name in _biases(bench, place):
        part = Part(
            "shift",
            f"the bias of {len(index)} units of {_called(bench, place)} moves by the mean of what goes in, so that "
            "they see both signs",
            ((name, adding(change)),),
        )
        if _arrives(bench, place, part, goal):
            return part
    return None


def _biases(bench: Bench, place: _Place) -> list[str]:
    """Biases with one entry a unit, the nearest to the activation first: of a norm behind the layer, of the layer.

    Where the layer is not known, every bias of that length: `_arrives` tells which one it is.
    """
    trace = bench.report.trace
    names = [t.name for t in trace.tensors]
    fitting = [n for n in names if _is_bias(bench, n, place)]
    if place.row is not None:
        weights = {r.weight for r in trace.layers}
        start = names.index(place.row.weight)
        end = next((i for i in range(start + 1, len(names)) if names[i] in weights), len(names))
        own = bias_of(bench, place.row)
        behind = [n for n in reversed(names[start + 1 : end]) if n in fitting and n != own]
        fitting = [*behind, *([own] if own in fitting else []), *fitting]
    return [n for n in dict.fromkeys(fitting) if n is not None and bench.may(n)][:_TRIED]


def _is_bias(bench: Bench, name: str, place: _Place) -> bool:
    t = tensor_of(bench.report.trace, name)
    named = place.row is not None and name == bias_of(bench, place.row)
    return t.shape == (place.where.units,) and (named or bool(t.roles & {"bias", "norm_bias"}))


def _arrives(bench: Bench, place: _Place, part: Part, goal: Tensor) -> bool:
    """Whether the shift reaches the activation: the means of the units really are about where they should be then."""
    seen = bench.seen([part])
    mean, std = _measured(seen, place.where) if seen is not None else (None, None)
    if mean is None or std is None:
        return False
    index = list(place.units)
    gap = (mean - goal).abs()
    return bool((gap[index] <= 0.1 * place.mean[index].abs() + 0.1 * std[index]).all())


def _shrunk(bench: Bench, place: _Place) -> Iterator[Part]:
    """The layer's weights over the spread of the pre-activation, where that is more than one."""
    index = list(place.units)
    spread = float(place.std[index].square().mean().sqrt())
    if place.row is None or spread <= 1 or not bench.may(place.row.weight):
        return
    bias = next((n for n in _biases(bench, place) if bench.now(n).any()), None)
    edits = [(place.row.weight, scaling(1 / spread))]
    edits += [(bias, scaling(1 / spread))] if bias is not None else []
    yield Part(
        "rescale",
        f"what goes into {_called(bench, place)} has a spread of {spread:.3g}; the weights shrink by it",
        tuple(edits),
    )


def _turned(bench: Bench, place: _Place) -> Iterator[Part]:
    """Without a bias that could move: the weights of a unit that is off turn their sign, and with it the unit is on."""
    if place.row is None:
        return
    name, axis = place.row.weight, place.row.out_axis
    shape = bench.params[name].shape
    if axis is None or not bench.may(name) or shape[axis] != place.where.units or place.where.saturated < 0.5:
        return
    sign = torch.ones(shape[axis], dtype=torch.float64, device=bench.params[name].device)
    sign[list(place.units)] = -1.0
    yield Part(
        "rescale",
        f"{len(place.units)} units of {_called(bench, place)} are off, without a bias to move; their weights turn sign",
        ((name, scaling(sign.reshape(*(-1 if i == axis % len(shape) else 1 for i in range(len(shape)))))),),
    )


def _called(bench: Bench, place: _Place) -> str:
    return activation(bench.report.trace, place.where.where, place.where.name)
